// The geometry of windows that slide over one to three spatial dimensions.
#pragma once

#include <array>
#include <cstdint>

#include "graphopt/kernel.h"

namespace graphopt {

using Dims3 = std::array<int64_t, 3>;

// A step's window attributes. Missing leading dimensions are of size one, so that 1-d and 2-d are 3-d.
struct Window {
  int rank = 0;
  Dims3 kernel{1, 1, 1};
  Dims3 stride{1, 1, 1};
  Dims3 dilation{1, 1, 1};
  Dims3 begin{0, 0, 0};  // padding
  Dims3 end{0, 0, 0};

  [[nodiscard]] int64_t taps() const { return kernel[0] * kernel[1] * kernel[2]; }
  // From a window's first input to one behind its last.
  [[nodiscard]] int64_t extent(size_t axis) const { return dilation[axis] * (kernel[axis] - 1) + 1; }
  // One tap on every position: X is the matrix of a product.
  [[nodiscard]] bool is_plain() const {
    constexpr Dims3 kOnes{1, 1, 1};
    constexpr Dims3 kZeros{0, 0, 0};
    return kernel == kOnes && stride == kOnes && begin == kZeros && end == kZeros;
  }
};

// Reads kernel_shape, and strides, dilations and pads where present. Throws Error on nonsense.
Window parse_window(const Attrs& attrs, const char* step);

// The three spatial sizes of a tensor [N, spatial..., C] (first_axis 1) or [N, C, spatial...] (2).
Dims3 spatial_dims(const Tensor& tensor, int first_axis, int rank);

// Throws unless `out` is what the window makes of `in` without ceil_mode.
void check_conv_output(const Window& window, const Dims3& in, const Dims3& out, const char* step);

inline int64_t volume(const Dims3& dims) { return dims[0] * dims[1] * dims[2]; }

// Counts through positions in row-major order.
struct Position {
  int64_t batch = 0;
  Dims3 at{0, 0, 0};

  Position() = default;
  Position(int64_t index, const Dims3& dims) {
    for (size_t axis = 3; axis-- > 0;) {
      const int64_t dim = dims[axis] > 0 ? dims[axis] : 1;  // an empty range has a position all the same
      at[axis] = index % dim;
      index /= dim;
    }
    batch = index;
  }
  void next(const Dims3& dims) { skip(1, dims); }
  // `count` positions on, within the innermost axis or to its end.
  void skip(int64_t count, const Dims3& dims) {
    at[2] += count;
    if (at[2] < dims[2]) return;
    at[2] = 0;
    if (++at[1] < dims[1]) return;
    at[1] = 0;
    if (++at[0] < dims[0]) return;
    at[0] = 0;
    ++batch;
  }
};

}  // namespace graphopt
