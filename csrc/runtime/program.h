// A loaded artifact.
#pragma once

#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "graphopt/kernel.h"
#include "runtime/arena_pool.h"
#include "runtime/buffer.h"
#include "runtime/elf_loader.h"
#include "runtime/executor.h"
#include "runtime/frame.h"
#include "runtime/instance.h"
#include "runtime/mapped_file.h"
#include "runtime/plan.h"
#include "runtime/thread_pool.h"

namespace graphopt {

// Arrays that do not fit the model's inputs.
class InputError : public Error {
 public:
  using Error::Error;
};

// What the model says about an input or output.
struct ArgumentInfo {
  std::string name;
  DType dtype = DType::kUndefined;
  std::vector<std::string> shape;  // "3", "N", "2*H+1"
};

// An output and its memory.
struct OutputTensor {
  Tensor tensor;
  Buffer memory;
};

struct ProfileRow {
  std::string name;
  std::string kind;
  std::string kernel;
  int32_t depth = 0;
  double microseconds = 0;  // time in the step by itself, per run: the median of the runs
  double calls = 0;         // per run, the mean
};

// Thread-safe: many threads may run it at the same time. One of them at a time gets the thread pool,
// the others run on their own thread alone.
class Program {
 public:
  // `threads` 0: as many as there are processors. `host` may be null. Throw Error.
  static std::unique_ptr<Program> open(const std::string& path, int threads, std::shared_ptr<HostCallback> host);
  static std::unique_ptr<Program> from_bytes(std::span<const uint8_t> bytes, int threads,
                                             std::shared_ptr<HostCallback> host);

  [[nodiscard]] const std::vector<ArgumentInfo>& inputs() const { return inputs_; }
  [[nodiscard]] const std::vector<ArgumentInfo>& outputs() const { return outputs_; }
  [[nodiscard]] const std::vector<std::string>& host_nodes() const { return host_nodes_; }
  [[nodiscard]] int threads() const { return pool_.threads(); }
  // The instruction-set level of the object in use; empty where the plan has no generated code.
  [[nodiscard]] const std::string& object_level() const { return object_level_; }

  // `inputs` in the order of inputs(); used in place where they are 16-byte aligned. Throws InputError
  // on arrays that do not fit, Error on operands that an operator forbids.
  std::vector<OutputTensor> run(std::span<const Tensor> inputs);

  // Runs `runs` times after one run to warm up; a row a step, in order.
  std::vector<ProfileRow> profile(std::span<const Tensor> inputs, int runs);

  // Bytes of the arena for inputs of these shapes (the data pointers are not looked at).
  size_t arena_bytes(std::span<const Tensor> inputs);

 private:
  // A plan resolved for some input shapes, and the frames of runs that are over.
  struct Resolved {
    Resolved(const Plan& plan, const Liveness& liveness, const StepFunctions& functions, std::vector<DimValue> symbols,
             int threads)
        : instance(plan, liveness, functions, std::move(symbols), threads) {}
    Instance instance;
    std::mutex mutex;
    std::vector<std::unique_ptr<Frame>> frames;
  };
  class RunState;

  explicit Program(int threads, std::shared_ptr<HostCallback> host) : pool_(threads), host_(std::move(host)) {}
  void load(std::span<const uint8_t> bytes);
  void load_object(const class ZipReader& zip);
  void find_functions(const Steps& steps);
  [[nodiscard]] std::vector<DimValue> bind_symbols(std::span<const Tensor> inputs) const;
  void check_input(size_t i, const Tensor& given, std::vector<DimValue>& symbols, std::vector<size_t>& binder) const;
  [[nodiscard]] ArgumentInfo describe(const std::string& name, ValueId id) const;
  std::shared_ptr<Resolved> resolve(std::vector<DimValue> symbols);
  std::vector<OutputTensor> run_once(std::span<const Tensor> inputs, StepTimes* times);

  std::unique_ptr<MappedFile> file_;
  Buffer bytes_;  // instead of file_
  ThreadPool pool_;
  std::shared_ptr<HostCallback> host_;
  Plan plan_;
  std::unique_ptr<Liveness> liveness_;
  const uint8_t* weights_ = nullptr;
  std::unique_ptr<LoadedObject> object_;
  std::string object_level_;
  StepFunctions functions_;
  std::vector<ArgumentInfo> inputs_;
  std::vector<ArgumentInfo> outputs_;
  std::vector<std::string> host_nodes_;
  std::mutex cache_mutex_;
  std::list<std::shared_ptr<Resolved>> cache_;  // most recently used first
  ArenaPool arenas_;
};

}  // namespace graphopt
