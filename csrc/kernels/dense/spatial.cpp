#include "kernels/dense/spatial.h"

#include <string>

namespace graphopt {
namespace {

// The last `rank` of three sizes, from a list of `rank` from `offset` on.
void read_sizes(const Attrs& attrs, const char* name, const char* step, int rank, size_t parts, size_t part,
                int64_t least, Dims3& sizes) {
  if (!attrs.has(name)) return;
  const std::vector<int64_t>& values = attrs.ints(name);
  const auto count = static_cast<size_t>(rank);
  if (values.size() != count * parts)
    throw Error(std::string(step) + ": attribute '" + name + "' has the wrong length");
  for (size_t i = 0; i < count; ++i) {
    const int64_t value = values[part * count + i];
    if (value < least) throw Error(std::string(step) + ": attribute '" + name + "' is out of range");
    sizes[3 - count + i] = value;
  }
}

}  // namespace

Window parse_window(const Attrs& attrs, const char* step) {
  Window window;
  const size_t rank = attrs.ints("kernel_shape").size();
  if (rank < 1 || rank > 3) throw Error(std::string(step) + ": one to three spatial dimensions are supported");
  window.rank = static_cast<int>(rank);
  read_sizes(attrs, "kernel_shape", step, window.rank, 1, 0, 1, window.kernel);
  read_sizes(attrs, "strides", step, window.rank, 1, 0, 1, window.stride);
  read_sizes(attrs, "dilations", step, window.rank, 1, 0, 1, window.dilation);
  read_sizes(attrs, "pads", step, window.rank, 2, 0, INT32_MIN, window.begin);
  read_sizes(attrs, "pads", step, window.rank, 2, 1, INT32_MIN, window.end);
  return window;
}

Dims3 spatial_dims(const Tensor& tensor, int first_axis, int rank) {
  Dims3 dims{1, 1, 1};
  for (int i = 0; i < rank; ++i) dims[static_cast<size_t>(3 - rank + i)] = tensor.dim(first_axis + i);
  return dims;
}

void check_conv_output(const Window& window, const Dims3& in, const Dims3& out, const char* step) {
  for (size_t axis = 0; axis < 3; ++axis) {
    const int64_t room = in[axis] + window.begin[axis] + window.end[axis] - window.extent(axis);
    const int64_t want = room < 0 ? 0 : room / window.stride[axis] + 1;
    if (out[axis] != want) throw Error(std::string(step) + ": the output has the wrong spatial size");
  }
}

}  // namespace graphopt
