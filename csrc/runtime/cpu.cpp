#include "runtime/cpu.h"

#include <cpuid.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <string>

#include "graphopt/kernel.h"

namespace graphopt {
namespace {

// What GRAPHOPT_MAX_ISA may say: a level and how many extensions.
struct Cap {
  std::string_view name;
  Isa isa;
  int extensions;
};
constexpr Cap kCaps[] = {
    {"portable", Isa::kPortable, 0},  {"avx2", Isa::kAvx2, 0},          {"avx512", Isa::kAvx512, 0},
    {"avx512_vnni", Isa::kAvx512, 1}, {"avx512_bf16", Isa::kAvx512, 2}, {"amx_int8", Isa::kAvx512, 3},
    {"amx_bf16", Isa::kAvx512, 4},
};

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

// The last cap of the table where the environment says nothing.
const Cap& cap() {
  const char* wanted = std::getenv("GRAPHOPT_MAX_ISA");
  if (wanted == nullptr || *wanted == '\0') return *std::rbegin(kCaps);
  std::string names;
  for (const Cap& each : kCaps) {
    if (each.name == wanted) return each;
    names += (names.empty() ? "" : ", ") + std::string(each.name);
  }
  throw Error("GRAPHOPT_MAX_ISA is '" + std::string(wanted) + "'; it must be one of " + names);
}

// Registers of tiles are saved by the operating system only for a process that asked for them.
bool may_use_tiles() {
  constexpr uint64_t kTileState = uint64_t{3} << 17U;
  constexpr long kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr long kTileData = 18;
  static const bool may =
      (read_xcr0() & kTileState) == kTileState && syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  return may;
}

// Of a processor that has kAvx512.
bool detect(Extension extension) {
  uint32_t a = 0;
  uint32_t b = 0;
  uint32_t c = 0;
  uint32_t d = 0;
  const int leaf = extension == Extension::kBf16 ? 1 : 0;
  if (__get_cpuid_count(7, static_cast<uint32_t>(leaf), &a, &b, &c, &d) == 0) return false;
  const bool tiles = bit(d, 24);
  switch (extension) {
    case Extension::kVnni:
      return bit(c, 11);
    case Extension::kBf16:
      return bit(a, 5);
    case Extension::kAmxInt8:
      return tiles && bit(d, 25) && may_use_tiles();
    case Extension::kAmxBf16:
      return tiles && bit(d, 22) && may_use_tiles();
  }
  return false;
}

constexpr int kVectorExtensions = static_cast<int>(Extension::kAmxInt8);  // those before AMX

// How many the processor has, of which the first `begin` are known, up to the first that it lacks.
int count_extensions(int begin, int end) {
  while (begin < end && detect(static_cast<Extension>(begin))) ++begin;
  return begin;
}

size_t cache_size(int name, size_t fallback) {
  const long size = sysconf(name);
  return size > 0 ? static_cast<size_t>(size) : fallback;
}

}  // namespace

Isa cpu_isa() {
  static const Isa isa = std::min(cap().isa, detect());
  return isa;
}

// Found once: CPUID takes a virtual machine tens of microseconds. AMX by itself, so that a process which computes in
// float32 alone doesn't ask for it.
bool cpu_has(Extension extension) {
  static const int most = cpu_isa() == Isa::kAvx512 ? cap().extensions : 0;
  static const int vectors = count_extensions(0, std::min(most, kVectorExtensions));
  const int index = static_cast<int>(extension);
  if (index < kVectorExtensions) return index < vectors;
  static const int all = vectors == kVectorExtensions ? count_extensions(vectors, most) : vectors;
  return index < all;
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

std::string_view extension_name(Extension extension) {
  return kCaps[static_cast<int>(Isa::kAvx512) + 1 + static_cast<int>(extension)].name;
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
