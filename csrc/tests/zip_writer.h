// Writes artifacts for tests.
#pragma once

#include <cstdint>
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

#include "runtime/thread_pool.h"
#include "runtime/xxh64.h"

namespace graphopt::test {

using Bytes = std::vector<uint8_t>;
using Members = std::vector<std::pair<std::string, Bytes>>;

inline Bytes to_bytes(const std::string& text) { return {text.begin(), text.end()}; }

template <class T>
void put(Bytes& out, T value) {
  for (size_t i = 0; i < sizeof value; ++i) out.push_back(static_cast<uint8_t>(value >> (8 * i)));
}

inline void put_text(Bytes& out, const std::string& text) { out.insert(out.end(), text.begin(), text.end()); }

// Replaces the hash in the comment by the right one, as an attacker would.
inline void seal(Bytes& zip) {
  if (zip.size() < 31) return;
  zip.resize(zip.size() - 31);
  char comment[32];
  std::snprintf(comment, sizeof comment, "graphopt-xxh64:%016llx",
                static_cast<unsigned long long>(chunked_xxh64(zip, Serial())));
  put_text(zip, comment);
}

// A stored zip with aligned members and the hash comment.
inline Bytes write_zip(const Members& members, uint16_t method = 0, size_t alignment = 64) {
  Bytes out;
  Bytes directory;
  for (const auto& [name, data] : members) {
    const auto offset = static_cast<uint32_t>(out.size());
    const auto size = static_cast<uint32_t>(data.size());
    const auto name_size = static_cast<uint16_t>(name.size());
    const size_t header = 30 + name.size() + 4;
    const auto padding = static_cast<uint16_t>((alignment - (out.size() + header) % alignment) % alignment);
    put(out, uint32_t{0x04034b50}), put(out, uint16_t{20}), put(out, uint16_t{0}), put(out, method);
    put(out, uint32_t{0x00210000}), put(out, uint32_t{0}), put(out, size), put(out, size);
    put(out, name_size), put(out, static_cast<uint16_t>(4 + padding)), put_text(out, name);
    put(out, uint16_t{0xD935}), put(out, padding), out.resize(out.size() + padding);
    out.insert(out.end(), data.begin(), data.end());
    put(directory, uint32_t{0x02014b50}), put(directory, uint32_t{0x00140014}), put(directory, uint16_t{0});
    put(directory, method), put(directory, uint32_t{0x00210000}), put(directory, uint32_t{0});
    put(directory, size), put(directory, size), put(directory, name_size), put(directory, uint64_t{0});
    put(directory, uint32_t{0}), put(directory, offset), put_text(directory, name);
  }
  const auto start = static_cast<uint32_t>(out.size());
  const auto count = static_cast<uint16_t>(members.size());
  out.insert(out.end(), directory.begin(), directory.end());
  put(out, uint32_t{0x06054b50}), put(out, uint32_t{0}), put(out, count), put(out, count);
  put(out, static_cast<uint32_t>(directory.size())), put(out, start), put(out, uint16_t{31});
  out.resize(out.size() + 31);
  seal(out);
  return out;
}

}  // namespace graphopt::test
