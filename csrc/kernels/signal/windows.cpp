// The step kernels hann_window, hamming_window, blackman_window and mel_weight_matrix.
#include <algorithm>
#include <array>
#include <cmath>
#include <memory>
#include <numbers>
#include <vector>

#include "kernels/convert/number_cast.h"
#include "kernels/support/operands.h"

namespace graphopt {

namespace signal {
namespace {

using support::fail;
using support::operand;
using support::require;

void store_all(const std::vector<double>& values, const Tensor& out) {
  support::visit_number(out.dtype, "a window", [&](auto tag) {
    using T = typename decltype(tag)::Type;
    for (size_t i = 0; i < values.size(); ++i) out.ptr<T>()[i] = convert::cast_number<T>(values[i], {});
  });
}

// a0 - a1 cos(2 pi i / n) + a2 cos(4 pi i / n)
struct Cosines {
  double a0, a1, a2;
};

class Window final : public Kernel {
 public:
  Window(const Attrs& attrs, Cosines cosines) : cosines_(cosines), periodic_(attrs.i("periodic", 1) != 0) {}

  void run(KernelArgs& args) const override {
    const int64_t size = support::integer_scalar(operand(args.inputs, 0, "size"), "size");
    require(size >= 0, "a window: the size is negative");
    const Tensor out = support::shaped_result(args, 0, std::span<const int64_t>(&size, 1), "output");
    const auto period = static_cast<double>(periodic_ ? size : size - 1);
    std::vector<double> values;
    for (int64_t i = 0; i < size; ++i) {
      // A symmetric window of one point has no period.
      const double angle = period > 0 ? 2 * std::numbers::pi * static_cast<double>(i) / period : 0.0;
      values.push_back(cosines_.a0 - cosines_.a1 * std::cos(angle) + cosines_.a2 * std::cos(2 * angle));
    }
    store_all(values, out);
  }

 private:
  Cosines cosines_;
  bool periodic_;
};

class MelWeightMatrix final : public Kernel {
 public:
  void run(KernelArgs& args) const override {
    const int64_t bins = support::integer_scalar(operand(args.inputs, 0, "num_mel_bins"), "num_mel_bins");
    const int64_t length = support::integer_scalar(operand(args.inputs, 1, "dft_length"), "dft_length");
    const int64_t rate = support::integer_scalar(operand(args.inputs, 2, "sample_rate"), "sample_rate");
    const double low = support::real_scalar(operand(args.inputs, 3, "lower_edge_hertz"), "lower_edge_hertz");
    const double high = support::real_scalar(operand(args.inputs, 4, "upper_edge_hertz"), "upper_edge_hertz");
    require(bins >= 0 && length >= 0 && rate > 0, "mel_weight_matrix: a size is negative or the rate is not positive");
    const int64_t rows = length / 2 + 1;
    const std::array<int64_t, 2> shape = {rows, bins};
    const Tensor out = support::shaped_result(args, 0, shape, "output");
    // Edges of the triangles, equally spaced in mel, as rows of the spectrum.
    const auto mel = [](double hertz) { return 2595 * std::log10(1 + hertz / 700); };
    const double step = (mel(high) - mel(low)) / static_cast<double>(bins + 2);
    std::vector<double> edges;
    for (int64_t i = 0; i < bins + 2; ++i) {
      const double hertz = 700 * (std::pow(10.0, (static_cast<double>(i) * step + mel(low)) / 2595) - 1);
      const double row = std::floor(static_cast<double>(length + 1) * hertz / static_cast<double>(rate));
      edges.push_back(row);
    }
    std::vector<double> values(static_cast<size_t>(support::checked_product(rows, bins)));
    for (int64_t i = 0; i < bins; ++i) fill(values, rows, bins, i, &edges[static_cast<size_t>(i)]);
    store_all(values, out);
  }

 private:
  // The triangle between edges[0] and edges[2] with its peak at edges[1].
  static void fill(std::vector<double>& values, int64_t rows, int64_t bins, int64_t bin, const double* edges) {
    for (int64_t row = 0; row < rows; ++row) {
      const auto at = static_cast<double>(row);
      double weight = 0.0;
      if (at >= edges[0] && at < edges[1]) {
        weight = (at - edges[0]) / (edges[1] - edges[0]);
      } else if (at >= edges[1] && at < edges[2]) {
        weight = (edges[2] - at) / (edges[2] - edges[1]);
      }
      if (at == edges[1]) weight = 1.0;
      values[static_cast<size_t>(row * bins + bin)] = weight;
    }
  }
};

}  // namespace
}  // namespace signal

std::unique_ptr<Kernel> make_hann_window(const Attrs& attrs) {
  return std::make_unique<signal::Window>(attrs, signal::Cosines{0.5, 0.5, 0.0});
}

std::unique_ptr<Kernel> make_hamming_window(const Attrs& attrs) {
  constexpr double kAlpha = 25.0 / 46.0;
  return std::make_unique<signal::Window>(attrs, signal::Cosines{kAlpha, 1 - kAlpha, 0.0});
}

std::unique_ptr<Kernel> make_blackman_window(const Attrs& attrs) {
  return std::make_unique<signal::Window>(attrs, signal::Cosines{0.42, 0.5, 0.08});
}

std::unique_ptr<Kernel> make_mel_weight_matrix(const Attrs&) { return std::make_unique<signal::MelWeightMatrix>(); }

}  // namespace graphopt
