#include "runtime/program.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "runtime/cpu.h"
#include "runtime/dtype.h"
#include "runtime/json.h"
#include "runtime/zip_reader.h"

namespace graphopt {
namespace {

constexpr int64_t kFormatVersion = 1;
constexpr size_t kCachedPlans = 16;

struct ObjectLevel {
  std::string_view name;
  Isa isa;
  bool (*supported)();
};

// The psABI's levels, best first. Each also needs instructions outside of our own levels.
constexpr std::array<ObjectLevel, 4> kObjectLevels = {{
    {"x86-64-v4", Isa::kAvx512, [] { return __builtin_cpu_supports("x86-64-v4") != 0; }},
    {"x86-64-v3", Isa::kAvx2, [] { return __builtin_cpu_supports("x86-64-v3") != 0; }},
    {"x86-64-v2", Isa::kPortable, [] { return __builtin_cpu_supports("x86-64-v2") != 0; }},
    {"x86-64", Isa::kPortable, [] { return true; }},
}};

std::string_view text_of(std::span<const uint8_t> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

void check_manifest(const Json& manifest) {
  const int64_t version = manifest.at("format_version").integer("format_version");
  if (version != kFormatVersion) {
    throw Error("its format version is " + std::to_string(version) + ", this graphopt reads " +
                std::to_string(kFormatVersion) + "; recompile the model or update graphopt");
  }
}

std::string tensor_text(DType dtype, std::span<const int64_t> shape) {
  return std::string(dtype_name(dtype)) + shape_text(shape);
}

std::string argument_text(const ArgumentInfo& info) {
  std::string text = std::string(dtype_name(info.dtype)) + "[";
  for (size_t i = 0; i < info.shape.size(); ++i) text += (i > 0 ? ", " : "") + info.shape[i];
  return text + "]";
}

std::span<const int64_t> shape_of(const Tensor& tensor) {
  return {tensor.shape.data(), static_cast<size_t>(tensor.rank)};
}

bool same_values(std::span<const DimValue> a, std::span<const DimValue> b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](const DimValue& x, const DimValue& y) {
    return x.state == y.state && (!x.is_known() || x.value == y.value);
  });
}

}  // namespace

// --- loading ---

std::unique_ptr<Program> Program::open(const std::string& path, int threads, std::shared_ptr<HostCallback> host) {
  auto file = std::make_unique<MappedFile>(path);
  try {
    std::unique_ptr<Program> program(new Program(threads == 0 ? cpu_count() : threads, std::move(host)));
    program->file_ = std::move(file);
    program->load(program->file_->bytes());
    return program;
  } catch (const Error& error) {
    throw Error("cannot load '" + path + "': " + error.what());
  }
}

std::unique_ptr<Program> Program::from_bytes(std::span<const uint8_t> bytes, int threads,
                                             std::shared_ptr<HostCallback> host) {
  std::unique_ptr<Program> program(new Program(threads == 0 ? cpu_count() : threads, std::move(host)));
  program->bytes_ = Buffer(bytes.size());
  if (!bytes.empty()) std::memcpy(program->bytes_.data(), bytes.data(), bytes.size());
  program->load({static_cast<const uint8_t*>(program->bytes_.data()), bytes.size()});
  return program;
}

void Program::load(std::span<const uint8_t> bytes) {
  const ZipReader zip(bytes, pool_);
  check_manifest(Json::parse(text_of(zip.at("manifest.json"))));
  if (const auto* host = zip.find("host.json")) {
    const Json nodes = Json::parse(text_of(*host));
    for (const Json& node : nodes.array("host.json")) host_nodes_.push_back(node.string("host.json"));
  }
  const std::span<const uint8_t> weights = zip.at("weights");
  weights_ = weights.data();
  plan_ = Plan::parse(text_of(zip.at("plan")), weights, host_nodes_.size());
  liveness_ = std::make_unique<Liveness>(plan_);
  functions_.assign(static_cast<size_t>(plan_.step_count), nullptr);
  load_object(zip);
  find_functions(plan_.steps);
  for (const ValueId id : plan_.inputs) inputs_.push_back(describe(plan_.value(id).name, id));
  for (const auto& [name, id] : plan_.outputs) outputs_.push_back(describe(name, id));
}

