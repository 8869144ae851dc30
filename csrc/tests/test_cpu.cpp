#include "check.h"
#include "graphopt/kernel.h"
#include "runtime/cpu.h"

using namespace graphopt;

int main() {
  CHECK(cpu_isa_levels().front() == Isa::kPortable);
  CHECK(cpu_isa_levels().back() == cpu_isa());
  CHECK(cpu_count() >= 1);
  const CacheSizes sizes = cache_sizes();
  CHECK(sizes.l1 >= 4096 && sizes.l2 >= sizes.l1 && sizes.l3 >= sizes.l2);
  CHECK(find_kernel("no such kernel") == nullptr);
  CHECK(find_kernel("") == nullptr);
  return 0;
}
