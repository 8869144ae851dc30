// Whole programs: artifacts in memory, run by one and by many threads, and mutated.
#include <algorithm>
#include <array>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <new>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "check.h"
#include "runtime/program.h"
#include "zip_writer.h"

using namespace graphopt;
using namespace graphopt::test;

// Sanitizers have an operator new of their own.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define COUNTS_ALLOCATIONS 0
#else
#define COUNTS_ALLOCATIONS 1
#endif

// Of this thread.
static thread_local int64_t allocations = 0;

#if COUNTS_ALLOCATIONS
void* operator new(size_t size) {
  ++allocations;
  if (void* memory = std::malloc(size == 0 ? 1 : size)) return memory;
  throw std::bad_alloc();
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t /*size*/) noexcept { std::free(memory); }
#endif

namespace {

Bytes read_file(const char* path) {
  std::ifstream file(path, std::ios::binary);
  CHECK(file.good());
  return {std::istreambuf_iterator<char>(file), {}};
}

Bytes artifact(const std::string& plan, const std::string& host = "[]") {
  return write_zip({{"manifest.json", to_bytes(R"({"format_version":1})")},
                    {"plan", to_bytes(plan)},
                    {"weights", Bytes(64, 1)},
                    {"o", read_file(TEST_OBJECT)},
                    {"host.json", to_bytes(host)}});
}

Tensor tensor(std::vector<float>& data, std::initializer_list<int64_t> shape) {
  Tensor t;
  t.data = data.data();
  t.dtype = DType::kF32;
  t.rank = static_cast<int32_t>(shape.size());
  std::copy(shape.begin(), shape.end(), t.shape.begin());
  return t;
}

// y = ((a + b) * N + a) through views and a step with an in-place output; z = exp(y) + table.
const char* const kChain = R"({"version":1,"symbols":["N"],"dims":[{"sym":0},4,["*",0,1]],"values":[
  {"name":"a","dtype":1,"shape":[0,1],"kind":"input"},
  {"name":"b","dtype":1,"shape":[0,1],"kind":"input"},
  {"name":"s","dtype":1,"shape":[0,1],"kind":"temp"},
  {"name":"flat","dtype":1,"shape":[2],"kind":"temp"},
  {"name":"t","dtype":1,"shape":[2],"kind":"temp"},
  {"name":"y","dtype":1,"shape":[0,1],"kind":"temp"},
  {"name":"z","dtype":1,"shape":[0,1],"kind":"temp"}],
  "inputs":[0,1],"outputs":[{"name":"y","value":5},{"name":"z","value":6}],"steps":[
  {"kind":"object","symbol":"k_add","args":[0,1,2],"dims":[],"extent":2,"grain":4,"name":"add"},
  {"kind":"view","input":2,"output":3,"name":"flatten"},
  {"kind":"object","symbol":"k_scale","args":[3,4],"dims":[0],"extent":2,"grain":4,"inplace":[[4,3]],"name":"scale"},
  {"kind":"object","symbol":"k_add","args":[4,0,5],"dims":[],"extent":2,"grain":4,"name":"again"},
  {"kind":"object","symbol":"k_exp_table","args":[5,6],"dims":[],"extent":2,"grain":4,"name":"exp"}],
  "objects":{"x86-64":"o"}})";

void check_chain(Program& program, int64_t n, float seed) {
  const auto count = static_cast<size_t>(4 * n);
  std::vector<float> a(count);
  std::vector<float> b(count);
  for (size_t i = 0; i < count; ++i) {
    a[i] = seed / static_cast<float>(i + 1);
    b[i] = -0.5F * a[i];
  }
  const std::array<Tensor, 2> inputs = {tensor(a, {n, 4}), tensor(b, {n, 4})};
  const std::vector<OutputTensor> outputs = program.run(inputs);
  CHECK(outputs.size() == 2 && outputs[0].tensor.rank == 2 && outputs[0].tensor.dim(0) == n);
  for (size_t i = 0; i < count; ++i) {
    const float y = (a[i] + b[i]) * static_cast<float>(n) + a[i];
    CHECK(outputs[0].tensor.ptr<float>()[i] == y);
    CHECK(outputs[1].tensor.ptr<float>()[i] > 0);
  }
}

void runs_a_chain() {
  const auto program = Program::from_bytes(artifact(kChain), 2, nullptr);
  CHECK(program->inputs()[0].name == "a" && program->inputs()[0].shape == (std::vector<std::string>{"N", "4"}));
  CHECK(program->object_level() == "x86-64" && program->threads() == 2);
  for (const int64_t n : {1, 2, 100, 0, 2}) check_chain(*program, n, 1.0F);
}

