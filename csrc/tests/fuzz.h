// Deterministic mutations of a valid file: every reader must refuse or accept each, never crash.
#pragma once

#include <cstdint>
#include <random>
#include <vector>

#include "graphopt/kernel.h"

namespace graphopt::test {

// Calls read(bytes) for `rounds` mutated copies: truncations, flipped bits, overwritten bytes and
// words of extreme values, doubled and removed ranges. Only Error may come out.
template <class Read>
void fuzz(const std::vector<uint8_t>& original, int rounds, Read&& read) {
  std::mt19937_64 random(20240229);
  const auto below = [&](size_t limit) { return static_cast<size_t>(random() % (limit == 0 ? 1 : limit)); };
  for (int round = 0; round < rounds; ++round) {
    std::vector<uint8_t> bytes = original;
    const size_t edits = 1 + below(4);
    for (size_t edit = 0; edit < edits && !bytes.empty(); ++edit) {
      const size_t at = below(bytes.size());
      switch (below(6)) {
        case 0:
          bytes.resize(at);
          break;
        case 1:
          bytes[at] = static_cast<uint8_t>(bytes[at] ^ (1U << below(8)));
          break;
        case 2:
          bytes[at] = static_cast<uint8_t>(random());
          break;
        case 3: {
          const uint8_t fill = below(2) == 0 ? 0xFF : 0x00;
          const size_t width = size_t{1} << below(4);
          for (size_t i = at; i < bytes.size() && i < at + width; ++i) bytes[i] = fill;
          break;
        }
        case 4: {
          const size_t count = below(std::min<size_t>(64, bytes.size() - at));
          const std::vector<uint8_t> part(bytes.begin() + static_cast<std::ptrdiff_t>(at),
                                          bytes.begin() + static_cast<std::ptrdiff_t>(at + count));
          bytes.insert(bytes.begin() + static_cast<std::ptrdiff_t>(at), part.begin(), part.end());
          break;
        }
        default: {
          const size_t count = below(std::min<size_t>(16, bytes.size() - at));
          bytes.erase(bytes.begin() + static_cast<std::ptrdiff_t>(at),
                      bytes.begin() + static_cast<std::ptrdiff_t>(at + count));
          break;
        }
      }
    }
    try {
      read(bytes);
    } catch (const Error&) {
    }
  }
}

}  // namespace graphopt::test
