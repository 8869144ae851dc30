// The largest bytes of windows, written once: vectors of the compiler's own.
#pragma once

#include <cstdint>

#include "kernels/pool/pool.h"

namespace graphopt {
namespace {

// Size channels of one output.
template <class T, int Size>
void largest(const BytePoolLine& l, int64_t column, int64_t channel) {
  typedef T Vector __attribute__((vector_size(Size)));
  const int64_t first = column * l.stride - l.begin;
  Vector most = Vector{} + static_cast<T>(static_cast<T>(-1) < 0 ? -128 : 0);
  for (int64_t i = 0; i < l.line_count; ++i) {
    for (int64_t k = 0; k < l.kernel; ++k) {
      const int64_t position = first + k * l.dilation;
      if (position < 0 || position >= l.columns_in) continue;
      Vector x;
      __builtin_memcpy(&x, l.lines[i] + position * l.channels + channel, sizeof x);
      most = most > x ? most : x;
    }
  }
  __builtin_memcpy(l.y + column * l.channels + channel, &most, sizeof most);
}

template <class T>
void largest_of_line(const BytePoolLine& l) {
  constexpr int kVector = 64;
  for (int64_t column = 0; column < l.columns; ++column) {
    int64_t channel = l.channel_begin;
    for (; channel + kVector <= l.channel_end; channel += kVector) largest<T, kVector>(l, column, channel);
    for (; channel + 16 <= l.channel_end; channel += 16) largest<T, 16>(l, column, channel);
    for (; channel < l.channel_end; ++channel) largest<T, 1>(l, column, channel);
  }
}

void pool_bytes(const BytePoolLine& line) {
  if (line.is_signed) {
    largest_of_line<int8_t>(line);
  } else {
    largest_of_line<uint8_t>(line);
  }
}

}  // namespace
}  // namespace graphopt
