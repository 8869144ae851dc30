#include "python/arrays.h"

#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>

#include <cstdlib>
#include <optional>
#include <vector>

#include "runtime/dtype.h"
#include "runtime/program.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace graphopt::python {
namespace {

// The element type of a buffer-protocol format of native byte order.
DType dtype_from_format(const char* format, Py_ssize_t itemsize) {
  if (format == nullptr) return DType::kU8;
  std::string_view text(format);
  if (!text.empty() && (text[0] == '=' || text[0] == '<' || text[0] == '@')) text.remove_prefix(1);
  if (text == "Zf") return DType::kC64;
  if (text == "Zd") return DType::kC128;
  if (text.size() != 1) return DType::kUndefined;
  switch (text[0]) {
    case '?':
      return DType::kBool;
    case 'e':
      return DType::kF16;
    case 'f':
      return DType::kF32;
    case 'd':
      return DType::kF64;
    case 'b':
    case 'h':
    case 'i':
    case 'l':
    case 'q':
      return itemsize == 1 ? DType::kI8 : itemsize == 2 ? DType::kI16 : itemsize == 4 ? DType::kI32 : DType::kI64;
    case 'B':
    case 'H':
    case 'I':
    case 'L':
    case 'Q':
      return itemsize == 1 ? DType::kU8 : itemsize == 2 ? DType::kU16 : itemsize == 4 ? DType::kU32 : DType::kU64;
    default:
      return DType::kUndefined;
  }
}

// Types of numpy itself. The others come from ml_dtypes, and numpy's buffer protocol refuses them.
bool is_numpy_type(DType type) { return type < DType::kBF16; }

std::optional<nb::dlpack::dtype> dlpack_type(DType type) {
  using Code = nb::dlpack::dtype_code;
  const auto make = [type](Code code) {
    return nb::dlpack::dtype{static_cast<uint8_t>(code), static_cast<uint8_t>(8 * element_size(type)), 1};
  };
  switch (type) {
    case DType::kBool:
      return make(Code::Bool);
    case DType::kF16:
    case DType::kF32:
    case DType::kF64:
      return make(Code::Float);
    case DType::kC64:
    case DType::kC128:
      return make(Code::Complex);
    case DType::kI8:
    case DType::kI16:
    case DType::kI32:
    case DType::kI64:
      return make(Code::Int);
    case DType::kUndefined:
    case DType::kString:
      return std::nullopt;
    default:  // unsigned integers, and the bits of ml_dtypes' types
      return make(Code::UInt);
  }
}

nb::object make_array(const Tensor& tensor, nb::handle owner) {
  const std::optional<nb::dlpack::dtype> type = dlpack_type(tensor.dtype);
  if (!type) throw nb::type_error("a tensor without an element type has no array form");
  std::vector<size_t> shape(tensor.shape.begin(), tensor.shape.begin() + tensor.rank);
  nb::ndarray<nb::numpy> array(tensor.data, shape.size(), shape.data(), owner, nullptr, *type);
  nb::object result = nb::cast(array, nb::rv_policy::reference);
  if (is_numpy_type(tensor.dtype)) return result;
  const std::string name(dtype_name(tensor.dtype));
  return result.attr("view")(nb::module_::import_("ml_dtypes").attr(name.c_str()));
}

}  // namespace

BorrowedArray::BorrowedArray(nb::handle array, const std::string& what) {
  if (array.is_none()) return;
  try {
    borrow(array, what);
  } catch (...) {
    if (held_) PyBuffer_Release(&view_);
    throw;
  }
}

// numpy's own types export their buffer. Its refusal means another memory layout, which a copy puts
// right, or a type of ml_dtypes, whose bits are seen as unsigned integers.
void BorrowedArray::borrow(nb::handle array, const std::string& what) {
  constexpr int kFlags = PyBUF_FORMAT | PyBUF_C_CONTIGUOUS;
  array_ = nb::borrow(array);
  DType type = DType::kUndefined;
  held_ = PyObject_GetBuffer(array_.ptr(), &view_, kFlags) == 0;
  if (!held_) {
    PyErr_Clear();
    array_ = nb::module_::import_("numpy").attr("ascontiguousarray")(array_).attr("reshape")(array.attr("shape"));
    type = dtype_from_name(nb::cast<std::string>(nb::str(array_.attr("dtype").attr("name"))));
    if (type != DType::kUndefined && !is_numpy_type(type)) {
      array_ = array_.attr("view")(element_size(type) == 2 ? "uint16" : "uint8");
    }
    held_ = PyObject_GetBuffer(array_.ptr(), &view_, kFlags) == 0;
    if (!held_) {
      PyErr_Clear();
      throw InputError(what + " is not an array of numbers");
    }
  }
  if (type == DType::kUndefined || is_numpy_type(type)) type = dtype_from_format(view_.format, view_.itemsize);
  if (type == DType::kUndefined || static_cast<size_t>(view_.itemsize) != element_size(type)) {
    throw InputError(what + " has an element type that is not supported");
  }
  if (view_.ndim > kMaxRank) {
    throw InputError(what + " has more than " + std::to_string(kMaxRank) + " dimensions");
  }
  tensor_.data = view_.buf;
  tensor_.dtype = type;
  tensor_.rank = view_.ndim;
  for (int i = 0; i < view_.ndim; ++i) tensor_.shape[static_cast<size_t>(i)] = view_.shape[i];
}

BorrowedArray::~BorrowedArray() {
  if (held_) PyBuffer_Release(&view_);
}

nb::object own_array(const Tensor& tensor, Buffer memory) {
  Tensor owned = tensor;
  owned.data = memory.release();
  nb::capsule owner(owned.data, [](void* data) noexcept { std::free(data); });
  return make_array(owned, owner);
}

nb::object view_array(const Tensor& tensor, bool writable) {
  // Any object but None tells nanobind not to copy.
  nb::object array = make_array(tensor, nb::bool_(true));
  if (!writable) array.attr("setflags")("write"_a = false);
  return array;
}

}  // namespace graphopt::python