void Program::load_object(const ZipReader& zip) {
  if (plan_.objects.empty()) return;
  for (const ObjectLevel& level : kObjectLevels) {
    const auto found = plan_.objects.find(std::string(level.name));
    if (found == plan_.objects.end() || level.isa > cpu_isa() || !level.supported()) continue;
    object_level_ = level.name;
    object_ = std::make_unique<LoadedObject>(zip.at(found->second), found->second);
    return;
  }
  std::string levels;
  for (const auto& [name, member] : plan_.objects) levels += (levels.empty() ? "" : ", ") + name;
  throw Error("this processor runs none of the instruction-set levels that it was compiled for (" + levels + ")");
}

void Program::find_functions(const Steps& steps) {
  for (const Step& step : steps) {
    if (const auto* object = std::get_if<ObjectStep>(&step.what)) {
      void* function = object_ == nullptr ? nullptr : object_->function(object->symbol);
      if (function == nullptr) {
        throw Error("step '" + step.name + "' calls '" + object->symbol + "', which the generated code does not have");
      }
      functions_[static_cast<size_t>(step.index)] = function;
    } else if (const auto* branch = std::get_if<IfStep>(&step.what)) {
      find_functions(branch->then_branch.steps);
      find_functions(branch->else_branch.steps);
    } else if (const auto* loop = std::get_if<LoopStep>(&step.what)) {
      find_functions(loop->body.steps);
    } else if (const auto* scan = std::get_if<ScanStep>(&step.what)) {
      find_functions(scan->body.steps);
    }
  }
}

ArgumentInfo Program::describe(const std::string& name, ValueId id) const {
  ArgumentInfo info{name, plan_.value(id).dtype, {}};
  for (const DimId dim : plan_.value(id).shape) info.shape.push_back(plan_.dims.text(dim));
  return info;
}

// --- inputs ---

// Sets the symbols that stand alone in the input's shape; binder[s] is the input that set symbol s.
void Program::check_input(size_t i, const Tensor& given, std::vector<DimValue>& symbols,
                          std::vector<size_t>& binder) const {
  const PlanValue& value = plan_.value(plan_.inputs[i]);
  const auto mismatch = [&](const std::string& detail) {
    throw InputError("input '" + value.name + "': expected " + argument_text(inputs_[i]) + ", got " +
                     tensor_text(given.dtype, shape_of(given)) + detail);
  };
  if (given.dtype != value.dtype || static_cast<size_t>(given.rank) != value.shape.size()) mismatch("");
  size_t bytes = 0;
  if (!checked_nbytes(shape_of(given), given.dtype, &bytes)) mismatch("");
  for (size_t axis = 0; axis < value.shape.size(); ++axis) {
    const DimExpr& expr = plan_.dims[value.shape[axis]];
    const int64_t size = given.shape[axis];
    if (expr.op == DimExpr::Op::kConstant && expr.value != size) mismatch("");
    if (expr.op != DimExpr::Op::kSymbol) continue;
    DimValue& symbol = symbols[static_cast<size_t>(expr.symbol)];
    size_t& setter = binder[static_cast<size_t>(expr.symbol)];
    if (!symbol.is_known()) {
      symbol = DimValue::known(size);
      setter = i;
    } else if (symbol.value != size) {
      mismatch(": " + plan_.dims.symbol_name(expr.symbol) + " is " + std::to_string(symbol.value) + " in " +
               (setter == i ? "another dimension" : "input '" + inputs_[setter].name + "'"));
    }
  }
}

