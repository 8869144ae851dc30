// Step kernel `rotary_embedding`: pairs of features turned by angles (Su et al., "RoFormer", 2021), as ONNX has it.
//
// X and Y are [batch, heads, length, size], or, each by itself, [batch, length, features] with `heads` times `size`
// features from `begin` on, `step` apart. cos and sin are [batch, length, width / 2], where sizes of 1 stand for all;
// with a fourth operand, of positions [batch, length], they are [positions, width / 2].
#include <algorithm>
#include <string>

#include "kernels/attention/head_view.h"
#include "kernels/dense/operands.h"

namespace graphopt {
namespace {

constexpr int64_t kWorthAThread = 20'000;  // elements

// The first `half` features of a run with the next `half`.
void turn_halves(const float* __restrict x, const float* __restrict c, const float* __restrict s, int64_t half,
                 float* __restrict y) {
  for (int64_t i = 0; i < half; ++i) {
    const float a = x[i];
    const float b = x[i + half];
    y[i] = c[i] * a - s[i] * b;
    y[i + half] = s[i] * a + c[i] * b;
  }
}

// Each feature of even index with the next one.
void turn_pairs(const float* __restrict x, const float* __restrict c, const float* __restrict s, int64_t half,
                float* __restrict y) {
  for (int64_t i = 0; i < half; ++i) {
    const float a = x[2 * i];
    const float b = x[2 * i + 1];
    y[2 * i] = c[i] * a - s[i] * b;
    y[2 * i + 1] = s[i] * a + c[i] * b;
  }
}

// Where the angles of a row are.
struct Angles {
  int64_t rows = 0;  // that exist, where there are positions
  int64_t batch = 0;
  int64_t row = 0;
  const int64_t* positions = nullptr;
  int64_t position_batch = 0;
  int64_t position_row = 0;

  [[nodiscard]] int64_t at(int64_t b, int64_t s) const {
    if (positions == nullptr) return b * batch + s * row;
    const int64_t position = positions[b * position_batch + s * position_row];
    const int64_t counted = position < 0 ? position + rows : position;
    if (counted < 0 || counted >= rows) {
      throw Error("rotary_embedding: position " + std::to_string(position) + " is not among the " +
                  std::to_string(rows) + " angles");
    }
    return counted * row;
  }
};

class RotaryKernel final : public Kernel {
 public:
  explicit RotaryKernel(const Attrs& attrs)
      : interleaved_(attrs.i("interleaved", 0) != 0),
        width_(attrs.i("width", 0)),
        heads_(attrs.i("heads", 0)),
        size_(attrs.i("size", 0)),
        begin_(attrs.i("begin", 0)),
        step_(attrs.i("step", size_)) {}

  void run(KernelArgs& args) const override {
    const Tensor& x = operand(args.inputs, 0);
    const Tensor& cos = operand(args.inputs, 1);
    const Tensor& sin = operand(args.inputs, 2);
    const Tensor& y = args.outputs[0];
    require_f32("rotary_embedding", {&x, &cos, &sin, &y});
    if (x.rank != 3 && x.rank != 4) throw Error("rotary_embedding: X must have three or four dimensions");
    const int64_t batch = x.dim(0);
    const int64_t heads = x.rank == 4 ? x.dim(1) : heads_;
    const int64_t length = x.dim(-2);
    const int64_t size = x.rank == 4 ? x.dim(3) : size_;
    const int64_t width = width_ == 0 ? size : width_;
    if (width < 0 || width > size || width % 2 != 0) throw Error("rotary_embedding: the width doesn't fit the heads");
    if (y.numel() != batch * heads * length * size) throw Error("rotary_embedding: Y has the wrong size");
    if (y.numel() == 0) return;
    const HeadView from("rotary_embedding", x, heads, size, begin_, step_);
    const HeadView to("rotary_embedding", y, heads, size, 0, size);
    const Angles angles = view_angles(cos, sin, operand(args.inputs, 3), batch, length, width / 2);
    const auto* in = x.ptr<float>();
    auto* out = y.ptr<float>();
    const int64_t grain = std::max<int64_t>(1, kWorthAThread / (heads * size));
    args.parallel.for_range(batch * length, grain, [&](int64_t begin, int64_t end, int /*worker*/) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t b = i / length;
        const int64_t s = i % length;
        const int64_t at = angles.at(b, s);
        for (int64_t h = 0; h < heads; ++h) {
          const float* row = in + from.at(b, h, s);
          float* result = out + to.at(b, h, s);
          (interleaved_ ? turn_pairs : turn_halves)(row, cos.ptr<float>() + at, sin.ptr<float>() + at, width / 2,
                                                    result);
          std::copy_n(row + width, size - width, result + width);
        }
      }
    });
  }

 private:
  static Angles view_angles(const Tensor& cos, const Tensor& sin, const Tensor& positions, int64_t batch,
                            int64_t length, int64_t half) {
    Angles angles;
    const bool given = positions.present();
    const int rank = given ? 2 : 3;
    if (cos.rank != rank || sin.rank != rank || cos.dim(-1) != half || sin.dim(-1) != half ||
        cos.numel() != sin.numel() || cos.dim(0) != sin.dim(0)) {
      throw Error("rotary_embedding: the angles don't fit the features");
    }
    angles.row = half;
    const Tensor& rows = given ? positions : cos;
    if (given && (positions.dtype != DType::kI64 || positions.rank != 2)) {
      throw Error("rotary_embedding: positions must be a matrix of int64");
    }
    if ((rows.dim(0) != 1 && rows.dim(0) != batch) || (rows.dim(1) != 1 && rows.dim(1) != length)) {
      throw Error("rotary_embedding: there is not an angle for every row");
    }
    const int64_t batch_step = rows.dim(0) == 1 ? 0 : rows.dim(1);
    const int64_t row_step = rows.dim(1) == 1 ? 0 : 1;
    if (given) {
      angles.rows = cos.dim(0);
      angles.positions = positions.ptr<int64_t>();
      angles.position_batch = batch_step;
      angles.position_row = row_step;
    } else {
      angles.batch = batch_step * half;
      angles.row = row_step * half;
    }
    return angles;
  }

  bool interleaved_;
  int64_t width_;
  int64_t heads_;
  int64_t size_;
  int64_t begin_;
  int64_t step_;
};

}  // namespace

std::unique_ptr<Kernel> make_rotary_embedding(const Attrs& attrs) { return std::make_unique<RotaryKernel>(attrs); }

}  // namespace graphopt