// y = x + x + ... as a chain of `steps` steps.
std::string long_chain(int steps) {
  std::string values = R"({"name":"x","dtype":1,"shape":[0],"kind":"input"})";
  std::string list;
  for (int i = 1; i <= steps; ++i) {
    const std::string id = std::to_string(i);
    values += R"(,{"name":"t)" + id + R"(","dtype":1,"shape":[0],"kind":"temp"})";
    list += (i > 1 ? "," : "") + std::string(R"({"kind":"object","symbol":"k_add","args":[)") + std::to_string(i - 1) +
            ",0," + id + R"(],"dims":[],"extent":0,"grain":8,"name":"add"})";
  }
  return R"({"version":1,"symbols":["N"],"dims":[{"sym":0}],"values":[)" + values +
         R"(],"inputs":[0],"outputs":[{"name":"y","value":)" + std::to_string(steps) + R"(}],"steps":[)" + list +
         R"(],"objects":{"x86-64":"o"}})";
}

// The steps of a plan without dynamic values allocate nothing: long plans as little as short ones.
void steps_allocate_nothing() {
  std::vector<int64_t> counts;
  for (const int steps : {1, 100}) {
    const auto program = Program::from_bytes(artifact(long_chain(steps)), 2, nullptr);
    std::vector<float> x(100, 1.0F);
    const std::array<Tensor, 1> inputs = {tensor(x, {100})};
    program->run(inputs);
    const int64_t before = allocations;
    const std::vector<OutputTensor> outputs = program->run(inputs);
    counts.push_back(allocations - before);
    CHECK(outputs[0].tensor.ptr<float>()[99] == static_cast<float>(steps + 1));
  }
  CHECK(counts[0] == counts[1] && counts[0] < 10);
  CHECK(COUNTS_ALLOCATIONS == 0 || counts[0] > 0);
}

// More shapes than the plan cache holds, from several threads that share one program and its pool.
void many_threads_share_a_program() {
  const auto program = Program::from_bytes(artifact(kChain), 3, nullptr);
  std::vector<std::thread> threads;
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&program, t] {
      for (int i = 0; i < 150; ++i) check_chain(*program, 1 + (t * 7 + i) % 25, static_cast<float>(t + 1));
    });
  }
  for (std::thread& thread : threads) thread.join();
}

void refuses_wrong_inputs() {
  const auto program = Program::from_bytes(artifact(kChain), 1, nullptr);
  std::vector<float> data(40);
  const auto run = [&](std::vector<Tensor> inputs) { return program->run(inputs); };
  CHECK_THROWS(run({tensor(data, {2, 4})}), "expected 2 inputs, got 1");
  CHECK_THROWS(run({tensor(data, {2, 5}), tensor(data, {2, 4})}),
               "input 'a': expected float32[N, 4], got float32[2, 5]");
  CHECK_THROWS(run({tensor(data, {2, 4}), tensor(data, {3, 4})}), "got float32[3, 4]: N is 2 in input 'a'");
  Tensor integers = tensor(data, {2, 4});
  integers.dtype = DType::kI32;
  CHECK_THROWS(run({integers, tensor(data, {2, 4})}), "got int32[2, 4]");
  Tensor negative = tensor(data, {-2, 4});
  CHECK_THROWS(run({negative, negative}), "got float32[-2, 4]");
  Tensor huge = tensor(data, {int64_t{1} << 60, 4});
  CHECK_THROWS(run({huge, huge}), "got float32[1152921504606846976, 4]");
}

void refuses_bad_artifacts() {
  const auto load = [](const Bytes& bytes) { return Program::from_bytes(bytes, 1, nullptr); };
  CHECK_THROWS(load({}), "not a graphopt artifact");
  CHECK_THROWS(load(write_zip({{"manifest.json", to_bytes("{}")}})), "'format_version' is missing");
  CHECK_THROWS(load(write_zip({{"manifest.json", to_bytes(R"({"format_version":7})")}})), "format version is 7");
  CHECK_THROWS(load(write_zip({{"manifest.json", to_bytes(R"({"format_version":1})")}})), "'weights' is missing");
  std::string plan = kChain;
  plan.replace(plan.find("k_exp_table"), 11, "k_something");
  CHECK_THROWS(load(artifact(plan)), "step 'exp' calls 'k_something', which the generated code does not have");
  plan = kChain;
  plan.replace(plan.find("x86-64"), 6, "aarch9");
  CHECK_THROWS(load(artifact(plan)), "none of the instruction-set levels that it was compiled for (aarch9)");
  CHECK_THROWS(Program::open("/nowhere/m.gopt", 1, nullptr), "cannot read '/nowhere/m.gopt': No such file");
}

