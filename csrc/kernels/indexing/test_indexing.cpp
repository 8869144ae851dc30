// The steps that move elements, between guard pages: the last index of every axis, on several threads.
#include <vector>

#include "kernels_dense.h"

using namespace graphopt;
using namespace graphopt::test;

namespace {

Operand indices(std::vector<int64_t> shape, int64_t limit, Random& random) {
  int64_t count = 1;
  for (int64_t d : shape) count *= d;
  std::vector<int64_t> values;
  for (int64_t i = 0; i < count; ++i) values.push_back(random.below(2 * limit) - limit);
  if (count > 1) values[0] = limit - 1, values[1] = -limit;
  return make_operand(DType::kI64, std::move(shape), values);
}

std::vector<std::byte> run_bytes(const std::string& name, const Attrs& attrs, const std::vector<Operand>& inputs,
                                 DType dtype, const std::vector<int64_t>& shape) {
  std::vector<std::byte> first;
  for (int threads = 1; threads <= 3; ++threads) {
    std::vector<Operand> outputs = {{dtype, shape, {}}};
    run_step(name, attrs, inputs, outputs, threads, threads == 2 ? Guard::kBefore : Guard::kAfter);
    if (threads == 1) first = outputs[0].bytes;
    CHECK(outputs[0].bytes == first);
  }
  return first;
}

Operand filled(DType dtype, const std::vector<int64_t>& shape, Random& random) {
  Operand operand{dtype, shape, {}};
  operand.bytes.resize(operand.nbytes());
  for (std::byte& byte : operand.bytes) byte = static_cast<std::byte>(random.next());
  return operand;
}

void check_gather(DType dtype, int64_t inner, Random& random) {
  const Operand data = filled(dtype, {3, 7, inner}, random);
  const Operand picked = indices({2, 5}, 7, random);
  Attrs attrs;
  attrs.set("axis", int64_t{1});
  const auto got = run_bytes("gather", attrs, {data, picked}, dtype, {3, 2, 5, inner});
  const auto index = values_of<int64_t>(picked);
  const size_t row = static_cast<size_t>(inner) * element_size(dtype);
  for (size_t o = 0; o < 3; ++o) {
    for (size_t i = 0; i < index.size(); ++i) {
      const auto from = o * 7 + static_cast<size_t>(index[i] < 0 ? index[i] + 7 : index[i]);
      CHECK(std::memcmp(got.data() + (o * index.size() + i) * row, data.bytes.data() + from * row, row) == 0);
    }
  }
}

void check_others(DType dtype, Random& random) {
  Attrs axis;
  axis.set("axis", int64_t{1});
  const Operand data = filled(dtype, {4, 5, 19}, random);
  run_bytes("gather_elements", axis, {data, indices({4, 9, 19}, 5, random)}, dtype, {4, 9, 19});
  run_bytes("gather_nd", {}, {data, indices({6, 2}, 4, random)}, dtype, {6, 19});
  const Operand updates = filled(dtype, {3, 9, 18}, random);
  run_bytes("scatter_elements", axis, {data, indices({3, 9, 18}, 5, random), updates}, dtype, {4, 5, 19});
  run_bytes("scatter_nd", {}, {data, indices({6, 2}, 4, random), filled(dtype, {6, 19}, random)}, dtype, {4, 5, 19});
  run_bytes("trilu", {}, {data}, dtype, {4, 5, 19});
}

void check_errors(Random& random) {
  const Operand data = filled(DType::kF32, {4, 5}, random);
  std::vector<Operand> out = {{DType::kF32, {1, 5}, {}}};
  for (int64_t bad : {int64_t{4}, int64_t{-5}, INT64_MAX, INT64_MIN}) {
    const Operand picked = make_operand(DType::kI64, {1}, std::vector<int64_t>{bad});
    CHECK_THROWS((run_step("gather", {}, {data, picked}, out, 1, Guard::kAfter), 0), "out of range");
  }
}

}  // namespace

int main() {
  Random random(1);
  for (const DType dtype : {DType::kU8, DType::kF16, DType::kF32, DType::kF64, DType::kC128}) {
    for (int64_t inner : {1, 2, 3, 16, 17}) check_gather(dtype, inner, random);
    check_others(dtype, random);
  }
  check_errors(random);
  return 0;
}
