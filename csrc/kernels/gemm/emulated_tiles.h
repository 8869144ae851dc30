// The tile layer without AMX: what Intel's Software Developer's Manual says that its instructions do, palette 1.
// For tests, on any processor.
#pragma once

#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <string>

#include "kernels/gemm/tile_config.h"

namespace graphopt {

// What a processor raises as #GP or #UD.
class TileFault : public std::logic_error {
 public:
  using std::logic_error::logic_error;
};

// The registers of one thread.
class TileMachine {
 public:
  // LDTILECFG: palette 0 ends the use of the registers; all are zero afterwards.
  void configure(const TileConfig& config) {
    data_ = {};
    config_ = TileConfig{};
    if (config.palette == 0) return;
    require(config.palette == 1, "LDTILECFG: unknown palette");
    require(config.start_row == 0, "LDTILECFG: start_row isn't 0");
    for (uint8_t byte : config.reserved) require(byte == 0, "LDTILECFG: a reserved byte isn't 0");
    for (int i = 0; i < 16; ++i) {
      const int rows = config.rows[i];
      const int bytes = config.colsb[i];
      require(i < kTiles || (rows == 0 && bytes == 0), "LDTILECFG: a register that palette 1 hasn't");
      require(rows <= kMaxTileRows && bytes <= kTileBytes, "LDTILECFG: too many rows or bytes");
      require((rows == 0) == (bytes == 0), "LDTILECFG: rows without bytes, or bytes without rows");
    }
    config_ = config;
  }
  void release() { configure(TileConfig{}); }
  [[nodiscard]] const TileConfig& config() const { return config_; }

  void zero(int tile) {
    require_configured(tile);
    data_[at(tile)] = {};
  }

  // TILELOADD: what lies behind the rows and the bytes that are configured becomes zero.
  void load(int tile, const void* from, int64_t step) {
    zero(tile);
    const auto* p = static_cast<const std::byte*>(from);
    for (int r = 0; r < rows(tile); ++r) std::memcpy(row(tile, r), p + r * step, static_cast<size_t>(bytes(tile)));
  }
  void store(int tile, void* to, int64_t step) {
    require_configured(tile);
    auto* p = static_cast<std::byte*>(to);
    for (int r = 0; r < rows(tile); ++r) std::memcpy(p + r * step, row(tile, r), static_cast<size_t>(bytes(tile)));
  }

  // TDPBF16PS: an even and an odd sum over the slots, by fused multiply-adds from zero; then their sum to the result.
  // Rounded to nearest even, denormal numbers are zero on both ends, MXCSR is not looked at.
  void dot_bf16(int sum, int a, int b) {
    require_product(sum, a, b);
    for (int m = 0; m < rows(sum); ++m) {
      for (int n = 0; n < bytes(sum) / 4; ++n) {
        float even = 0;
        float odd = 0;
        for (int k = 0; k < bytes(a) / 4; ++k) {
          const auto x = slot<uint32_t>(a, m, k);
          const auto y = slot<uint32_t>(b, k, n);
          even = fma(as_float(x << 16U), as_float(y << 16U), even);
          odd = fma(as_float(x & 0xffff0000U), as_float(y & 0xffff0000U), odd);
        }
        set_slot(sum, m, n, flush(flush(slot<float>(sum, m, n)) + flush(even + odd)));
      }
    }
  }

  // TDPBUSD, TDPBSSD: sums of four products of bytes, modulo 2^32. U: the type of A's bytes.
  template <class U>
  void dot_bytes(int sum, int a, int b) {
    require_product(sum, a, b);
    for (int m = 0; m < rows(sum); ++m) {
      for (int n = 0; n < bytes(sum) / 4; ++n) {
        auto total = slot<uint32_t>(sum, m, n);
        for (int k = 0; k < bytes(a) / 4; ++k) {
          const auto x = slot<std::array<U, 4>>(a, m, k);
          const auto y = slot<std::array<int8_t, 4>>(b, k, n);
          for (size_t i = 0; i < 4; ++i) total += static_cast<uint32_t>(int32_t{x[i]} * int32_t{y[i]});
        }
        set_slot(sum, m, n, total);
      }
    }
  }

 private:
  using Register = std::array<std::byte, size_t{kMaxTileRows} * kTileBytes>;

  static void require(bool condition, const char* message) {
    if (!condition) throw TileFault(message);
  }
  static size_t at(int tile) { return static_cast<size_t>(tile); }
  [[nodiscard]] int rows(int tile) const { return config_.rows[tile]; }
  [[nodiscard]] int bytes(int tile) const { return config_.colsb[tile]; }
  [[nodiscard]] std::byte* row(int tile, int r) { return data_[at(tile)].data() + r * kTileBytes; }

  void require_configured(int tile) const {
    require(tile >= 0 && tile < kTiles, "no such register");
    require(config_.palette == 1, "registers are in use without a configuration");
    require(rows(tile) > 0, "a register that the configuration leaves out");
  }
  void require_product(int sum, int a, int b) const {
    for (int tile : {sum, a, b}) {
      require_configured(tile);
      require(bytes(tile) % 4 == 0, "a product of rows that aren't whole slots");
    }
    require(sum != a && sum != b && a != b, "a product of one register with itself");
    require(rows(sum) == rows(a), "a product whose rows differ from those of A");
    require(bytes(sum) == bytes(b), "a product whose columns differ from those of B");
    require(bytes(a) / 4 == rows(b), "a product of A and B that don't fit");
  }

  template <class T>
  [[nodiscard]] T slot(int tile, int r, int i) {
    T value;
    std::memcpy(&value, row(tile, r) + i * 4, sizeof value);
    return value;
  }
  template <class T>
  void set_slot(int tile, int r, int i, T value) {
    std::memcpy(row(tile, r) + i * 4, &value, sizeof value);
  }

  static float as_float(uint32_t bits) { return std::bit_cast<float>(bits); }
  static float flush(float x) { return std::fpclassify(x) == FP_SUBNORMAL ? std::copysign(0.0F, x) : x; }
  // A product of two numbers of 8 bits has 16: but at the ends of the range it is a float, and then the sum alone is
  // rounded.
  static float fma(float x, float y, float sum) {
    x = flush(x);
    y = flush(y);
    const float product = x * y;
    const float size = std::abs(product);
    const bool exact = size >= std::numeric_limits<float>::min() && size <= std::numeric_limits<float>::max();
    return flush(exact ? product + sum : std::fma(x, y, sum));
  }

  TileConfig config_{};
  std::array<Register, kTiles> data_{};
};

// The machine of the calling thread.
inline TileMachine& tile_machine() {
  static thread_local TileMachine machine;
  return machine;
}

namespace {

struct EmulatedTiles {
  static void configure(const TileConfig& config) { tile_machine().configure(config); }
  static void release() { tile_machine().release(); }
  template <int Tile>
  static void zero() {
    tile_machine().zero(Tile);
  }
  template <int Tile>
  static void load(const void* p, int64_t step) {
    tile_machine().load(Tile, p, step);
  }
  template <int Tile>
  static void store(void* p, int64_t step) {
    tile_machine().store(Tile, p, step);
  }
  template <int Sum, int A, int B>
  static void dot_bf16() {
    tile_machine().dot_bf16(Sum, A, B);
  }
  template <int Sum, int A, int B>
  static void dot_u8s8() {
    tile_machine().dot_bytes<uint8_t>(Sum, A, B);
  }
  template <int Sum, int A, int B>
  static void dot_s8s8() {
    tile_machine().dot_bytes<int8_t>(Sum, A, B);
  }
};

}  // namespace
}  // namespace graphopt
