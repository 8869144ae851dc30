// The step kernel non_max_suppression: boxes by falling score, each kept unless it overlaps a kept one too much.
#include <algorithm>
#include <array>
#include <memory>
#include <vector>

#include "kernels/support/operands.h"

namespace graphopt {

namespace sort {
namespace {

using support::operand;
using support::require;

struct Box {
  float x_min, x_max, y_min, y_max;
  float area;
};

Box corner_box(const float* box) {
  const auto [x_min, x_max] = std::minmax(box[1], box[3]);
  const auto [y_min, y_max] = std::minmax(box[0], box[2]);
  return {x_min, x_max, y_min, y_max, (x_max - x_min) * (y_max - y_min)};
}

Box center_box(const float* box) {
  const float half_width = box[2] / 2;
  const float half_height = box[3] / 2;
  const float x_min = box[0] - half_width;
  const float x_max = box[0] + half_width;
  const float y_min = box[1] - half_height;
  const float y_max = box[1] + half_height;
  return {x_min, x_max, y_min, y_max, (x_max - x_min) * (y_max - y_min)};
}

bool overlaps(const Box& a, const Box& b, float threshold) {
  const float width = std::min(a.x_max, b.x_max) - std::max(a.x_min, b.x_min);
  if (!(width > 0)) return false;
  const float height = std::min(a.y_max, b.y_max) - std::max(a.y_min, b.y_min);
  if (!(height > 0)) return false;
  const float intersection = width * height;
  const float joined = a.area + b.area - intersection;
  if (!(intersection > 0) || !(a.area > 0) || !(b.area > 0) || !(joined > 0)) return false;
  return intersection / joined > threshold;
}

struct Candidate {
  float score;
  int64_t box;
};

// Equal scores: the box with the lower index first. NaN below every number.
bool worse(const Candidate& a, const Candidate& b) {
  const bool a_nan = a.score != a.score;
  const bool b_nan = b.score != b.score;
  if (a_nan != b_nan) return a_nan;
  return a.score < b.score || (!(b.score < a.score) && a.box > b.box);
}

class NonMaxSuppression final : public Kernel {
 public:
  explicit NonMaxSuppression(const Attrs& attrs) {
    const int64_t center = attrs.i("center_point_box", 0);
    require(center == 0 || center == 1, "attribute 'center_point_box' is neither 0 nor 1");
    center_ = center == 1;
  }

  void run(KernelArgs& args) const override {
    const Tensor& boxes = operand(args.inputs, 0, "boxes");
    const Tensor& scores = operand(args.inputs, 1, "scores");
    support::require_dtype(boxes, DType::kF32, "boxes");
    support::require_dtype(scores, DType::kF32, "scores");
    support::require_rank(scores, 3, "scores");
    support::require_shape(boxes, {scores.dim(0), scores.dim(2), 4}, "boxes");
    support::require_dtype(support::result(args.outputs, 0, "selected_indices"), DType::kI64, "selected_indices");
    const Limits limits = read_limits(args.inputs);
    const int64_t classes = scores.dim(1);
    const int64_t count = scores.dim(2);
    const int64_t groups = limits.most == 0 || count == 0 ? 0 : scores.dim(0) * classes;
    std::vector<Box> prepared(static_cast<size_t>(groups > 0 ? scores.dim(0) * count : 0));
    for (size_t i = 0; i < prepared.size(); ++i) {
      prepared[i] =
          center_ ? center_box(boxes.ptr<const float>() + 4 * i) : corner_box(boxes.ptr<const float>() + 4 * i);
    }
    std::vector<std::vector<int64_t>> kept(static_cast<size_t>(groups));
    std::vector<std::vector<Candidate>> candidates(static_cast<size_t>(args.parallel.threads()));
    // Reserved here: a body must not throw.
    for (auto& group : kept) group.reserve(static_cast<size_t>(std::min(limits.most, count)));
    for (auto& list : candidates) list.reserve(static_cast<size_t>(count));
    args.parallel.for_range(groups, support::grain_for(count * 16), [&](int64_t begin, int64_t end, int worker) {
      for (int64_t g = begin; g < end; ++g) {
        select(prepared.data() + g / classes * count, scores.ptr<const float>() + g * count, count, limits,
               candidates[static_cast<size_t>(worker)], kept[static_cast<size_t>(g)]);
      }
    });
    write(args, kept, classes);
  }

 private:
  struct Limits {
    int64_t most;  // boxes of a class of an image
    float overlap;
    bool has_score;
    float score;
  };

  static Limits read_limits(std::span<const Tensor> inputs) {
    Limits limits{0, 0.0F, false, 0.0F};
    const auto given = [&](size_t index) {
      const Tensor tensor = support::optional_operand(inputs, index);
      return tensor.present() && tensor.numel() > 0;
    };
    if (given(2)) limits.most = std::max<int64_t>(0, support::integer_scalar(inputs[2], "max_output_boxes_per_class"));
    if (given(3)) limits.overlap = static_cast<float>(support::real_scalar(inputs[3], "iou_threshold"));
    require(limits.overlap >= 0.0F && limits.overlap <= 1.0F, "iou_threshold is not in [0, 1]");
    limits.has_score = given(4);
    if (limits.has_score) limits.score = static_cast<float>(support::real_scalar(inputs[4], "score_threshold"));
    return limits;
  }

  static void select(const Box* boxes, const float* scores, int64_t count, const Limits& limits,
                     std::vector<Candidate>& candidates, std::vector<int64_t>& kept) {
    candidates.clear();
    for (int64_t i = 0; i < count; ++i) {
      if (!limits.has_score || scores[i] > limits.score) candidates.push_back({scores[i], i});
    }
    // A heap: often only the best few are looked at.
    std::make_heap(candidates.begin(), candidates.end(), worse);
    while (!candidates.empty() && static_cast<int64_t>(kept.size()) < limits.most) {
      std::pop_heap(candidates.begin(), candidates.end(), worse);
      const int64_t next = candidates.back().box;
      candidates.pop_back();
      const bool covered = std::any_of(
          kept.begin(), kept.end(), [&](int64_t other) { return overlaps(boxes[next], boxes[other], limits.overlap); });
      if (!covered) kept.push_back(next);
    }
  }

  static void write(KernelArgs& args, const std::vector<std::vector<int64_t>>& kept, int64_t classes) {
    int64_t total = 0;
    for (const auto& group : kept) total += static_cast<int64_t>(group.size());
    const std::array<int64_t, 2> shape = {total, 3};
    int64_t* to = args.allocator.allocate(0, shape).ptr<int64_t>();
    for (size_t g = 0; g < kept.size(); ++g) {
      for (const int64_t box : kept[g]) {
        *to++ = static_cast<int64_t>(g) / classes;
        *to++ = static_cast<int64_t>(g) % classes;
        *to++ = box;
      }
    }
  }

  bool center_;
};

}  // namespace
}  // namespace sort

std::unique_ptr<Kernel> make_non_max_suppression(const Attrs& attrs) {
  return std::make_unique<sort::NonMaxSuppression>(attrs);
}

}  // namespace graphopt
