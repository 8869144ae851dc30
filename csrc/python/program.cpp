// graphopt._native.Program: artifacts from Python.
#include "runtime/program.h"

#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>

#include <cstring>
#include <deque>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "python/arrays.h"
#include "python/bindings.h"
#include "runtime/dtype.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace graphopt::python {
namespace {

using Argument = std::tuple<std::string, int, std::vector<std::string>>;

// Hands host nodes to a Python function (node, inputs) -> outputs.
class PythonHost final : public HostCallback {
 public:
  explicit PythonHost(nb::object function) : function_(std::move(function)) {}
  ~PythonHost() override {
    nb::gil_scoped_acquire acquire;
    function_.reset();
  }

  void run(int32_t node, std::span<const Tensor> inputs, std::span<Tensor> outputs,
           OutputAllocator& allocator) override {
    nb::gil_scoped_acquire acquire;
    nb::list arrays;
    for (const Tensor& input : inputs) arrays.append(copy_array(input));
    const auto results = nb::cast<nb::sequence>(function_(node, arrays));
    if (nb::len(results) < outputs.size()) throw Error("the interpreter gave too few results");
    for (size_t k = 0; k < outputs.size(); ++k) {
      if (outputs[k].present()) take_result(results[k], k, outputs[k], allocator);
    }
  }

 private:
  // The interpreter may keep its arguments, and the arena is about to be overwritten.
  static nb::object copy_array(const Tensor& tensor) {
    if (!tensor.present()) return nb::none();
    Buffer memory(tensor.nbytes());
    if (tensor.nbytes() > 0) std::memcpy(memory.data(), tensor.data, tensor.nbytes());
    return own_array(tensor, std::move(memory));
  }

  static void take_result(nb::handle result, size_t k, Tensor& output, OutputAllocator& allocator) {
    const BorrowedArray array(result, "result " + std::to_string(k) + " of the interpreter");
    const Tensor& given = array.tensor();
    const std::span<const int64_t> shape(given.shape.data(), static_cast<size_t>(given.rank));
    if (given.dtype != output.dtype) {
      throw Error("the interpreter gave " + std::string(dtype_name(given.dtype)) + " for output " + std::to_string(k) +
                  ", not " + std::string(dtype_name(output.dtype)));
    }
    // Planned outputs keep their place; allocate() checks that the shape is the planned one.
    const Tensor& target = allocator.allocate(static_cast<int>(k), shape);
    if (given.nbytes() > 0) std::memcpy(target.data, given.data, given.nbytes());
  }

  nb::object function_;
};

// Borrowed input arrays of one run.
class Inputs {
 public:
  Inputs(const Program& program, const nb::sequence& arrays) {
    const size_t count = nb::len(arrays);
    for (size_t i = 0; i < count; ++i) {
      const std::string what =
          i < program.inputs().size() ? "input '" + program.inputs()[i].name + "'" : "input " + std::to_string(i);
      borrowed_.emplace_back(arrays[i], what);
      tensors_.push_back(borrowed_.back().tensor());
    }
  }
  [[nodiscard]] std::span<const Tensor> tensors() const { return tensors_; }

 private:
  std::deque<BorrowedArray> borrowed_;
  std::vector<Tensor> tensors_;
};

std::unique_ptr<Program> open_program(nb::object source, int threads, nb::object host) {
  std::shared_ptr<HostCallback> callback;
  if (!host.is_none()) callback = std::make_shared<PythonHost>(std::move(host));
  if (nb::isinstance<nb::str>(source) || nb::hasattr(source, "__fspath__")) {
    const auto path = nb::cast<std::string>(nb::module_::import_("os").attr("fspath")(source));
    nb::gil_scoped_release release;
    return Program::open(path, threads, std::move(callback));
  }
  Py_buffer view;
  if (PyObject_GetBuffer(source.ptr(), &view, PyBUF_SIMPLE) != 0) throw nb::python_error();
  struct Release {
    void operator()(Py_buffer* held) const { PyBuffer_Release(held); }
  };
  const std::unique_ptr<Py_buffer, Release> held(&view);
  nb::gil_scoped_release release;
  return Program::from_bytes({static_cast<const uint8_t*>(view.buf), static_cast<size_t>(view.len)}, threads,
                             std::move(callback));
}

std::vector<Argument> arguments(const std::vector<ArgumentInfo>& infos) {
  std::vector<Argument> list;
  for (const ArgumentInfo& info : infos) list.emplace_back(info.name, static_cast<int>(info.dtype), info.shape);
  return list;
}

nb::list run(Program& program, const nb::sequence& arrays) {
  const Inputs inputs(program, arrays);
  std::vector<OutputTensor> outputs;
  {
    nb::gil_scoped_release release;
    outputs = program.run(inputs.tensors());
  }
  nb::list results;
  for (OutputTensor& output : outputs) results.append(own_array(output.tensor, std::move(output.memory)));
  return results;
}

nb::list profile(Program& program, const nb::sequence& arrays, int runs) {
  const Inputs inputs(program, arrays);
  std::vector<ProfileRow> rows;
  {
    nb::gil_scoped_release release;
    rows = program.profile(inputs.tensors(), runs);
  }
  nb::list results;
  for (const ProfileRow& row : rows) {
    results.append(nb::make_tuple(row.name, row.kind, row.kernel, row.depth, row.microseconds, row.calls));
  }
  return results;
}

}  // namespace

void bind_program(nb::module_& m) {
  nb::class_<Program>(m, "Program", "A loaded artifact. Thread-safe; releases the GIL while it runs.")
      .def(nb::new_(&open_program), "source"_a, "threads"_a = 0, "host_callback"_a = nb::none())
      .def_prop_ro("inputs", [](const Program& p) { return arguments(p.inputs()); })
      .def_prop_ro("outputs", [](const Program& p) { return arguments(p.outputs()); })
      .def_prop_ro("host_nodes", [](const Program& p) { return p.host_nodes(); })
      .def_prop_ro("threads", &Program::threads)
      .def_prop_ro("object_level", &Program::object_level)
      .def("run", &run, "inputs"_a)
      .def("profile", &profile, "inputs"_a, "runs"_a)
      .def(
          "arena_bytes",
          [](Program& p, const nb::sequence& arrays) { return p.arena_bytes(Inputs(p, arrays).tensors()); },
          "inputs"_a);
}

}  // namespace graphopt::python
