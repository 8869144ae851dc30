#include "kernels/support/operands.h"

#include <limits>

#include "kernels/support/dispatch.h"

namespace graphopt::support {

void fail(const std::string& message) { throw Error(message); }

std::string shape_text(const Tensor& tensor) {
  std::string text = "[";
  for (int i = 0; i < tensor.rank; ++i) {
    if (i > 0) text += ',';
    text += std::to_string(tensor.dim(i));
  }
  return text + ']';
}

std::string dtype_name(DType dtype) {
  static constexpr const char* kNames[] = {
      "undefined",  "f32", "u8",  "i8",     "u16",    "i16",  "i32",  "i64",      "string",     "bool",
      "f16",        "f64", "u32", "u64",    "c64",    "c128", "bf16", "f8e4m3fn", "f8e4m3fnuz", "f8e5m2",
      "f8e5m2fnuz", "u4",  "i4",  "f4e2m1", "f8e8m0", "u2",   "i2",   "f6e2m3",   "f6e3m2"};
  const auto index = static_cast<size_t>(dtype);
  return index < std::size(kNames) ? kNames[index] : "type " + std::to_string(index);
}

const Tensor& operand(std::span<const Tensor> inputs, size_t index, const char* what) {
  if (index >= inputs.size() || !inputs[index].present()) fail(std::string("operand ") + what + " is missing");
  return inputs[index];
}

Tensor& result(std::span<Tensor> outputs, size_t index, const char* what) {
  if (index >= outputs.size() || !outputs[index].present()) fail(std::string("output ") + what + " is missing");
  return outputs[index];
}

Tensor optional_operand(std::span<const Tensor> inputs, size_t index) {
  return index < inputs.size() ? inputs[index] : Tensor{};
}

Tensor optional_result(std::span<const Tensor> outputs, size_t index) {
  return index < outputs.size() ? outputs[index] : Tensor{};
}

bool shape_is_known(const Tensor& output) {
  for (int i = 0; i < output.rank; ++i) {
    if (output.dim(i) < 0) return false;
  }
  return output.data != nullptr || output.numel() == 0;
}

const Tensor& shaped_result(KernelArgs& args, size_t index, std::span<const int64_t> shape, const char* what) {
  const Tensor& planned = result(args.outputs, index, what);
  if (!shape_is_known(planned)) return args.allocator.allocate(static_cast<int>(index), shape);
  require_shape(planned, shape, what);
  return planned;
}

int normalize_axis(int64_t axis, int rank) {
  if (axis < -rank || axis >= rank) {
    fail("axis " + std::to_string(axis) + " is out of range for rank " + std::to_string(rank));
  }
  return static_cast<int>(axis < 0 ? axis + rank : axis);
}

void require_rank(const Tensor& tensor, int rank, const char* what) {
  if (tensor.rank != rank) {
    fail(std::string(what) + " has shape " + shape_text(tensor) + ", expected rank " + std::to_string(rank));
  }
}

void require_shape(const Tensor& tensor, std::span<const int64_t> shape, const char* what) {
  bool equal = static_cast<size_t>(tensor.rank) == shape.size();
  for (int i = 0; equal && i < tensor.rank; ++i) equal = tensor.dim(i) == shape[static_cast<size_t>(i)];
  if (equal) return;
  std::string expected = "[";
  for (size_t i = 0; i < shape.size(); ++i) expected += (i > 0 ? "," : "") + std::to_string(shape[i]);
  fail(std::string(what) + " has shape " + shape_text(tensor) + ", expected " + expected + "]");
}

void require_shape(const Tensor& tensor, std::initializer_list<int64_t> shape, const char* what) {
  require_shape(tensor, std::span<const int64_t>(shape.begin(), shape.size()), what);
}

void require_same_shape(const Tensor& tensor, const Tensor& other, const char* what) {
  require_shape(tensor, std::span<const int64_t>(other.shape.data(), static_cast<size_t>(other.rank)), what);
}

void require_dtype(const Tensor& tensor, DType dtype, const char* what) {
  if (tensor.dtype != dtype) {
    fail(std::string(what) + " has element type " + dtype_name(tensor.dtype) + ", expected " + dtype_name(dtype));
  }
}

int64_t checked_product(int64_t a, int64_t b) {
  int64_t product = 0;
  if (a < 0 || b < 0 || __builtin_mul_overflow(a, b, &product)) {
    fail("a size is negative or too large: " + std::to_string(a) + " x " + std::to_string(b));
  }
  return product;
}

int64_t checked_product(std::span<const int64_t> dims) {
  int64_t product = 1;
  for (int64_t dim : dims) product = checked_product(product, dim);
  return product;
}

std::array<int64_t, kMaxRank> strides_of(const Tensor& tensor) {
  std::array<int64_t, kMaxRank> strides{};
  int64_t stride = 1;
  for (int i = tensor.rank - 1; i >= 0; --i) {
    strides[static_cast<size_t>(i)] = stride;
    stride *= tensor.dim(i);
  }
  return strides;
}

int64_t integer_at(const Tensor& tensor, int64_t index) {
  return visit_integer(tensor.dtype, "an index or size operand", [&](auto tag) -> int64_t {
    using T = typename decltype(tag)::Type;
    const T value = tensor.ptr<T>()[index];
    if constexpr (std::is_same_v<T, uint64_t>) {
      require(value <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max()), "an integer operand is too large");
    }
    return static_cast<int64_t>(value);
  });
}

double real_at(const Tensor& tensor, int64_t index) {
  return visit_real(tensor.dtype, "a real operand", [&](auto tag) -> double {
    using T = typename decltype(tag)::Type;
    return static_cast<double>(load(tensor.ptr<T>()[index]));
  });
}

int64_t integer_scalar(const Tensor& tensor, const char* what) {
  if (tensor.numel() != 1) fail(std::string(what) + " has shape " + shape_text(tensor) + ", expected one element");
  return integer_at(tensor, 0);
}

double real_scalar(const Tensor& tensor, const char* what) {
  if (tensor.numel() != 1) fail(std::string(what) + " has shape " + shape_text(tensor) + ", expected one element");
  return real_at(tensor, 0);
}

}  // namespace graphopt::support
