// What the processor we run on can do.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

namespace graphopt {

// Instruction-set levels, each a superset of the one before.
enum class Isa : uint8_t {
  kPortable,  // x86-64 baseline (SSE2)
  kAvx2,      // AVX2, FMA, F16C
  kAvx512,    // AVX-512 F, BW, VL, DQ and all of kAvx2
};

// The level that kernels may use: what the processor and the operating system support, capped by the
// environment variable GRAPHOPT_MAX_ISA (portable, avx2, avx512 or avx512_bf16). Read once; throws Error on an
// unknown cap.
Isa cpu_isa();

// Whether kernels may use the dot product of AVX512_BF16 too: where cpu_isa() is kAvx512 without a cap, or
// with the cap avx512_bf16.
bool cpu_has_bf16();

// Every level up to cpu_isa(), lowest first.
std::vector<Isa> cpu_isa_levels();

std::string_view isa_name(Isa isa);

// Bytes of data cache that one core can use.
struct CacheSizes {
  size_t l1;
  size_t l2;
  size_t l3;  // shared by all cores of a socket or core complex
};

// Read once from the operating system; usual values where it does not say.
CacheSizes cache_sizes();

// Processors this process may run on (its affinity mask), at least 1.
int cpu_count();

}  // namespace graphopt
