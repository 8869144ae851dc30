#include "runtime/executor.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstring>

#include "runtime/call_abi.h"
#include "runtime/dtype.h"

namespace graphopt {
namespace {

int64_t now() {
  using std::chrono::nanoseconds;
  using std::chrono::steady_clock;
  return std::chrono::duration_cast<nanoseconds>(steady_clock::now().time_since_epoch()).count();
}

std::span<const int64_t> shape_of(const Tensor& tensor) {
  return {tensor.shape.data(), static_cast<size_t>(tensor.rank)};
}

// Calls apply<T>() with the C++ type of an integer or bool element.
template <class Apply>
auto with_integer_type(DType type, Apply&& apply) {
  switch (type) {
    case DType::kI64:
      return apply.template operator()<int64_t>();
    case DType::kI32:
      return apply.template operator()<int32_t>();
    case DType::kI16:
      return apply.template operator()<int16_t>();
    case DType::kI8:
      return apply.template operator()<int8_t>();
    case DType::kU64:
      return apply.template operator()<uint64_t>();
    case DType::kU32:
      return apply.template operator()<uint32_t>();
    case DType::kU16:
      return apply.template operator()<uint16_t>();
    case DType::kU8:
    case DType::kBool:
      return apply.template operator()<uint8_t>();
    default:
      throw Error("an integer tensor is needed, not " + std::string(dtype_name(type)));
  }
}

}  // namespace

int64_t read_integer(const Tensor& tensor, int64_t index) {
  return with_integer_type(tensor.dtype, [&]<class T>() { return static_cast<int64_t>(tensor.ptr<T>()[index]); });
}

void write_number(const Tensor& tensor, int64_t index, int64_t value) {
  if (tensor.dtype == DType::kF32) {
    tensor.ptr<float>()[index] = static_cast<float>(value);
  } else if (tensor.dtype == DType::kF64) {
    tensor.ptr<double>()[index] = static_cast<double>(value);
  } else {
    with_integer_type(tensor.dtype, [&]<class T>() { tensor.ptr<T>()[index] = static_cast<T>(value); });
  }
}

Executor::Executor(const Plan& plan, const Liveness& liveness, const Instance& instance, Frame& frame,
                   const Parallel& parallel, HostCallback* host, StepTimes* times)
    : plan_(plan),
      liveness_(liveness),
      instance_(instance),
      frame_(frame),
      parallel_(parallel),
      host_(host),
      times_(times) {}

void Executor::run_steps(const Steps& steps) {
  for (const Step& step : steps) {
    try {
      if (times_ == nullptr) {
        run_step(step);
      } else {
        run_timed(step);
      }
    } catch (const StepError&) {
      throw;
    } catch (const Error& error) {
      throw StepError("step '" + step.name + "': " + error.what());
    }
  }
}

void Executor::run_timed(const Step& step) {
  const int64_t outer = nested_nanoseconds_;
  nested_nanoseconds_ = 0;
  const int64_t start = now();
  run_step(step);
  const int64_t whole = now() - start;
  times_->nanoseconds[static_cast<size_t>(step.index)] += whole - nested_nanoseconds_;
  times_->calls[static_cast<size_t>(step.index)] += 1;
  nested_nanoseconds_ = outer + whole;
}

void Executor::run_step(const Step& step) {
  const StepInfo& info = instance_.step(step);
  depth_ = step.depth;
  std::visit([&](const auto& what) { run(what, info); }, step.what);
  for (const ValueId id : info.dead) frame_.dynamic[static_cast<size_t>(id)] = Buffer();
}

// --- generated code ---

void Executor::run(const ObjectStep& what, const StepInfo& info) {
  std::array<uint64_t, kMaxCallArguments> arguments;
  if (info.late) {
    for (const ValueId id : what.defines) define(id);
  }
  for (const auto& [output, input] : what.in_place) {
    if (liveness_.root_of(output) != output) frame_.tensor(output).data = frame_.tensor(input).data;
  }
  size_t count = 0;
  for (const ValueId id : what.args) {
    arguments[count++] = id == kNoValue ? 0 : reinterpret_cast<uint64_t>(frame_.tensor(id).data);
  }
  int64_t extent = info.extent;
  if (info.late) {
    for (const DimId id : what.dims) arguments[count++] = static_cast<uint64_t>(dim(id));
    extent = dim(what.extent);
    if (extent < 0) throw Error("its extent is negative");
  } else {
    for (const int64_t value : info.dims) arguments[count++] = static_cast<uint64_t>(value);
  }
  call_object(info.function, {arguments.data(), count + 2}, extent, what.grain);
}

// The last two arguments are left for the range.
void Executor::call_object(void* function, std::span<uint64_t> arguments, int64_t extent, int64_t grain) const {
  if (extent == 0) return;
  const size_t count = arguments.size();
  int status = 0;
  if (extent <= grain || parallel_.threads() == 1) {
    arguments[count - 2] = 0;
    arguments[count - 1] = static_cast<uint64_t>(extent);
    status = call_function(function, arguments.data(), count);
  } else {
    std::atomic<int> failure{0};
    parallel_.for_range(extent, grain, [&](int64_t begin, int64_t end, int /*worker*/) {
      std::array<uint64_t, kMaxCallArguments> own;
      std::copy(arguments.begin(), arguments.end() - 2, own.begin());
      own[count - 2] = static_cast<uint64_t>(begin);
      own[count - 1] = static_cast<uint64_t>(end);
      const int part = call_function(function, own.data(), count);
      if (part != 0) failure.store(part, std::memory_order_relaxed);
    });
    status = failure.load();
  }
  if (status != 0) throw Error("the generated code failed with status " + std::to_string(status));
}

// --- kernels and host nodes ---

std::span<Tensor> Executor::prepare_operands(const std::vector<ValueId>& inputs, const std::vector<ValueId>& outputs,
                                             const std::vector<bool>& data_dependent, const StepInfo& info) {
  Tensor* const first = frame_.operands.data() + info.first_operand;
  Tensor* operand = first;
  if (!info.late) {
    for (const auto* ids : {&inputs, &outputs}) {
      for (const ValueId id : *ids) {
        if (id != kNoValue) operand->data = frame_.tensor(id).data;
        ++operand;
      }
    }
    return {first, operand};
  }
  for (const ValueId id : inputs) *operand++ = id == kNoValue ? Tensor{} : frame_.tensor(id);
  for (size_t k = 0; k < outputs.size(); ++k, ++operand) {
    const ValueId id = outputs[k];
    *operand = Tensor{};
    if (id == kNoValue) continue;
    if (data_dependent[k]) {
      operand->dtype = plan_.value(id).dtype;
      operand->rank = static_cast<int32_t>(plan_.value(id).shape.size());
      operand->shape.fill(-1);
    } else {
      define(id);
      *operand = frame_.tensor(id);
    }
  }
  return {first, operand};
}

Tensor& Executor::allocate(int index, std::span<const int64_t> shape) {
  const auto k = static_cast<size_t>(index);
  if (index < 0 || k >= allocating_.size() || allocating_[k] == kNoValue) {
    throw Error("the kernel allocates output " + std::to_string(index) + ", which nobody wants");
  }
  const ValueId id = allocating_[k];
  Tensor& operand = allocated_[k];
  const PlanValue& value = plan_.value(id);
  size_t bytes = 0;
  if (shape.size() != value.shape.size() || !checked_nbytes(shape, value.dtype, &bytes)) {
    throw Error("output '" + value.name + "' came out with shape " + shape_text(shape) + ", which is impossible");
  }
  if (operand.data != nullptr || instance_.value(id).place != Place::kDynamic) {
    if (!std::equal(shape.begin(), shape.end(), operand.shape.begin())) {
      throw Error("output '" + value.name + "' came out with shape " + shape_text(shape) + " instead of " +
                  shape_text(shape_of(operand)));
    }
    return operand;
  }
  Buffer& buffer = frame_.dynamic[static_cast<size_t>(id)];
  buffer = Buffer(bytes);
  operand.data = buffer.data();
  operand.dtype = value.dtype;
  operand.rank = static_cast<int32_t>(shape.size());
  std::copy(shape.begin(), shape.end(), operand.shape.begin());
  return operand;
}

void Executor::adopt_outputs(const std::vector<ValueId>& outputs, const std::vector<bool>& data_dependent,
                             std::span<Tensor> operands) {
  for (size_t k = 0; k < outputs.size(); ++k) {
    if (!data_dependent[k]) continue;
    if (operands[k].data == nullptr) throw Error("output '" + plan_.value(outputs[k]).name + "' was not computed");
    bind_shape(outputs[k], shape_of(operands[k]));
  }
  for (size_t k = 0; k < outputs.size(); ++k) {
    if (!data_dependent[k]) continue;
    check_shape(outputs[k], shape_of(operands[k]));
    frame_.tensor(outputs[k]).data = operands[k].data;
  }
}

void Executor::run(const NativeStep& what, const StepInfo& info) {
  const std::span<Tensor> operands = prepare_operands(what.inputs, what.outputs, what.data_dependent, info);
  const std::span<const Tensor> inputs = operands.first(what.inputs.size());
  const std::span<Tensor> outputs = operands.subspan(what.inputs.size());
  const Kernel* kernel = info.kernel != nullptr ? info.kernel.get() : what.kernel.get();
  std::unique_ptr<Kernel> fresh;
  Buffer workspace;
  void* scratch = frame_.arena() + info.workspace;
  if (info.late) {
    if (!what.dim_attrs.empty()) {
      fresh = what.factory(resolve_attrs(what, plan_.dims, frame_.dims));
      kernel = fresh.get();
    }
    workspace = Buffer(kernel->workspace_bytes(inputs, outputs, parallel_.threads()));
    scratch = workspace.data();
  }
  allocating_ = what.outputs;
  allocated_ = outputs;
  KernelArgs args{inputs, outputs, scratch, parallel_, *this};
  kernel->run(args);
  if (info.late) adopt_outputs(what.outputs, what.data_dependent, outputs);
}

void Executor::run(const HostStep& what, const StepInfo& info) {
  if (host_ == nullptr) {
    throw Error("no kernel computes this node, so that it needs the Python runtime's interpreter");
  }
  const std::span<Tensor> operands = prepare_operands(what.inputs, what.outputs, what.data_dependent, info);
  const std::span<Tensor> outputs = operands.subspan(what.inputs.size());
  allocating_ = what.outputs;
  allocated_ = outputs;
  host_->run(what.node, operands.first(what.inputs.size()), outputs, *this);
  if (info.late) adopt_outputs(what.outputs, what.data_dependent, outputs);
}

// --- shapes ---

void Executor::run(const ViewStep& what, const StepInfo& info) {
  if (info.late) run_late_view(what);
  frame_.tensor(what.output).data = frame_.tensor(what.input).data;
}

void Executor::run_late_view(const ViewStep& what) {
  const Tensor& from = frame_.tensor(what.input);
  const PlanValue& value = plan_.value(what.output);
  const size_t element = element_size(value.dtype);
  // One dimension may follow from the number of elements.
  size_t unknown_axes = 0;
  SymbolId unknown = 0;
  int64_t known = static_cast<int64_t>(element);
  for (const DimId id : value.shape) {
    const DimExpr& expr = plan_.dims[id];
    const DimValue& d = frame_.dims[static_cast<size_t>(id)];
    if (d.state == DimValue::State::kUnbound && expr.op == DimExpr::Op::kSymbol) {
      ++unknown_axes;
      unknown = expr.symbol;
    } else if (__builtin_mul_overflow(known, dim(id), &known)) {
      throw Error("its shape overflows");
    }
  }
  const auto bytes = static_cast<int64_t>(from.nbytes());
  if (unknown_axes == 1 && known > 0 && bytes % known == 0) set_symbol(unknown, bytes / known);
  compute_shape(what.output);
  const Tensor& to = frame_.tensor(what.output);
  if (to.nbytes() != from.nbytes()) {
    throw Error("shape " + shape_text(shape_of(from)) + " cannot be seen as " + shape_text(shape_of(to)));
  }
}

void Executor::run(const ShapeStep& what, const StepInfo& info) {
  if (info.late) define(what.output);
  const Tensor& tensor = frame_.tensor(what.output);
  if (tensor.numel() != static_cast<int64_t>(what.dims.size()))
    throw Error("it does not have as many elements as dimensions");
  for (size_t i = 0; i < what.dims.size(); ++i) write_number(tensor, static_cast<int64_t>(i), dim(what.dims[i]));
}

void Executor::run(const ReadDimsStep& what, const StepInfo& /*info*/) {
  const Tensor& tensor = frame_.tensor(what.input);
  if (tensor.numel() != static_cast<int64_t>(what.symbols.size())) {
    throw Error("a tensor of " + std::to_string(what.symbols.size()) + " elements is needed, not one of shape " +
                shape_text(shape_of(tensor)));
  }
  for (size_t i = 0; i < what.symbols.size(); ++i) {
    frame_.symbols[static_cast<size_t>(what.symbols[i])] =
        DimValue::known(read_integer(tensor, static_cast<int64_t>(i)));
  }
  plan_.dims.evaluate(frame_.symbols, plan_.late_dims, frame_.dims);
}

void Executor::run(const CheckStep& what, const StepInfo& /*info*/) {
  const int64_t a = dim(what.a);
  const int64_t b = dim(what.b);
  if (a == b || (what.broadcast && (a == 1 || b == 1))) return;
  throw Error(what.message + " (" + std::to_string(a) + " and " + std::to_string(b) + ")");
}

void Executor::set_symbol(SymbolId symbol, int64_t value) {
  DimValue& known = frame_.symbols[static_cast<size_t>(symbol)];
  if (known.is_known() && known.value == value) return;
  known = DimValue::known(value);
  plan_.dims.evaluate(frame_.symbols, plan_.late_dims, frame_.dims);
}

void Executor::compute_shape(ValueId id) {
  Tensor& tensor = frame_.tensor(id);
  const PlanValue& value = plan_.value(id);
  for (size_t axis = 0; axis < value.shape.size(); ++axis) tensor.shape[axis] = dim(value.shape[axis]);
  size_t bytes = 0;
  if (!checked_nbytes(shape_of(tensor), value.dtype, &bytes)) {
    throw Error("value '" + value.name + "' has an impossible shape " + shape_text(shape_of(tensor)));
  }
}

void Executor::allocate_dynamic(ValueId id) {
  if (instance_.value(id).place != Place::kDynamic) return;
  Buffer& buffer = frame_.dynamic[static_cast<size_t>(id)];
  buffer = Buffer(frame_.tensor(id).nbytes());
  frame_.tensor(id).data = buffer.data();
}

void Executor::define(ValueId id) {
  if (instance_.value(id).late) compute_shape(id);
  allocate_dynamic(id);
}

void Executor::bind_shape(ValueId id, std::span<const int64_t> shape) {
  const PlanValue& value = plan_.value(id);
  if (shape.size() != value.shape.size()) {
    throw Error("value '" + value.name + "' came out with shape " + shape_text(shape) + ", which has the wrong rank");
  }
  if (!instance_.value(id).late) return;
  for (size_t axis = 0; axis < shape.size(); ++axis) {
    const DimExpr& expr = plan_.dims[value.shape[axis]];
    const bool late = expr.op == DimExpr::Op::kSymbol && plan_.late_symbols[static_cast<size_t>(expr.symbol)];
    if (late) set_symbol(expr.symbol, shape[axis]);
  }
}

void Executor::check_shape(ValueId id, std::span<const int64_t> shape) {
  const PlanValue& value = plan_.value(id);
  for (size_t axis = 0; axis < shape.size(); ++axis) {
    const DimValue& known = frame_.dims[static_cast<size_t>(value.shape[axis])];
    if (known.is_known() && known.value != shape[axis]) {
      throw Error("value '" + value.name + "' came out with shape " + shape_text(shape) + ", but dimension " +
                  std::to_string(axis) + " must be " + std::to_string(known.value));
    }
  }
  std::copy(shape.begin(), shape.end(), frame_.tensor(id).shape.begin());
}

}  // namespace graphopt
