// The contract between the executor and the hand-written kernels.
//
// A Kernel object is built once per plan step, when the artifact is loaded, from the step's
// attributes. It is immutable afterwards: many threads call run() on it at the same time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <variant>
#include <vector>

#include "graphopt/tensor.h"

namespace graphopt {

// Any failure that the user of an artifact can see. The executor adds the step's name.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Attributes of a step: integers, reals, strings and lists of them.
class Attrs {
 public:
  using Value =
      std::variant<int64_t, double, std::string, std::vector<int64_t>, std::vector<double>, std::vector<std::string>>;

  void set(std::string name, Value value) { values_.insert_or_assign(std::move(name), std::move(value)); }
  [[nodiscard]] bool has(std::string_view name) const { return values_.find(name) != values_.end(); }

  [[nodiscard]] int64_t i(std::string_view name) const { return get<int64_t>(name); }
  [[nodiscard]] int64_t i(std::string_view name, int64_t fallback) const { return has(name) ? i(name) : fallback; }
  // Reals; an integer is accepted, since JSON does not tell 1 from 1.0.
  [[nodiscard]] double f(std::string_view name) const {
    auto it = values_.find(name);
    if (it != values_.end()) {
      if (const auto* whole = std::get_if<int64_t>(&it->second)) return static_cast<double>(*whole);
    }
    return get<double>(name);
  }
  [[nodiscard]] double f(std::string_view name, double fallback) const { return has(name) ? f(name) : fallback; }
  [[nodiscard]] const std::string& s(std::string_view name) const { return get<std::string>(name); }
  [[nodiscard]] std::string s(std::string_view name, std::string_view fallback) const {
    return has(name) ? s(name) : std::string(fallback);
  }
  [[nodiscard]] const std::vector<int64_t>& ints(std::string_view name) const {
    return get<std::vector<int64_t>>(name);
  }
  // Lists of reals; a list of integers is accepted.
  [[nodiscard]] std::vector<double> reals(std::string_view name) const {
    auto it = values_.find(name);
    if (it != values_.end()) {
      if (const auto* whole = std::get_if<std::vector<int64_t>>(&it->second)) {
        return {whole->begin(), whole->end()};
      }
    }
    return get<std::vector<double>>(name);
  }
  // Lists of strings; an empty list has no type of its own and is accepted.
  [[nodiscard]] std::vector<std::string> strings(std::string_view name) const {
    auto it = values_.find(name);
    if (it != values_.end()) {
      const auto* whole = std::get_if<std::vector<int64_t>>(&it->second);
      if (whole != nullptr && whole->empty()) return {};
    }
    return get<std::vector<std::string>>(name);
  }

 private:
  template <class T>
  [[nodiscard]] const T& get(std::string_view name) const {
    auto it = values_.find(name);
    if (it == values_.end()) throw Error("missing attribute '" + std::string(name) + "'");
    const T* value = std::get_if<T>(&it->second);
    if (value == nullptr) throw Error("attribute '" + std::string(name) + "' has the wrong type");
    return *value;
  }

  std::map<std::string, Value, std::less<>> values_;
};

// Fork/join over an index range. body(begin, end, worker) is called for disjoint sub-ranges that cover
// [0, n), at most one call a worker at a time, worker in [0, threads()). Runs serially on the calling
// thread (worker 0) when n <= grain. `body` must not throw.
class Parallel {
 public:
  using Body = void (*)(void* context, int64_t begin, int64_t end, int worker);

  virtual ~Parallel() = default;
  [[nodiscard]] virtual int threads() const = 0;
  virtual void run(int64_t n, int64_t grain, Body body, void* context) const = 0;

  template <class F>
  void for_range(int64_t n, int64_t grain, F&& f) const {
    using Fn = std::remove_reference_t<F>;
    run(
        n, grain,
        [](void* context, int64_t begin, int64_t end, int worker) { (*static_cast<Fn*>(context))(begin, end, worker); },
        const_cast<void*>(static_cast<const void*>(&f)));
  }
};

// Gives memory for outputs whose shape only the kernel knows.
class OutputAllocator {
 public:
  virtual ~OutputAllocator() = default;
  // Sets outputs[index]'s shape and data; 64-byte aligned, uninitialised.
  virtual Tensor& allocate(int index, std::span<const int64_t> shape) = 0;
};

struct KernelArgs {
  std::span<const Tensor> inputs;  // absent optional operands: present() is false
  std::span<Tensor> outputs;       // data set, except for data-dependent shapes; unwanted outputs are absent
  void* workspace;                 // workspace_bytes() bytes, 64-byte aligned, uninitialised
  const Parallel& parallel;
  OutputAllocator& allocator;
};

class Kernel {
 public:
  virtual ~Kernel() = default;
  // Scratch memory that run() needs for operands of these shapes (the data pointers are not set).
  [[nodiscard]] virtual size_t workspace_bytes(std::span<const Tensor> inputs, std::span<const Tensor> outputs,
                                               int threads) const {
    (void)inputs, (void)outputs, (void)threads;
    return 0;
  }
  // Computes the outputs. Throws Error on operands that the operator's definition forbids.
  virtual void run(KernelArgs& args) const = 0;
};

using KernelFactory = std::unique_ptr<Kernel> (*)(const Attrs& attrs);

// nullptr when no kernel has that name.
KernelFactory find_kernel(std::string_view name);

}  // namespace graphopt
