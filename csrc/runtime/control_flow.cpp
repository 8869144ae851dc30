// If, Loop and Scan.
#include <algorithm>
#include <cstring>
#include <limits>
#include <utility>

#include "runtime/dtype.h"
#include "runtime/executor.h"

namespace graphopt {
namespace {

std::span<const int64_t> shape_of(const Tensor& tensor) {
  return {tensor.shape.data(), static_cast<size_t>(tensor.rank)};
}

bool read_condition(const Tensor& tensor) {
  if (tensor.numel() != 1) throw Error("a condition must have one element, not shape " + shape_text(shape_of(tensor)));
  return read_integer(tensor, 0) != 0;
}

void copy_bytes(void* to, const void* from, size_t count) {
  if (count > 0) std::memcpy(to, from, count);
}

// Copies slice `index` of `whole` along `axis` to (or from) `part`, which lies densely in memory.
void copy_slice(const Tensor& whole, void* part, int64_t axis, int64_t index, bool into_whole) {
  int64_t outer = 1;
  for (int64_t i = 0; i < axis; ++i) outer *= whole.shape[static_cast<size_t>(i)];
  auto inner = static_cast<int64_t>(element_size(whole.dtype));
  for (int64_t i = axis + 1; i < whole.rank; ++i) inner *= whole.shape[static_cast<size_t>(i)];
  const int64_t length = whole.shape[static_cast<size_t>(axis)];
  for (int64_t i = 0; i < outer; ++i) {
    uint8_t* const there = whole.ptr<uint8_t>() + (i * length + index) * inner;
    uint8_t* const here = static_cast<uint8_t*>(part) + i * inner;
    if (into_whole) {
      copy_bytes(there, here, static_cast<size_t>(inner));
    } else {
      copy_bytes(here, there, static_cast<size_t>(inner));
    }
  }
}

}  // namespace

// --- moving values between bodies ---

// Whether `to` may take the memory of `from` instead of a copy: both dynamic, and `from` computed in
// the body that ends here, so that nobody else needs it.
bool Executor::may_take(ValueId from, ValueId to, int32_t body_depth) const {
  const ValueId root = liveness_.root_of(from);
  if (instance_.value(to).place != Place::kDynamic || instance_.value(root).place != Place::kDynamic) return false;
  const Buffer& buffer = frame_.dynamic[static_cast<size_t>(root)];
  return !buffer.empty() && liveness_.depth[static_cast<size_t>(root)] == body_depth &&
         buffer.data() == frame_.tensor(from).data;
}

void Executor::transfer(ValueId from, ValueId to, int32_t body_depth) {
  check_shape(to, shape_of(frame_.tensor(from)));
  if (may_take(from, to, body_depth)) {
    Buffer& target = frame_.dynamic[static_cast<size_t>(to)];
    target = std::move(frame_.dynamic[static_cast<size_t>(liveness_.root_of(from))]);
    frame_.tensor(to).data = target.data();
    return;
  }
  allocate_dynamic(to);
  copy_bytes(frame_.tensor(to).data, frame_.tensor(from).data, frame_.tensor(from).nbytes());
}

void Executor::run(const IfStep& what, const StepInfo& /*info*/) {
  const int32_t body_depth = depth_ + 1;
  const Branch& branch = read_condition(frame_.tensor(what.condition)) ? what.then_branch : what.else_branch;
  run_steps(branch.steps);
  for (size_t i = 0; i < what.outputs.size(); ++i) {
    bind_shape(what.outputs[i], shape_of(frame_.tensor(branch.results[i])));
  }
  for (size_t i = 0; i < what.outputs.size(); ++i) transfer(branch.results[i], what.outputs[i], body_depth);
}

// --- carried values ---

// Where a carried value's own memory is, as opposed to that of its initial value.
void* Executor::own_memory(ValueId id) const {
  const ValueInfo& info = instance_.value(id);
  if (info.place == Place::kDynamic) return frame_.dynamic[static_cast<size_t>(id)].data();
  return frame_.arena() + info.offset;
}

// The first iteration reads the initial values where they are.
void Executor::begin_carried(const LoopBody& body) {
  for (size_t i = 0; i < body.carried.size(); ++i) {
    bind_shape(body.carried[i], shape_of(frame_.tensor(body.carried_in[i])));
  }
  for (size_t i = 0; i < body.carried.size(); ++i) {
    check_shape(body.carried[i], shape_of(frame_.tensor(body.carried_in[i])));
    frame_.tensor(body.carried[i]).data = frame_.tensor(body.carried_in[i]).data;
  }
}

// carried = carried_out. A body may hand one carried value on as another (a rotation, say): what lies
// in memory that is about to be overwritten is set aside first.
void Executor::advance_carried(const LoopBody& body, int32_t body_depth) {
  const size_t count = body.carried.size();
  std::vector<Tensor> sources(count);
  std::vector<Buffer> aside(count);
  for (size_t i = 0; i < count; ++i) {
    sources[i] = frame_.tensor(body.carried_out[i]);
    for (size_t j = 0; j < count; ++j) {
      const Tensor& target = frame_.tensor(body.carried[j]);
      const auto* const begin = static_cast<const uint8_t*>(own_memory(body.carried[j]));
      const auto* const data = static_cast<const uint8_t*>(sources[i].data);
      const bool inside = begin != nullptr && data >= begin && data < begin + std::max<size_t>(target.nbytes(), 1);
      if (!inside || (i == j && data == begin)) continue;
      aside[i] = Buffer(sources[i].nbytes());
      copy_bytes(aside[i].data(), sources[i].data, sources[i].nbytes());
      sources[i].data = aside[i].data();
      break;
    }
  }
  for (size_t i = 0; i < count; ++i) bind_shape(body.carried[i], shape_of(sources[i]));
  for (size_t i = 0; i < count; ++i) {
    const ValueId to = body.carried[i];
    const ValueId from = body.carried_out[i];
    const bool unchanged = sources[i].data == frame_.tensor(to).data;
    check_shape(to, shape_of(sources[i]));
    if (unchanged) continue;
    if (aside[i].empty() && may_take(from, to, body_depth)) {
      Buffer& target = frame_.dynamic[static_cast<size_t>(to)];
      target = std::move(frame_.dynamic[static_cast<size_t>(liveness_.root_of(from))]);
      frame_.tensor(to).data = target.data();
      continue;
    }
    allocate_dynamic(to);
    frame_.tensor(to).data = own_memory(to);
    copy_bytes(frame_.tensor(to).data, sources[i].data, sources[i].nbytes());
  }
}

void Executor::finish_carried(const LoopBody& body) {
  for (size_t i = 0; i < body.carried.size(); ++i) {
    if (body.outputs[i] != kNoValue) bind_shape(body.outputs[i], shape_of(frame_.tensor(body.carried[i])));
  }
  for (size_t i = 0; i < body.carried.size(); ++i) {
    if (body.outputs[i] != kNoValue) transfer(body.carried[i], body.outputs[i], depth_ + 1);
  }
}

// --- stacked outputs ---

// The values that a body's iterations give for one scan output, stacked along an axis. Where the number
// of iterations is not known before, the memory grows.
class Executor::ScanStack {
 public:
  // `length` < 0: unknown; the axis must be 0 then.
  ScanStack(Executor& executor, ValueId element, ValueId output, int64_t axis, bool reversed, int64_t length)
      : executor_(executor), element_(element), output_(output), axis_(axis), reversed_(reversed), length_(length) {
    if (output_ == kNoValue) return;
    late_ = executor_.instance_.value(output_).place == Place::kDynamic;
  }

