// XXH64, the 64-bit hash of Yann Collet's xxHash (https://xxhash.com, algorithm description in its
// doc/xxhash_spec.md), and the hash of a large file made of it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "graphopt/kernel.h"

namespace graphopt {

uint64_t xxh64(std::span<const uint8_t> bytes, uint64_t seed = 0);

inline constexpr size_t kHashChunk = size_t{1} << 20U;

// xxh64 of the little-endian xxh64 values of the data's 1 MiB chunks, in order. Chunks are hashed in
// parallel; the result does not depend on the number of threads.
uint64_t chunked_xxh64(std::span<const uint8_t> bytes, const Parallel& parallel);

}  // namespace graphopt
