// The step kernels cast, cast_like and bit_cast.
#include <algorithm>
#include <cstring>
#include <memory>

#include "kernels/convert/dispatch.h"
#include "kernels/convert/number_cast.h"
#include "kernels/support/operands.h"

namespace graphopt {

namespace convert {

namespace {

using support::fail;
using support::operand;
using support::Tag;

// f(Tag<T>{}) for the types of the language itself; false for another dtype.
template <class F>
bool visit_native(DType dtype, F&& f) {
  switch (dtype) {
    case DType::kF32:
      f(Tag<float>{});
      return true;
    case DType::kF64:
      f(Tag<double>{});
      return true;
    case DType::kBool:
      f(Tag<support::Bool>{});
      return true;
    case DType::kU8:
    case DType::kI8:
    case DType::kU16:
    case DType::kI16:
    case DType::kU32:
    case DType::kI32:
    case DType::kU64:
    case DType::kI64:
      support::visit_integer(dtype, "cast", f);
      return true;
    default:
      return false;
  }
}

// The 4- and 2-bit integers, the small floats: everything that visit_native() does not know.
bool is_native(DType dtype) {
  return visit_native(dtype, [](auto) {});
}

class Caster {
 public:
  Caster(const Tensor& from, const Tensor& to, const CastSettings& settings)
      : from_(from), to_(to), settings_(settings) {}

  void run(int64_t begin, int64_t end) const {
    if (from_.dtype == to_.dtype) {
      const size_t size = element_size(from_.dtype);
      std::memcpy(to_.ptr<char>() + static_cast<size_t>(begin) * size,
                  from_.ptr<const char>() + static_cast<size_t>(begin) * size, static_cast<size_t>(end - begin) * size);
    } else if (half_precision(begin, end)) {
      return;
    } else if (is_native(from_.dtype) && is_native(to_.dtype)) {
      visit_native(from_.dtype, [&](auto from_tag) {
        visit_native(to_.dtype, [&](auto to_tag) {
          direct<typename decltype(from_tag)::Type, typename decltype(to_tag)::Type>(begin, end);
        });
      });
    } else {
      in_blocks(begin, end);
    }
  }

 private:
  // Pairs of f32 with a 16-bit float have vector instructions.
  bool half_precision(int64_t begin, int64_t end) const {
    const Kernels& table = kernels();
    const int64_t count = end - begin;
    if (to_.dtype == DType::kF32 && (from_.dtype == DType::kF16 || from_.dtype == DType::kBF16)) {
      const auto widen = from_.dtype == DType::kF16 ? table.f16_to_f32 : table.bf16_to_f32;
      widen(from_.ptr<const uint16_t>() + begin, to_.ptr<float>() + begin, count);
      return true;
    }
    if (from_.dtype == DType::kF32 && (to_.dtype == DType::kF16 || to_.dtype == DType::kBF16)) {
      const auto narrow = to_.dtype == DType::kF16 ? table.f32_to_f16 : table.f32_to_bf16;
      narrow(from_.ptr<const float>() + begin, to_.ptr<uint16_t>() + begin, count);
      return true;
    }
    return false;
  }

  template <class From, class To>
  void direct(int64_t begin, int64_t end) const {
    const From* from = from_.ptr<const From>();
    To* to = to_.ptr<To>();
    for (int64_t i = begin; i < end; ++i) to[i] = cast_number<To>(support::load(from[i]), settings_);
  }

  // The other pairs go through the widest type of their kind: a load and a store routine a type instead
  // of one a pair.
  void in_blocks(int64_t begin, int64_t end) const {
    switch (from_.dtype) {
      case DType::kU64:
        return through<uint64_t>(begin, end);
      case DType::kU8:
      case DType::kI8:
      case DType::kU16:
      case DType::kI16:
      case DType::kU32:
      case DType::kI32:
      case DType::kI64:
      case DType::kBool:
      case DType::kU4:
      case DType::kI4:
      case DType::kU2:
      case DType::kI2:
        return through<int64_t>(begin, end);
      default:
        return through<double>(begin, end);
    }
  }

  template <class Wide>
  void through(int64_t begin, int64_t end) const {
    constexpr int64_t kBlock = 256;
    Wide block[kBlock];
    for (int64_t at = begin; at < end; at += kBlock) {
      const int64_t count = std::min(kBlock, end - at);
      support::visit_real(from_.dtype, "cast", [&](auto tag) {
        using From = typename decltype(tag)::Type;
        for (int64_t i = 0; i < count; ++i)
          block[i] = static_cast<Wide>(support::load(from_.ptr<const From>()[at + i]));
      });
      support::visit_real(to_.dtype, "cast", [&](auto tag) {
        using To = typename decltype(tag)::Type;
        for (int64_t i = 0; i < count; ++i) to_.ptr<To>()[at + i] = cast_number<To>(block[i], settings_);
      });
    }
  }

  const Tensor& from_;
  const Tensor& to_;
  const CastSettings& settings_;
};

// Throws here rather than in a body.
void check_castable(DType dtype) {
  support::visit_real(dtype, "cast", [](auto) {});
}

class Cast final : public Kernel {
 public:
  explicit Cast(const Attrs& attrs) : to_(attrs.i("to", 0)) {
    settings_.overflow = attrs.i("saturate", 1) != 0 ? support::Overflow::kSaturate : support::Overflow::kSpecial;
    const std::string mode = attrs.s("round_mode", "up");
    if (mode == "up") {
      settings_.round_mode = RoundMode::kUp;
    } else if (mode == "down") {
      settings_.round_mode = RoundMode::kDown;
    } else if (mode == "nearest") {
      settings_.round_mode = RoundMode::kNearest;
    } else {
      fail("attribute 'round_mode' is '" + mode + "', expected up, down or nearest");
    }
  }

  void run(KernelArgs& args) const override {
    const Tensor& from = operand(args.inputs, 0, "input");
    const Tensor& to = support::result(args.outputs, 0, "output");
    support::require_same_shape(to, from, "output");
    if (to_ != 0) support::require_dtype(to, static_cast<DType>(to_), "output");
    if (from.dtype != to.dtype) {
      check_castable(from.dtype);
      check_castable(to.dtype);
    }
    constexpr int64_t kGrain = int64_t{1} << 14;
    const Caster caster(from, to, settings_);
    args.parallel.for_range(from.numel(), kGrain, [&](int64_t begin, int64_t end, int) { caster.run(begin, end); });
  }

 private:
  int64_t to_;
  CastSettings settings_;
};

class BitCast final : public Kernel {
 public:
  void run(KernelArgs& args) const override {
    const Tensor& from = operand(args.inputs, 0, "input");
    const Tensor& to = support::result(args.outputs, 0, "output");
    support::require_same_shape(to, from, "output");
    support::require(element_size(from.dtype) == element_size(to.dtype), "bit_cast: the element sizes differ");
    if (from.data != to.data && from.numel() > 0) std::memcpy(to.data, from.data, from.nbytes());
  }
};

}  // namespace
}  // namespace convert

std::unique_ptr<Kernel> make_cast(const Attrs& attrs) { return std::make_unique<convert::Cast>(attrs); }

std::unique_ptr<Kernel> make_bit_cast(const Attrs&) { return std::make_unique<convert::BitCast>(); }

}  // namespace graphopt
