// Parsing, dimensions, liveness and memory planning.
#include <string>
#include <vector>

#include "check.h"
#include "fuzz.h"
#include "runtime/instance.h"
#include "runtime/liveness.h"
#include "runtime/memory_planner.h"
#include "runtime/plan.h"

using namespace graphopt;

namespace {

// A plan around these parts; values 0 and 1 are inputs [N], 2 and 3 temporaries [N], 4 a constant [4].
std::string plan_text(const std::string& steps, const std::string& outputs = R"({"name":"y","value":2})",
                      const std::string& dims = R"({"sym":0},4)") {
  return R"({"version":1,"symbols":["N","L"],"dims":[)" + dims + R"(],"values":[
    {"name":"a","dtype":1,"shape":[0],"kind":"input"},
    {"name":"b","dtype":1,"shape":[0],"kind":"input"},
    {"name":"c","dtype":1,"shape":[0],"kind":"temp"},
    {"name":"d","dtype":1,"shape":[0],"kind":"temp"},
    {"name":"w","dtype":1,"shape":[1],"kind":"constant","offset":0,"nbytes":16}],
    "inputs":[0,1],"outputs":[)" +
         outputs + R"(],"steps":[)" + steps + "]}";
}

const std::string kAdd =
    R"({"kind":"object","symbol":"k_add","args":[0,1,2],"dims":[],"extent":0,"grain":8,"name":"add"})";
const std::string kCopy = R"({"kind":"view","input":0,"output":2,"name":"copy"})";

Plan parse(const std::string& text) {
  static const std::vector<uint8_t> weights(16);
  return Plan::parse(text, weights, 2);
}

void parses_steps() {
  const Plan plan = parse(plan_text(kAdd));
  CHECK(plan.steps.size() == 1 && plan.step_count == 1);
  const auto& add = std::get<ObjectStep>(plan.steps[0].what);
  CHECK(add.symbol == "k_add" && add.args.size() == 3 && add.grain == 8);
  CHECK(add.defines == std::vector<ValueId>{2});
  CHECK(step_kind(plan.steps[0]) == "object" && step_kernel(plan.steps[0]) == "k_add");
  CHECK(!plan.late_symbols[0] && plan.late_symbols[1]);
}

void refuses_malformed_plans() {
  CHECK_THROWS(parse("{}"), "the plan is malformed: 'version' is missing");
  CHECK_THROWS(parse(R"({"version":2})"), "version 2, this runtime runs 1");
  CHECK_THROWS(parse(plan_text(R"({"kind":"magic"})")), "unknown kind 'magic'");
  CHECK_THROWS(parse(plan_text("")), "value 'c' is used where it is not defined");
  CHECK_THROWS(parse(plan_text(kCopy + "," + kCopy)), "step 'copy': value 'c' is written twice");
  CHECK_THROWS(parse(plan_text(R"({"kind":"view","input":3,"output":2})")),
               "value 'd' is used where it is not defined");
  CHECK_THROWS(parse(plan_text(R"({"kind":"view","input":0,"output":1})")), "value 'b' is written twice or must not");
  CHECK_THROWS(parse(plan_text(R"({"kind":"view","input":0,"output":4})")), "value 'w' is written twice or must not");
  CHECK_THROWS(parse(plan_text(R"({"kind":"view","input":0,"output":9})")), "'output' is 9, outside 0 to 4");
  CHECK_THROWS(parse(plan_text(R"({"kind":"view","input":null,"output":2})")), "'input' is absent");
  CHECK_THROWS(parse(plan_text(R"({"kind":"native","kernel":"none","inputs":[],"outputs":[2]})")), "no kernel 'none'");
  CHECK_THROWS(parse(plan_text(R"({"kind":"host","node":2,"inputs":[],"outputs":[2]})")),
               "'node' is 2, outside 0 to 1");
  CHECK_THROWS(parse(plan_text(R"({"kind":"read_dims","input":0,"symbols":[0]})")), "'N' is set by the inputs already");
  CHECK_THROWS(parse(plan_text(R"({"kind":"host","node":0,"inputs":[],"outputs":[2],"binds":[[0,0,1]]})")),
               "'binds' does not agree with the shape of 'c'");
  CHECK_THROWS(parse(plan_text(kCopy, R"({"name":"y","value":2})", R"({"sym":0},{"sym":1})")),
               "constant 'w' has no fixed shape");
  CHECK_THROWS(parse(plan_text(kCopy, R"({"name":"y","value":2})", R"({"sym":0},5)")), "its shape [5] does not make");
  CHECK_THROWS(parse(plan_text(kCopy, R"({"name":"y","value":2})", R"({"sym":2},4)")), "a symbol that does not exist");
  CHECK_THROWS(parse(plan_text(kCopy, R"({"name":"y","value":2})", R"({"sym":0},4,["+",0,2])")), "not earlier");
  CHECK_THROWS(parse(plan_text(kCopy, R"({"name":"y","value":2})", R"({"sym":0},4,["^",0,1])")), "'^' is unknown");
  CHECK_THROWS(parse(plan_text(R"({"kind":"if","cond":0,"then":[)" + kCopy +
                               R"(],"then_results":[2],"else":[],"else_results":[0],"outputs":[3]})")),
               "value 'c' is used where it is not defined");
  CHECK_THROWS(parse(plan_text(
                   R"({"kind":"if","cond":0,"then":[],"then_results":[],"else":[],"else_results":[0],"outputs":[2]})")),
               "do not have as many results");
}