std::vector<DimValue> Program::bind_symbols(std::span<const Tensor> inputs) const {
  if (inputs.size() != inputs_.size()) {
    throw InputError("expected " + std::to_string(inputs_.size()) + " inputs, got " + std::to_string(inputs.size()));
  }
  std::vector<DimValue> symbols(plan_.dims.symbol_count());
  std::vector<size_t> binder(symbols.size(), 0);
  bool compound = false;
  for (size_t i = 0; i < inputs.size(); ++i) {
    check_input(i, inputs[i], symbols, binder);
    for (const DimId id : plan_.value(plan_.inputs[i]).shape)
      compound = compound || plan_.dims[id].op > DimExpr::Op::kSymbol;
  }
  if (!compound) return symbols;
  std::vector<DimValue> dims(plan_.dims.size());
  plan_.dims.evaluate(symbols, dims);
  for (size_t i = 0; i < inputs.size(); ++i) {
    const PlanValue& value = plan_.value(plan_.inputs[i]);
    for (size_t axis = 0; axis < value.shape.size(); ++axis) {
      const DimValue& dim = dims[static_cast<size_t>(value.shape[axis])];
      if (dim.is_known() && dim.value == inputs[i].shape[axis]) continue;
      throw InputError("input '" + value.name + "': expected " + argument_text(inputs_[i]) + ", got " +
                       tensor_text(inputs[i].dtype, shape_of(inputs[i])) + ": dimension " + std::to_string(axis) +
                       (dim.is_known() ? " must be " + std::to_string(dim.value) : " cannot be determined"));
    }
  }
  return symbols;
}

std::shared_ptr<Program::Resolved> Program::resolve(std::vector<DimValue> symbols) {
  const auto find = [&]() -> std::shared_ptr<Resolved> {
    const auto it = std::find_if(cache_.begin(), cache_.end(),
                                 [&](const auto& entry) { return same_values(entry->instance.symbols(), symbols); });
    if (it == cache_.end()) return nullptr;
    cache_.splice(cache_.begin(), cache_, it);
    return cache_.front();
  };
  {
    const std::lock_guard lock(cache_mutex_);
    if (auto found = find()) return found;
  }
  // Outside of the lock: runs with other shapes go on meanwhile.
  auto fresh = std::make_shared<Resolved>(plan_, *liveness_, functions_, symbols, pool_.threads());
  const std::lock_guard lock(cache_mutex_);
  if (auto found = find()) return found;
  cache_.push_front(fresh);
  if (cache_.size() > kCachedPlans) cache_.pop_back();
  return fresh;
}

// --- running ---

// A frame and an arena for as long as a run takes.
class Program::RunState {
 public:
  RunState(Program& program, std::shared_ptr<Resolved> resolved) : program_(program), resolved_(std::move(resolved)) {
    {
      const std::lock_guard lock(resolved_->mutex);
      if (!resolved_->frames.empty()) {
        frame_ = std::move(resolved_->frames.back());
        resolved_->frames.pop_back();
      }
    }
    if (frame_ == nullptr) frame_ = std::make_unique<Frame>(program_.plan_, instance(), program_.weights_);
    frame_->use_arena(program_.arenas_.take(instance().arena_bytes()));
  }

  ~RunState() {
    frame_->reset();
    program_.arenas_.give(frame_->take_arena());
    const std::lock_guard lock(resolved_->mutex);
    resolved_->frames.push_back(std::move(frame_));
  }
  RunState(const RunState&) = delete;
  RunState& operator=(const RunState&) = delete;

  [[nodiscard]] const Instance& instance() const { return resolved_->instance; }
  [[nodiscard]] Frame& frame() { return *frame_; }

  void set_inputs(std::span<const Tensor> inputs) {
    for (size_t i = 0; i < inputs.size(); ++i) {
      void* data = inputs[i].data;
      const size_t bytes = inputs[i].nbytes();
      if (reinterpret_cast<uintptr_t>(data) % kInputAlignment != 0) {
        Buffer& copy = frame_->aligned[i];
        if (copy.size() < bytes || copy.empty()) copy = Buffer(bytes);
        if (bytes > 0) std::memcpy(copy.data(), data, bytes);
        data = copy.data();
      }
      frame_->tensor(program_.plan_.inputs[i]).data = data;
    }
  }

  void allocate_outputs(std::vector<OutputTensor>& outputs) {
    for (size_t k = 0; k < outputs.size(); ++k) {
      if (!instance().written_in_place(k)) continue;
      const ValueId id = program_.plan_.outputs[k].second;
      outputs[k].memory = Buffer(frame_->tensor(id).nbytes());
      frame_->tensor(program_.liveness_->root_of(id)).data = outputs[k].memory.data();
    }
  }

