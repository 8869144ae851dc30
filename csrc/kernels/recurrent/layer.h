// The f32 path: scratch memory and the loop over time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "graphopt/kernel.h"
#include "kernels/recurrent/kernels.h"
#include "kernels/recurrent/problem.h"

namespace graphopt::recurrent {

// Where each piece of scratch memory is, in bytes from its start.
struct Scratch {
  int64_t units;        // panels of 16 hidden units
  int64_t width;        // floats in a row of gates
  int64_t state_width;  // floats in a row of states
  int64_t chunk;        // time steps whose input products are held at once
  bool pack;            // weights are repacked into panels: worth it from some number of rows on

  size_t packed_w, packed_r, bias, linear_bias, peephole;
  size_t gates, h, c, extra;
  size_t rows;  // arrays of row pointers
  size_t bytes;
};

Scratch plan_scratch(const Settings& settings, const Sizes& sizes);

// The table of the level that this processor has, and every table it can run (lowest level last).
const Kernels& kernels();
std::span<const Kernels* const> runnable_kernels();

void run_layer(const Settings& settings, const Sizes& sizes, const Operands<float>& ops, const Kernels& table,
               std::byte* memory, const Parallel& parallel);

}  // namespace graphopt::recurrent
