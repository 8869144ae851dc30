#include <algorithm>
#include <limits>
#include <string>
#include <utility>

#include "runtime/buffer.h"
#include "runtime/call_abi.h"
#include "runtime/dtype.h"
#include "runtime/json.h"
#include "runtime/plan.h"

namespace graphopt {
namespace {

constexpr int64_t kVersion = 1;
constexpr size_t kMaxTable = size_t{1} << 24U;  // values or steps

template <class... Cases>
struct Overloaded : Cases... {
  using Cases::operator()...;
};

int64_t bounded(const Json& json, std::string_view what, int64_t low, int64_t high) {
  const int64_t number = json.integer(what);
  if (number < low || number > high) {
    throw Error("'" + std::string(what) + "' is " + std::to_string(number) + ", outside " + std::to_string(low) +
                " to " + std::to_string(high));
  }
  return number;
}

std::vector<int64_t> integers(const Json& json, std::string_view what) {
  std::vector<int64_t> numbers;
  for (const Json& item : json.array(what)) numbers.push_back(item.integer(what));
  return numbers;
}

class PlanParser {
 public:
  PlanParser(std::span<const uint8_t> weights, size_t host_nodes) : weights_(weights), host_nodes_(host_nodes) {}

  Plan parse(const Json& json) {
    const int64_t version = json.at("version").integer("version");
    if (version != kVersion) {
      throw Error("the plan has version " + std::to_string(version) + ", this runtime runs " +
                  std::to_string(kVersion));
    }
    std::vector<std::string> symbols;
    for (const Json& name : json.at("symbols").array("symbols")) symbols.push_back(name.string("symbols"));
    plan_.dims = DimTable(json.at("dims"), std::move(symbols));
    parse_values(json.at("values"));
    parse_inputs(json.at("inputs"));
    plan_.steps = parse_steps(json.at("steps"), 0);
    parse_outputs(json.at("outputs"));
    if (const Json* objects = json.find("objects")) {
      for (const auto& [level, member] : objects->object("objects")) plan_.objects[level] = member.string("objects");
    }
    plan_.step_count = next_index_;
    return std::move(plan_);
  }

 private:
  enum class Scope : uint8_t { kUndefined, kVisible, kLeft };

  // --- tables ---

  DimId dim(const Json& json, std::string_view what) const {
    return static_cast<DimId>(bounded(json, what, 0, static_cast<int64_t>(plan_.dims.size()) - 1));
  }

  std::vector<DimId> dims(const Json& json, std::string_view what) const {
    std::vector<DimId> ids;
    for (const Json& item : json.array(what)) ids.push_back(dim(item, what));
    return ids;
  }

  ValueId value(const Json& json, std::string_view what) const {
    if (json.is_null()) return kNoValue;
    return static_cast<ValueId>(bounded(json, what, 0, static_cast<int64_t>(plan_.values.size()) - 1));
  }

  // A list of values; absent ones where `optional`.
  std::vector<ValueId> values(const Json& json, std::string_view what, bool optional = false) const {
    std::vector<ValueId> ids;
    for (const Json& item : json.array(what)) {
      ids.push_back(value(item, what));
      if (!optional && ids.back() == kNoValue) throw Error("'" + std::string(what) + "' has an absent value");
    }
    return ids;
  }

  ValueId required(const Json& json, std::string_view key) const {
    const ValueId id = value(json.at(key), key);
    if (id == kNoValue) throw Error("'" + std::string(key) + "' is absent");
    return id;
  }

  ValueId optional_value(const Json& json, std::string_view key) const {
    const Json* member = json.find(key);
    return member == nullptr ? kNoValue : value(*member, key);
  }

