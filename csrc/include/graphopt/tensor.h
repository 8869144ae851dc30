// Plain views of tensors in memory. Everything here is trivially copyable and owns nothing.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace graphopt {

// Element types, numbered as ONNX TensorProto.DataType numbers them.
enum class DType : uint8_t {
  kUndefined = 0,
  kF32 = 1,
  kU8 = 2,
  kI8 = 3,
  kU16 = 4,
  kI16 = 5,
  kI32 = 6,
  kI64 = 7,
  kString = 8,
  kBool = 9,
  kF16 = 10,
  kF64 = 11,
  kU32 = 12,
  kU64 = 13,
  kC64 = 14,
  kC128 = 15,
  kBF16 = 16,
  kF8E4M3FN = 17,
  kF8E4M3FNUZ = 18,
  kF8E5M2 = 19,
  kF8E5M2FNUZ = 20,
  kU4 = 21,
  kI4 = 22,
  kF4E2M1 = 23,
  kF8E8M0 = 24,
  kU2 = 25,
  kI2 = 26,
  kF6E2M3 = 27,
  kF6E3M2 = 28,
};

// Bytes an element takes in memory. Sub-byte types are stored one element a byte
// (as ml_dtypes does in numpy); 0 for types that have no flat memory form.
constexpr size_t element_size(DType type) {
  switch (type) {
    case DType::kU8:
    case DType::kI8:
    case DType::kBool:
    case DType::kF8E4M3FN:
    case DType::kF8E4M3FNUZ:
    case DType::kF8E5M2:
    case DType::kF8E5M2FNUZ:
    case DType::kU4:
    case DType::kI4:
    case DType::kF4E2M1:
    case DType::kF8E8M0:
    case DType::kU2:
    case DType::kI2:
    case DType::kF6E2M3:
    case DType::kF6E3M2:
      return 1;
    case DType::kU16:
    case DType::kI16:
    case DType::kF16:
    case DType::kBF16:
      return 2;
    case DType::kF32:
    case DType::kI32:
    case DType::kU32:
      return 4;
    case DType::kI64:
    case DType::kF64:
    case DType::kU64:
    case DType::kC64:
      return 8;
    case DType::kC128:
      return 16;
    case DType::kUndefined:
    case DType::kString:
      return 0;
  }
  return 0;
}

inline constexpr int kMaxRank = 12;

// A dense row-major tensor. `data == nullptr && dtype == kUndefined` is an absent optional operand.
struct Tensor {
  void* data = nullptr;
  DType dtype = DType::kUndefined;
  int32_t rank = 0;
  std::array<int64_t, kMaxRank> shape{};

  [[nodiscard]] bool present() const { return dtype != DType::kUndefined; }
  [[nodiscard]] int64_t dim(int axis) const { return shape[static_cast<size_t>(axis < 0 ? axis + rank : axis)]; }
  [[nodiscard]] int64_t numel() const {
    int64_t count = 1;
    for (int i = 0; i < rank; ++i) count *= shape[static_cast<size_t>(i)];
    return count;
  }
  [[nodiscard]] size_t nbytes() const { return static_cast<size_t>(numel()) * element_size(dtype); }
  template <class T>
  [[nodiscard]] T* ptr() const {
    return static_cast<T*>(data);
  }
};

}  // namespace graphopt
