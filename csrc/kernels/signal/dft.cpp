// The step kernels dft and stft.
#include <algorithm>
#include <array>
#include <cstddef>
#include <memory>
#include <vector>

#include "kernels/signal/fft.h"
#include "kernels/support/dispatch.h"
#include "kernels/support/operands.h"

namespace graphopt {

namespace signal {
namespace {

using support::extent;
using support::load;
using support::operand;
using support::require;
using Complex = Fft::Complex;

// Longer transforms are an error of the model rather than a signal.
constexpr int64_t kLongest = int64_t{1} << 28;

// A line buffer and the transform's scratch memory for every worker.
std::vector<std::vector<Complex>> line_buffers(const Fft& fft, int threads) {
  return std::vector<std::vector<Complex>>(static_cast<size_t>(threads),
                                           std::vector<Complex>(static_cast<size_t>(fft.length() + fft.scratch())));
}

int64_t transform_cost(int64_t length) { return 64 + length * 40; }

// Element `index` of a tensor whose last axis is 1 (real) or 2 (real, imaginary).
template <class T>
Complex read(const T* values, int64_t index, int64_t parts) {
  const auto real = static_cast<double>(load(values[index * parts]));
  return {real, parts == 2 ? static_cast<double>(load(values[index * parts + 1])) : 0.0};
}

template <class T>
void write(T* values, int64_t index, int64_t parts, Complex value) {
  using C = support::Compute<T>;
  values[index * parts] = support::store<T>(static_cast<C>(value.real()));
  if (parts == 2) values[index * parts + 1] = support::store<T>(static_cast<C>(value.imag()));
}

class Dft final : public Kernel {
 public:
  explicit Dft(const Attrs& attrs)
      : inverse_(attrs.i("inverse", 0) != 0),
        one_sided_(attrs.i("onesided", 0) != 0),
        axis_(attrs.i("axis", attrs.has("axis") ? 0 : -2)) {}

  void run(KernelArgs& args) const override {
    const Tensor& x = operand(args.inputs, 0, "input");
    const Tensor length = support::optional_operand(args.inputs, 1);
    const Tensor axis_operand = support::optional_operand(args.inputs, 2);
    require(x.rank >= 2, "dft: the input needs a signal axis and one for the parts of numbers");
    const int64_t parts = x.dim(-1);
    require(parts == 1 || parts == 2, "dft: the last axis of the input must be 1 (real) or 2 (complex)");
    const int64_t axis_value = axis_operand.present() ? support::integer_scalar(axis_operand, "axis") : axis_;
    const int axis = support::normalize_axis(axis_value, x.rank);
    require(axis != x.rank - 1, "dft: the last axis is not a signal axis");
    const bool to_real = inverse_ && one_sided_;
    int64_t n = to_real ? 2 * (x.dim(axis) - 1) : x.dim(axis);
    if (length.present()) n = support::integer_scalar(length, "dft_length");
    require(n > 0 && n <= kLongest, "dft: the length is not positive or too long");
    std::array<int64_t, kMaxRank> shape = x.shape;
    shape[static_cast<size_t>(axis)] = one_sided_ && !inverse_ ? n / 2 + 1 : n;
    shape[static_cast<size_t>(x.rank) - 1] = to_real ? 1 : 2;
    const std::span<const int64_t> dims(shape.data(), static_cast<size_t>(x.rank));
    const Tensor y = support::shaped_result(args, 0, dims, "output");
    support::require_dtype(y, x.dtype, "output");
    if (y.numel() == 0) return;
    support::visit_float(x.dtype, "dft",
                         [&](auto tag) { transform<typename decltype(tag)::Type>(x, y, axis, n, args.parallel); });
  }

