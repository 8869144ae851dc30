#include "check.h"
#include "graphopt/kernel.h"
#include "runtime/cpu.h"

using namespace graphopt;

int main() {
  CHECK(cpu_isa_levels().front() == Isa::kPortable);
  CHECK(cpu_isa_levels().back() == cpu_isa());
  CHECK(extension_name(Extension::kVnni) == "avx512_vnni");
  CHECK(extension_name(Extension::kAmxBf16) == "amx_bf16");
  CHECK(cpu_count() >= 1);
  // Each extension comes with those before it, and none without AVX-512.
  bool before = cpu_isa() == Isa::kAvx512;
  for (Extension extension : {Extension::kVnni, Extension::kBf16, Extension::kAmxInt8, Extension::kAmxBf16}) {
    CHECK(before || !cpu_has(extension));
    before = cpu_has(extension);
    CHECK(!extension_name(extension).empty());
  }
  const CacheSizes sizes = cache_sizes();
  CHECK(sizes.l1 >= 4096 && sizes.l2 >= sizes.l1 && sizes.l3 >= sizes.l2);
  CHECK(find_kernel("no such kernel") == nullptr);
  CHECK(find_kernel("") == nullptr);
  return 0;
}
