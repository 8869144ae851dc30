#include "runtime/dims.h"

#include <algorithm>
#include <limits>
#include <string_view>
#include <utility>

#include "graphopt/kernel.h"

namespace graphopt {
namespace {

using Op = DimExpr::Op;
using State = DimValue::State;

constexpr std::pair<std::string_view, Op> kOps[] = {
    {"+", Op::kAdd},   {"*", Op::kMul},   {"//", Op::kFloorDiv},     {"%", Op::kFloorMod},
    {"min", Op::kMin}, {"max", Op::kMax}, {"bcast", Op::kBroadcast}, {"ne1", Op::kNotOne},
};

std::string_view op_name(Op op) {
  const auto* it =
      std::find_if(std::begin(kOps), std::end(kOps), [op](const auto& entry) { return entry.second == op; });
  return it == std::end(kOps) ? "?" : it->first;
}

DimValue floor_divide(int64_t a, int64_t b, bool remainder) {
  if (b == 0) return {State::kDivisionByZero, 0};
  if (b == -1) {
    if (remainder) return DimValue::known(0);
    return a == std::numeric_limits<int64_t>::min() ? DimValue{State::kOverflow, 0} : DimValue::known(-a);
  }
  int64_t quotient = a / b;
  int64_t rest = a % b;
  if (rest != 0 && (rest < 0) != (b < 0)) {
    rest += b;
    --quotient;
  }
  return DimValue::known(remainder ? rest : quotient);
}

DimExpr parse_expr(const Json& json, DimId index, size_t symbols) {
  DimExpr expr;
  if (json.is_int()) {
    expr.value = json.integer("dims");
    return expr;
  }
  if (json.is_object()) {
    const int64_t symbol = json.at("sym").integer("sym");
    if (symbol < 0 || static_cast<size_t>(symbol) >= symbols) {
      throw Error("dimension " + std::to_string(index) + " refers to a symbol that does not exist");
    }
    expr.op = Op::kSymbol;
    expr.symbol = static_cast<SymbolId>(symbol);
    return expr;
  }
  const Json::Array& parts = json.array("dims");
  if (parts.empty()) throw Error("dimension " + std::to_string(index) + " is empty");
  const std::string& name = parts[0].string("dims");
  const auto* found = std::find_if(std::begin(kOps), std::end(kOps), [&](const auto& op) { return op.first == name; });
  if (found == std::end(kOps)) throw Error("dimension operation '" + name + "' is unknown");
  expr.op = found->second;
  const size_t arity = expr.op == Op::kNotOne ? 1 : 2;
  if (parts.size() != arity + 1) throw Error("dimension operation '" + name + "' has the wrong number of operands");
  const auto operand = [&](size_t i) {
    const int64_t id = parts[i].integer("dims");
    if (id < 0 || id >= index) throw Error("dimension " + std::to_string(index) + " refers to one that is not earlier");
    return static_cast<DimId>(id);
  };
  expr.a = operand(1);
  expr.b = arity == 2 ? operand(2) : expr.a;
  return expr;
}

}  // namespace

DimTable::DimTable(const Json& dims, std::vector<std::string> symbols) : symbols_(std::move(symbols)) {
  const Json::Array& list = dims.array("dims");
  if (list.size() > static_cast<size_t>(std::numeric_limits<DimId>::max())) throw Error("too many dimensions");
  exprs_.reserve(list.size());
  for (const Json& json : list) exprs_.push_back(parse_expr(json, static_cast<DimId>(exprs_.size()), symbols_.size()));
}

DimValue DimTable::compute(const DimExpr& expr, std::span<const DimValue> symbols,
                           std::span<const DimValue> values) const {
  if (expr.op == Op::kConstant) return DimValue::known(expr.value);
  if (expr.op == Op::kSymbol) return symbols[static_cast<size_t>(expr.symbol)];
  const DimValue& a = values[static_cast<size_t>(expr.a)];
  const DimValue& b = values[static_cast<size_t>(expr.b)];
  if (!a.is_known()) return a;
  if (!b.is_known()) return b;
  int64_t result = 0;
  switch (expr.op) {
    case Op::kAdd:
      return __builtin_add_overflow(a.value, b.value, &result) ? DimValue{State::kOverflow, 0}
                                                               : DimValue::known(result);
    case Op::kMul:
      return __builtin_mul_overflow(a.value, b.value, &result) ? DimValue{State::kOverflow, 0}
                                                               : DimValue::known(result);
    case Op::kFloorDiv:
      return floor_divide(a.value, b.value, false);
    case Op::kFloorMod:
      return floor_divide(a.value, b.value, true);
    case Op::kMin:
      return DimValue::known(std::min(a.value, b.value));
    case Op::kMax:
      return DimValue::known(std::max(a.value, b.value));
    case Op::kBroadcast:
      if (b.value == 1 || a.value == b.value) return a;
      return a.value == 1 ? b : DimValue{State::kNotBroadcastable, 0};
    case Op::kNotOne:
      return DimValue::known(a.value == 1 ? 0 : 1);
    case Op::kConstant:
    case Op::kSymbol:
      break;
  }
  return {};
}

void DimTable::evaluate(std::span<const DimValue> symbols, std::span<DimValue> values) const {
  for (size_t i = 0; i < exprs_.size(); ++i) values[i] = compute(exprs_[i], symbols, values);
}

void DimTable::evaluate(std::span<const DimValue> symbols, std::span<const DimId> which,
                        std::span<DimValue> values) const {
  for (const DimId id : which) values[static_cast<size_t>(id)] = compute((*this)[id], symbols, values);
}

std::vector<bool> DimTable::depends_on(const std::vector<bool>& flags) const {
  std::vector<bool> result(exprs_.size(), false);
  for (size_t i = 0; i < exprs_.size(); ++i) {
    const DimExpr& expr = exprs_[i];
    if (expr.op == Op::kSymbol) {
      result[i] = flags[static_cast<size_t>(expr.symbol)];
    } else if (expr.op != Op::kConstant) {
      result[i] = result[static_cast<size_t>(expr.a)] || result[static_cast<size_t>(expr.b)];
    }
  }
  return result;
}

std::string DimTable::text(DimId id) const {
  // Shared operands make the text exponentially longer than the table, so it is cut.
  constexpr size_t kLongest = 80;
  struct Writer {
    const DimTable& table;
    std::string out;

    void write(DimId dim) {
      if (out.size() > kLongest) return;
      const DimExpr& expr = table[dim];
      if (expr.op == Op::kConstant) {
        out += std::to_string(expr.value);
      } else if (expr.op == Op::kSymbol) {
        out += table.symbol_name(expr.symbol);
      } else if (expr.op <= Op::kFloorMod) {
        out += '(';
        write(expr.a);
        out += op_name(expr.op);
        write(expr.b);
        out += ')';
      } else {
        out += op_name(expr.op);
        out += '(';
        write(expr.a);
        if (expr.op != Op::kNotOne) {
          out += ", ";
          write(expr.b);
        }
        out += ')';
      }
    }
  };
  Writer writer{*this, {}};
  writer.write(id);
  std::string text = std::move(writer.out);
  if (text.size() > kLongest) return text.substr(0, kLongest) + "...";
  const bool wrapped = (*this)[id].op >= Op::kAdd && (*this)[id].op <= Op::kFloorMod;
  return wrapped ? text.substr(1, text.size() - 2) : text;
}

int64_t DimTable::require(DimId id, std::span<const DimValue> values) const {
  const DimValue& dim = values[static_cast<size_t>(id)];
  switch (dim.state) {
    case State::kKnown:
      return dim.value;
    case State::kUnbound:
      throw Error("dimension '" + text(id) + "' is not known yet");
    case State::kOverflow:
      throw Error("dimension '" + text(id) + "' overflows 64 bits");
    case State::kDivisionByZero:
      throw Error("dimension '" + text(id) + "' divides by zero");
    case State::kNotBroadcastable:
      break;
  }
  const DimExpr& expr = (*this)[id];
  std::string sizes;
  if (expr.op == Op::kBroadcast) {
    sizes = " (" + std::to_string(values[static_cast<size_t>(expr.a)].value) + " and " +
            std::to_string(values[static_cast<size_t>(expr.b)].value) + ")";
  }
  throw Error("the sizes in '" + text(id) + "'" + sizes + " do not broadcast");
}

}  // namespace graphopt
