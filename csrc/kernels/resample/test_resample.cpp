// Every table of functions against scalar loops, between guard pages.
#include <cmath>
#include <vector>

#include "kernels/resample/dispatch.h"
#include "kernels_dense.h"

using namespace graphopt;
using namespace graphopt::resample;
using namespace graphopt::test;

namespace {

template <class T>
T* copy_into(const GuardedBuffer& buffer, const std::vector<T>& values) {
  auto* data = static_cast<T*>(buffer.data());
  std::copy(values.begin(), values.end(), data);
  return data;
}

void check_combine(const Kernels& table, int64_t rows, int64_t length, Guard guard, Random& random) {
  std::vector<GuardedBuffer> buffers;
  std::vector<const float*> pointers;
  for (int64_t r = 0; r < rows; ++r) {
    buffers.emplace_back(static_cast<size_t>(length) * sizeof(float), guard);
    pointers.push_back(copy_into(buffers.back(), random.floats(length)));
  }
  const std::vector<float> weights = random.floats(rows);
  const GuardedBuffer out(static_cast<size_t>(length) * sizeof(float), guard);
  auto* got = static_cast<float*>(out.data());
  table.combine(pointers.data(), weights.data(), rows, length, got);
  for (int64_t i = 0; i < length; ++i) {
    double want = 0;
    for (int64_t r = 0; r < rows; ++r) {
      want += static_cast<double>(weights[static_cast<size_t>(r)]) *
              static_cast<double>(pointers[static_cast<size_t>(r)][i]);
    }
    CHECK(std::abs(static_cast<double>(got[i]) - want) < 1e-5);
  }
}

void check_interpolate(const Kernels& table, int64_t taps, int64_t out, int64_t inner, Guard guard, Random& random) {
  const int64_t in = 9;
  const GuardedBuffer row(static_cast<size_t>(in * inner) * sizeof(float), guard);
  const float* from = copy_into(row, random.floats(in * inner));
  const GuardedBuffer weight(static_cast<size_t>(taps * out) * sizeof(float), guard);
  const float* weights = copy_into(weight, random.floats(taps * out));
  std::vector<int32_t> places;
  for (int64_t i = 0; i < taps * out; ++i) places.push_back(static_cast<int32_t>(random.below(in)));
  const GuardedBuffer index(static_cast<size_t>(taps * out) * sizeof(int32_t), guard);
  const int32_t* indices = copy_into(index, places);
  const GuardedBuffer result(static_cast<size_t>(out * inner) * sizeof(float), guard);
  auto* got = static_cast<float*>(result.data());
  table.interpolate(from, {indices, weights, taps, out, inner}, got);
  for (int64_t x = 0; x < out; ++x) {
    for (int64_t c = 0; c < inner; ++c) {
      double want = 0;
      for (int64_t t = 0; t < taps; ++t) {
        want += static_cast<double>(weights[t * out + x]) * static_cast<double>(from[indices[t * out + x] * inner + c]);
      }
      CHECK(std::abs(static_cast<double>(got[x * inner + c]) - want) < 1e-5);
    }
  }
}

}  // namespace

int main() {
  Random random(1);
  for (const Kernels* table : runnable_kernels()) {
    for (const Guard guard : {Guard::kAfter, Guard::kBefore}) {
      for (int64_t length = 1; length <= 67; ++length) {
        for (int64_t rows : {1, 2, 4, 5}) check_combine(*table, rows, length, guard, random);
        for (int64_t taps : {1, 2, 4, 7}) {
          check_interpolate(*table, taps, length, 1, guard, random);
          check_interpolate(*table, taps, 3, length, guard, random);
        }
      }
    }
  }
  return 0;
}