void profiles_steps() {
  const auto program = Program::from_bytes(artifact(kChain), 2, nullptr);
  std::vector<float> a(400);
  std::vector<float> b(400);
  const std::array<Tensor, 2> inputs = {tensor(a, {100, 4}), tensor(b, {100, 4})};
  const std::vector<ProfileRow> rows = program->profile(inputs, 3);
  CHECK(rows.size() == 5 && rows[0].name == "add" && rows[1].kind == "view" && rows[4].kernel == "k_exp_table");
  for (const ProfileRow& row : rows) CHECK(row.calls == 1 && row.microseconds >= 0);
}

// Concatenates its input with itself. Gives up after many calls, since mutated loops may not end.
class DoublingHost final : public HostCallback {
 public:
  void run(int32_t node, std::span<const Tensor> inputs, std::span<Tensor> outputs,
           OutputAllocator& allocator) override {
    if (++calls_ > 200) throw Error("too many calls");
    if (node != 0 || inputs.empty() || outputs.empty() || !outputs[0].present()) throw Error("not this node");
    const Tensor& input = inputs[0];
    if (!input.present() || input.data == nullptr || input.rank != 1 || input.dtype != outputs[0].dtype) {
      throw Error("not this input");
    }
    const int64_t size = 2 * input.dim(0);
    if (size > 1 << 16) throw Error("too large");
    const Tensor& output = allocator.allocate(0, std::span(&size, 1));
    if (input.nbytes() == 0) return;
    std::memcpy(output.data, input.data, input.nbytes());
    std::memcpy(output.ptr<uint8_t>() + input.nbytes(), input.data, input.nbytes());
  }

 private:
  int calls_ = 0;
};

// Control flow without generated code, which trusts its arguments: a loop that doubles x `trip` times
// and stacks the counter, a scan over rows of m, a reshape by a tensor, an if.
const char* const kControl = R"({"version":1,"symbols":["N","K","L","R","T","P","Q","B"],"dims":[
  {"sym":0},{"sym":1},{"sym":2},{"sym":3},{"sym":4},2,3,{"sym":5},{"sym":6},{"sym":7},["*",7,8],1],"values":[
  {"name":"x","dtype":1,"shape":[0],"kind":"input"},
  {"name":"trip","dtype":7,"shape":[],"kind":"input"},
  {"name":"m","dtype":1,"shape":[5,6],"kind":"input"},
  {"name":"to","dtype":7,"shape":[5],"kind":"input"},
  {"name":"i","dtype":7,"shape":[],"kind":"temp"},
  {"name":"go","dtype":9,"shape":[],"kind":"temp"},
  {"name":"s","dtype":1,"shape":[1],"kind":"temp"},
  {"name":"ss","dtype":1,"shape":[2],"kind":"temp"},
  {"name":"out","dtype":1,"shape":[3],"kind":"temp"},
  {"name":"counts","dtype":7,"shape":[4],"kind":"temp"},
  {"name":"state","dtype":1,"shape":[6],"kind":"temp"},
  {"name":"row","dtype":1,"shape":[6],"kind":"temp"},
  {"name":"last","dtype":1,"shape":[6],"kind":"temp"},
  {"name":"rows","dtype":1,"shape":[6,5],"kind":"temp"},
  {"name":"view","dtype":1,"shape":[7,8],"kind":"temp"},
  {"name":"size","dtype":7,"shape":[5],"kind":"temp"},
  {"name":"chosen","dtype":1,"shape":[9],"kind":"temp"},
  {"name":"one","dtype":1,"shape":[11],"kind":"constant","offset":0,"nbytes":4},
  {"name":"flat","dtype":1,"shape":[10],"kind":"temp"},
  {"name":"column","dtype":1,"shape":[5],"kind":"temp"}],
  "inputs":[0,1,2,3],
  "outputs":[{"name":"out","value":8},{"name":"counts","value":9},{"name":"last","value":12},{"name":"rows","value":13},
             {"name":"view","value":14},{"name":"size","value":15},{"name":"chosen","value":16},{"name":"x","value":0}],
  "steps":[
  {"kind":"loop","trip":1,"cond":null,"iter":4,"cond_in":5,"carried_in":[0],"carried":[6],"body":[
     {"kind":"host","node":0,"inputs":[6],"outputs":[7],"binds":[[0,0,2]]}],
   "cond_out":5,"carried_out":[7],"scan_out":[4],"outputs":[8,9]},
  {"kind":"scan","carried_in":[],"carried":[],"scan_in":[2],"scan_slice":[11],"body":[],"carried_out":[],"scan_out":[11],
   "outputs":[13],"in_axes":[0],"in_directions":[1],"out_axes":[1],"out_directions":[0]},
  {"kind":"scan","carried_in":[0],"carried":[10],"scan_in":[2],"scan_slice":[19],"body":[],"carried_out":[10],
   "scan_out":[],"outputs":[12],"in_axes":[1]},
  {"kind":"read_dims","input":3,"symbols":[5,6]},
  {"kind":"view","input":0,"output":14},
  {"kind":"shape","output":15,"dims":[7,8]},
  {"kind":"check","dims":[0,10],"message":"sizes"},
  {"kind":"view","input":14,"output":18},
  {"kind":"if","cond":1,"then":[],"then_results":[18],"else":[],"else_results":[17],"outputs":[16]}],
  "objects":{}})";

