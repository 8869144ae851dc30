// Every table of functions against scalar conversions, between guard pages.
#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/convert/dispatch.h"
#include "kernels/convert/number_cast.h"
#include "kernels_dense.h"

using namespace graphopt;
using namespace graphopt::convert;
using namespace graphopt::test;

namespace {

template <class T>
struct Guarded {
  GuardedBuffer buffer;
  explicit Guarded(int64_t count, Guard guard) : buffer(static_cast<size_t>(count) * sizeof(T), guard) {}
  T* data() const { return static_cast<T*>(buffer.data()); }
};

// Special values first, then whatever bits come.
std::vector<float> some_floats(int64_t count, Random& random) {
  static const float kSpecial[] = {0.0F,     -0.0F,    1.0F,     std::numeric_limits<float>::infinity(),
                                   65504.0F, 65519.9F, 65520.0F, std::numeric_limits<float>::quiet_NaN(),
                                   5.9e-8F,  2.9e-8F,  6.1e-5F,  -std::numeric_limits<float>::infinity(),
                                   3.4e38F,  1e-40F,   0.5F,     2.5F};
  std::vector<float> values;
  for (int64_t i = 0; i < count; ++i) {
    const uint32_t bits = random.next() << 8 ^ random.next();
    values.push_back(static_cast<size_t>(i) < std::size(kSpecial) ? kSpecial[i] : std::bit_cast<float>(bits));
  }
  return values;
}

template <class T>
void check_narrow(void (*narrow)(const float*, uint16_t*, int64_t), int64_t count, Guard guard, Random& random) {
  const Guarded<float> from(count, guard);
  const Guarded<uint16_t> to(count, guard);
  const std::vector<float> values = some_floats(count, random);
  std::copy(values.begin(), values.end(), from.data());
  narrow(from.data(), to.data(), count);
  for (int64_t i = 0; i < count; ++i) {
    const uint16_t want = support::encode<T>(static_cast<double>(from.data()[i])).bits;
    const bool both_nan = std::isnan(from.data()[i]) && std::isnan(support::decode(T{to.data()[i]}));
    CHECK(both_nan || to.data()[i] == want);
  }
}

template <class T>
void check_widen(void (*widen)(const uint16_t*, float*, int64_t)) {
  constexpr int64_t kCodes = 65536;
  const Guarded<uint16_t> from(kCodes, Guard::kAfter);
  const Guarded<float> to(kCodes, Guard::kAfter);
  for (int64_t i = 0; i < kCodes; ++i) from.data()[i] = static_cast<uint16_t>(i);
  widen(from.data(), to.data(), kCodes);
  for (int64_t i = 0; i < kCodes; ++i) {
    const float want = support::decode(T{static_cast<uint16_t>(i)});
    CHECK(std::isnan(want) ? std::isnan(to.data()[i])
                           : std::bit_cast<uint32_t>(to.data()[i]) == std::bit_cast<uint32_t>(want));
  }
}

template <class T>
void check_quantize(void (*quantize)(const float*, float, float, T*, int64_t),
                    void (*dequantize)(const T*, float, float, float*, int64_t), int64_t count, Guard guard,
                    Random& random) {
  const Guarded<float> from(count, guard);
  const Guarded<T> to(count, guard);
  const std::vector<float> values = random.floats(count, -300, 300);
  std::copy(values.begin(), values.end(), from.data());
  if (count > 2) from.data()[1] = std::numeric_limits<float>::infinity();
  if (count > 2) from.data()[2] = std::numeric_limits<float>::quiet_NaN();
  const float zero = static_cast<float>(random.below(100));
  const double low = static_cast<double>(std::numeric_limits<T>::min());
  const double high = static_cast<double>(std::numeric_limits<T>::max());
  quantize(from.data(), 0.5F, zero, to.data(), count);
  for (int64_t i = 0; i < count; ++i) {
    const double q = std::nearbyint(static_cast<double>(from.data()[i]) / 0.5) + static_cast<double>(zero);
    const double want = std::isnan(q) ? low : std::min(std::max(q, low), high);
    CHECK(static_cast<double>(to.data()[i]) == want);
  }
  dequantize(to.data(), 0.25F, zero, from.data(), count);
  for (int64_t i = 0; i < count; ++i) CHECK(from.data()[i] == (static_cast<float>(to.data()[i]) - zero) * 0.25F);
}

void check_range(const Kernels& table, int64_t count, Guard guard, Random& random) {
  const Guarded<float> from(count, guard);
  const std::vector<float> values = random.floats(count, -9, 9);
  std::copy(values.begin(), values.end(), from.data());
  float low = 0;
  float high = 0;
  table.range_of(from.data(), count, &low, &high);
  for (float value : values) CHECK(low <= value && value <= high);
  CHECK(low == 0 || std::find(values.begin(), values.end(), low) != values.end());
  CHECK(high == 0 || std::find(values.begin(), values.end(), high) != values.end());
}

void check_int_panel(const Kernels& table, int64_t rows, int64_t pairs, Guard guard, Random& random) {
  const Guarded<int16_t> a(rows * 2 * pairs, guard);
  const Guarded<int16_t> panel(pairs * kIntColumns * 2, guard);
  const Guarded<int32_t> sums(rows * kIntColumns, guard);
  for (int64_t i = 0; i < rows * 2 * pairs; ++i) a.data()[i] = static_cast<int16_t>(random.below(511) - 255);
  for (int64_t i = 0; i < pairs * kIntColumns * 2; ++i) panel.data()[i] = static_cast<int16_t>(random.below(511) - 255);
  table.int_panel({a.data(), 2 * pairs, rows, panel.data(), pairs, sums.data(), kIntColumns});
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < kIntColumns; ++c) {
      int32_t want = 0;
      for (int64_t k = 0; k < pairs; ++k) {
        for (int64_t half = 0; half < 2; ++half) {
          want += a.data()[(r * pairs + k) * 2 + half] * panel.data()[(k * kIntColumns + c) * 2 + half];
        }
      }
      CHECK(sums.data()[r * kIntColumns + c] == want);
    }
  }
}

}  // namespace

int main() {
  Random random(1);
  for (const Kernels* table : runnable_kernels()) {
    check_widen<support::F16>(table->f16_to_f32);
    check_widen<support::BF16>(table->bf16_to_f32);
    check_narrow<support::F16>(table->f32_to_f16, 200000, Guard::kAfter, random);
    check_narrow<support::BF16>(table->f32_to_bf16, 200000, Guard::kAfter, random);
    for (const Guard guard : {Guard::kAfter, Guard::kBefore}) {
      for (int64_t count = 1; count <= 67; ++count) {
        check_narrow<support::F16>(table->f32_to_f16, count, guard, random);
        check_narrow<support::BF16>(table->f32_to_bf16, count, guard, random);
        check_quantize<uint8_t>(table->quantize_u8, table->dequantize_u8, count, guard, random);
        check_quantize<int8_t>(table->quantize_i8, table->dequantize_i8, count, guard, random);
        check_range(*table, count, guard, random);
      }
      for (int64_t rows = 1; rows <= 19; ++rows) {
        for (int64_t pairs : {0, 1, 2, 3, 9}) check_int_panel(*table, rows, pairs, guard, random);
      }
    }
  }
  return 0;
}
