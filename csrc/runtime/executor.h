// Runs the steps of a plan.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "graphopt/kernel.h"
#include "runtime/frame.h"
#include "runtime/instance.h"
#include "runtime/liveness.h"
#include "runtime/plan.h"

namespace graphopt {

// Evaluates nodes that no kernel can compute.
class HostCallback {
 public:
  virtual ~HostCallback() = default;
  // Computes host node `node`. Outputs without data are to be allocated through `allocator`.
  // Whatever it throws comes out of the run.
  virtual void run(int32_t node, std::span<const Tensor> inputs, std::span<Tensor> outputs,
                   OutputAllocator& allocator) = 0;
};

// An Error that names the step it came from.
class StepError : public Error {
 public:
  using Error::Error;
};

// Nanoseconds spent in each step by itself, by step index.
struct StepTimes {
  std::vector<int64_t> nanoseconds;
  std::vector<int64_t> calls;
};

class Executor final : public OutputAllocator {
 public:
  // `host` and `times` may be null.
  Executor(const Plan& plan, const Liveness& liveness, const Instance& instance, Frame& frame, const Parallel& parallel,
           HostCallback* host, StepTimes* times);

  // Inputs, planned outputs and the arena must be set in the frame. Throws Error.
  void run() { run_steps(plan_.steps); }

  Tensor& allocate(int index, std::span<const int64_t> shape) override;

 private:
  void run_steps(const Steps& steps);
  void run_timed(const Step& step);
  void run_step(const Step& step);
  void run(const ObjectStep& what, const StepInfo& info);
  void run(const NativeStep& what, const StepInfo& info);
  void run(const ViewStep& what, const StepInfo& info);
  void run(const ShapeStep& what, const StepInfo& info);
  void run(const ReadDimsStep& what, const StepInfo& info);
  void run(const CheckStep& what, const StepInfo& info);
  void run(const HostStep& what, const StepInfo& info);
  void run(const IfStep& what, const StepInfo& info);
  void run(const LoopStep& what, const StepInfo& info);
  void run(const ScanStep& what, const StepInfo& info);
  void call_object(void* function, std::span<uint64_t> arguments, int64_t extent, int64_t grain) const;
  void run_late_view(const ViewStep& what);

  // Operands of a native or host step, ready for the call: inputs, then outputs.
  std::span<Tensor> prepare_operands(const std::vector<ValueId>& inputs, const std::vector<ValueId>& outputs,
                                     const std::vector<bool>& data_dependent, const StepInfo& info);
  // Takes over what the kernel allocated.
  void adopt_outputs(const std::vector<ValueId>& outputs, const std::vector<bool>& data_dependent,
                     std::span<Tensor> operands);

  [[nodiscard]] int64_t dim(DimId id) const { return plan_.dims.require(id, frame_.dims); }
  void set_symbol(SymbolId symbol, int64_t value);
  // Gives a late value its shape from the dimensions, and memory where it has some of its own.
  void define(ValueId id);
  void compute_shape(ValueId id);
  void allocate_dynamic(ValueId id);
  // Gives a value the shape that was found by computing it: sets the late symbols that stand alone in
  // it, then checks the rest. Where several values set symbols together, all must bind first.
  void bind_shape(ValueId id, std::span<const int64_t> shape);
  void check_shape(ValueId id, std::span<const int64_t> shape);
  void adopt_shape(ValueId id, std::span<const int64_t> shape) {
    bind_shape(id, shape);
    check_shape(id, shape);
  }

  // --- control_flow.cpp ---
  class ScanStack;
  // to = from, where `to` was not computed before and its shape is bound.
  void transfer(ValueId from, ValueId to, int32_t body_depth);
  [[nodiscard]] bool may_take(ValueId from, ValueId to, int32_t body_depth) const;
  void begin_carried(const LoopBody& body);
  void advance_carried(const LoopBody& body, int32_t body_depth);
  void finish_carried(const LoopBody& body);
  void slice_scan_inputs(const ScanStep& what, int64_t iteration, int64_t length);
  [[nodiscard]] void* own_memory(ValueId id) const;

  const Plan& plan_;
  const Liveness& liveness_;
  const Instance& instance_;
  Frame& frame_;
  const Parallel& parallel_;
  HostCallback* host_;
  StepTimes* times_;
  int64_t nested_nanoseconds_ = 0;  // of steps inside the one that is being timed
  int32_t depth_ = 0;
  // Where allocate() puts its answer.
  std::span<const ValueId> allocating_;
  std::span<Tensor> allocated_;
};

// Elements of an integer or bool tensor as numbers and back. Throw Error for other types.
int64_t read_integer(const Tensor& tensor, int64_t index);
void write_number(const Tensor& tensor, int64_t index, int64_t value);

}  // namespace graphopt