 private:
  template <class T>
  void transform(const Tensor& x, const Tensor& y, int axis, int64_t n, const Parallel& parallel) const {
    const Fft fft(n);
    auto buffers = line_buffers(fft, parallel.threads());
    const int64_t inner = extent(x, axis + 1, x.rank - 1);
    const int64_t length = x.dim(axis);
    const int64_t length_out = y.dim(axis);
    const double scale = inverse_ ? 1.0 / static_cast<double>(n) : 1.0;
    auto body = [&](int64_t begin, int64_t end, int worker) {
      Complex* line = buffers[static_cast<size_t>(worker)].data();
      for (int64_t i = begin; i < end; ++i) {
        const int64_t from = i / inner * length * inner + i % inner;
        const int64_t to = i / inner * length_out * inner + i % inner;
        for (int64_t k = 0; k < n; ++k) {
          line[k] = k < length ? read(x.ptr<const T>(), from + k * inner, x.dim(-1)) : Complex{};
        }
        if (inverse_ && one_sided_) {
          // The other half is the mirror image.
          for (int64_t k = n / 2 + 1; k < n; ++k) line[k] = std::conj(line[n - k]);
        }
        fft.transform(line, line + n, inverse_);
        for (int64_t k = 0; k < length_out; ++k) write(y.ptr<T>(), to + k * inner, y.dim(-1), line[k] * scale);
      }
    };
    parallel.for_range(extent(x, 0, axis) * inner, support::grain_for(transform_cost(n)), body);
  }

  bool inverse_;
  bool one_sided_;
  int64_t axis_;  // an attribute before opset 20
};

class Stft final : public Kernel {
 public:
  explicit Stft(const Attrs& attrs) : one_sided_(attrs.i("onesided", 1) != 0) {}

  void run(KernelArgs& args) const override {
    const Tensor& x = operand(args.inputs, 0, "signal");
    const int64_t step = support::integer_scalar(operand(args.inputs, 1, "frame_step"), "frame_step");
    const Tensor window = support::optional_operand(args.inputs, 2);
    const Tensor length = support::optional_operand(args.inputs, 3);
    require(x.rank == 3 && (x.dim(2) == 1 || x.dim(2) == 2), "stft: the signal must be [batch, length, 1 or 2]");
    int64_t n = x.dim(1);
    if (window.present()) n = window.numel();
    if (length.present()) n = support::integer_scalar(length, "frame_length");
    require(step > 0, "stft: frame_step is not positive");
    require(n > 0 && n <= x.dim(1) && n <= kLongest, "stft: frame_length is not positive or longer than the signal");
    if (window.present()) {
      support::require_shape(window, {n}, "window");
      support::require_dtype(window, x.dtype, "window");
    }
    const int64_t frames = (x.dim(1) - n) / step + 1;
    const std::array<int64_t, 4> shape = {x.dim(0), frames, one_sided_ ? n / 2 + 1 : n, 2};
    const Tensor y = support::shaped_result(args, 0, shape, "output");
    support::require_dtype(y, x.dtype, "output");
    support::visit_float(x.dtype, "stft", [&](auto tag) {
      transform<typename decltype(tag)::Type>(x, window, y, n, step, args.parallel);
    });
  }

 private:
  template <class T>
  static void transform(const Tensor& x, const Tensor& window, const Tensor& y, int64_t n, int64_t step,
                        const Parallel& parallel) {
    const Fft fft(n);
    auto buffers = line_buffers(fft, parallel.threads());
    const int64_t frames = y.dim(1);
    const int64_t bins = y.dim(2);
    auto body = [&](int64_t begin, int64_t end, int worker) {
      Complex* line = buffers[static_cast<size_t>(worker)].data();
      for (int64_t i = begin; i < end; ++i) {
        const int64_t from = i / frames * x.dim(1) + i % frames * step;
        for (int64_t k = 0; k < n; ++k) {
          const double weight = window.present() ? static_cast<double>(load(window.ptr<const T>()[k])) : 1.0;
          line[k] = read(x.ptr<const T>(), from + k, x.dim(2)) * weight;
        }
        fft.transform(line, line + n, false);
        for (int64_t k = 0; k < bins; ++k) write(y.ptr<T>(), i * bins + k, 2, line[k]);
      }
    };
    parallel.for_range(x.dim(0) * frames, support::grain_for(transform_cost(n)), body);
  }

  bool one_sided_;
};

}  // namespace
}  // namespace signal

std::unique_ptr<Kernel> make_dft(const Attrs& attrs) { return std::make_unique<signal::Dft>(attrs); }

std::unique_ptr<Kernel> make_stft(const Attrs& attrs) { return std::make_unique<signal::Stft>(attrs); }

}  // namespace graphopt