int64_t evaluate(const std::string& dims, int64_t n) {
  const DimTable table(Json::parse("[" + dims + "]"), {"N"});
  std::vector<DimValue> values(table.size());
  table.evaluate(std::vector<DimValue>{DimValue::known(n)}, values);
  return table.require(static_cast<DimId>(table.size()) - 1, values);
}

void evaluates_dimensions() {
  CHECK(evaluate(R"({"sym":0},3,["+",0,1])", 4) == 7);
  CHECK(evaluate(R"({"sym":0},3,["*",0,1])", 4) == 12);
  CHECK(evaluate(R"({"sym":0},3,["//",0,1])", -7) == -3);
  CHECK(evaluate(R"({"sym":0},3,["%",0,1])", -7) == 2);
  CHECK(evaluate(R"({"sym":0},-3,["//",0,1])", 7) == -3);
  CHECK(evaluate(R"({"sym":0},-3,["%",0,1])", 7) == -2);
  CHECK(evaluate(R"({"sym":0},3,["min",0,1])", 4) == 3);
  CHECK(evaluate(R"({"sym":0},3,["max",0,1])", 4) == 4);
  CHECK(evaluate(R"({"sym":0},1,["bcast",0,1])", 4) == 4);
  CHECK(evaluate(R"({"sym":0},4,["bcast",0,1])", 1) == 4);
  CHECK(evaluate(R"({"sym":0},["ne1",0])", 1) == 0);
  CHECK(evaluate(R"({"sym":0},["ne1",0])", 5) == 1);
  CHECK_THROWS(evaluate(R"({"sym":0},0,["//",0,1])", 4), "'N//0' divides by zero");
  CHECK_THROWS(evaluate(R"({"sym":0},["*",0,0])", INT64_MAX), "'N*N' overflows 64 bits");
  CHECK_THROWS(evaluate(R"({"sym":0},-1,["//",0,1])", INT64_MIN), "overflows");
  CHECK(evaluate(R"({"sym":0},-1,["%",0,1])", INT64_MIN) == 0);
  CHECK_THROWS(evaluate(R"({"sym":0},3,["bcast",0,1])", 4), "'bcast(N, 3)' (4 and 3) do not broadcast");
  // 2^60 by doubling: the text of the last entry would be as long.
  std::string doubling = R"({"sym":0})";
  for (int i = 0; i < 60; ++i) doubling += R"(,["+",)" + std::to_string(i) + "," + std::to_string(i) + "]";
  CHECK(evaluate(doubling, 1) == int64_t{1} << 60);
  CHECK_THROWS(evaluate(doubling, 1000), "...' overflows");
}

void plans_memory() {
  std::vector<ArenaBlock> blocks = {{100, 0, 1, 0}, {100, 1, 2, 0}, {64, 2, 3, 0}, {10, 0, 3, 0}, {0, 0, 3, 0}};
  const size_t total = plan_arena(blocks);
  CHECK(total == 128 + 128 + 64);
  for (size_t i = 0; i < blocks.size(); ++i) {
    CHECK(blocks[i].offset % 64 == 0);
    for (size_t j = 0; j < i; ++j) {
      const bool together = blocks[i].first <= blocks[j].last && blocks[j].first <= blocks[i].last;
      const bool apart = blocks[i].offset + blocks[i].size <= blocks[j].offset ||
                         blocks[j].offset + blocks[j].size <= blocks[i].offset;
      CHECK(!together || apart || blocks[i].size == 0 || blocks[j].size == 0);
    }
  }
  std::vector<ArenaBlock> huge = {{size_t{1} << 45, 0, 1, 0}, {size_t{1} << 45, 0, 1, 0}, {64, 0, 1, 0}};
  CHECK_THROWS(plan_arena(huge), "too much memory");
}

// No two values that are needed at the same time overlap, in random plans.
void never_overlaps_live_blocks() {
  std::mt19937_64 random(7);
  for (int round = 0; round < 200; ++round) {
    std::vector<ArenaBlock> blocks(1 + random() % 60);
    size_t sum = 0;
    for (ArenaBlock& block : blocks) {
      block.size = random() % 5000;
      block.first = static_cast<int32_t>(random() % 50);
      block.last = block.first + static_cast<int32_t>(random() % 10);
      sum += block.size + 64;
    }
    const size_t total = plan_arena(blocks);
    CHECK(total <= sum);
    for (size_t i = 0; i < blocks.size(); ++i) {
      CHECK(blocks[i].offset + blocks[i].size <= total);
      for (size_t j = 0; j < i; ++j) {
        const ArenaBlock& a = blocks[i];
        const ArenaBlock& b = blocks[j];
        if (a.size == 0 || b.size == 0 || a.first > b.last || b.first > a.last) continue;
        CHECK(a.offset + a.size <= b.offset || b.offset + b.size <= a.offset);
      }
    }
  }
}

void views_extend_lifetimes() {
  const std::string steps = kAdd + R"(,{"kind":"view","input":2,"output":3},)" +
                            R"({"kind":"object","symbol":"k","args":[3],"dims":[],"extent":1})";
  const Plan plan = parse(plan_text(steps, ""));
  const Liveness liveness(plan);
  CHECK(liveness.root_of(3) == 2);
  CHECK(liveness.lifetime[2].first == 0 && liveness.lifetime[2].last == 2);
  CHECK(liveness.dead_after[2] == std::vector<ValueId>{2});
}

// Parsing and resolving for concrete shapes must survive anything.
void survives_mutations() {
  const std::string steps =
      kAdd + R"(,{"kind":"if","cond":0,"then":[],"then_results":[2],"else":[],"else_results":[0],"outputs":[3]},)" +
      R"({"kind":"shape","output":5,"dims":[0,1]},{"kind":"check","dims":[0,1],"message":"m"},)" +
      R"({"kind":"read_dims","input":5,"symbols":[1]})";
  std::string text =
      plan_text(steps, R"({"name":"y","value":3})", R"({"sym":0},4,2,["*",0,1],["//",3,2],["bcast",0,2])");
  text.insert(text.find("],\n    \"inputs\""), R"(,{"name":"s","dtype":7,"shape":[2],"kind":"temp"})");
  (void)parse(text);
  test::fuzz({text.begin(), text.end()}, 30000, [](const std::vector<uint8_t>& bytes) {
    const Plan plan = parse({bytes.begin(), bytes.end()});
    const Liveness liveness(plan);
    std::vector<DimValue> symbols(plan.dims.symbol_count(), DimValue::known(6));
    const Instance instance(plan, liveness, StepFunctions(static_cast<size_t>(plan.step_count)), symbols, 2);
    CHECK(instance.tensors().size() == plan.values.size());
  });
}

}  // namespace

int main() {
  parses_steps();
  refuses_malformed_plans();
  evaluates_dimensions();
  plans_memory();
  never_overlaps_live_blocks();
  views_extend_lifetimes();
  survives_mutations();
  return 0;
}