  void parse_values(const Json& list) {
    if (list.array("values").size() > kMaxTable) throw Error("too many values");
    for (const Json& json : list.array("values")) {
      PlanValue v;
      v.name = json.at("name").string("name");
      v.dtype = static_cast<DType>(bounded(json.at("dtype"), "dtype", 1, kMaxDType));
      if (element_size(v.dtype) == 0) throw Error("value '" + v.name + "' has a type that has no memory form");
      v.shape = dims(json.at("shape"), "shape");
      if (v.shape.size() > kMaxRank) {
        throw Error("value '" + v.name + "' has more than " + std::to_string(kMaxRank) + " dimensions");
      }
      const std::string& kind = json.at("kind").string("kind");
      if (kind == "input") {
        v.kind = PlanValue::Kind::kInput;
      } else if (kind == "constant") {
        v.kind = PlanValue::Kind::kConstant;
        parse_constant(json, v);
      } else if (kind != "temp") {
        throw Error("value '" + v.name + "' has an unknown kind '" + kind + "'");
      }
      scope_.push_back(v.kind == PlanValue::Kind::kTemp ? Scope::kUndefined : Scope::kVisible);
      plan_.values.push_back(std::move(v));
    }
  }

  void parse_constant(const Json& json, PlanValue& v) const {
    constexpr int64_t kMax = std::numeric_limits<int64_t>::max();
    v.offset = static_cast<size_t>(bounded(json.at("offset"), "offset", 0, kMax));
    v.nbytes = static_cast<size_t>(bounded(json.at("nbytes"), "nbytes", 0, kMax));
    if (v.offset > weights_.size() || v.nbytes > weights_.size() - v.offset || v.offset % kAlignment != 0) {
      throw Error("constant '" + v.name + "' lies outside the weights or is not aligned");
    }
    std::vector<int64_t> shape;
    for (const DimId id : v.shape) {
      if (plan_.dims[id].op != DimExpr::Op::kConstant) throw Error("constant '" + v.name + "' has no fixed shape");
      shape.push_back(plan_.dims[id].value);
    }
    size_t bytes = 0;
    if (!checked_nbytes(shape, v.dtype, &bytes) || bytes != v.nbytes) {
      throw Error("constant '" + v.name + "' has " + std::to_string(v.nbytes) + " bytes, which its shape " +
                  shape_text(shape) + " does not make");
    }
  }

  void parse_inputs(const Json& list) {
    plan_.inputs = values(list, "inputs");
    plan_.late_symbols.assign(plan_.dims.symbol_count(), true);
    std::vector<bool> seen(plan_.values.size(), false);
    for (const ValueId id : plan_.inputs) {
      const PlanValue& v = plan_.value(id);
      if (v.kind != PlanValue::Kind::kInput) throw Error("'" + v.name + "' is listed as an input but is none");
      if (seen[static_cast<size_t>(id)]) throw Error("input '" + v.name + "' is listed twice");
      seen[static_cast<size_t>(id)] = true;
      for (const DimId d : v.shape) {
        const DimExpr& expr = plan_.dims[d];
        if (expr.op == DimExpr::Op::kSymbol) plan_.late_symbols[static_cast<size_t>(expr.symbol)] = false;
      }
    }
    for (size_t id = 0; id < plan_.values.size(); ++id) {
      if (plan_.values[id].kind == PlanValue::Kind::kInput && !seen[id]) {
        throw Error("input '" + plan_.values[id].name + "' is not listed");
      }
    }
    const std::vector<bool> late = plan_.dims.depends_on(plan_.late_symbols);
    for (size_t i = 0; i < late.size(); ++i) {
      if (late[i]) plan_.late_dims.push_back(static_cast<DimId>(i));
    }
  }

  void parse_outputs(const Json& list) {
    for (const Json& json : list.array("outputs")) {
      const ValueId id = required(json, "value");
      use(id);
      plan_.outputs.emplace_back(json.at("name").string("name"), id);
    }
  }

  // --- scopes: every value is defined once, before its uses, where they can see it ---

  Scope& scope(ValueId id) { return scope_[static_cast<size_t>(id)]; }

  void use(ValueId id) {
    if (id != kNoValue && scope(id) != Scope::kVisible) {
      throw Error("value '" + plan_.value(id).name + "' is used where it is not defined");
    }
  }

  void use(const std::vector<ValueId>& ids) {
    for (const ValueId id : ids) use(id);
  }

  void define(ValueId id) {
    if (id == kNoValue) return;
    if (plan_.value(id).kind != PlanValue::Kind::kTemp || scope(id) != Scope::kUndefined) {
      throw Error("value '" + plan_.value(id).name + "' is written twice or must not be written");
    }
    scope(id) = Scope::kVisible;
    defined_.push_back(id);
  }

