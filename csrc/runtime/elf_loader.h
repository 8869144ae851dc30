// Loads relocatable x86-64 objects (ET_REL, what a compiler writes before linking) into the process:
// no linker, no compiler, no dlopen.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>

namespace graphopt {

// The address of a library function that objects may call (memcpy, expf, ...), nullptr for any other.
void* external_symbol(std::string_view name);

// An object's code and data in memory. Code is mapped read-execute, constants read-only, data
// read-write; nothing is ever writable and executable at once.
class LoadedObject {
 public:
  // Throws Error on anything that is malformed, that is not position-independent or that refers to
  // an unknown symbol. `name` stands in messages.
  LoadedObject(std::span<const uint8_t> object, const std::string& name);
  ~LoadedObject();
  LoadedObject(const LoadedObject&) = delete;
  LoadedObject& operator=(const LoadedObject&) = delete;

  // The entry of a global function; nullptr when there is none of that name.
  [[nodiscard]] void* function(std::string_view name) const;

 private:
  friend class ObjectLinker;

  uint8_t* base_ = nullptr;
  size_t size_ = 0;
  std::map<std::string, void*, std::less<>> functions_;
};

}  // namespace graphopt
