// The tile layer on AMX: an instruction a function. GCC's intrinsics take registers as literals, not as template
// arguments, and don't say that they read memory; so this is the assembly of which they are made.
#pragma once

#include <cstdint>

#include "kernels/gemm/tile_config.h"

namespace graphopt {
namespace {

struct AmxTiles {
  static void configure(const TileConfig& config) { __asm__ volatile("ldtilecfg %0" ::"m"(config)); }
  static void release() { __asm__ volatile("tilerelease"); }

  template <int Tile>
  static void zero() {
    __asm__ volatile("tilezero %%tmm%c0" ::"i"(Tile));
  }
  // Rows `step` bytes apart.
  template <int Tile>
  static void load(const void* p, int64_t step) {
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(p), "r"(step), "i"(Tile) : "memory");
  }
  template <int Tile>
  static void store(void* p, int64_t step) {
    __asm__ volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(p), "r"(step), "i"(Tile) : "memory");
  }

  // Sum += A B.
  template <int Sum, int A, int B>
  static void dot_bf16() {
    __asm__ volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(Sum), "i"(A), "i"(B));
  }
  template <int Sum, int A, int B>
  static void dot_u8s8() {
    __asm__ volatile("tdpbusd %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(Sum), "i"(A), "i"(B));
  }
  template <int Sum, int A, int B>
  static void dot_s8s8() {
    __asm__ volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(Sum), "i"(A), "i"(B));
  }
};

}  // namespace
}  // namespace graphopt
