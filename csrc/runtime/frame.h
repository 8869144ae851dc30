// The mutable state of one run.
#pragma once

#include <cstdint>
#include <vector>

#include "graphopt/tensor.h"
#include "runtime/buffer.h"
#include "runtime/dims.h"
#include "runtime/instance.h"
#include "runtime/plan.h"

namespace graphopt {

// Tensors of every value with their data pointers, and memory of values whose size the plan does not
// know. Used again and again by runs with the same input shapes, one at a time.
class Frame {
 public:
  Frame(const Plan& plan, const Instance& instance, const uint8_t* weights);

  // Points every planned value into the arena.
  void use_arena(Buffer arena);
  Buffer take_arena();

  [[nodiscard]] Tensor& tensor(ValueId id) { return tensors[static_cast<size_t>(id)]; }
  [[nodiscard]] uint8_t* arena() const { return static_cast<uint8_t*>(arena_.data()); }

  // Forgets what a run computed: dynamic memory, late symbols.
  void reset();

  std::vector<Tensor> tensors;   // by value
  std::vector<Tensor> operands;  // contiguous operands of native and host steps
  std::vector<Buffer> dynamic;   // by value; empty where the plan has no dynamic values
  std::vector<Buffer> aligned;   // copies of input arrays that are not aligned
  std::vector<DimValue> symbols;
  std::vector<DimValue> dims;

 private:
  void fill_operands(const Steps& steps);
  void fill_operands(const std::vector<ValueId>& inputs, const std::vector<ValueId>& outputs, size_t at);

  const Plan& plan_;
  const Instance& instance_;
  Buffer arena_;
  const void* bound_ = nullptr;  // the arena that tensors point into
};

}  // namespace graphopt
