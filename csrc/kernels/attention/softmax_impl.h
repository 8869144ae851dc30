// The online softmax, written once. Included after one simd_*.h and vmath.h.
#pragma once

#include <cstdint>

#include "kernels/attention/softmax.h"

namespace graphopt {
namespace {

// scores += mask, for the keys that count
void add_mask(const SoftmaxRow& row) {
  if (row.keep != nullptr) {
    for (int64_t j = row.begin; j < row.end; ++j) {
      if (row.keep[j * row.mask_step] == 0) row.scores[j] = row.replace ? row.fill : row.scores[j] - __builtin_inff();
    }
    return;
  }
  if (row.mask == nullptr) return;
  for (int64_t j = row.begin; j < row.end; j += Simd::kLanes) {
    const int64_t lanes = row.end - j;
    const Simd::F mask = row.mask_step == 0 ? Simd::set1(*row.mask) : Simd::load_n(row.mask + j, lanes);
    Simd::store_n(row.scores + j, Simd::add(Simd::load_n(row.scores + j, lanes), mask), lanes);
  }
}

void cap_scores(const SoftmaxRow& row) {
  const Simd::F cap = Simd::set1(row.softcap);
  for (int64_t j = row.begin; j < row.end; j += Simd::kLanes) {
    const int64_t lanes = row.end - j;
    const Simd::F x = Simd::div(Simd::load_n(row.scores + j, lanes), cap);
    Simd::store_n(row.scores + j, Simd::mul(cap, VMath::tanh(x)), lanes);
  }
}

float row_maximum(const SoftmaxRow& row) {
  Simd::F most = Simd::set1(row.maximum);
  int64_t j = row.begin;
  for (; j + Simd::kLanes <= row.end; j += Simd::kLanes) most = Simd::max(Simd::load(row.scores + j), most);
  float maximum = Simd::max_of(most);
  for (; j < row.end; ++j) maximum = row.scores[j] > maximum ? row.scores[j] : maximum;
  return maximum;
}

// A NaN among the scores needs no care here: its own weight is NaN, and so is the sum.
void softmax_row(SoftmaxRow& row) {
  if (row.softcap > 0) cap_scores(row);
  add_mask(row);
  const float maximum = row_maximum(row);
  // Nothing but -inf so far: any finite reference gives weights of zero.
  const float reference = maximum == -__builtin_inff() ? 0.0F : maximum;
  const Simd::F shift = Simd::set1(reference);
  Simd::F sum = Simd::zero();
  for (int64_t j = 0; j < row.begin; ++j) row.scores[j] = 0;
  int64_t j = row.begin;
  for (; j + Simd::kLanes <= row.end; j += Simd::kLanes) {
    const Simd::F weight = VMath::exp(Simd::sub(Simd::load(row.scores + j), shift));
    Simd::store(row.scores + j, weight);
    sum = Simd::add(sum, weight);
  }
  float total = Simd::sum(sum);
  if (j < row.end) {
    const int64_t lanes = row.end - j;
    Simd::store_n(row.scores + j, VMath::exp(Simd::sub(Simd::load_n(row.scores + j, lanes), shift)), lanes);
    for (; j < row.end; ++j) total += row.scores[j];
  }
  for (; j < row.count; ++j) row.scores[j] = 0;
  row.correction = 1;
  if (row.maximum != maximum) {
    float first[Simd::kLanes];
    Simd::store(first, VMath::exp(Simd::set1(row.maximum - reference)));
    row.correction = first[0];
  }
  row.sum = row.sum * row.correction + total;
  row.maximum = maximum;
}

void scale_row(float* x, int64_t count, float factor) {
  for (int64_t j = 0; j < count; j += Simd::kLanes) {
    Simd::store_n(x + j, Simd::mul(Simd::load_n(x + j, count - j), Simd::set1(factor)), count - j);
  }
}

void divide_row(float* x, int64_t count, float divisor) {
  for (int64_t j = 0; j < count; j += Simd::kLanes) {
    Simd::store_n(x + j, Simd::div(Simd::load_n(x + j, count - j), Simd::set1(divisor)), count - j);
  }
}

}  // namespace
}  // namespace graphopt
