// The Python module graphopt._native.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "graphopt/kernel.h"
#include "python/bindings.h"
#include "runtime/cpu.h"
#include "runtime/program.h"

namespace nb = nanobind;

NB_MODULE(_native, m) {
  // Not graphopt.errors: this module must load without the package. The session translates.
  const auto error = nb::exception<graphopt::Error>(m, "NativeError", PyExc_RuntimeError);
  nb::exception<graphopt::InputError>(m, "NativeInputError", error.ptr());
  m.def(
      "isa", [] { return std::string(graphopt::isa_name(graphopt::cpu_isa())); },
      "The instruction-set level in use: portable, avx2 or avx512.");
  m.def(
      "isa_levels",
      [] {
        std::vector<std::string> names;
        for (graphopt::Isa isa : graphopt::cpu_isa_levels()) names.emplace_back(graphopt::isa_name(isa));
        return names;
      },
      "The instruction-set levels that this machine can run, lowest first.");
  m.def(
      "extensions",
      [] {
        using graphopt::Extension;
        std::vector<std::string> names;
        for (Extension each : {Extension::kVnni, Extension::kBf16, Extension::kAmxInt8, Extension::kAmxBf16}) {
          if (graphopt::cpu_has(each)) names.emplace_back(graphopt::extension_name(each));
        }
        return names;
      },
      "What kernels may use beside AVX-512, of avx512_vnni, avx512_bf16, amx_int8 and amx_bf16.");
  graphopt::python::bind_hash(m);
  graphopt::python::bind_kernels(m);
  graphopt::python::bind_program(m);
}
