#include <nanobind/nanobind.h>

#include "python/bindings.h"
#include "runtime/cpu.h"
#include "runtime/thread_pool.h"
#include "runtime/xxh64.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace graphopt::python {
namespace {

// The bytes of any object that speaks the buffer protocol.
class Bytes {
 public:
  explicit Bytes(nb::handle object) {
    if (PyObject_GetBuffer(object.ptr(), &view_, PyBUF_SIMPLE) != 0) throw nb::python_error();
  }
  ~Bytes() { PyBuffer_Release(&view_); }
  Bytes(const Bytes&) = delete;
  Bytes& operator=(const Bytes&) = delete;
  [[nodiscard]] std::span<const uint8_t> span() const {
    return {static_cast<const uint8_t*>(view_.buf), static_cast<size_t>(view_.len)};
  }

 private:
  Py_buffer view_{};
};

uint64_t hash_whole(nb::handle data) {
  const Bytes bytes(data);
  nb::gil_scoped_release release;
  return xxh64(bytes.span());
}

uint64_t hash_chunked(nb::handle data) {
  const Bytes bytes(data);
  nb::gil_scoped_release release;
  if (bytes.span().size() <= kHashChunk) return chunked_xxh64(bytes.span(), Serial());
  return chunked_xxh64(bytes.span(), ThreadPool(cpu_count()));
}

}  // namespace

void bind_hash(nb::module_& m) {
  m.def("xxh64", &hash_whole, "data"_a, "XXH64 of a bytes-like object.");
  m.def("chunked_xxh64", &hash_chunked, "data"_a, "XXH64 of the XXH64 values of a bytes-like object's 1 MiB chunks.");
}

}  // namespace graphopt::python
