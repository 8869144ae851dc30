// The emulated tile registers against what the manual says of AMX.
#include <vector>

#include "check.h"
#include "kernels/gemm/amx.h"
#include "kernels/gemm/emulated_tiles.h"

using namespace graphopt;

namespace {

// Registers 0 (sums), 1 (A) and 2 (B) of a product of m x k by k x n slots.
TileConfig sizes(int m, int k, int n) {
  TileConfig config{};
  config.palette = 1;
  const auto set = [&config](int tile, int rows, int slots) {
    config.rows[tile] = static_cast<uint8_t>(rows);
    config.colsb[tile] = static_cast<uint16_t>(slots * 4);
  };
  set(0, m, n);
  set(1, m, k);
  set(2, k, n);
  return config;
}

uint32_t pair(float low, float high) {
  return std::bit_cast<uint32_t>(low) >> 16U | (std::bit_cast<uint32_t>(high) & 0xffff0000U);
}

// c + a b of one row, one column and any number of slots.
float dot(float c, const std::vector<uint32_t>& a, const std::vector<uint32_t>& b) {
  TileMachine machine;
  machine.configure(sizes(1, static_cast<int>(a.size()), 1));
  machine.load(0, &c, 64);
  machine.load(1, a.data(), 64);
  machine.load(2, b.data(), 4);
  machine.dot_bf16(0, 1, 2);
  float sum = 0;
  machine.store(0, &sum, 64);
  return sum;
}

void test_moves() {
  std::array<uint32_t, 64> memory{};
  for (size_t i = 0; i < memory.size(); ++i) memory[i] = static_cast<uint32_t>(i + 1);
  TileMachine machine;
  machine.configure(sizes(3, 2, 4));
  machine.load(1, memory.data() + 40, -16 * 4);  // upwards
  std::array<uint32_t, 16> out{};
  machine.store(1, out.data(), 5 * 4);
  CHECK(out == (std::array<uint32_t, 16>{41, 42, 0, 0, 0, 25, 26, 0, 0, 0, 9, 10}));
  machine.zero(1);
  machine.store(1, out.data(), 5 * 4);
  CHECK(out == (std::array<uint32_t, 16>{}));
  // A configuration zeroes every register.
  machine.load(1, memory.data(), 16);
  machine.configure(sizes(3, 2, 4));
  machine.store(1, out.data(), 5 * 4);
  CHECK(out == (std::array<uint32_t, 16>{}));
}

void test_bf16() {
  CHECK(dot(1, {pair(2, 3)}, {pair(5, 7)}) == 32);
  // An even and an odd sum, each of its own: 2^30 + 1 loses the one, and 2^30 - 2^30 doesn't bring it back.
  constexpr float kBig = 1 << 30;
  CHECK(dot(0, {pair(kBig, 1), pair(-kBig, 1)}, {pair(1, 1), pair(1, 1)}) == 2);
  CHECK(dot(0, {pair(kBig, 0), pair(1, 0), pair(-kBig, 0)}, {pair(1, 0), pair(1, 0), pair(1, 0)}) == 0);
  // The products are summed before they meet the result.
  CHECK(dot(kBig, {pair(1, 0), pair(-1, 0)}, {pair(1, 0), pair(1, 0)}) == kBig);
  CHECK(dot(-kBig, {pair(kBig, 1)}, {pair(1, 1)}) == 0);
  // Ties to even.
  constexpr float kTie = 1 << 24;
  CHECK(dot(0, {pair(kTie, 0), pair(1, 0)}, {pair(1, 0), pair(1, 0)}) == kTie);
  CHECK(dot(0, {pair(kTie, 0), pair(3, 0)}, {pair(1, 0), pair(1, 0)}) == kTie + 4);
}

void test_denormal_numbers() {
  const float least = std::bit_cast<float>(0x00800000U);  // the least normal number
  const float denormal = std::bit_cast<float>(0x00400000U);
  CHECK(dot(0, {pair(denormal, 0)}, {pair(256, 0)}) == 0);  // in
  CHECK(dot(denormal, {pair(0, 0)}, {pair(0, 0)}) == 0);
  CHECK(dot(0, {pair(least, 0)}, {pair(0.5F, 0)}) == 0);  // and out
  CHECK(dot(0, {pair(least, 0)}, {pair(1, 0)}) == least);
  CHECK(!std::signbit(dot(-0.0F, {pair(-least, -0.0F)}, {pair(0.5F, 1)})));  // sums begin at +0
  // Not between: a product is never rounded by itself.
  CHECK(dot(0, {pair(least, 0), pair(least, 0)}, {pair(1, 0), pair(-0.5F, 0)}) == 0);
  CHECK(dot(0, {pair(least, 0), pair(least, 0)}, {pair(2, 0), pair(-0.5F, 0)}) == 1.5F * least);
  const float huge = std::bit_cast<float>(0x7f000000U);  // 2^127
  CHECK(dot(0, {pair(-huge, 0), pair(huge, 0)}, {pair(1, 0), pair(2, 0)}) == huge);
  CHECK(std::isinf(dot(0, {pair(huge, 0)}, {pair(2, 0)})));
  const float infinity = std::numeric_limits<float>::infinity();
  CHECK(std::isnan(dot(0, {pair(infinity, infinity)}, {pair(1, -1)})));
}

template <class U>
int32_t dot_bytes(int32_t c, std::array<U, 4> a, std::array<int8_t, 4> b) {
  TileMachine machine;
  machine.configure(sizes(1, 1, 1));
  machine.load(0, &c, 64);
  machine.load(1, a.data(), 64);
  machine.load(2, b.data(), 64);
  machine.dot_bytes<U>(0, 1, 2);
  machine.store(0, &c, 64);
  return c;
}

void test_bytes() {
  CHECK(dot_bytes<uint8_t>(5, {255, 1, 2, 3}, {-128, 1, 1, 1}) == 5 - 255 * 128 + 6);
  CHECK(dot_bytes<int8_t>(5, {-128, -1, 2, 3}, {-128, 1, 1, 1}) == 5 + 128 * 128 + 4);
  // No saturation on the way: 4 x 255 x 127 has no room in 16 bits.
  CHECK(dot_bytes<uint8_t>(0, {255, 255, 255, 255}, {127, 127, 127, 127}) == 4 * 255 * 127);
  constexpr int32_t kMost = std::numeric_limits<int32_t>::max();
  CHECK(dot_bytes<uint8_t>(kMost, {1, 0, 0, 0}, {1, 0, 0, 0}) == std::numeric_limits<int32_t>::min());
}

void check_bad(const TileConfig& config, const char* message) {
  TileMachine machine;
  CHECK_THROWS(machine.configure(config), message);
}

void test_faults() {
  TileConfig config = sizes(3, 2, 4);
  config.palette = 2;
  check_bad(config, "unknown palette");
  config = sizes(3, 2, 4);
  config.reserved[13] = 1;
  check_bad(config, "reserved");
  config = sizes(17, 2, 4);
  check_bad(config, "too many rows");
  config = sizes(3, 17, 4);
  check_bad(config, "too many rows or bytes");
  config = sizes(3, 2, 4);
  config.rows[5] = 1;
  check_bad(config, "rows without bytes");
  config = sizes(3, 2, 4);
  config.rows[8] = 1;
  config.colsb[8] = 4;
  check_bad(config, "palette 1 hasn't");

  TileMachine machine;
  CHECK_THROWS(machine.zero(0), "without a configuration");
  config = sizes(3, 2, 4);
  config.rows[3] = 3;
  config.colsb[3] = 6;
  machine.configure(config);
  CHECK_THROWS(machine.zero(4), "leaves out");
  CHECK_THROWS(machine.dot_bf16(0, 1, 3), "whole slots");
  CHECK_THROWS(machine.dot_bf16(0, 1, 1), "with itself");
  CHECK_THROWS(machine.dot_bf16(1, 0, 2), "columns differ");
  CHECK_THROWS(machine.dot_bf16(2, 1, 0), "rows differ");
  config = sizes(3, 2, 4);
  config.rows[2] = 3;
  machine.configure(config);
  CHECK_THROWS(machine.dot_bytes<int8_t>(0, 1, 2), "don't fit");
  machine.release();
  CHECK_THROWS(machine.zero(0), "without a configuration");
}

// As few parts as can be, and as alike.
void test_steps() {
  for (int64_t depth = 1; depth < 200; ++depth) {
    const int64_t step = tile_step(depth);
    const int64_t steps = (depth + step - 1) / step;
    CHECK(step <= 16 && steps == (depth + 15) / 16 && steps * step - depth < steps);
  }
  CHECK(tile_step(0) == 1);
}

}  // namespace

int main() {
  test_moves();
  test_bf16();
  test_denormal_numbers();
  test_bytes();
  test_faults();
  test_steps();
  return 0;
}
