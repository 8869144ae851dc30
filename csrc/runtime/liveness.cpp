#include "runtime/liveness.h"

#include <algorithm>
#include <limits>
#include <numeric>

namespace graphopt {
namespace {

constexpr int32_t kForever = std::numeric_limits<int32_t>::max();

class Walker {
 public:
  Walker(const Plan& plan, Liveness& out) : plan_(plan), out_(out) {}

  void run() {
    walk(plan_.steps);
    for (const auto& [name, id] : plan_.outputs) touch(id, kForever);
    for (const Candidate& candidate : candidates_) take_place(candidate);
    for (ValueId& root : out_.root) root = find(root);
    for (size_t id = 0; id < plan_.values.size(); ++id) {
      const bool root = out_.root[id] == static_cast<ValueId>(id);
      const Lifetime& life = out_.lifetime[id];
      if (!root || plan_.values[id].kind != PlanValue::Kind::kTemp || life.first < 0 || life.last == kForever) continue;
      out_.dead_after[static_cast<size_t>(step_at_[static_cast<size_t>(life.last)])].push_back(
          static_cast<ValueId>(id));
    }
  }

 private:
  // An output that may live where an input does.
  struct Candidate {
    ValueId output;
    ValueId input;
    int32_t position;
  };

  void walk(const Steps& steps) {
    for (const Step& step : steps) {
      depth_ = step.depth;
      const int32_t begin = next_position(step.index);
      out_.position[static_cast<size_t>(step.index)] = begin;
      std::visit([&](const auto& what) { visit(what, begin, step.index); }, step.what);
    }
  }

  int32_t next_position(int32_t step) {
    step_at_.push_back(step);
    return static_cast<int32_t>(step_at_.size()) - 1;
  }

  void touch(ValueId id, int32_t position) {
    if (id == kNoValue) return;
    const auto root = static_cast<size_t>(out_.root[static_cast<size_t>(id)]);
    Lifetime& life = out_.lifetime[root];
    if (life.first < 0) {
      life.first = position;
      out_.depth[root] = plan_.values[root].kind == PlanValue::Kind::kTemp ? depth_ : 0;
    }
    life.last = std::max(life.last, position);
    touched_.push_back(static_cast<ValueId>(root));
  }

  void touch(const std::vector<ValueId>& ids, int32_t position) {
    for (const ValueId id : ids) touch(id, position);
  }

  void visit(const ObjectStep& s, int32_t position, int32_t /*step*/) {
    touch(s.args, position);
    for (const auto& [output, input] : s.in_place) candidates_.push_back({output, input, position});
  }
  void visit(const NativeStep& s, int32_t position, int32_t /*step*/) {
    touch(s.inputs, position);
    touch(s.outputs, position);
  }
  void visit(const HostStep& s, int32_t position, int32_t /*step*/) {
    touch(s.inputs, position);
    touch(s.outputs, position);
  }
  void visit(const ViewStep& s, int32_t position, int32_t /*step*/) {
    out_.root[static_cast<size_t>(s.output)] = out_.root[static_cast<size_t>(s.input)];
    touch(s.input, position);
  }
  void visit(const ShapeStep& s, int32_t position, int32_t /*step*/) { touch(s.output, position); }
  void visit(const ReadDimsStep& s, int32_t position, int32_t /*step*/) { touch(s.input, position); }
  void visit(const CheckStep& /*s*/, int32_t /*position*/, int32_t /*step*/) {}

  void visit(const IfStep& s, int32_t position, int32_t step) {
    const int32_t outer = depth_;
    touch(s.condition, position);
    walk(s.then_branch.steps);
    walk(s.else_branch.steps);
    const int32_t end = next_position(step);
    depth_ = outer + 1;
    touch(s.then_branch.results, end);
    touch(s.else_branch.results, end);
    depth_ = outer;
    touch(s.outputs, end);
  }

  void visit(const LoopStep& s, int32_t position, int32_t step) {
    touch(s.trip, position);
    touch(s.condition, position);
    visit_body(s.body, {s.iteration, s.condition_in}, {s.condition_out}, position, step);
  }

  void visit(const ScanStep& s, int32_t position, int32_t step) {
    touch(s.scan_in, position);
    visit_body(s.body, s.scan_slice, s.scan_in, position, step);
  }

  // What a body reads from outside is needed until the last iteration, and what it carries is needed
  // all the time; everything else lives within one iteration.
  void visit_body(const LoopBody& body, const std::vector<ValueId>& inner, const std::vector<ValueId>& needed_at_end,
                  int32_t begin, int32_t step) {
    const size_t mark = touched_.size();
    const int32_t outer = depth_;
    touch(body.carried_in, begin);
    touch(body.outputs, begin);
    depth_ = outer + 1;
    touch(inner, begin);
    touch(body.carried, begin);
    walk(body.steps);
    const int32_t end = next_position(step);
    depth_ = outer + 1;
    touch(body.carried, end);
    touch(body.carried_out, end);
    touch(body.scan_out, end);
    touch(inner, end);
    touch(needed_at_end, end);
    depth_ = outer;
    touch(body.carried_in, end);
    touch(body.outputs, end);
    for (size_t i = mark; i < touched_.size(); ++i) {
      Lifetime& life = out_.lifetime[static_cast<size_t>(touched_[i])];
      if (life.first < begin) life.last = std::max(life.last, end);
    }
  }

  [[nodiscard]] ValueId find(ValueId id) const {
    while (out_.root[static_cast<size_t>(id)] != id) id = out_.root[static_cast<size_t>(id)];
    return id;
  }

  // The output lives in the input's memory if that is a temporary of the same body which nobody needs
  // afterwards, and if both have the same size whatever the shapes are.
  void take_place(const Candidate& candidate) {
    const PlanValue& from = plan_.value(candidate.input);
    const PlanValue& to = plan_.value(candidate.output);
    const ValueId root = find(candidate.input);
    Lifetime& source = out_.lifetime[static_cast<size_t>(root)];
    const Lifetime& target = out_.lifetime[static_cast<size_t>(candidate.output)];
    const bool same_size = from.shape == to.shape && element_size(from.dtype) == element_size(to.dtype);
    const bool fresh = find(candidate.output) == candidate.output && target.first == candidate.position;
    const bool dies = plan_.value(root).kind == PlanValue::Kind::kTemp && source.last == candidate.position &&
                      source.first < candidate.position &&
                      out_.depth[static_cast<size_t>(root)] == out_.depth[static_cast<size_t>(candidate.output)];
    if (!same_size || !fresh || !dies) return;
    out_.root[static_cast<size_t>(candidate.output)] = root;
    source.last = target.last;
  }

  const Plan& plan_;
  Liveness& out_;
  std::vector<int32_t> step_at_;  // by position
  std::vector<ValueId> touched_;
  std::vector<Candidate> candidates_;
  int32_t depth_ = 0;
};

}  // namespace

Liveness::Liveness(const Plan& plan)
    : root(plan.values.size()),
      lifetime(plan.values.size()),
      position(static_cast<size_t>(plan.step_count), 0),
      dead_after(static_cast<size_t>(plan.step_count)),
      depth(plan.values.size(), 0) {
  std::iota(root.begin(), root.end(), 0);
  Walker(plan, *this).run();
}

}  // namespace graphopt
