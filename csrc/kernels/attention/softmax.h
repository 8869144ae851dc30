// One step of an online softmax: a row of scores for a block of keys.
#pragma once

#include <cstdint>

namespace graphopt {

struct SoftmaxRow {
  float* scores;  // becomes the weights, not yet divided by their sum
  int64_t count;
  int64_t begin;  // keys that count; the others' weights are zero
  int64_t end;
  float softcap;        // 0: none
  const float* mask;    // added to the scores; may be null
  const uint8_t* keep;  // a zero removes the key: adds -inf to its score, or makes it `fill`; may be null
  bool replace;         // what `keep` does
  float fill;
  int64_t mask_step;  // 1, or 0 where one value is meant for all keys
  float maximum;      // of the blocks before, -inf at first
  float sum;          // of the weights of the blocks before, relative to `maximum`
  float correction;   // out: what earlier results must be scaled by
};

struct AttentionKernels {
  void (*softmax)(SoftmaxRow& row);
  // x[i] *= factor, or x[i] /= factor
  void (*scale)(float* x, int64_t count, float factor);
  void (*divide)(float* x, int64_t count, float divisor);
};

}  // namespace graphopt
