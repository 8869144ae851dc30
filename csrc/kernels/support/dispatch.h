// From a run-time DType to a storage type, and from a storage type to a type to compute in.
#pragma once

#include <cstdint>
#include <type_traits>

#include "graphopt/tensor.h"
#include "kernels/support/number_formats.h"
#include "kernels/support/operands.h"

namespace graphopt::support {

// What an element is called with in a generic lambda: f(Tag<float>{}).
template <class T>
struct Tag {
  using Type = T;
};

// Storage of booleans: any non-zero byte is true.
struct Bool {
  uint8_t bits;
};

// The type that arithmetic on a storage type is done in.
template <class T>
struct ComputeType {
  using Type = T;
};
template <class T>
  requires(kIsSmallFloat<T>)
struct ComputeType<T> {
  using Type = float;
};
template <>
struct ComputeType<F8E8M0> {
  using Type = float;
};
template <class T>
  requires(kIsSmallInt<T>)
struct ComputeType<T> {
  using Type = int32_t;
};
template <>
struct ComputeType<Bool> {
  using Type = bool;
};
template <class T>
using Compute = typename ComputeType<T>::Type;

template <class T>
inline Compute<T> load(T value) {
  if constexpr (kIsSmallFloat<T> || std::is_same_v<T, F8E8M0>) {
    return decode(value);
  } else if constexpr (kIsSmallInt<T>) {
    return decode_int(value);
  } else if constexpr (std::is_same_v<T, Bool>) {
    return value.bits != 0;
  } else {
    return value;
  }
}

// The inverse of load() for values that the storage type holds; floats are rounded.
template <class T>
inline T store(Compute<T> value) {
  if constexpr (kIsSmallFloat<T>) {
    return encode<T>(static_cast<double>(value));
  } else if constexpr (kIsSmallInt<T>) {
    return encode_int<T>(value);
  } else if constexpr (std::is_same_v<T, Bool>) {
    return Bool{static_cast<uint8_t>(value ? 1 : 0)};
  } else {
    return value;
  }
}

template <class T>
inline constexpr bool kIsFloating = std::is_floating_point_v<Compute<T>>;

// f(Tag<T>{}) for the types below; throws for another dtype, naming it and `what`.
template <class F>
decltype(auto) visit_float(DType dtype, const char* what, F&& f) {
  switch (dtype) {
    case DType::kF32:
      return f(Tag<float>{});
    case DType::kF64:
      return f(Tag<double>{});
    case DType::kF16:
      return f(Tag<F16>{});
    case DType::kBF16:
      return f(Tag<BF16>{});
    default:
      fail(std::string(what) + ": element type " + dtype_name(dtype) + " is not a float type");
  }
}

template <class F>
decltype(auto) visit_integer(DType dtype, const char* what, F&& f) {
  switch (dtype) {
    case DType::kU8:
      return f(Tag<uint8_t>{});
    case DType::kI8:
      return f(Tag<int8_t>{});
    case DType::kU16:
      return f(Tag<uint16_t>{});
    case DType::kI16:
      return f(Tag<int16_t>{});
    case DType::kU32:
      return f(Tag<uint32_t>{});
    case DType::kI32:
      return f(Tag<int32_t>{});
    case DType::kU64:
      return f(Tag<uint64_t>{});
    case DType::kI64:
      return f(Tag<int64_t>{});
    default:
      fail(std::string(what) + ": element type " + dtype_name(dtype) + " is not a whole-byte integer type");
  }
}

// Floats, whole-byte integers and booleans: what the tensor operators of ONNX compute with.
template <class F>
decltype(auto) visit_number(DType dtype, const char* what, F&& f) {
  switch (dtype) {
    case DType::kF32:
    case DType::kF64:
    case DType::kF16:
    case DType::kBF16:
      return visit_float(dtype, what, f);
    case DType::kBool:
      return f(Tag<Bool>{});
    default:
      return visit_integer(dtype, what, f);
  }
}

// Every real-valued type.
template <class F>
decltype(auto) visit_real(DType dtype, const char* what, F&& f) {
  switch (dtype) {
    case DType::kF8E4M3FN:
      return f(Tag<F8E4M3FN>{});
    case DType::kF8E4M3FNUZ:
      return f(Tag<F8E4M3FNUZ>{});
    case DType::kF8E5M2:
      return f(Tag<F8E5M2>{});
    case DType::kF8E5M2FNUZ:
      return f(Tag<F8E5M2FNUZ>{});
    case DType::kF8E8M0:
      return f(Tag<F8E8M0>{});
    case DType::kF4E2M1:
      return f(Tag<F4E2M1>{});
    case DType::kF6E2M3:
      return f(Tag<F6E2M3>{});
    case DType::kF6E3M2:
      return f(Tag<F6E3M2>{});
    case DType::kU4:
      return f(Tag<U4>{});
    case DType::kI4:
      return f(Tag<I4>{});
    case DType::kU2:
      return f(Tag<U2>{});
    case DType::kI2:
      return f(Tag<I2>{});
    default:
      return visit_number(dtype, what, f);
  }
}

// A stand-in of the element's size, for kernels that only move elements.
struct Bytes16 {
  uint64_t low, high;
};

template <class F>
decltype(auto) visit_size(DType dtype, const char* what, F&& f) {
  switch (element_size(dtype)) {
    case 1:
      return f(Tag<uint8_t>{});
    case 2:
      return f(Tag<uint16_t>{});
    case 4:
      return f(Tag<uint32_t>{});
    case 8:
      return f(Tag<uint64_t>{});
    case 16:
      return f(Tag<Bytes16>{});
    default:
      fail(std::string(what) + ": element type " + dtype_name(dtype) + " has no flat memory form");
  }
}

}  // namespace graphopt::support
