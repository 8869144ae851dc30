// What the tests of the dense step kernels share: buffers between guard pages, running a step,
// comparison with a reference.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "check.h"
#include "graphopt/kernel.h"
#include "runtime/cpu.h"
#include "runtime/thread_pool.h"

namespace graphopt::test {

// Where a buffer lies between its two inaccessible pages.
enum class Guard { kAfter, kBefore };

// Memory whose neighbours (right behind it, or right before it) fault when they are touched.
class GuardedBuffer {
 public:
  GuardedBuffer(size_t bytes, Guard guard, size_t alignment = 1) {
    const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    const size_t body = (bytes + page - 1) / page * page;
    map_bytes_ = body + 2 * page;
    map_ = static_cast<std::byte*>(mmap(nullptr, map_bytes_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    CHECK(map_ != MAP_FAILED);
    CHECK(body == 0 || mprotect(map_ + page, body, PROT_READ | PROT_WRITE) == 0);
    data_ = map_ + page;
    if (guard == Guard::kAfter) data_ += (body - bytes) / alignment * alignment;
  }
  ~GuardedBuffer() {
    if (map_ != nullptr) munmap(map_, map_bytes_);
  }
  GuardedBuffer(GuardedBuffer&& other) noexcept
      : map_(std::exchange(other.map_, nullptr)), map_bytes_(other.map_bytes_), data_(other.data_) {}
  GuardedBuffer(const GuardedBuffer&) = delete;
  GuardedBuffer& operator=(const GuardedBuffer&) = delete;
  GuardedBuffer& operator=(GuardedBuffer&&) = delete;
  [[nodiscard]] void* data() const { return data_; }

 private:
  std::byte* map_ = nullptr;
  size_t map_bytes_ = 0;
  std::byte* data_ = nullptr;
};

// A small generator with the same numbers everywhere.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed * 2 + 1) {}
  uint32_t next() {
    state_ = state_ * 6364136223846793005ULL + 1442695040888963407ULL;
    return static_cast<uint32_t>(state_ >> 33U);
  }
  float uniform(float low = -1, float high = 1) {
    return low + (high - low) * static_cast<float>(next() % 65536) / 65536.0F;
  }
  int64_t below(int64_t n) { return static_cast<int64_t>(next()) % n; }
  std::vector<float> floats(int64_t count, float low = -1, float high = 1) {
    std::vector<float> values(static_cast<size_t>(count));
    for (float& x : values) x = uniform(low, high);
    return values;
  }

 private:
  uint64_t state_;
};

// An operand: its type, its shape and its bytes. An empty optional is Operand{}.
struct Operand {
  DType dtype = DType::kUndefined;
  std::vector<int64_t> shape;
  std::vector<std::byte> bytes;

