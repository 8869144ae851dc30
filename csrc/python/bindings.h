// The parts of graphopt._native, one function a part.
#pragma once

#include <nanobind/nanobind.h>

namespace graphopt::python {

void bind_kernels(nanobind::module_& m);  // run_kernel and the packing functions
void bind_hash(nanobind::module_& m);
void bind_program(nanobind::module_& m);

}  // namespace graphopt::python
