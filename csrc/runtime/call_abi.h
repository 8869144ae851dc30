// Calls generated functions whose arguments are all 64-bit integers or pointers.
#pragma once

#include <cstddef>
#include <cstdint>

namespace graphopt {

inline constexpr size_t kMaxCallArguments = 98;

// function(arguments[0], ..., arguments[count - 1]) by the C calling convention, where count is at
// most kMaxCallArguments. Every argument takes a 64-bit register or stack slot, whatever its type.
int call_function(void* function, const uint64_t* arguments, size_t count);

}  // namespace graphopt