  void define(const std::vector<ValueId>& ids) {
    for (const ValueId id : ids) define(id);
  }

  void leave_scope(size_t mark) {
    for (size_t i = mark; i < defined_.size(); ++i) scope(defined_[i]) = Scope::kLeft;
    defined_.resize(mark);
  }

  void same_types(const std::vector<ValueId>& a, const std::vector<ValueId>& b, size_t count,
                  std::string_view what) const {
    if (a.size() < count || b.size() < count) throw Error("'" + std::string(what) + "' has too few values");
    for (size_t i = 0; i < count; ++i) {
      if (plan_.value(a[i]).dtype != plan_.value(b[i]).dtype) {
        throw Error("'" + plan_.value(a[i]).name + "' and '" + plan_.value(b[i]).name + "' have different types");
      }
    }
  }

  // --- steps ---

  Steps parse_steps(const Json& list, int32_t depth) {
    Steps steps;
    for (const Json& json : list.array("steps")) {
      if (static_cast<size_t>(next_index_) >= kMaxTable) throw Error("too many steps");
      Step step;
      step.index = next_index_++;
      step.depth = depth;
      const std::string& kind = json.at("kind").string("kind");
      const Json* name = json.find("name");
      step.name = name != nullptr ? name->string("name") : kind;
      try {
        parse_step(json, kind, step);
      } catch (const Error& error) {
        throw Error("step '" + step.name + "': " + error.what());
      }
      steps.push_back(std::move(step));
    }
    return steps;
  }

  void parse_step(const Json& json, const std::string& kind, Step& step) {
    if (kind == "object") {
      step.what = parse_object(json);
    } else if (kind == "native") {
      step.what = parse_native(json);
    } else if (kind == "view") {
      step.what = parse_view(json);
    } else if (kind == "shape") {
      step.what = parse_shape(json);
    } else if (kind == "read_dims") {
      step.what = parse_read_dims(json);
    } else if (kind == "check") {
      step.what = parse_check(json);
    } else if (kind == "host") {
      step.what = parse_host(json);
    } else if (kind == "if") {
      step.what = parse_if(json, step.depth);
    } else if (kind == "loop") {
      step.what = parse_loop(json, step.depth);
    } else if (kind == "scan") {
      step.what = parse_scan(json, step.depth);
    } else {
      throw Error("unknown kind '" + kind + "'");
    }
  }

  ObjectStep parse_object(const Json& json) {
    ObjectStep s;
    s.symbol = json.at("symbol").string("symbol");
    s.args = values(json.at("args"), "args", true);
    s.dims = dims(json.at("dims"), "dims");
    if (s.args.size() + s.dims.size() > kMaxCallArguments - 2) throw Error("too many arguments");
    s.extent = dim(json.at("extent"), "extent");
    if (const Json* grain = json.find("grain")) {
      s.grain = bounded(*grain, "grain", 1, std::numeric_limits<int64_t>::max());
    }
    for (const ValueId id : s.args) {
      if (id == kNoValue || scope(id) == Scope::kVisible) continue;
      define(id);
      s.defines.push_back(id);
    }
    if (const Json* pairs = json.find("inplace")) {
      for (const Json& item : pairs->array("inplace")) {
        const std::vector<ValueId> pair = values(item, "inplace");
        if (pair.size() != 2) throw Error("'inplace' must hold pairs");
        s.in_place.emplace_back(pair[0], pair[1]);
      }
    }
    return s;
  }

  void set_attr(NativeStep& s, const std::string& name, const Json& json) const {
    if (json.is_null()) return;
    if (json.is_object()) {
      if (const Json* one = json.find("dim")) {
        s.dim_attrs.push_back({name, false, {dim(*one, name)}});
      } else {
        s.dim_attrs.push_back({name, true, dims(json.at("dims"), name)});
      }
    } else if (json.is_array()) {
      set_list_attr(s, name, json.array(name));
    } else if (json.is_string()) {
      s.attrs.set(name, json.string(name));
    } else if (json.is_double()) {
      s.attrs.set(name, json.real(name));
    } else if (json.is_int()) {
      s.attrs.set(name, json.integer(name));
    } else {
      s.attrs.set(name, int64_t{json.boolean(name)});
    }
  }