std::vector<OutputTensor> run_control(const std::string& plan) {
  const auto program = Program::from_bytes(artifact(plan, R"(["double"])"), 1, std::make_shared<DoublingHost>());
  std::vector<float> x = {1, 2, 3};
  std::vector<float> m = {1, 2, 3, 4, 5, 6};
  std::vector<int64_t> numbers = {4, 3, 1};
  Tensor trip;
  trip.dtype = DType::kI64;
  trip.data = numbers.data();
  Tensor to = trip;
  to.rank = 1;
  to.shape[0] = 2;
  to.data = numbers.data() + 1;
  // Mutated plans expect other arrays: give each input what it asks for where that is one of these.
  const std::array<Tensor, 4> inputs = {tensor(x, {3}), trip, tensor(m, {2, 3}), to};
  return program->run(inputs);
}

void runs_control_flow() {
  const std::vector<OutputTensor> outputs = run_control(kControl);
  CHECK(outputs[0].tensor.dim(0) == 3 * 16);
  CHECK(outputs[0].tensor.ptr<float>()[47] == 3);
  CHECK(outputs[1].tensor.dim(0) == 4 && outputs[1].tensor.ptr<int64_t>()[3] == 3);
  CHECK(outputs[2].tensor.ptr<float>()[2] == 3);
  const float rows[6] = {4, 1, 5, 2, 6, 3};
  CHECK(std::memcmp(outputs[3].tensor.data, rows, sizeof rows) == 0);
  CHECK(outputs[4].tensor.dim(0) == 3 && outputs[4].tensor.dim(1) == 1);
  CHECK(outputs[5].tensor.ptr<int64_t>()[0] == 3 && outputs[5].tensor.ptr<int64_t>()[1] == 1);
  CHECK(outputs[6].tensor.dim(0) == 3 && outputs[6].tensor.ptr<float>()[1] == 2);
}

// Replaces some integers of the plan: ids, dimensions, types, axes.
std::string mutate_numbers(std::mt19937_64& random) {
  std::string text = kControl;
  const size_t edits = 1 + random() % 3;
  for (size_t edit = 0; edit < edits; ++edit) {
    std::vector<std::pair<size_t, size_t>> numbers;
    for (size_t i = 0; i < text.size(); ++i) {
      if (text[i] < '0' || text[i] > '9') continue;
      const size_t begin = i;
      while (text[i] >= '0' && text[i] <= '9') ++i;
      numbers.emplace_back(begin, i - begin);
    }
    const auto [at, length] = numbers[random() % numbers.size()];
    constexpr const char* kExtremes[] = {"-1", "9223372036854775807", "35184372088832", "1000", "26", "9", "16"};
    const std::string fresh =
        random() % 4 == 0 ? kExtremes[random() % std::size(kExtremes)] : std::to_string(random() % 20);
    text.replace(at, length, fresh);
  }
  return text;
}

void survives_mutated_plans() {
  std::mt19937_64 random(11);
  int ran = 0;
#ifdef __SANITIZE_THREAD__
  constexpr int kRounds = 100;  // one thread: nothing for that sanitizer to find
#else
  constexpr int kRounds = 5000;
#endif
  for (int round = 0; round < kRounds; ++round) {
    try {
      run_control(mutate_numbers(random));
      ++ran;
    } catch (const Error&) {
    }
  }
  CHECK(ran > kRounds / 100);  // the mutations are not all refused at once
}

}  // namespace

int main() {
  runs_a_chain();
  steps_allocate_nothing();
  many_threads_share_a_program();
  refuses_wrong_inputs();
  refuses_bad_artifacts();
  profiles_steps();
  runs_control_flow();
  survives_mutated_plans();
  return 0;
}
