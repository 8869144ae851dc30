#include "runtime/instance.h"

#include <algorithm>
#include <utility>

#include "runtime/dtype.h"
#include "runtime/memory_planner.h"

namespace graphopt {

Attrs resolve_attrs(const NativeStep& step, const DimTable& table, std::span<const DimValue> dims) {
  Attrs attrs = step.attrs;
  for (const DimAttr& attr : step.dim_attrs) {
    std::vector<int64_t> numbers;
    for (const DimId id : attr.dims) numbers.push_back(table.require(id, dims));
    if (attr.list) {
      attrs.set(attr.name, std::move(numbers));
    } else {
      attrs.set(attr.name, numbers.front());
    }
  }
  return attrs;
}

Instance::Instance(const Plan& plan, const Liveness& liveness, const StepFunctions& functions,
                   std::vector<DimValue> symbols, int threads)
    : plan_(plan),
      liveness_(liveness),
      threads_(threads),
      symbols_(std::move(symbols)),
      dims_(plan.dims.size()),
      values_(plan.values.size()),
      tensors_(plan.values.size()),
      steps_(static_cast<size_t>(plan.step_count)),
      written_in_place_(plan.outputs.size(), false) {
  plan.dims.evaluate(symbols_, dims_);
  place_values();
  resolve_steps(plan.steps, functions);
  plan_memory();
}

void Instance::place_values() {
  for (size_t id = 0; id < values_.size(); ++id) {
    const PlanValue& value = plan_.values[id];
    ValueInfo& info = values_[id];
    Tensor& tensor = tensors_[id];
    tensor.dtype = value.dtype;
    tensor.rank = static_cast<int32_t>(value.shape.size());
    for (size_t axis = 0; axis < value.shape.size(); ++axis) {
      const DimValue& dim = dims_[static_cast<size_t>(value.shape[axis])];
      info.late = info.late || !dim.is_known();
      tensor.shape[axis] = dim.value;
    }
    // An impossible shape is an error when its step runs, which it may never do.
    const std::span<const int64_t> shape(tensor.shape.data(), value.shape.size());
    info.late = info.late || !checked_nbytes(shape, value.dtype, &info.nbytes);
    if (value.kind == PlanValue::Kind::kConstant) {
      info.place = Place::kConstant;
      info.offset = value.offset;
    } else if (value.kind == PlanValue::Kind::kInput) {
      info.place = Place::kInput;
    } else if (liveness_.root[id] != static_cast<ValueId>(id)) {
      info.place = Place::kAlias;
    } else if (info.late) {
      info.place = Place::kDynamic;
    }
  }
  for (size_t i = 0; i < plan_.inputs.size(); ++i) values_[static_cast<size_t>(plan_.inputs[i])].offset = i;
  for (size_t i = 0; i < plan_.outputs.size(); ++i) {
    const ValueInfo& info = value(plan_.outputs[i].second);
    ValueInfo& root = values_[static_cast<size_t>(liveness_.root_of(plan_.outputs[i].second))];
    if (root.place != Place::kArena || info.late || info.nbytes != root.nbytes) continue;
    root.place = Place::kOutput;
    root.offset = i;
    written_in_place_[i] = true;
  }
}

bool Instance::any_late(std::span<const ValueId> ids) const {
  return std::any_of(ids.begin(), ids.end(), [&](ValueId id) { return id != kNoValue && value(id).late; });
}

bool Instance::all_known(std::span<const DimId> ids) const {
  return std::all_of(ids.begin(), ids.end(), [&](DimId id) { return dims_[static_cast<size_t>(id)].is_known(); });
}

void Instance::resolve_object(const ObjectStep& what, StepInfo& info) const {
  const DimValue& extent = dims_[static_cast<size_t>(what.extent)];
  info.late = any_late(what.defines) || !all_known(what.dims) || !extent.is_known() || extent.value < 0;
  if (info.late) return;
  info.extent = extent.value;
  for (const DimId id : what.dims) info.dims.push_back(dims_[static_cast<size_t>(id)].value);
}

void Instance::resolve_native(const NativeStep& what, const Step& step, StepInfo& info) {
  info.first_operand = operand_count_;
  operand_count_ += what.inputs.size() + what.outputs.size();
  info.late = any_late(what.inputs) || any_late(what.outputs);
  for (const DimAttr& attr : what.dim_attrs) info.late = info.late || !all_known(attr.dims);
  if (info.late) return;
  std::vector<Tensor> operands;
  for (const auto* ids : {&what.inputs, &what.outputs}) {
    for (const ValueId id : *ids) operands.push_back(id == kNoValue ? Tensor{} : tensor(id));
  }
  const std::span<const Tensor> all(operands);
  try {
    if (!what.dim_attrs.empty()) info.kernel = what.factory(resolve_attrs(what, plan_.dims, dims_));
    const Kernel& kernel = info.kernel != nullptr ? *info.kernel : *what.kernel;
    const size_t bytes =
        kernel.workspace_bytes(all.first(what.inputs.size()), all.subspan(what.inputs.size()), threads_);
    if (bytes > 0) workspaces_.push_back({step.index, liveness_.position[static_cast<size_t>(step.index)], bytes});
  } catch (const Error&) {
    info.late = true;  // the same error comes when the step runs, if it does
    info.kernel = nullptr;
  }
}

void Instance::resolve_steps(const Steps& steps, const StepFunctions& functions) {
  for (const Step& step : steps) {
    StepInfo& info = steps_[static_cast<size_t>(step.index)];
    for (const ValueId id : liveness_.dead_after[static_cast<size_t>(step.index)]) {
      if (value(id).place == Place::kDynamic) info.dead.push_back(id);
    }
    if (const auto* object = std::get_if<ObjectStep>(&step.what)) {
      info.function = functions[static_cast<size_t>(step.index)];
      resolve_object(*object, info);
    } else if (const auto* native = std::get_if<NativeStep>(&step.what)) {
      resolve_native(*native, step, info);
    } else if (const auto* host = std::get_if<HostStep>(&step.what)) {
      info.first_operand = operand_count_;
      operand_count_ += host->inputs.size() + host->outputs.size();
      info.late = any_late(host->inputs) || any_late(host->outputs);
    } else if (const auto* view = std::get_if<ViewStep>(&step.what)) {
      const ValueInfo& from = value(view->input);
      const ValueInfo& to = value(view->output);
      info.late = from.late || to.late || from.nbytes != to.nbytes;
    } else if (const auto* shape = std::get_if<ShapeStep>(&step.what)) {
      info.late = value(shape->output).late;
    } else if (const auto* branch = std::get_if<IfStep>(&step.what)) {
      resolve_steps(branch->then_branch.steps, functions);
      resolve_steps(branch->else_branch.steps, functions);
    } else if (const auto* loop = std::get_if<LoopStep>(&step.what)) {
      resolve_steps(loop->body.steps, functions);
    } else if (const auto* scan = std::get_if<ScanStep>(&step.what)) {
      resolve_steps(scan->body.steps, functions);
    }
  }
}

void Instance::plan_memory() {
  std::vector<ArenaBlock> blocks;
  std::vector<size_t*> offsets;
  for (size_t id = 0; id < values_.size(); ++id) {
    const Lifetime& life = liveness_.lifetime[id];
    if (values_[id].place != Place::kArena || life.first < 0) continue;
    blocks.push_back({values_[id].nbytes, life.first, life.last, 0});
    offsets.push_back(&values_[id].offset);
  }
  for (const Workspace& workspace : workspaces_) {
    blocks.push_back({workspace.bytes, workspace.position, workspace.position, 0});
    offsets.push_back(&steps_[static_cast<size_t>(workspace.step)].workspace);
  }
  arena_bytes_ = plan_arena(blocks);
  for (size_t i = 0; i < blocks.size(); ++i) *offsets[i] = blocks[i].offset;
}

}  // namespace graphopt