  static void set_list_attr(NativeStep& s, const std::string& name, const Json::Array& items) {
    const auto all = [&](auto&& test) { return std::all_of(items.begin(), items.end(), test); };
    const auto collect = [&]<class T>(std::vector<T> list, auto&& get) {
      for (const Json& item : items) list.push_back(get(item));
      s.attrs.set(name, std::move(list));
    };
    if (all([](const Json& item) { return item.is_int(); })) {
      collect(std::vector<int64_t>(), [&](const Json& item) { return item.integer(name); });
    } else if (all([](const Json& item) { return item.is_string(); })) {
      collect(std::vector<std::string>(), [&](const Json& item) { return item.string(name); });
    } else {
      collect(std::vector<double>(), [&](const Json& item) { return item.real(name); });
    }
  }

  NativeStep parse_native(const Json& json) {
    NativeStep s;
    s.kernel_name = json.at("kernel").string("kernel");
    s.factory = find_kernel(s.kernel_name);
    if (s.factory == nullptr) throw Error("this runtime has no kernel '" + s.kernel_name + "'");
    if (const Json* attrs = json.find("attrs")) {
      for (const auto& [name, attr] : attrs->object("attrs")) set_attr(s, name, attr);
    }
    if (s.dim_attrs.empty()) s.kernel = s.factory(s.attrs);
    s.inputs = values(json.at("inputs"), "inputs", true);
    s.outputs = values(json.at("outputs"), "outputs", true);
    use(s.inputs);
    define(s.outputs);
    s.data_dependent = parse_binds(json, s.outputs);
    return s;
  }

  // [[output, axis, symbol], ...]: that dimension is the kernel's to say, and so are the shapes of all
  // outputs that depend on the symbol.
  std::vector<bool> parse_binds(const Json& json, const std::vector<ValueId>& outputs) const {
    std::vector<bool> data_dependent(outputs.size(), false);
    const Json* binds = json.find("binds");
    if (binds == nullptr) return data_dependent;
    std::vector<bool> bound(plan_.dims.symbol_count(), false);
    for (const Json& item : binds->array("binds")) bound[static_cast<size_t>(parse_bind(item, outputs))] = true;
    const std::vector<bool> depends = plan_.dims.depends_on(bound);
    for (size_t k = 0; k < outputs.size(); ++k) {
      if (outputs[k] == kNoValue) continue;
      const std::vector<DimId>& shape = plan_.value(outputs[k]).shape;
      data_dependent[k] =
          std::any_of(shape.begin(), shape.end(), [&](DimId d) { return depends[static_cast<size_t>(d)]; });
    }
    return data_dependent;
  }

  SymbolId parse_bind(const Json& item, const std::vector<ValueId>& outputs) const {
    const std::vector<int64_t> bind = integers(item, "binds");
    const bool known_output = bind.size() == 3 && bind[0] >= 0 && static_cast<size_t>(bind[0]) < outputs.size() &&
                              outputs[static_cast<size_t>(bind[0])] != kNoValue;
    if (!known_output) throw Error("'binds' must hold [output, axis, symbol] of wanted outputs");
    const PlanValue& v = plan_.value(outputs[static_cast<size_t>(bind[0])]);
    if (bind[1] < 0 || static_cast<size_t>(bind[1]) >= v.shape.size())
      throw Error("'binds' names an axis that is not there");
    const DimExpr& expr = plan_.dims[v.shape[static_cast<size_t>(bind[1])]];
    if (expr.op != DimExpr::Op::kSymbol || expr.symbol != bind[2] ||
        !plan_.late_symbols[static_cast<size_t>(expr.symbol)]) {
      throw Error("'binds' does not agree with the shape of '" + v.name + "'");
    }
    return expr.symbol;
  }

  ViewStep parse_view(const Json& json) {
    const ViewStep s = {required(json, "input"), required(json, "output")};
    use(s.input);
    define(s.output);
    return s;
  }

  ShapeStep parse_shape(const Json& json) {
    ShapeStep s = {required(json, "output"), dims(json.at("dims"), "dims")};
    define(s.output);
    return s;
  }

