// What generated code may call: memory and mathematics of the C library, nothing with side effects.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <string_view>

#include "runtime/elf_loader.h"

namespace graphopt {
namespace {

using F1 = double (*)(double);
using F2 = double (*)(double, double);
using F3 = double (*)(double, double, double);
using S1 = float (*)(float);
using S2 = float (*)(float, float);
using S3 = float (*)(float, float, float);

struct External {
  std::string_view name;
  void* address;
};

template <class Function>
void* address(Function* function) {
  return reinterpret_cast<void*>(function);
}

#define GRAPHOPT_MATH(name, doubles, floats) \
  {#name, address(static_cast<doubles>(::name))}, { #name "f", address(static_cast<floats>(::name##f)) }

const External kExternals[] = {
    {"memcpy", address(static_cast<void* (*)(void*, const void*, size_t)>(::memcpy))},
    {"memmove", address(static_cast<void* (*)(void*, const void*, size_t)>(::memmove))},
    {"memset", address(static_cast<void* (*)(void*, int, size_t)>(::memset))},
    {"memcmp", address(static_cast<int (*)(const void*, const void*, size_t)>(::memcmp))},
    GRAPHOPT_MATH(acos, F1, S1),
    GRAPHOPT_MATH(acosh, F1, S1),
    GRAPHOPT_MATH(asin, F1, S1),
    GRAPHOPT_MATH(asinh, F1, S1),
    GRAPHOPT_MATH(atan, F1, S1),
    GRAPHOPT_MATH(atan2, F2, S2),
    GRAPHOPT_MATH(atanh, F1, S1),
    GRAPHOPT_MATH(cbrt, F1, S1),
    GRAPHOPT_MATH(ceil, F1, S1),
    GRAPHOPT_MATH(cos, F1, S1),
    GRAPHOPT_MATH(cosh, F1, S1),
    GRAPHOPT_MATH(erf, F1, S1),
    GRAPHOPT_MATH(erfc, F1, S1),
    GRAPHOPT_MATH(exp, F1, S1),
    GRAPHOPT_MATH(exp2, F1, S1),
    GRAPHOPT_MATH(expm1, F1, S1),
    GRAPHOPT_MATH(floor, F1, S1),
    GRAPHOPT_MATH(fma, F3, S3),
    GRAPHOPT_MATH(fmax, F2, S2),
    GRAPHOPT_MATH(fmin, F2, S2),
    GRAPHOPT_MATH(fmod, F2, S2),
    GRAPHOPT_MATH(hypot, F2, S2),
    GRAPHOPT_MATH(lgamma, F1, S1),
    GRAPHOPT_MATH(log, F1, S1),
    GRAPHOPT_MATH(log10, F1, S1),
    GRAPHOPT_MATH(log1p, F1, S1),
    GRAPHOPT_MATH(log2, F1, S1),
    GRAPHOPT_MATH(nearbyint, F1, S1),
    GRAPHOPT_MATH(pow, F2, S2),
    GRAPHOPT_MATH(remainder, F2, S2),
    GRAPHOPT_MATH(rint, F1, S1),
    GRAPHOPT_MATH(round, F1, S1),
    GRAPHOPT_MATH(sin, F1, S1),
    GRAPHOPT_MATH(sinh, F1, S1),
    GRAPHOPT_MATH(sqrt, F1, S1),
    GRAPHOPT_MATH(tan, F1, S1),
    GRAPHOPT_MATH(tanh, F1, S1),
    GRAPHOPT_MATH(tgamma, F1, S1),
    GRAPHOPT_MATH(trunc, F1, S1),
};

#undef GRAPHOPT_MATH

}  // namespace

void* external_symbol(std::string_view name) {
  const auto* it = std::find_if(std::begin(kExternals), std::end(kExternals),
                                [name](const External& external) { return external.name == name; });
  return it == std::end(kExternals) ? nullptr : it->address;
}

}  // namespace graphopt
