#include "kernels/conv/depthwise_run.h"

#include <algorithm>
#include <vector>

#include "kernels/conv/depthwise.h"
#include "kernels/gemm/driver.h"
#include "runtime/cpu.h"

namespace graphopt {

#define GRAPHOPT_CONV_KERNELS(level, suffix) extern const ConvKernels conv_kernels_##suffix;
#include "kernels/conv/kernels.inc"
#undef GRAPHOPT_CONV_KERNELS

namespace {

const ConvKernels& conv_kernels() {
  static const ConvKernels& kernels = []() -> const ConvKernels& {
    switch (cpu_isa()) {
#define GRAPHOPT_CONV_KERNELS(level, suffix) \
  case Isa::level:                           \
    return conv_kernels_##suffix;
#include "kernels/conv/kernels.inc"
#undef GRAPHOPT_CONV_KERNELS
    }
    return conv_kernels_portable;
  }();
  return kernels;
}

constexpr int64_t kWorthAThread = 40'000;  // multiply-adds
constexpr int64_t kMostLines = 64;         // of a window, before they are handled in pieces on the heap

class DepthwiseRun {
 public:
  DepthwiseRun(const ConvGeometry& geometry, const Epilogue& epilogue, const DepthwiseOperands& operands)
      : g_(geometry), epilogue_(epilogue), operands_(operands) {}

  // The line-th line of outputs, channels [begin, end).
  void run(int64_t line, int64_t begin, int64_t end, const float** lines, int64_t* taps) const {
    const Window& w = g_.window;
    const int64_t h_out = line % g_.out[1];
    const int64_t d_out = line / g_.out[1] % g_.out[0];
    const int64_t n = line / (g_.out[1] * g_.out[0]);
    DepthwiseLine l{};
    for (int64_t i = 0; i < w.kernel[0]; ++i) {
      const int64_t d = d_out * w.stride[0] - w.begin[0] + i * w.dilation[0];
      if (d < 0 || d >= g_.in[0]) continue;
      for (int64_t j = 0; j < w.kernel[1]; ++j) {
        const int64_t h = h_out * w.stride[1] - w.begin[1] + j * w.dilation[1];
        if (h < 0 || h >= g_.in[1]) continue;
        lines[l.line_count] = operands_.x + ((n * g_.in[0] + d) * g_.in[1] + h) * g_.in[2] * g_.channels;
        taps[l.line_count++] = (i * w.kernel[1] + j) * w.kernel[2] * g_.window_channels * kPanel;
      }
    }
    const int64_t offset = line * g_.out[2] * g_.channels;
    const bool clamp = epilogue_.is_clamp();
    const bool add_later = !clamp && epilogue_.residual_after;
    l.lines = lines;
    l.taps = taps;
    l.columns_in = g_.in[2];
    l.weights = operands_.weights;
    l.panel = w.taps() * g_.window_channels * kPanel;
    l.y = operands_.y + offset;
    l.bias = operands_.bias;
    l.residual = operands_.residual == nullptr || add_later ? nullptr : operands_.residual + offset;
    l.columns = g_.out[2];
    l.channels = g_.channels;
    l.channel_begin = begin;
    l.channel_end = end;
    l.group_size = g_.window_channels;
    l.kernel = w.kernel[2];
    l.stride = w.stride[2];
    l.dilation = w.dilation[2];
    l.begin = w.begin[2];
    l.low = epilogue_.low();
    l.high = epilogue_.high();
    l.residual_after = epilogue_.residual_after;
    conv_kernels().depthwise_line(l);
    if (!clamp) activate(offset, begin, end);
  }

 private:
  void activate(int64_t offset, int64_t begin, int64_t end) const {
    constexpr int64_t kSome = 64;
    int64_t rows[kSome];
    for (int64_t i = 0; i < kSome; ++i) rows[i] = i * g_.channels;
    const bool add = epilogue_.residual_after && operands_.residual != nullptr;
    for (int64_t column = 0; column < g_.out[2]; column += kSome) {
      const int64_t at = offset + column * g_.channels + begin;
      gemm_kernels().activate(epilogue_.activation, epilogue_.alpha, epilogue_.beta, operands_.y + at,
                              add ? operands_.residual + at : nullptr, rows, std::min(kSome, g_.out[2] - column),
                              end - begin);
    }
  }

  const ConvGeometry& g_;
  const Epilogue& epilogue_;
  const DepthwiseOperands& operands_;
};

}  // namespace

void run_depthwise(const ConvGeometry& geometry, const Epilogue& epilogue, const DepthwiseOperands& operands,
                   const Parallel& parallel) {
  const int64_t lines = geometry.batch * geometry.out[0] * geometry.out[1];
  const int64_t panels = (geometry.channels + kPanel - 1) / kPanel;
  if (lines == 0 || panels == 0 || geometry.out[2] == 0) return;
  // Few lines don't share out evenly: cut the channels too.
  const int64_t threads = parallel.threads();
  const int64_t wanted = threads > 1 ? (4 * threads + lines - 1) / lines : 1;
  const int64_t parts = std::clamp<int64_t>(wanted, 1, std::max<int64_t>(panels / 2, 1));
  const int64_t work = geometry.out[2] * geometry.channels * geometry.window.taps() * geometry.window_channels / parts;
  const int64_t grain = std::clamp<int64_t>(kWorthAThread / std::max<int64_t>(work, 1), 1, lines * parts);
  const int64_t line_count = geometry.window.kernel[0] * geometry.window.kernel[1];
  const DepthwiseRun run(geometry, epilogue, operands);
  parallel.for_range(lines * parts, grain, [&](int64_t begin, int64_t end, int /*worker*/) {
    const float* few_lines[kMostLines];
    int64_t few_taps[kMostLines];
    std::vector<const float*> many_lines;
    std::vector<int64_t> many_taps;
    if (line_count > kMostLines) {
      many_lines.resize(static_cast<size_t>(line_count));
      many_taps.resize(static_cast<size_t>(line_count));
    }
    const float** line_at = line_count > kMostLines ? many_lines.data() : few_lines;
    int64_t* tap_at = line_count > kMostLines ? many_taps.data() : few_taps;
    for (int64_t i = begin; i < end; ++i) {
      const Range channels = part_of(geometry.channels, parts, i % parts, kPanel);
      run.run(i / parts, channels.begin, channels.end, line_at, tap_at);
    }
  });
}

}  // namespace graphopt