  void push() {
    if (output_ == kNoValue) return;
    const Tensor& element = executor_.frame_.tensor(element_);
    if (count_ == 0) begin(element);
    if (!std::equal(whole_shape_.begin(), whole_shape_.end(), shape_of(element).begin(), shape_of(element).end())) {
      throw Error("iterations give '" + executor_.plan_.value(element_).name + "' different shapes");
    }
    if (length_ < 0) {
      append(element);
    } else {
      if (count_ >= length_) throw Error("there are more iterations than the output has room for");
      copy_slice(whole_, element.data, axis_, reversed_ ? length_ - 1 - count_ : count_, true);
    }
    ++count_;
  }

  void finish() {
    if (output_ == kNoValue) return;
    if (count_ == 0) return finish_empty();
    if (length_ >= 0) {
      if (count_ != length_) throw Error("there are fewer iterations than the output has room for");
      return;
    }
    whole_.shape[0] = count_;
    executor_.adopt_shape(output_, shape_of(whole_));
    executor_.frame_.tensor(output_).data = memory_.data();
    executor_.frame_.dynamic[static_cast<size_t>(output_)] = std::move(memory_);
  }

 private:
  void begin(const Tensor& element) {
    whole_shape_.assign(element.shape.begin(), element.shape.begin() + element.rank);
    whole_ = element;
    whole_.rank = element.rank + 1;
    if (whole_.rank > kMaxRank) throw Error("a scan output has too many dimensions");
    std::copy_backward(element.shape.begin() + axis_, element.shape.begin() + element.rank,
                       whole_.shape.begin() + whole_.rank);
    if (!late_) {
      const Tensor& planned = executor_.frame_.tensor(output_);
      length_ = planned.shape[static_cast<size_t>(axis_)];
    }
    whole_.shape[static_cast<size_t>(axis_)] = std::max<int64_t>(length_, 0);
    whole_.data = nullptr;
    if (length_ < 0) return;
    executor_.adopt_shape(output_, shape_of(whole_));
    executor_.allocate_dynamic(output_);
    whole_.data = executor_.frame_.tensor(output_).data;
  }

  void append(const Tensor& element) {
    const size_t bytes = element.nbytes();
    const size_t used = static_cast<size_t>(count_) * bytes;
    if (memory_.size() < used + bytes || memory_.empty()) {
      Buffer larger(std::max(2 * memory_.size(), used + bytes));
      copy_bytes(larger.data(), memory_.data(), used);
      memory_ = std::move(larger);
    }
    copy_bytes(static_cast<uint8_t*>(memory_.data()) + used, element.data, bytes);
  }

