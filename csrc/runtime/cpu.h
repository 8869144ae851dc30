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

// What processors with AVX-512 have in addition, each with all of those before it.
enum class Extension : uint8_t {
  kVnni,     // AVX512_VNNI: dot products of four bytes
  kBf16,     // AVX512_BF16: dot products of two bfloat16 numbers
  kAmxInt8,  // AMX_TILE, AMX_INT8: products of matrices of bytes
  kAmxBf16,  // AMX_TILE, AMX_BF16: products of matrices of bfloat16 numbers
};

// The level that kernels may use: what the processor and the operating system support, capped by the
// environment variable GRAPHOPT_MAX_ISA (portable, avx2, avx512, avx512_vnni, avx512_bf16, amx_int8 or
// amx_bf16). Read once; throws Error on an unknown cap.
Isa cpu_isa();

// Whether kernels may use an extension too: where the processor and the operating system have it and all before
// it, and GRAPHOPT_MAX_ISA isn't lower. The first question about AMX asks Linux for its use by this process.
bool cpu_has(Extension extension);

// Every level up to cpu_isa(), lowest first.
std::vector<Isa> cpu_isa_levels();

std::string_view isa_name(Isa isa);
// As GRAPHOPT_MAX_ISA names it.
std::string_view extension_name(Extension extension);

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
