// The table of step kernels, made of every family's steps.inc.
#include <algorithm>
#include <array>
#include <string_view>

#include "graphopt/kernel.h"

namespace graphopt {

#define GRAPHOPT_STEP(name, factory) std::unique_ptr<Kernel> factory(const Attrs& attrs);
#include "all_steps.inc"
#undef GRAPHOPT_STEP

namespace {

struct Entry {
  std::string_view name;
  KernelFactory factory;
};

// The last entry keeps the table well-formed when no family is built.
constexpr Entry kEntries[] = {
#define GRAPHOPT_STEP(name, factory) {name, &factory},
#include "all_steps.inc"
#undef GRAPHOPT_STEP
    {"", nullptr},
};

}  // namespace

KernelFactory find_kernel(std::string_view name) {
  const auto* it =
      std::find_if(std::begin(kEntries), std::end(kEntries), [name](const Entry& entry) { return entry.name == name; });
  return it == std::end(kEntries) ? nullptr : it->factory;
}

}  // namespace graphopt
