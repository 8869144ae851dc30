// Dimensions as expressions over symbols, evaluated with overflow checks.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "runtime/json.h"

namespace graphopt {

using DimId = int32_t;
using SymbolId = int32_t;

struct DimExpr {
  enum class Op : uint8_t { kConstant, kSymbol, kAdd, kMul, kFloorDiv, kFloorMod, kMin, kMax, kBroadcast, kNotOne };
  Op op = Op::kConstant;
  int64_t value = 0;  // of kConstant
  SymbolId symbol = 0;
  DimId a = 0;  // operands: earlier dimensions
  DimId b = 0;
};

// A number, or why there is none.
struct DimValue {
  enum class State : uint8_t {
    kUnbound,  // depends on a symbol that has no value yet
    kKnown,
    kOverflow,
    kDivisionByZero,
    kNotBroadcastable,
  };
  State state = State::kUnbound;
  int64_t value = 0;

  static DimValue known(int64_t value) { return {State::kKnown, value}; }
  [[nodiscard]] bool is_known() const { return state == State::kKnown; }
};

// The plan's table of dimensions.
class DimTable {
 public:
  DimTable() = default;
  // Throws Error on an unknown operation or an operand that is not an earlier entry.
  DimTable(const Json& dims, std::vector<std::string> symbols);

  [[nodiscard]] size_t size() const { return exprs_.size(); }
  [[nodiscard]] const DimExpr& operator[](DimId id) const { return exprs_[static_cast<size_t>(id)]; }
  [[nodiscard]] size_t symbol_count() const { return symbols_.size(); }
  [[nodiscard]] const std::string& symbol_name(SymbolId id) const { return symbols_[static_cast<size_t>(id)]; }

  // Evaluates every entry.
  void evaluate(std::span<const DimValue> symbols, std::span<DimValue> values) const;
  // Evaluates these entries (in increasing order) again.
  void evaluate(std::span<const DimValue> symbols, std::span<const DimId> which, std::span<DimValue> values) const;

  // For each entry, whether it depends on a symbol for which `flags` is set.
  [[nodiscard]] std::vector<bool> depends_on(const std::vector<bool>& flags) const;

  // "N", "3", "2*H+1"; longer than a screen line never.
  [[nodiscard]] std::string text(DimId id) const;

  // The value; throws Error naming the expression and the reason when there is none.
  [[nodiscard]] int64_t require(DimId id, std::span<const DimValue> values) const;

 private:
  [[nodiscard]] DimValue compute(const DimExpr& expr, std::span<const DimValue> symbols,
                                 std::span<const DimValue> values) const;

  std::vector<DimExpr> exprs_;
  std::vector<std::string> symbols_;
};

}  // namespace graphopt
