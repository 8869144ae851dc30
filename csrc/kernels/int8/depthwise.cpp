#include "kernels/int8/depthwise.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "kernels/gemm/driver.h"
#include "kernels/int8/dispatch.h"

namespace graphopt::int8 {
namespace {

constexpr int64_t kBlock = 64;              // channels
constexpr int64_t kWorthAThread = 150'000;  // multiply-adds

int64_t kernel_lines(const ConvGeometry& g) { return g.window.kernel[0] * g.window.kernel[1]; }
int64_t line_groups(const ConvGeometry& g) { return (kernel_lines(g) + 3) / 4; }
int64_t line_bytes(const ConvGeometry& g) { return g.in[2] * g.channels; }

// The input lines that a line of outputs sees; those that fill a group up meet weights of zero.
void find_lines(const ConvGeometry& g, const uint8_t* x, const uint8_t* pad, int64_t plane, int64_t line,
                const uint8_t** lines) {
  const Window& w = g.window;
  const int64_t n = plane / g.out[0];
  int64_t at = 0;
  for (int64_t i = 0; i < w.kernel[0]; ++i) {
    const int64_t d = plane % g.out[0] * w.stride[0] - w.begin[0] + i * w.dilation[0];
    for (int64_t j = 0; j < w.kernel[1]; ++j) {
      const int64_t h = line * w.stride[1] - w.begin[1] + j * w.dilation[1];
      const bool inside = d >= 0 && d < g.in[0] && h >= 0 && h < g.in[1];
      lines[at++] = inside ? x + ((n * g.in[0] + d) * g.in[1] + h) * line_bytes(g) : pad;
    }
  }
  for (; at < line_groups(g) * 4; ++at) lines[at] = lines[0];
}

}  // namespace

int64_t depthwise_weights(const ConvGeometry& g) {
  return (g.channels + kBlock - 1) / kBlock * line_groups(g) * g.window.kernel[2] * 4 * kBlock;
}

size_t depthwise_bytes(const ConvGeometry& g) { return (static_cast<size_t>(line_bytes(g)) + 63) / 64 * 64; }

void run_depthwise(const ConvGeometry& g, const Finish& finish, const DepthwiseOperands& operands, void* workspace,
                   const Parallel& parallel) {
  auto* pad = static_cast<uint8_t*>(workspace);
  std::memset(pad, operands.zero, static_cast<size_t>(line_bytes(g)));
  const int64_t planes = g.batch * g.out[0];
  const int64_t lines = planes * g.out[1];
  const int64_t blocks = (g.channels + kBlock - 1) / kBlock;
  if (lines == 0 || blocks == 0 || g.out[2] == 0) return;
  // Few lines don't share out evenly: cut the channels too.
  const int64_t threads = parallel.threads();
  const int64_t wanted = threads > 1 ? (4 * threads + lines - 1) / lines : 1;
  const int64_t parts = std::clamp<int64_t>(wanted, 1, blocks);
  const int64_t work = g.out[2] * g.channels * g.window.taps() / parts;
  const int64_t grain = std::clamp<int64_t>(kWorthAThread / std::max<int64_t>(work, 1), 1, lines * parts);
  const int64_t size = finish.out == DType::kF32 ? 4 : 1;
  parallel.for_range(lines * parts, grain, [&](int64_t begin, int64_t end, int /*worker*/) {
    std::vector<const uint8_t*> inputs(static_cast<size_t>(line_groups(g) * 4));
    for (int64_t i = begin; i < end; ++i) {
      const int64_t line = i / parts;
      find_lines(g, operands.x, pad, line / g.out[1], line % g.out[1], inputs.data());
      const Range channels = part_of(g.channels, parts, i % parts, kBlock);
      const int64_t offset = line * g.out[2] * g.channels;
      const Columns& columns = operands.columns;
      DepthwiseLine l{};
      l.lines = inputs.data();
      l.line_groups = line_groups(g);
      l.columns_in = g.in[2];
      l.columns = g.out[2];
      l.channels = g.channels;
      l.channel_begin = channels.begin;
      l.channel_end = channels.end;
      l.kernel = g.window.kernel[2];
      l.stride = g.window.stride[2];
      l.dilation = g.window.dilation[2];
      l.begin = g.window.begin[2];
      l.weights = operands.weights;
      l.start = columns.start;
      l.scale = columns.scale;
      l.offset = columns.offset;
      l.zero = operands.zero;
      l.flip = operands.flip;
      l.c = static_cast<std::byte*>(operands.y) + offset * size;
      if (columns.residual != nullptr) l.residual = static_cast<const std::byte*>(columns.residual) + offset * size;
      kernels().depthwise(finish, l);
    }
  });
}

}  // namespace graphopt::int8