  // No iteration says what the shape of an element is: what the plan knows, else 0.
  void finish_empty() {
    if (!late_) {
      if (executor_.frame_.tensor(output_).shape[static_cast<size_t>(axis_)] != 0) {
        throw Error("there are fewer iterations than the output has room for");
      }
      return;
    }
    const PlanValue& value = executor_.plan_.value(output_);
    std::vector<int64_t> shape(value.shape.size(), 0);
    for (size_t axis = 0; axis < shape.size(); ++axis) {
      const DimValue& dim = executor_.frame_.dims[static_cast<size_t>(value.shape[axis])];
      if (dim.is_known() && static_cast<int64_t>(axis) != axis_) shape[axis] = dim.value;
    }
    executor_.adopt_shape(output_, shape);
    executor_.allocate_dynamic(output_);
  }

  Executor& executor_;
  ValueId element_;
  ValueId output_;
  int64_t axis_;
  bool reversed_;
  int64_t length_;
  bool late_ = false;
  int64_t count_ = 0;
  std::vector<int64_t> whole_shape_;  // of an element
  Tensor whole_;
  Buffer memory_;
};

// --- Loop ---

void Executor::run(const LoopStep& what, const StepInfo& /*info*/) {
  const LoopBody& body = what.body;
  const int32_t depth = depth_;
  int64_t trip = std::numeric_limits<int64_t>::max();
  if (what.trip != kNoValue) {
    const Tensor& tensor = frame_.tensor(what.trip);
    if (tensor.numel() != 1) throw Error("the trip count must have one element");
    trip = read_integer(tensor, 0);
  }
  bool go_on = what.condition == kNoValue || read_condition(frame_.tensor(what.condition));
  std::vector<ScanStack> stacks;
  for (size_t i = 0; i < body.scan_out.size(); ++i) {
    stacks.emplace_back(*this, body.scan_out[i], body.outputs[body.carried.size() + i], 0, false, -1);
  }
  begin_carried(body);
  if (what.iteration != kNoValue) define(what.iteration);
  if (what.condition_in != kNoValue) define(what.condition_in);
  for (int64_t i = 0; i < trip && go_on; ++i) {
    if (what.iteration != kNoValue) write_number(frame_.tensor(what.iteration), 0, i);
    if (what.condition_in != kNoValue) write_number(frame_.tensor(what.condition_in), 0, 1);
    run_steps(body.steps);
    depth_ = depth;
    for (ScanStack& stack : stacks) stack.push();
    go_on = what.condition_out == kNoValue || read_condition(frame_.tensor(what.condition_out));
    advance_carried(body, depth + 1);
  }
  finish_carried(body);
  for (ScanStack& stack : stacks) stack.finish();
}

// --- Scan ---

void Executor::slice_scan_inputs(const ScanStep& what, int64_t iteration, int64_t length) {
  for (size_t i = 0; i < what.scan_in.size(); ++i) {
    const Tensor& whole = frame_.tensor(what.scan_in[i]);
    const int64_t index = what.in_directions[i] != 0 ? length - 1 - iteration : iteration;
    const ValueId slice = what.scan_slice[i];
    Tensor& part = frame_.tensor(slice);
    if (iteration == 0) {
      std::vector<int64_t> shape(shape_of(whole).begin(), shape_of(whole).end());
      shape.erase(shape.begin() + what.in_axes[i]);
      adopt_shape(slice, shape);
    }
    // Slices along the first axis are used in place where that keeps them as aligned as inputs are.
    if (what.in_axes[i] == 0 && part.nbytes() % kInputAlignment == 0) {
      part.data = whole.ptr<uint8_t>() + index * static_cast<int64_t>(part.nbytes());
      continue;
    }
    if (iteration == 0) {
      allocate_dynamic(slice);
      part.data = own_memory(slice);
    }
    copy_slice(whole, part.data, what.in_axes[i], index, false);
  }
}

void Executor::run(const ScanStep& what, const StepInfo& /*info*/) {
  const LoopBody& body = what.body;
  const int32_t depth = depth_;
  int64_t length = -1;
  for (size_t i = 0; i < what.scan_in.size(); ++i) {
    const int64_t own = frame_.tensor(what.scan_in[i]).dim(static_cast<int>(what.in_axes[i]));
    if (length >= 0 && own != length) {
      throw Error("the scan inputs have " + std::to_string(length) + " and " + std::to_string(own) + " slices");
    }
    length = own;
  }
  std::vector<ScanStack> stacks;
  for (size_t i = 0; i < body.scan_out.size(); ++i) {
    stacks.emplace_back(*this, body.scan_out[i], body.outputs[body.carried.size() + i], what.out_axes[i],
                        what.out_directions[i] != 0, length);
  }
  begin_carried(body);
  for (int64_t i = 0; i < length; ++i) {
    slice_scan_inputs(what, i, length);
    run_steps(body.steps);
    depth_ = depth;
    for (ScanStack& stack : stacks) stack.push();
    advance_carried(body, depth + 1);
  }
  finish_carried(body);
  for (ScanStack& stack : stacks) stack.finish();
}

}  // namespace graphopt
