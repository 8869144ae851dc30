// Reads the container of an artifact: a zip whose members are stored, not compressed.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "graphopt/kernel.h"

namespace graphopt {

// The members of an artifact, in place in its bytes (which must outlive this object).
class ZipReader {
 public:
  // Checks the whole-file hash in the archive comment, then every header. Throws Error.
  ZipReader(std::span<const uint8_t> file, const Parallel& parallel);

  // nullptr when there is no such member.
  [[nodiscard]] const std::span<const uint8_t>* find(std::string_view name) const;
  // Throws Error when there is no such member.
  [[nodiscard]] std::span<const uint8_t> at(std::string_view name) const;
  [[nodiscard]] std::vector<std::string> names() const;

 private:
  struct Member {
    std::string name;
    std::span<const uint8_t> data;
  };
  std::vector<Member> members_;
};

}  // namespace graphopt
