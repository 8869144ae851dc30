// A plan resolved for one set of input shapes. Immutable; shared by all runs with those shapes.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "graphopt/kernel.h"
#include "runtime/dims.h"
#include "runtime/liveness.h"
#include "runtime/plan.h"

namespace graphopt {

// Where a value's memory comes from.
enum class Place : uint8_t {
  kInput,     // the caller's array
  kConstant,  // the weights
  kArena,     // planned: at an offset in the arena
  kOutput,    // planned: an output array, allocated when a run starts
  kDynamic,   // allocated when its step runs, since its size is not known before
  kAlias,     // another value's memory
};

struct ValueInfo {
  Place place = Place::kArena;
  bool late = false;  // the shape is not known before the step runs
  size_t offset = 0;  // of kArena: in the arena; of kConstant: in the weights; of kOutput: which output
  size_t nbytes = 0;  // where not late
};

struct StepInfo {
  bool late = false;               // has an operand or dimension that is not known before the step runs
  void* function = nullptr;        // of an object step
  int64_t extent = 0;              // of an object step, where not late
  std::vector<int64_t> dims;       // of an object step, where not late
  std::unique_ptr<Kernel> kernel;  // of a native step with dim attributes, where not late
  size_t workspace = 0;            // of a native step, where not late: offset in the arena
  size_t first_operand = 0;        // of a native or host step: inputs, then outputs, in Frame::operands
  std::vector<ValueId> dead;       // dynamic values that nobody needs afterwards
};

// Functions of the plan's object steps, by step index.
using StepFunctions = std::vector<void*>;

class Instance {
 public:
  // `symbols` are the values of the symbols that the inputs set. Throws Error where the shapes are
  // impossible or the model would need too much memory.
  Instance(const Plan& plan, const Liveness& liveness, const StepFunctions& functions, std::vector<DimValue> symbols,
           int threads);

  [[nodiscard]] const ValueInfo& value(ValueId id) const { return values_[static_cast<size_t>(id)]; }
  [[nodiscard]] const StepInfo& step(const Step& step) const { return steps_[static_cast<size_t>(step.index)]; }
  [[nodiscard]] size_t arena_bytes() const { return arena_bytes_; }
  [[nodiscard]] size_t operand_count() const { return operand_count_; }
  [[nodiscard]] std::span<const DimValue> symbols() const { return symbols_; }
  [[nodiscard]] std::span<const DimValue> dims() const { return dims_; }
  // The tensor of a value without its data: no shape where the value is late.
  [[nodiscard]] const Tensor& tensor(ValueId id) const { return tensors_[static_cast<size_t>(id)]; }
  [[nodiscard]] std::span<const Tensor> tensors() const { return tensors_; }
  // For each output of the plan: whether its value is written straight into the output array.
  [[nodiscard]] bool written_in_place(size_t output) const { return written_in_place_[output]; }

 private:
  void place_values();
  void resolve_steps(const Steps& steps, const StepFunctions& functions);
  void resolve_object(const ObjectStep& what, StepInfo& info) const;
  void resolve_native(const NativeStep& what, const Step& step, StepInfo& info);
  void plan_memory();
  [[nodiscard]] bool any_late(std::span<const ValueId> ids) const;
  [[nodiscard]] bool all_known(std::span<const DimId> ids) const;

  // Scratch memory of a native step.
  struct Workspace {
    int32_t step;
    int32_t position;
    size_t bytes;
  };

  const Plan& plan_;
  const Liveness& liveness_;
  int threads_;
  std::vector<DimValue> symbols_;
  std::vector<DimValue> dims_;
  std::vector<ValueInfo> values_;
  std::vector<Tensor> tensors_;
  std::vector<StepInfo> steps_;
  std::vector<Workspace> workspaces_;
  std::vector<bool> written_in_place_;
  size_t arena_bytes_ = 0;
  size_t operand_count_ = 0;
};

// `attrs` with every dim attribute set to its value. Throws Error where one has none.
Attrs resolve_attrs(const NativeStep& step, const DimTable& table, std::span<const DimValue> dims);

}  // namespace graphopt
