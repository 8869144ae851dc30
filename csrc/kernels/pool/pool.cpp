// Step kernels `max_pool`, `average_pool` and `lp_pool`, channels-last.
#include "kernels/pool/pool.h"

#include <algorithm>
#include <vector>

#include "kernels/dense/operands.h"
#include "kernels/gemm/driver.h"
#include "kernels/pool/problem.h"
#include "runtime/cpu.h"

namespace graphopt {

#define GRAPHOPT_POOL_KERNELS(level, suffix) extern const PoolKernels pool_kernels_##suffix;
#include "kernels/pool/kernels.inc"
#undef GRAPHOPT_POOL_KERNELS

namespace {

constexpr int64_t kWorthAThread = 20'000;  // elements read

const PoolKernels& pool_kernels() {
  static const PoolKernels& kernels = []() -> const PoolKernels& {
    switch (cpu_isa()) {
#define GRAPHOPT_POOL_KERNELS(level, suffix) \
  case Isa::level:                           \
    return pool_kernels_##suffix;
#include "kernels/pool/kernels.inc"
#undef GRAPHOPT_POOL_KERNELS
    }
    return pool_kernels_portable;
  }();
  return kernels;
}

// Calls body(i, parts) for every i of lines times parts: threads share lines, and where those are few, their
// channels too.
struct PoolTasks {
  int64_t lines;
  int64_t parts;
  int64_t grain;

  PoolTasks(const PoolProblem& problem, int threads) : lines(problem.lines()) {
    const int64_t panels = (problem.channels + kPanel - 1) / kPanel;
    const int64_t wanted = threads > 1 ? (4 * threads + lines - 1) / std::max<int64_t>(lines, 1) : 1;
    parts = std::clamp<int64_t>(wanted, 1, std::max<int64_t>(panels / 4, 1));
    const int64_t work = problem.out[2] * problem.channels * problem.window.taps() / parts;
    grain = std::clamp<int64_t>(kWorthAThread / std::max<int64_t>(work, 1), 1, std::max<int64_t>(lines * parts, 1));
  }
};

// The lines of X that line `line` of outputs sees.
template <class T>
void find_lines(const PoolProblem& problem, int64_t line, const T* x, std::vector<LineOffset>& offsets,
                std::vector<const T*>& pointers) {
  const int64_t n = line / (problem.out[0] * problem.out[1]);
  window_lines(problem, line, offsets);
  pointers.clear();
  for (const LineOffset& at : offsets) {
    const int64_t position = ((n * problem.in[0] + at.d) * problem.in[1] + at.h) * problem.in[2];
    pointers.push_back(x + position * problem.channels);
  }
}

template <class Line>
void describe(const PoolProblem& problem, Range channels, Line& l) {
  l.columns_in = problem.in[2];
  l.columns = problem.out[2];
  l.channels = problem.channels;
  l.channel_begin = channels.begin;
  l.channel_end = channels.end;
  l.kernel = problem.window.kernel[2];
  l.stride = problem.window.stride[2];
  l.dilation = problem.window.dilation[2];
  l.begin = problem.window.begin[2];
}

void run_byte_max_pool(const PoolProblem& problem, const Tensor& x, const Tensor& y, const Parallel& parallel) {
  if (y.numel() == 0) return;
  const PoolTasks tasks(problem, parallel.threads());
  parallel.for_range(tasks.lines * tasks.parts, tasks.grain, [&](int64_t begin, int64_t end, int /*worker*/) {
    std::vector<LineOffset> offsets;
    std::vector<const uint8_t*> pointers;
    for (int64_t i = begin; i < end; ++i) {
      const int64_t line = i / tasks.parts;
      find_lines(problem, line, static_cast<const uint8_t*>(x.data), offsets, pointers);
      BytePoolLine l{};
      l.lines = pointers.data();
      l.line_count = static_cast<int64_t>(pointers.size());
      l.y = static_cast<uint8_t*>(y.data) + line * problem.out[2] * problem.channels;
      l.is_signed = x.dtype == DType::kI8;
      describe(problem, part_of(problem.channels, tasks.parts, i % tasks.parts, kPanel), l);
      pool_kernels().bytes(l);
    }
  });
}

void run_f32_pool(const PoolProblem& problem, PoolOp op, bool count_padding, const float* x, float* y,
                  const Parallel& parallel) {
  if (problem.lines() == 0 || problem.channels == 0 || problem.out[2] == 0) return;
  const PoolTasks tasks(problem, parallel.threads());
  parallel.for_range(tasks.lines * tasks.parts, tasks.grain, [&](int64_t begin, int64_t end, int /*worker*/) {
    std::vector<LineOffset> offsets;
    std::vector<const float*> pointers;
    std::vector<float> divisors(static_cast<size_t>(op == PoolOp::kAverage ? problem.out[2] : 0));
    for (int64_t i = begin; i < end; ++i) {
      const int64_t line = i / tasks.parts;
      find_lines(problem, line, x, offsets, pointers);
      const int64_t count = window_count(problem, 0, line / problem.out[1] % problem.out[0], count_padding) *
                            window_count(problem, 1, line % problem.out[1], count_padding);
      for (size_t column = 0; column < divisors.size(); ++column) {
        divisors[column] =
            static_cast<float>(count * window_count(problem, 2, static_cast<int64_t>(column), count_padding));
      }
      PoolLine l{};
      l.lines = pointers.data();
      l.line_count = static_cast<int64_t>(pointers.size());
      l.y = y + line * problem.out[2] * problem.channels;
      describe(problem, part_of(problem.channels, tasks.parts, i % tasks.parts, kPanel), l);
      l.divisors = divisors.data();
      pool_kernels().line(op, l);
    }
  });
}

class PoolKernel final : public Kernel {
 public:
  PoolKernel(const Attrs& attrs, const char* step, PlainPool::Op op)
      : step_(step), window_(parse_window(attrs, step)), ceil_mode_(attrs.i("ceil_mode", 0) != 0) {
    plain_.op = op;
    plain_.p = attrs.i("p", 2);
    plain_.count_padding = attrs.i("count_include_pad", 0) != 0;
    plain_.column_major = attrs.i("storage_order", 0) != 0;
    if (plain_.p < 1) throw Error(std::string(step) + ": p must be at least 1");
  }

