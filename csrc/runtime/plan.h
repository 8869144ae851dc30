// The execution plan of an artifact, parsed and checked. Immutable.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "graphopt/kernel.h"
#include "graphopt/tensor.h"
#include "runtime/dims.h"

namespace graphopt {

using ValueId = int32_t;
inline constexpr ValueId kNoValue = -1;

struct PlanValue {
  enum class Kind : uint8_t { kInput, kConstant, kTemp };
  std::string name;
  DType dtype = DType::kUndefined;
  std::vector<DimId> shape;
  Kind kind = Kind::kTemp;
  size_t offset = 0;  // of a constant, in the member `weights`
  size_t nbytes = 0;
};

struct Step;
using Steps = std::vector<Step>;

// int symbol(T* args..., int64_t dims..., int64_t begin, int64_t end)
struct ObjectStep {
  std::string symbol;
  std::vector<ValueId> args;
  std::vector<DimId> dims;
  DimId extent = 0;
  int64_t grain = 1;
  std::vector<ValueId> defines;  // the temporaries that appear here first
  // (output, input): the output may take the place of the input where that dies here.
  std::vector<std::pair<ValueId, ValueId>> in_place;
};

// An attribute with parts that are known only once the shapes are.
struct DimAttr {
  std::string name;
  bool list = false;
  std::vector<DimId> dims;
};

struct NativeStep {
  std::string kernel_name;
  KernelFactory factory = nullptr;
  Attrs attrs;
  std::vector<DimAttr> dim_attrs;
  std::unique_ptr<Kernel> kernel;  // made at load where there are no dim_attrs
  std::vector<ValueId> inputs;
  std::vector<ValueId> outputs;
  std::vector<bool> data_dependent;  // per output: its shape is the kernel's to say
};

struct ViewStep {
  ValueId input = kNoValue;
  ValueId output = kNoValue;
};

struct ShapeStep {
  ValueId output = kNoValue;
  std::vector<DimId> dims;
};

struct ReadDimsStep {
  ValueId input = kNoValue;
  std::vector<SymbolId> symbols;
};

struct CheckStep {
  DimId a = 0;
  DimId b = 0;
  bool broadcast = false;
  std::string message;
};

struct HostStep {
  int32_t node = 0;
  std::vector<ValueId> inputs;
  std::vector<ValueId> outputs;
  std::vector<bool> data_dependent;
};

struct Branch {
  Steps steps;
  std::vector<ValueId> results;
};

struct IfStep {
  ValueId condition = kNoValue;
  Branch then_branch;
  Branch else_branch;
  std::vector<ValueId> outputs;
};

// The operands that Loop and Scan share. `outputs` are the final carried values, then the stacks.
struct LoopBody {
  std::vector<ValueId> carried_in;
  std::vector<ValueId> carried;
  Steps steps;
  std::vector<ValueId> carried_out;
  std::vector<ValueId> scan_out;
  std::vector<ValueId> outputs;
};

struct LoopStep {
  ValueId trip = kNoValue;
  ValueId condition = kNoValue;
  ValueId iteration = kNoValue;
  ValueId condition_in = kNoValue;
  ValueId condition_out = kNoValue;
  LoopBody body;
};

struct ScanStep {
  std::vector<ValueId> scan_in;
  std::vector<ValueId> scan_slice;
  std::vector<int64_t> in_axes;
  std::vector<int64_t> in_directions;
  std::vector<int64_t> out_axes;
  std::vector<int64_t> out_directions;
  LoopBody body;
};

struct Step {
  std::string name;
  int32_t index = 0;  // unique among all steps, nested ones included
  int32_t depth = 0;  // 0 outside of any body
  std::variant<ObjectStep, NativeStep, ViewStep, ShapeStep, ReadDimsStep, CheckStep, HostStep, IfStep, LoopStep,
               ScanStep>
      what;
};

// "object", "native", ...
std::string_view step_kind(const Step& step);
// What runs: the symbol, the kernel's name, else the kind.
std::string_view step_kernel(const Step& step);

struct Plan {
  DimTable dims;
  std::vector<PlanValue> values;
  std::vector<ValueId> inputs;
  std::vector<std::pair<std::string, ValueId>> outputs;
  Steps steps;
  int32_t step_count = 0;
  std::map<std::string, std::string> objects;  // instruction-set level -> member
  std::vector<bool> late_symbols;              // set while running, by values that were computed
  std::vector<DimId> late_dims;                // depend on late symbols; in increasing order

  [[nodiscard]] const PlanValue& value(ValueId id) const { return values[static_cast<size_t>(id)]; }

  // Parses and checks the member `plan`. `weights` is the member of that name, `host_nodes` the number
  // of host nodes. Throws Error.
  static Plan parse(std::string_view text, std::span<const uint8_t> weights, size_t host_nodes);
};

}  // namespace graphopt
