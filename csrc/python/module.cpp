// The Python module graphopt._native.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "runtime/cpu.h"

namespace nb = nanobind;

NB_MODULE(_native, m) {
  m.def("isa", [] { return std::string(graphopt::isa_name(graphopt::cpu_isa())); });
  m.def("isa_levels", [] {
    std::vector<std::string> names;
    for (graphopt::Isa isa : graphopt::cpu_isa_levels()) names.emplace_back(graphopt::isa_name(isa));
    return names;
  });
}
