#include "kernels/conv/depthwise_run.h"

#include <algorithm>
#include <vector>

#include "kernels/gemm/driver.h"
#include "runtime/cpu.h"

namespace graphopt {

#define GRAPHOPT_CONV_KERNELS(level, suffix) extern const ConvKernels conv_kernels_##suffix;
#include "kernels/conv/kernels.inc"
#undef GRAPHOPT_CONV_KERNELS

// Every kernel again, with the rounding of Extension::kBf16.
extern const ConvKernels conv_kernels_avx512_bf16;

namespace {

const ConvKernels& conv_kernels() {
  static const ConvKernels kernels = [] {
    const ConvKernels* found = &conv_kernels_portable;
    switch (cpu_isa()) {
#define GRAPHOPT_CONV_KERNELS(level, suffix) \
  case Isa::level:                           \
    found = &conv_kernels_##suffix;          \
    break;
#include "kernels/conv/kernels.inc"
#undef GRAPHOPT_CONV_KERNELS
    }
    return cpu_has(Extension::kBf16) ? conv_kernels_avx512_bf16 : *found;
  }();
  return kernels;
}

constexpr int64_t kWorthAThread = 40'000;  // multiply-adds
constexpr int64_t kLines = 8;              // of outputs that a task goes through together

class DepthwiseTask {
 public:
  DepthwiseTask(const ConvGeometry& geometry, const Epilogue& epilogue, const DepthwiseOperands& operands)
      : g_(geometry), epilogue_(epilogue), operands_(operands) {}

  // Lines [begin, end) of outputs of one plane (a depth of an image), channels [first, last).
  void run(int64_t plane, Range lines, Range channels) {
    find_lines(plane, lines);
    const bool clamp = epilogue_.is_clamp();
    const bool add_later = !clamp && epilogue_.residual_after;
    const int64_t offset = (plane * g_.out[1] + lines.begin) * g_.out[2] * g_.channels;
    const Window& w = g_.window;
    DepthwiseLines l{};
    l.count = lines.end - lines.begin;
    l.line_begin = line_begin_.data();
    l.lines = lines_.data();
    l.taps = taps_.data();
    l.y_step = g_.out[2] * g_.channels;
    l.columns_in = g_.in[2];
    l.weights = operands_.weights;
    l.panel = w.taps() * g_.window_channels * kPanel;
    l.y = operands_.y_half ? static_cast<void*>(static_cast<uint16_t*>(operands_.y) + offset)
                           : static_cast<float*>(operands_.y) + offset;
    l.y_half = operands_.y_half;
    l.bias = operands_.bias;
    l.residual = operands_.residual == nullptr || add_later ? nullptr : operands_.residual + offset;
    l.columns = g_.out[2];
    l.x_position = g_.channels;
    l.y_position = g_.channels;
    l.channel_begin = channels.begin;
    l.channel_end = channels.end;
    l.group_size = g_.window_channels;
    l.kernel = w.kernel[2];
    l.stride = w.stride[2];
    l.dilation = w.dilation[2];
    l.begin = w.begin[2];
    l.low = epilogue_.low();
    l.high = epilogue_.high();
    l.residual_after = epilogue_.residual_after;
    run_depthwise_lines(l, operands_.x_half);
    if (clamp) return;
    const int64_t first = offset + channels.begin;
    activate_positions(epilogue_, static_cast<float*>(operands_.y) + first,
                       add_later && operands_.residual != nullptr ? operands_.residual + first : nullptr, g_.channels,
                       l.count * l.columns, channels.end - channels.begin);
  }

 private:
  void find_lines(int64_t plane, Range lines) {
    const Window& w = g_.window;
    const int64_t n = plane / g_.out[0];
    const int64_t d_first = plane % g_.out[0] * w.stride[0] - w.begin[0];
    lines_.clear();
    taps_.clear();
    line_begin_.assign(1, 0);
    for (int64_t line = lines.begin; line < lines.end; ++line) {
      for (int64_t i = 0; i < w.kernel[0]; ++i) {
        const int64_t d = d_first + i * w.dilation[0];
        if (d < 0 || d >= g_.in[0]) continue;
        for (int64_t j = 0; j < w.kernel[1]; ++j) {
          const int64_t h = line * w.stride[1] - w.begin[1] + j * w.dilation[1];
          if (h < 0 || h >= g_.in[1]) continue;
          const int64_t at = ((n * g_.in[0] + d) * g_.in[1] + h) * g_.in[2] * g_.channels;
          lines_.push_back(operands_.x_half ? static_cast<const void*>(static_cast<const uint16_t*>(operands_.x) + at)
                                            : static_cast<const float*>(operands_.x) + at);
          taps_.push_back((i * w.kernel[1] + j) * w.kernel[2] * g_.window_channels * kPanel);
        }
      }
      line_begin_.push_back(static_cast<int64_t>(lines_.size()));
    }
  }

  const ConvGeometry& g_;
  const Epilogue& epilogue_;
  const DepthwiseOperands& operands_;
  std::vector<int64_t> line_begin_;
  std::vector<const void*> lines_;
  std::vector<int64_t> taps_;
};

}  // namespace

void run_depthwise_lines(const DepthwiseLines& lines, bool x_half) {
  x_half ? conv_kernels().depthwise_half(lines) : conv_kernels().depthwise(lines);
}

void activate_positions(const Epilogue& epilogue, float* y, const float* residual, int64_t step, int64_t positions,
                        int64_t channels) {
  constexpr int64_t kSome = 64;
  int64_t rows[kSome];
  for (int64_t i = 0; i < kSome; ++i) rows[i] = i * step;
  for (int64_t position = 0; position < positions; position += kSome) {
    const int64_t at = position * step;
    gemm_kernels().activate(epilogue.activation, epilogue.alpha, epilogue.beta, y + at,
                            residual == nullptr ? nullptr : residual + at, rows, std::min(kSome, positions - position),
                            channels);
  }
}

void run_depthwise(const ConvGeometry& geometry, const Epilogue& epilogue, const DepthwiseOperands& operands,
                   const Parallel& parallel) {
  const int64_t planes = geometry.batch * geometry.out[0];
  const int64_t panels = (geometry.channels + kPanel - 1) / kPanel;
  if (planes == 0 || geometry.out[1] == 0 || geometry.out[2] == 0 || panels == 0) return;
  const int64_t blocks = (geometry.out[1] + kLines - 1) / kLines;
  // Few blocks don't share out evenly: cut the channels too.
  const int64_t threads = parallel.threads();
  const int64_t wanted = threads > 1 ? (4 * threads + planes * blocks - 1) / (planes * blocks) : 1;
  const int64_t parts = std::clamp<int64_t>(wanted, 1, std::max<int64_t>(panels / 2, 1));
  const int64_t tasks = planes * blocks * parts;
  const int64_t work = planes * volume(geometry.out) / geometry.out[0] * geometry.channels * geometry.window.taps() *
                       geometry.window_channels / tasks;
  const int64_t grain = std::clamp<int64_t>(kWorthAThread / std::max<int64_t>(work, 1), 1, tasks);
  parallel.for_range(tasks, grain, [&](int64_t begin, int64_t end, int /*worker*/) {
    DepthwiseTask task(geometry, epilogue, operands);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t block = i / parts;
      task.run(block / blocks, part_of(geometry.out[1], blocks, block % blocks),
               part_of(geometry.channels, parts, i % parts, kPanel));
    }
  });
}

}  // namespace graphopt
