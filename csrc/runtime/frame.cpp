#include "runtime/frame.h"

#include <algorithm>
#include <utility>

namespace graphopt {

Frame::Frame(const Plan& plan, const Instance& instance, const uint8_t* weights)
    : tensors(instance.tensors().begin(), instance.tensors().end()),
      operands(instance.operand_count()),
      aligned(plan.inputs.size()),
      symbols(instance.symbols().begin(), instance.symbols().end()),
      dims(instance.dims().begin(), instance.dims().end()),
      plan_(plan),
      instance_(instance) {
  bool any_dynamic = false;
  for (size_t id = 0; id < tensors.size(); ++id) {
    const ValueInfo& info = instance.value(static_cast<ValueId>(id));
    // Kernels take non-const pointers for inputs too; the weights are mapped read-only.
    if (info.place == Place::kConstant) tensors[id].data = const_cast<uint8_t*>(weights + info.offset);
    any_dynamic = any_dynamic || info.place == Place::kDynamic;
  }
  if (any_dynamic) dynamic.resize(tensors.size());
  fill_operands(plan.steps);
}

void Frame::fill_operands(const std::vector<ValueId>& inputs, const std::vector<ValueId>& outputs, size_t at) {
  for (const auto* ids : {&inputs, &outputs}) {
    for (const ValueId id : *ids) operands[at++] = id == kNoValue ? Tensor{} : tensor(id);
  }
}

void Frame::fill_operands(const Steps& steps) {
  for (const Step& step : steps) {
    const size_t at = instance_.step(step).first_operand;
    if (const auto* native = std::get_if<NativeStep>(&step.what)) {
      fill_operands(native->inputs, native->outputs, at);
    } else if (const auto* host = std::get_if<HostStep>(&step.what)) {
      fill_operands(host->inputs, host->outputs, at);
    } else if (const auto* branch = std::get_if<IfStep>(&step.what)) {
      fill_operands(branch->then_branch.steps);
      fill_operands(branch->else_branch.steps);
    } else if (const auto* loop = std::get_if<LoopStep>(&step.what)) {
      fill_operands(loop->body.steps);
    } else if (const auto* scan = std::get_if<ScanStep>(&step.what)) {
      fill_operands(scan->body.steps);
    }
  }
}

void Frame::use_arena(Buffer arena) {
  arena_ = std::move(arena);
  if (arena_.data() == bound_) return;
  bound_ = arena_.data();
  for (size_t id = 0; id < tensors.size(); ++id) {
    const ValueInfo& info = instance_.value(static_cast<ValueId>(id));
    if (info.place == Place::kArena) tensors[id].data = this->arena() + info.offset;
  }
}

Buffer Frame::take_arena() { return std::move(arena_); }

void Frame::reset() {
  for (Buffer& buffer : dynamic) buffer = Buffer();
  if (plan_.late_dims.empty()) return;
  std::copy(instance_.symbols().begin(), instance_.symbols().end(), symbols.begin());
  std::copy(instance_.dims().begin(), instance_.dims().end(), dims.begin());
}

}  // namespace graphopt
