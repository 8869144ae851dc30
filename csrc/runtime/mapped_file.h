// A file mapped for reading.
#pragma once

#include <cstdint>
#include <span>
#include <string>

namespace graphopt {

class MappedFile {
 public:
  // Throws Error when the file cannot be opened, is empty or is not a regular file.
  explicit MappedFile(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  // 64-byte (in fact page) aligned.
  [[nodiscard]] std::span<const uint8_t> bytes() const { return {data_, size_}; }

 private:
  const uint8_t* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace graphopt
