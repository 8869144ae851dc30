// A small JSON reader for files that nobody vouches for.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace graphopt {

// A JSON value. Accessors throw Error when the value has another type; `what` in the message is the
// key it was found under.
class Json {
 public:
  using Array = std::vector<Json>;
  using Member = std::pair<std::string, Json>;
  using Object = std::vector<Member>;  // sorted by key

  Json() = default;
  explicit Json(bool value) : value_(value) {}
  explicit Json(int64_t value) : value_(value) {}
  explicit Json(double value) : value_(value) {}
  explicit Json(std::string value) : value_(std::move(value)) {}
  explicit Json(Array value) : value_(std::move(value)) {}
  explicit Json(Object value) : value_(std::move(value)) {}

  // RFC 8259 and, as Python's json writes them, Infinity, -Infinity and NaN: one value, UTF-8 without surrogates, no
  // duplicate keys, nesting of at most 64. Whole numbers must fit int64; numbers with a fraction or exponent become
  // double. Throws Error with the byte offset of the first mistake.
  static Json parse(std::string_view text);

  [[nodiscard]] bool is_null() const { return std::holds_alternative<std::monostate>(value_); }
  [[nodiscard]] bool is_int() const { return std::holds_alternative<int64_t>(value_); }
  [[nodiscard]] bool is_double() const { return std::holds_alternative<double>(value_); }
  [[nodiscard]] bool is_string() const { return std::holds_alternative<std::string>(value_); }
  [[nodiscard]] bool is_array() const { return std::holds_alternative<Array>(value_); }
  [[nodiscard]] bool is_object() const { return std::holds_alternative<Object>(value_); }

  [[nodiscard]] bool boolean(std::string_view what) const;
  [[nodiscard]] int64_t integer(std::string_view what) const;
  [[nodiscard]] double real(std::string_view what) const;  // an integer is a real too
  [[nodiscard]] const std::string& string(std::string_view what) const;
  [[nodiscard]] const Array& array(std::string_view what) const;
  [[nodiscard]] const Object& object(std::string_view what) const;

  // Member of an object: nullptr when absent; at() throws.
  [[nodiscard]] const Json* find(std::string_view key) const;
  [[nodiscard]] const Json& at(std::string_view key) const;

 private:
  std::variant<std::monostate, bool, int64_t, double, std::string, Array, Object> value_;
};

}  // namespace graphopt