  [[nodiscard]] size_t nbytes() const {
    size_t count = element_size(dtype);
    for (int64_t d : shape) count *= static_cast<size_t>(d);
    return count;
  }
};

template <class T>
Operand make_operand(DType dtype, std::vector<int64_t> shape, const std::vector<T>& values) {
  Operand operand{dtype, std::move(shape), {}};
  CHECK(operand.nbytes() == values.size() * sizeof(T));
  operand.bytes.resize(operand.nbytes());
  if (!values.empty()) std::memcpy(operand.bytes.data(), values.data(), operand.bytes.size());
  return operand;
}

inline Operand f32(std::vector<int64_t> shape, const std::vector<float>& values) {
  return make_operand(DType::kF32, std::move(shape), values);
}

class NoAllocator final : public OutputAllocator {
 public:
  Tensor& allocate(int /*index*/, std::span<const int64_t> /*shape*/) override {
    throw Error("the step's outputs don't depend on data");
  }
};

inline Tensor describe(const Operand& operand) {
  Tensor tensor;
  tensor.dtype = operand.dtype;
  tensor.rank = static_cast<int32_t>(operand.shape.size());
  std::copy(operand.shape.begin(), operand.shape.end(), tensor.shape.begin());
  return tensor;
}

// Runs a step with every operand and the workspace against a guard page; fills `outputs`' bytes.
inline void run_step(const std::string& name, const Attrs& attrs, const std::vector<Operand>& inputs,
                     std::vector<Operand>& outputs, int threads, Guard guard) {
  const KernelFactory factory = find_kernel(name);
  CHECK(factory != nullptr);
  const std::unique_ptr<Kernel> kernel = factory(attrs);
  std::vector<GuardedBuffer> buffers;
  std::vector<Tensor> in;
  std::vector<Tensor> out;
  for (const Operand& operand : inputs) {
    in.push_back(describe(operand));
    if (!in.back().present()) continue;
    buffers.emplace_back(operand.nbytes(), guard);
    if (!operand.bytes.empty()) std::memcpy(buffers.back().data(), operand.bytes.data(), operand.bytes.size());
  }
  for (const Operand& operand : outputs) {
    out.push_back(describe(operand));
    if (!out.back().present()) continue;
    buffers.emplace_back(operand.nbytes(), guard);
    std::memset(buffers.back().data(), 0xff, operand.nbytes());  // NaN, so that a missed element shows
  }
  const size_t bytes = kernel->workspace_bytes(in, out, threads);
  const GuardedBuffer workspace(bytes, guard, 64);
  if (bytes > 0) std::memset(workspace.data(), 0xff, bytes);
  size_t next = 0;
  for (Tensor& tensor : in) {
    if (tensor.present()) tensor.data = buffers[next++].data();
  }
  for (Tensor& tensor : out) {
    if (tensor.present()) tensor.data = buffers[next++].data();
  }
  const ThreadPool pool(threads);
  NoAllocator allocator;
  KernelArgs args{in, out, workspace.data(), pool, allocator};
  kernel->run(args);
  for (size_t i = 0; i < outputs.size(); ++i) {
    if (!out[i].present()) continue;
    outputs[i].bytes.resize(outputs[i].nbytes());
    if (!outputs[i].bytes.empty()) std::memcpy(outputs[i].bytes.data(), out[i].data, outputs[i].bytes.size());
  }
}

template <class T>
std::vector<T> values_of(const Operand& operand) {
  std::vector<T> values(operand.bytes.size() / sizeof(T));
  if (!values.empty()) std::memcpy(values.data(), operand.bytes.data(), operand.bytes.size());
  return values;
}

// Runs the step on one, two and three threads at both ends of the page; all results must have the same
// bits. Returns the first output.
inline std::vector<float> run_everywhere(const std::string& name, const Attrs& attrs,
                                         const std::vector<Operand>& inputs, const std::vector<int64_t>& shape) {
  std::vector<std::byte> first;
  std::vector<float> result;
  for (int threads = 1; threads <= 3; ++threads) {
    std::vector<Operand> outputs = {{DType::kF32, shape, {}}};
    run_step(name, attrs, inputs, outputs, threads, threads == 2 ? Guard::kBefore : Guard::kAfter);
    if (threads == 1) {
      first = outputs[0].bytes;
      result = values_of<float>(outputs[0]);
    }
    CHECK(outputs[0].bytes == first);
  }
  return result;
}

// |got - want| / |want| in the Euclidean norm; where `want` isn't finite, `got` must be the same.
inline double relative_error(const std::vector<float>& got, const std::vector<double>& want) {
  CHECK(got.size() == want.size());
  double difference = 0;
  double norm = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    if (std::isnan(want[i])) {
      CHECK(std::isnan(got[i]));
      continue;
    }
    if (std::isinf(want[i])) {
      CHECK(static_cast<double>(got[i]) == want[i]);
      continue;
    }
    const double d = static_cast<double>(got[i]) - want[i];
    difference += d * d;
    norm += want[i] * want[i];
  }
  if (difference == 0) return 0;
  return norm == 0 ? std::sqrt(difference) : std::sqrt(difference / norm);
}

// Sums of products in float32, of a few thousand terms at most, differ from the exact ones by less.
inline constexpr double kTolerance = 1e-5;

}  // namespace graphopt::test
