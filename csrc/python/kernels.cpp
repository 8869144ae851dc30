// Step kernels and weight packing from Python: for tests, and for the compiler's prepacking.
#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <deque>
#include <optional>
#include <string>
#include <vector>

#include "graphopt/kernel.h"
#include "kernels/gemm/peak.h"
#include "kernels/pack.h"
#include "python/arrays.h"
#include "python/bindings.h"
#include "runtime/dtype.h"
#include "runtime/thread_pool.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace graphopt::python {
namespace {

template <class T>
std::vector<T> cast_list(nb::handle list) {
  std::vector<T> values;
  for (nb::handle item : list) values.push_back(nb::cast<T>(item));
  return values;
}

Attrs::Value attr_value(const std::string& name, nb::handle value) {
  if (nb::isinstance<nb::bool_>(value) || nb::isinstance<nb::int_>(value)) return nb::cast<int64_t>(value);
  if (nb::isinstance<nb::float_>(value)) return nb::cast<double>(value);
  if (nb::isinstance<nb::str>(value)) return nb::cast<std::string>(value);
  if (nb::isinstance<nb::list>(value) || nb::isinstance<nb::tuple>(value)) {
    bool real = false;
    bool text = false;
    for (nb::handle item : value) {
      real = real || nb::isinstance<nb::float_>(item);
      text = text || nb::isinstance<nb::str>(item);
    }
    if (text) return cast_list<std::string>(value);
    if (real) return cast_list<double>(value);
    return cast_list<int64_t>(value);
  }
  throw nb::type_error(("attribute '" + name + "' must be an int, float, str or a list of one of them").c_str());
}

// The outputs of one kernel call: arrays that the caller gave, or memory of our own.
class Outputs final : public OutputAllocator {
 public:
  explicit Outputs(const nb::list& wanted) {
    tensors_.resize(wanted.size());
    memory_.resize(wanted.size());
    given_.resize(wanted.size());
    for (size_t i = 0; i < wanted.size(); ++i) prepare(i, wanted[i]);
  }

  std::span<Tensor> tensors() { return tensors_; }

  Tensor& allocate(int index, std::span<const int64_t> shape) override {
    Tensor& tensor = tensors_.at(static_cast<size_t>(index));
    if (!tensor.present()) throw Error("output " + std::to_string(index) + " is not wanted");
    size_t bytes = 0;
    if (shape.size() > kMaxRank || !checked_nbytes(shape, tensor.dtype, &bytes)) {
      throw Error("output " + std::to_string(index) + " has an impossible shape " + shape_text(shape));
    }
    Buffer& memory = memory_[static_cast<size_t>(index)];
    memory = Buffer(bytes);
    tensor.data = memory.data();
    tensor.rank = static_cast<int32_t>(shape.size());
    std::copy(shape.begin(), shape.end(), tensor.shape.begin());
    return tensor;
  }

  nb::list take() {
    nb::list arrays;
    for (size_t i = 0; i < tensors_.size(); ++i) {
      if (given_[i].is_valid()) {
        arrays.append(given_[i]);
      } else if (!tensors_[i].present()) {
        arrays.append(nb::none());
      } else if (memory_[i].empty()) {
        throw Error("the kernel did not allocate output " + std::to_string(i));
      } else {
        arrays.append(own_array(tensors_[i], std::move(memory_[i])));
      }
    }
    return arrays;
  }

 private:
  // None, an array, (dtype, shape), or (dtype, None) for a shape that the kernel decides.
  void prepare(size_t i, nb::handle wanted) {
    if (wanted.is_none()) return;
    if (!nb::isinstance<nb::tuple>(wanted)) {
      borrowed_.emplace_back(wanted, "output " + std::to_string(i));
      tensors_[i] = borrowed_.back().tensor();
      given_[i] = nb::borrow(wanted);
      return;
    }
    const auto spec = nb::cast<nb::tuple>(wanted);
    if (spec.size() != 2) throw nb::type_error("an output is None, an array, (dtype, shape) or (dtype, None)");
    tensors_[i].dtype = dtype_from_name(nb::cast<std::string>(spec[0]));
    if (!tensors_[i].present()) throw nb::type_error("unknown output dtype");
    if (!spec[1].is_none()) allocate(static_cast<int>(i), cast_list<int64_t>(spec[1]));
  }

