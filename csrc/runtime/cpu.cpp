#include "runtime/cpu.h"

#include <cpuid.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <string>

#include "graphopt/kernel.h"

namespace graphopt {
namespace {

constexpr std::string_view kBf16 = "avx512_bf16";

constexpr bool bit(uint64_t word, int index) { return ((word >> index) & 1U) != 0; }

// XCR0: the register state that the operating system saves. Needs OSXSAVE.
uint64_t read_xcr0() {
  uint32_t low = 0;
  uint32_t high = 0;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (static_cast<uint64_t>(high) << 32U) | low;
}

Isa detect() {
  uint32_t a = 0;
  uint32_t b = 0;
  uint32_t c = 0;
  uint32_t d = 0;
  if (__get_cpuid(1, &a, &b, &c, &d) == 0) return Isa::kPortable;
  const bool fma = bit(c, 12);
  const bool osxsave = bit(c, 27);
  const bool avx = bit(c, 28);
  const bool f16c = bit(c, 29);
  if (!osxsave || !avx) return Isa::kPortable;
  const uint64_t xcr0 = read_xcr0();
  constexpr uint64_t kYmmState = 0x06;
  constexpr uint64_t kZmmState = 0xe6;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0) return Isa::kPortable;
  const bool avx2 = bit(b, 5) && fma && f16c && (xcr0 & kYmmState) == kYmmState;
  if (!avx2) return Isa::kPortable;
  const bool avx512 = bit(b, 16) && bit(b, 17) && bit(b, 30) && bit(b, 31);  // F, DQ, BW, VL
  return avx512 && (xcr0 & kZmmState) == kZmmState ? Isa::kAvx512 : Isa::kAvx2;
}

Isa capped() {
  const Isa found = detect();
  const char* cap = std::getenv("GRAPHOPT_MAX_ISA");
  if (cap == nullptr || *cap == '\0') return found;
  for (Isa isa : {Isa::kPortable, Isa::kAvx2, Isa::kAvx512}) {
    if (isa_name(isa) == cap) return std::min(isa, found);
  }
  if (cap == kBf16) return found;
  throw Error("GRAPHOPT_MAX_ISA is '" + std::string(cap) + "'; it must be portable, avx2, avx512 or avx512_bf16");
}

size_t cache_size(int name, size_t fallback) {
  const long size = sysconf(name);
  return size > 0 ? static_cast<size_t>(size) : fallback;
}

}  // namespace

Isa cpu_isa() {
  static const Isa isa = capped();
  return isa;
}

bool cpu_has_bf16() {
  static const bool has = [] {
    const char* cap = std::getenv("GRAPHOPT_MAX_ISA");
    if (cpu_isa() < Isa::kAvx512 || (cap != nullptr && *cap != '\0' && cap != kBf16)) return false;
    uint32_t a = 0;
    uint32_t b = 0;
    uint32_t c = 0;
    uint32_t d = 0;
    return __get_cpuid_count(7, 1, &a, &b, &c, &d) != 0 && bit(a, 5);
  }();
  return has;
}

std::vector<Isa> cpu_isa_levels() {
  std::vector<Isa> levels;
  for (Isa isa : {Isa::kPortable, Isa::kAvx2, Isa::kAvx512}) {
    if (isa <= cpu_isa()) levels.push_back(isa);
  }
  return levels;
}

std::string_view isa_name(Isa isa) {
  switch (isa) {
    case Isa::kPortable:
      return "portable";
    case Isa::kAvx2:
      return "avx2";
    case Isa::kAvx512:
      return "avx512";
  }
  return "unknown";
}

CacheSizes cache_sizes() {
  static const CacheSizes sizes = {cache_size(_SC_LEVEL1_DCACHE_SIZE, size_t{32} << 10U),
                                   cache_size(_SC_LEVEL2_CACHE_SIZE, size_t{512} << 10U),
                                   cache_size(_SC_LEVEL3_CACHE_SIZE, size_t{8} << 20U)};
  return sizes;
}

int cpu_count() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) != 0) return 1;
  return std::max(1, CPU_COUNT(&set));
}

}  // namespace graphopt
