// Step kernel `lookup`: every byte, by its bits, becomes an entry of a table of 256 bytes.
#include <algorithm>

#include "kernels/dense/operands.h"

namespace graphopt {
namespace {

class Lookup final : public Kernel {
 public:
  void run(KernelArgs& args) const override {
    const Tensor& x = operand(args.inputs, 0);
    const Tensor& table = operand(args.inputs, 1);
    const Tensor& y = args.outputs[0];
    for (const Tensor* tensor : {&x, &table, &y}) {
      if (tensor->dtype != DType::kU8 && tensor->dtype != DType::kI8) throw Error("lookup: operands must be bytes");
    }
    if (table.numel() != 256) throw Error("lookup: a table has 256 entries");
    if (x.numel() != y.numel()) throw Error("lookup: Y must be as large as X");
    constexpr int64_t kWorthAThread = 16384;  // bytes
    const auto* from = static_cast<const uint8_t*>(x.data);
    const auto* entries = static_cast<const uint8_t*>(table.data);
    auto* to = static_cast<uint8_t*>(y.data);
    args.parallel.for_range(x.numel(), kWorthAThread, [&](int64_t begin, int64_t end, int /*worker*/) {
      for (int64_t i = begin; i < end; ++i) to[i] = entries[from[i]];
    });
  }
};

}  // namespace

std::unique_ptr<Kernel> make_lookup(const Attrs& /*attrs*/) { return std::make_unique<Lookup>(); }

}  // namespace graphopt
