// Which values share memory, and from which step to which each memory is needed.
#pragma once

#include <cstdint>
#include <vector>

#include "runtime/plan.h"

namespace graphopt {

// Positions number the steps in order, those of bodies between their container's first and last
// position. Both ends are included, so a step's operands and results never share memory by accident.
struct Lifetime {
  int32_t first = -1;  // -1: never used
  int32_t last = -1;
};

struct Liveness {
  // The value whose memory each value lives in: its own, or that of what it is a view of.
  std::vector<ValueId> root;
  // By root; other entries are unused.
  std::vector<Lifetime> lifetime;
  // By step index: the position at which the step begins.
  std::vector<int32_t> position;
  // By step index: roots that nobody needs after the step.
  std::vector<std::vector<ValueId>> dead_after;
  // By root: the depth of the body that defines it; 0 outside of bodies.
  std::vector<int32_t> depth;

  explicit Liveness(const Plan& plan);

  [[nodiscard]] ValueId root_of(ValueId id) const { return root[static_cast<size_t>(id)]; }
};

}  // namespace graphopt