  // What was not written into its output: dynamic values, views of inputs, one value twice.
  void collect_outputs(std::vector<OutputTensor>& outputs) {
    const auto& ids = program_.plan_.outputs;
    for (size_t k = 0; k < outputs.size(); ++k) {
      const ValueId id = ids[k].second;
      OutputTensor& output = outputs[k];
      output.tensor = frame_->tensor(id);
      if (output.memory.empty()) {
        const ValueId root = program_.liveness_->root_of(id);
        const bool again =
            std::any_of(ids.begin() + static_cast<std::ptrdiff_t>(k) + 1, ids.end(),
                        [&](const auto& other) { return program_.liveness_->root_of(other.second) == root; });
        const bool dynamic = instance().value(root).place == Place::kDynamic;
        Buffer* const owner = dynamic && !again ? &frame_->dynamic[static_cast<size_t>(root)] : nullptr;
        if (owner != nullptr && owner->data() == output.tensor.data) {
          output.memory = std::move(*owner);
        } else {
          output.memory = Buffer(output.tensor.nbytes());
          if (output.tensor.nbytes() > 0) std::memcpy(output.memory.data(), output.tensor.data, output.tensor.nbytes());
        }
      }
      output.tensor.data = output.memory.data();
    }
  }

 private:
  Program& program_;
  std::shared_ptr<Resolved> resolved_;
  std::unique_ptr<Frame> frame_;
};

std::vector<OutputTensor> Program::run_once(std::span<const Tensor> inputs, StepTimes* times) {
  RunState state(*this, resolve(bind_symbols(inputs)));
  std::vector<OutputTensor> outputs(plan_.outputs.size());
  state.set_inputs(inputs);
  state.allocate_outputs(outputs);
  {
    const PoolLease lease(pool_);
    Executor(plan_, *liveness_, state.instance(), state.frame(), lease.parallel(), host_.get(), times).run();
  }
  state.collect_outputs(outputs);
  return outputs;
}

std::vector<OutputTensor> Program::run(std::span<const Tensor> inputs) { return run_once(inputs, nullptr); }

size_t Program::arena_bytes(std::span<const Tensor> inputs) {
  return resolve(bind_symbols(inputs))->instance.arena_bytes();
}

namespace {

void collect_rows(const Steps& steps, const std::vector<StepTimes>& runs, std::vector<ProfileRow>& rows) {
  for (const Step& step : steps) {
    const auto index = static_cast<size_t>(step.index);
    std::vector<int64_t> times;
    int64_t calls = 0;
    for (const StepTimes& run : runs) {
      times.push_back(run.nanoseconds[index]);
      calls += run.calls[index];
    }
    // The median: a single run that the system interrupts must not decide.
    const auto middle = times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2);
    std::nth_element(times.begin(), middle, times.end());
    rows.push_back({step.name, std::string(step_kind(step)), std::string(step_kernel(step)), step.depth,
                    static_cast<double>(*middle) / 1000.0,
                    static_cast<double>(calls) / static_cast<double>(runs.size())});
    if (const auto* branch = std::get_if<IfStep>(&step.what)) {
      collect_rows(branch->then_branch.steps, runs, rows);
      collect_rows(branch->else_branch.steps, runs, rows);
    } else if (const auto* loop = std::get_if<LoopStep>(&step.what)) {
      collect_rows(loop->body.steps, runs, rows);
    } else if (const auto* scan = std::get_if<ScanStep>(&step.what)) {
      collect_rows(scan->body.steps, runs, rows);
    }
  }
}

}  // namespace

std::vector<ProfileRow> Program::profile(std::span<const Tensor> inputs, int runs) {
  if (runs < 1) throw Error("the number of runs must be at least 1");
  run_once(inputs, nullptr);
  const auto steps = static_cast<size_t>(plan_.step_count);
  std::vector<StepTimes> times(static_cast<size_t>(runs), {std::vector<int64_t>(steps), std::vector<int64_t>(steps)});
  for (StepTimes& run : times) run_once(inputs, &run);
  std::vector<ProfileRow> rows;
  collect_rows(plan_.steps, times, rows);
  return rows;
}

}  // namespace graphopt