  void run(KernelArgs& args) const override {
    const Tensor& x = operand(args.inputs, 0);
    const Tensor& y = args.outputs[0];
    const Tensor& indices = args.outputs.size() > 1 ? args.outputs[1] : operand({}, 0);
    if (indices.present() &&
        (plain_.op != PlainPool::Op::kMax || indices.dtype != DType::kI64 || indices.numel() != y.numel())) {
      throw Error(std::string(step_) + ": Indices must be int64 and as large as Y");
    }
    const PoolProblem problem = pool_problem(window_, ceil_mode_, x, y, step_);
    const bool vector_kernel = plain_.op != PlainPool::Op::kLp || plain_.p <= 2;
    if (x.dtype == DType::kF32 && !indices.present() && vector_kernel) {
      run_f32_pool(problem, op(), plain_.count_padding, x.ptr<float>(), y.ptr<float>(), args.parallel);
    } else if (plain_.op == PlainPool::Op::kMax && !indices.present() && is_byte(x.dtype) && x.dtype == y.dtype) {
      run_byte_max_pool(problem, x, y, args.parallel);
    } else {
      run_plain_pool(problem, plain_, x, y, indices, args.parallel);
    }
  }

 private:
  static bool is_byte(DType type) { return type == DType::kU8 || type == DType::kI8; }

  [[nodiscard]] PoolOp op() const {
    if (plain_.op == PlainPool::Op::kMax) return PoolOp::kMax;
    if (plain_.op == PlainPool::Op::kAverage) return PoolOp::kAverage;
    return plain_.p == 1 ? PoolOp::kSumOfMagnitudes : PoolOp::kRootOfSquares;
  }

  const char* step_;
  Window window_;
  bool ceil_mode_;
  PlainPool plain_{};
};

}  // namespace

std::unique_ptr<Kernel> make_max_pool(const Attrs& attrs) {
  return std::make_unique<PoolKernel>(attrs, "max_pool", PlainPool::Op::kMax);
}
std::unique_ptr<Kernel> make_average_pool(const Attrs& attrs) {
  return std::make_unique<PoolKernel>(attrs, "average_pool", PlainPool::Op::kAverage);
}
std::unique_ptr<Kernel> make_lp_pool(const Attrs& attrs) {
  return std::make_unique<PoolKernel>(attrs, "lp_pool", PlainPool::Op::kLp);
}

}  // namespace graphopt