  ReadDimsStep parse_read_dims(const Json& json) {
    ReadDimsStep s;
    s.input = required(json, "input");
    use(s.input);
    for (const Json& item : json.at("symbols").array("symbols")) {
      const auto id =
          static_cast<SymbolId>(bounded(item, "symbols", 0, static_cast<int64_t>(plan_.dims.symbol_count()) - 1));
      if (!plan_.late_symbols[static_cast<size_t>(id)]) {
        throw Error("symbol '" + plan_.dims.symbol_name(id) + "' is set by the inputs already");
      }
      s.symbols.push_back(id);
    }
    return s;
  }

  CheckStep parse_check(const Json& json) const {
    const std::vector<DimId> pair = dims(json.at("dims"), "dims");
    if (pair.size() != 2) throw Error("'dims' must hold two dimensions");
    const Json* broadcast = json.find("broadcast");
    return {pair[0], pair[1], broadcast != nullptr && broadcast->boolean("broadcast"),
            json.at("message").string("message")};
  }

  HostStep parse_host(const Json& json) {
    HostStep s;
    s.node = static_cast<int32_t>(bounded(json.at("node"), "node", 0, static_cast<int64_t>(host_nodes_) - 1));
    s.inputs = values(json.at("inputs"), "inputs", true);
    s.outputs = values(json.at("outputs"), "outputs", true);
    use(s.inputs);
    define(s.outputs);
    s.data_dependent = parse_binds(json, s.outputs);
    return s;
  }

  Branch parse_branch(const Json& json, std::string_view steps, std::string_view results, int32_t depth) {
    const size_t mark = defined_.size();
    Branch branch;
    branch.steps = parse_steps(json.at(steps), depth + 1);
    branch.results = values(json.at(results), results);
    use(branch.results);
    leave_scope(mark);
    return branch;
  }

  IfStep parse_if(const Json& json, int32_t depth) {
    IfStep s;
    s.condition = required(json, "cond");
    use(s.condition);
    s.then_branch = parse_branch(json, "then", "then_results", depth);
    s.else_branch = parse_branch(json, "else", "else_results", depth);
    s.outputs = values(json.at("outputs"), "outputs");
    define(s.outputs);
    if (s.then_branch.results.size() != s.outputs.size() || s.else_branch.results.size() != s.outputs.size()) {
      throw Error("the branches do not have as many results as there are outputs");
    }
    same_types(s.outputs, s.then_branch.results, s.outputs.size(), "then_results");
    same_types(s.outputs, s.else_branch.results, s.outputs.size(), "else_results");
    return s;
  }

  // Everything but the values that the iteration itself defines.
  void parse_body(const Json& json, int32_t depth, LoopBody& body, const auto& define_inner, const auto& use_inner) {
    body.carried_in = values(json.at("carried_in"), "carried_in");
    body.carried = values(json.at("carried"), "carried");
    use(body.carried_in);
    const size_t mark = defined_.size();
    define_inner();
    define(body.carried);
    body.steps = parse_steps(json.at("body"), depth + 1);
    body.carried_out = values(json.at("carried_out"), "carried_out");
    body.scan_out = values(json.at("scan_out"), "scan_out");
    use(body.carried_out);
    use(body.scan_out);
    use_inner();
    leave_scope(mark);
    body.outputs = values(json.at("outputs"), "outputs", true);
    define(body.outputs);
    const size_t carried = body.carried.size();
    if (body.carried_in.size() != carried || body.carried_out.size() != carried ||
        body.outputs.size() != carried + body.scan_out.size()) {
      throw Error("the numbers of carried values, scan outputs and outputs do not agree");
    }
    same_types(body.carried, body.carried_in, carried, "carried_in");
    same_types(body.carried, body.carried_out, carried, "carried_out");
    for (size_t i = 0; i < body.outputs.size(); ++i) {
      if (body.outputs[i] == kNoValue) continue;
      const ValueId inner = i < carried ? body.carried[i] : body.scan_out[i - carried];
      same_types({body.outputs[i]}, {inner}, 1, "outputs");
      const size_t rank = plan_.value(inner).shape.size() + (i < carried ? 0 : 1);
      if (plan_.value(body.outputs[i]).shape.size() != rank)
        throw Error("an output has the wrong number of dimensions");
    }
  }

