// Checks and small readers that the step kernels share. None of this runs in an inner loop.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>
#include <string_view>

#include "graphopt/kernel.h"

namespace graphopt::support {

[[noreturn]] void fail(const std::string& message);

inline void require(bool condition, const char* message) {
  if (!condition) fail(message);
}

// "[2,3,4]"
std::string shape_text(const Tensor& tensor);
std::string dtype_name(DType dtype);

// The operand, which must be there; `what` names it in the message.
const Tensor& operand(std::span<const Tensor> inputs, size_t index, const char* what);
Tensor& result(std::span<Tensor> outputs, size_t index, const char* what);
// The operand, or an absent Tensor when the list is shorter.
Tensor optional_operand(std::span<const Tensor> inputs, size_t index);
Tensor optional_result(std::span<const Tensor> outputs, size_t index);

// Output `index`, of a shape that only the operands' values tell: allocated when the plan could not know it,
// checked against the plan otherwise.
[[nodiscard]] bool shape_is_known(const Tensor& output);
const Tensor& shaped_result(KernelArgs& args, size_t index, std::span<const int64_t> shape, const char* what);

// axis in [-rank, rank) to [0, rank); throws otherwise.
int normalize_axis(int64_t axis, int rank);

void require_rank(const Tensor& tensor, int rank, const char* what);
void require_shape(const Tensor& tensor, std::span<const int64_t> shape, const char* what);
void require_shape(const Tensor& tensor, std::initializer_list<int64_t> shape, const char* what);
void require_same_shape(const Tensor& tensor, const Tensor& other, const char* what);
void require_dtype(const Tensor& tensor, DType dtype, const char* what);

// a * b, and a product of dims; throws when it leaves int64 or a factor is negative.
int64_t checked_product(int64_t a, int64_t b);
int64_t checked_product(std::span<const int64_t> dims);

// Product of dims [first, last) of a tensor that is already in memory (cannot overflow).
inline int64_t extent(const Tensor& tensor, int first, int last) {
  int64_t count = 1;
  for (int i = first; i < last; ++i) count *= tensor.shape[static_cast<size_t>(i)];
  return count;
}

// Row-major strides in elements.
std::array<int64_t, kMaxRank> strides_of(const Tensor& tensor);

// Element `index` of an integer tensor of any width, of a real tensor (any float or integer type).
int64_t integer_at(const Tensor& tensor, int64_t index);
double real_at(const Tensor& tensor, int64_t index);
// The only element of a scalar or a one-element tensor.
int64_t integer_scalar(const Tensor& tensor, const char* what);
double real_scalar(const Tensor& tensor, const char* what);

// Grain for Parallel::for_range: how many items of `cost` (about one a nanosecond) are worth a fork.
inline int64_t grain_for(int64_t cost) {
  constexpr int64_t kWorthAFork = 20000;
  return cost >= kWorthAFork ? 1 : kWorthAFork / (cost < 1 ? 1 : cost);
}

}  // namespace graphopt::support