  std::vector<Tensor> tensors_;
  std::vector<Buffer> memory_;
  std::vector<nb::object> given_;
  std::deque<BorrowedArray> borrowed_;
};

nb::list run_kernel(const std::string& name, const nb::list& inputs, const nb::list& outputs, const nb::dict& attrs,
                    int threads) {
  const KernelFactory factory = find_kernel(name);
  if (factory == nullptr) throw Error("no kernel is called '" + name + "'");
  Attrs values;
  for (auto [key, value] : attrs) {
    const auto text = nb::cast<std::string>(key);
    values.set(text, attr_value(text, value));
  }
  std::deque<BorrowedArray> borrowed;
  std::vector<Tensor> tensors;
  for (size_t i = 0; i < inputs.size(); ++i) {
    borrowed.emplace_back(inputs[i], "input " + std::to_string(i));
    tensors.push_back(borrowed.back().tensor());
  }
  Outputs results(outputs);
  {
    nb::gil_scoped_release release;
    const ThreadPool pool(threads);
    const std::unique_ptr<Kernel> kernel = factory(values);
    const Buffer workspace(kernel->workspace_bytes(tensors, results.tensors(), threads));
    KernelArgs args{tensors, results.tensors(), workspace.data(), pool, results};
    kernel->run(args);
  }
  return results.take();
}

// A float32 array of the wanted rank, or a type error naming it.
const Tensor& float_array(const BorrowedArray& array, int min_rank, int max_rank, const char* what) {
  const Tensor& tensor = array.tensor();
  if (tensor.dtype != DType::kF32 || tensor.rank < min_rank || tensor.rank > max_rank) {
    throw nb::type_error((std::string(what) + ": a float32 array of rank " + std::to_string(min_rank) + " to " +
                          std::to_string(max_rank) + " is expected")
                             .c_str());
  }
  return tensor;
}

nb::object packed_array(Buffer memory, size_t count) {
  Tensor packed;
  packed.dtype = DType::kF32;
  packed.rank = 1;
  packed.shape[0] = static_cast<int64_t>(count);
  return own_array(packed, std::move(memory));
}

nb::object pack_gemm_array(nb::handle w) {
  const BorrowedArray array(w, "w");
  const Tensor& t = float_array(array, 2, 2, "pack_gemm");
  const size_t count = packed_gemm_size(t.shape[0], t.shape[1]);
  Buffer memory(count * sizeof(float));
  pack_gemm(t.ptr<float>(), t.shape[0], t.shape[1], static_cast<float*>(memory.data()));
  return packed_array(std::move(memory), count);
}

// Kernel positions of a weight [a, b, spatial...].
int64_t taps_of(const Tensor& weight) {
  int64_t taps = 1;
  for (int i = 2; i < weight.rank; ++i) taps *= weight.dim(i);
  return taps;
}

void check_group(int64_t channels, int64_t group, const char* what) {
  if (group < 1 || channels % group != 0) {
    throw nb::value_error((std::string(what) + ": " + std::to_string(channels) + " channels do not divide into " +
                           std::to_string(group) + " groups")
                              .c_str());
  }
}

nb::object pack_conv_array(nb::handle w, int64_t group) {
  const BorrowedArray array(w, "w");
  const Tensor& t = float_array(array, 3, 5, "pack_conv");
  check_group(t.shape[0], group, "pack_conv");
  const int64_t taps = taps_of(t);
  const size_t count = packed_conv_size(t.shape[0], t.shape[1], taps, group);
  Buffer memory(count * sizeof(float));
  pack_conv(t.ptr<float>(), t.shape[0], t.shape[1], taps, group, static_cast<float*>(memory.data()));
  return packed_array(std::move(memory), count);
}

nb::object pack_conv_transpose_array(nb::handle w, int64_t group) {
  const BorrowedArray array(w, "w");
  const Tensor& t = float_array(array, 3, 5, "pack_conv_transpose");
  check_group(t.shape[0], group, "pack_conv_transpose");
  const int64_t taps = taps_of(t);
  const size_t count = packed_conv_transpose_size(t.shape[0], t.shape[1], taps, group);
  Buffer memory(count * sizeof(float));
  pack_conv_transpose(t.ptr<float>(), t.shape[0], t.shape[1], taps, group, static_cast<float*>(memory.data()));
  return packed_array(std::move(memory), count);
}

nb::object pack_winograd_array(nb::handle w) {
  const BorrowedArray array(w, "w");
  const Tensor& t = float_array(array, 4, 4, "pack_winograd");
  if (t.shape[2] != 3 || t.shape[3] != 3) throw nb::value_error("pack_winograd: the window is not 3 x 3");
  const size_t count = packed_winograd_size(t.shape[0], t.shape[1]);
  Buffer memory(count * sizeof(float));
  pack_winograd(t.ptr<float>(), t.shape[0], t.shape[1], static_cast<float*>(memory.data()));
  return packed_array(std::move(memory), count);
}

}  // namespace

void bind_kernels(nb::module_& m) {
  m.def("run_kernel", &run_kernel, "name"_a, "inputs"_a, "outputs"_a, "attrs"_a, "threads"_a = 1,
        "Run one step kernel on numpy arrays and return its outputs.");
  m.def(
      "has_kernel", [](const std::string& name) { return find_kernel(name) != nullptr; }, "name"_a,
      "Whether a step kernel of that name exists.");
  m.def(
      "multiply_add_rate", [](int threads) { return multiply_add_rate(ThreadPool(threads)); }, "threads"_a,
      nb::call_guard<nb::gil_scoped_release>(),
      "Operations a second of independent multiply-adds on that many threads, at the instruction set in use.");
  m.def("pack_gemm", &pack_gemm_array, "w"_a, "Weights [K, N] in panels of 16 columns, as the gemm step reads them.");
  m.def("pack_conv", &pack_conv_array, "w"_a, "group"_a = 1,
        "Weights [Cout, Cin/group, k...] as the conv step reads them.");
  m.def("pack_conv_transpose", &pack_conv_transpose_array, "w"_a, "group"_a = 1,
        "Weights [Cin, Cout/group, k...] as the conv_transpose step reads them.");
  m.def("packed_conv_size", &packed_conv_size, "cout"_a, "cin_per_group"_a, "taps"_a, "group"_a,
        "Number of floats that pack_conv makes.");
  m.def("packed_conv_transpose_size", &packed_conv_transpose_size, "cin"_a, "cout_per_group"_a, "taps"_a, "group"_a,
        "Number of floats that pack_conv_transpose makes.");
  m.def("pack_winograd", &pack_winograd_array, "w"_a,
        "Weights [Cout, Cin, 3, 3] at the points of the conv_winograd step, computed in double.");
  m.def("packed_winograd_size", &packed_winograd_size, "cout"_a, "cin"_a, "Number of floats that pack_winograd makes.");
}

}  // namespace graphopt::python