  LoopStep parse_loop(const Json& json, int32_t depth) {
    LoopStep s;
    s.trip = optional_value(json, "trip");
    s.condition = optional_value(json, "cond");
    s.iteration = optional_value(json, "iter");
    s.condition_in = optional_value(json, "cond_in");
    s.condition_out = optional_value(json, "cond_out");
    use(s.trip);
    use(s.condition);
    parse_body(
        json, depth, s.body,
        [&] {
          define(s.iteration);
          define(s.condition_in);
        },
        [&] { use(s.condition_out); });
    return s;
  }

  std::vector<int64_t> scan_numbers(const Json& json, std::string_view key, size_t count) const {
    const Json* list = json.find(key);
    if (list == nullptr) return std::vector<int64_t>(count, 0);
    std::vector<int64_t> numbers = integers(*list, key);
    if (numbers.size() != count) throw Error("'" + std::string(key) + "' has the wrong number of entries");
    return numbers;
  }

  ScanStep parse_scan(const Json& json, int32_t depth) {
    ScanStep s;
    s.scan_in = values(json.at("scan_in"), "scan_in");
    s.scan_slice = values(json.at("scan_slice"), "scan_slice");
    use(s.scan_in);
    same_types(s.scan_slice, s.scan_in, s.scan_in.size(), "scan_in");
    if (s.scan_slice.size() != s.scan_in.size() || s.scan_in.empty())
      throw Error("'scan_slice' does not match 'scan_in'");
    parse_body(json, depth, s.body, [&] { define(s.scan_slice); }, [] {});
    s.in_axes = scan_numbers(json, "in_axes", s.scan_in.size());
    s.in_directions = scan_numbers(json, "in_directions", s.scan_in.size());
    s.out_axes = scan_numbers(json, "out_axes", s.body.scan_out.size());
    s.out_directions = scan_numbers(json, "out_directions", s.body.scan_out.size());
    for (size_t i = 0; i < s.scan_in.size(); ++i) {
      const size_t rank = plan_.value(s.scan_in[i]).shape.size();
      if (plan_.value(s.scan_slice[i]).shape.size() + 1 != rank)
        throw Error("a slice has the wrong number of dimensions");
      s.in_axes[i] = normalized_axis(s.in_axes[i], rank);
    }
    for (size_t i = 0; i < s.body.scan_out.size(); ++i) {
      s.out_axes[i] = normalized_axis(s.out_axes[i], plan_.value(s.body.scan_out[i]).shape.size() + 1);
    }
    return s;
  }

  static int64_t normalized_axis(int64_t axis, size_t rank) {
    const auto limit = static_cast<int64_t>(rank);
    if (axis < -limit || axis >= limit) throw Error("axis " + std::to_string(axis) + " is out of range");
    return axis < 0 ? axis + limit : axis;
  }

  std::span<const uint8_t> weights_;
  size_t host_nodes_;
  Plan plan_;
  std::vector<Scope> scope_;
  std::vector<ValueId> defined_;
  int32_t next_index_ = 0;
};

}  // namespace

std::string_view step_kind(const Step& step) {
  return std::visit(Overloaded{
                        [](const ObjectStep&) { return "object"; },
                        [](const NativeStep&) { return "native"; },
                        [](const ViewStep&) { return "view"; },
                        [](const ShapeStep&) { return "shape"; },
                        [](const ReadDimsStep&) { return "read_dims"; },
                        [](const CheckStep&) { return "check"; },
                        [](const HostStep&) { return "host"; },
                        [](const IfStep&) { return "if"; },
                        [](const LoopStep&) { return "loop"; },
                        [](const ScanStep&) { return "scan"; },
                    },
                    step.what);
}

std::string_view step_kernel(const Step& step) {
  if (const auto* object = std::get_if<ObjectStep>(&step.what)) return object->symbol;
  if (const auto* native = std::get_if<NativeStep>(&step.what)) return native->kernel_name;
  return step_kind(step);
}

Plan Plan::parse(std::string_view text, std::span<const uint8_t> weights, size_t host_nodes) {
  const Json json = Json::parse(text);
  try {
    return PlanParser(weights, host_nodes).parse(json);
  } catch (const Error& error) {
    throw Error(std::string("the plan is malformed: ") + error.what());
  }
}

}  // namespace graphopt
