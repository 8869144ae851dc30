#include "runtime/json.h"

#include <algorithm>
#include <charconv>
#include <limits>

#include "graphopt/kernel.h"

namespace graphopt {
namespace {

constexpr int kMaxDepth = 64;

bool is_digit(char c) { return c >= '0' && c <= '9'; }

class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  Json document() {
    Json value = parse_value(0);
    skip_space();
    if (at_ != text_.size()) fail("text after the value");
    return value;
  }

 private:
  [[noreturn]] void fail(const std::string& what) const {
    throw Error("malformed JSON at byte " + std::to_string(at_) + ": " + what);
  }

  // The next character, or NUL at the end (NUL is never valid JSON, so the two need no distinction).
  [[nodiscard]] char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }

  void skip_space() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n' || text_[at_] == '\t' || text_[at_] == '\r'))
      ++at_;
  }

  void expect(char c) {
    if (peek() != c) fail(std::string("'") + c + "' expected");
    ++at_;
  }

  bool accept(char c) {
    if (peek() != c) return false;
    ++at_;
    return true;
  }

  bool accept_word(std::string_view word) {
    if (text_.substr(at_, word.size()) != word) return false;
    at_ += word.size();
    return true;
  }

  Json parse_value(int depth) {
    if (depth > kMaxDepth) fail("nested too deeply");
    skip_space();
    switch (peek()) {
      case '{':
        return parse_object(depth);
      case '[':
        return parse_array(depth);
      case '"':
        return Json(parse_string());
      default:
        break;
    }
    if (accept_word("true")) return Json(true);
    if (accept_word("false")) return Json(false);
    if (accept_word("null")) return {};
    if (accept_word("Infinity")) return Json(std::numeric_limits<double>::infinity());
    if (accept_word("-Infinity")) return Json(-std::numeric_limits<double>::infinity());
    if (accept_word("NaN")) return Json(std::numeric_limits<double>::quiet_NaN());
    return parse_number();
  }

  Json parse_object(int depth) {
    Json::Object members;
    expect('{');
    skip_space();
    if (!accept('}')) {
      do {
        skip_space();
        std::string key = parse_string();
        skip_space();
        expect(':');
        members.emplace_back(std::move(key), parse_value(depth + 1));
        skip_space();
      } while (accept(','));
      expect('}');
    }
    const auto by_key = [](const Json::Member& a, const Json::Member& b) { return a.first < b.first; };
    std::sort(members.begin(), members.end(), by_key);
    const auto same_key = [](const Json::Member& a, const Json::Member& b) { return a.first == b.first; };
    const auto twice = std::adjacent_find(members.begin(), members.end(), same_key);
    if (twice != members.end()) fail("key '" + twice->first + "' stands twice in the object that ends here");
    return Json(std::move(members));
  }

  Json parse_array(int depth) {
    Json::Array items;
    expect('[');
    skip_space();
    if (!accept(']')) {
      do {
        items.push_back(parse_value(depth + 1));
        skip_space();
      } while (accept(','));
      expect(']');
    }
    return Json(std::move(items));
  }

  Json parse_number() {
    const size_t start = at_;
    bool whole = true;
    accept('-');
    if (!is_digit(peek())) fail("a value expected");
    if (!accept('0')) skip_digits();
    if (accept('.')) {
      whole = false;
      if (!is_digit(peek())) fail("a digit expected");
      skip_digits();
    }
    if (accept('e') || accept('E')) {
      whole = false;
      if (!accept('+')) accept('-');
      if (!is_digit(peek())) fail("a digit expected");
      skip_digits();
    }
    const char* const first = text_.data() + start;
    const char* const last = text_.data() + at_;
    if (whole) {
      int64_t value = 0;
      if (std::from_chars(first, last, value).ec != std::errc()) fail("the number does not fit 64 bits");
      return Json(value);
    }
    double value = 0;
    if (std::from_chars(first, last, value).ec != std::errc()) fail("the number is out of range");
    return Json(value);
  }

  void skip_digits() {
    while (is_digit(peek())) ++at_;
  }

  std::string parse_string() {
    expect('"');
    std::string out;
    for (;;) {
      if (at_ >= text_.size()) fail("the string does not end");
      const auto c = static_cast<unsigned char>(text_[at_]);
      if (c == '"') {
        ++at_;
        return out;
      }
      if (c < 0x20) fail("a control character in a string");
      if (c == '\\') {
        ++at_;
        parse_escape(out);
      } else if (c < 0x80) {
        out += static_cast<char>(c);
        ++at_;
      } else {
        copy_utf8(out);
      }
    }
  }

  void parse_escape(std::string& out) {
    const char c = peek();
    ++at_;
    switch (c) {
      case '"':
      case '\\':
      case '/':
        out += c;
        return;
      case 'b':
        out += '\b';
        return;
      case 'f':
        out += '\f';
        return;
      case 'n':
        out += '\n';
        return;
      case 'r':
        out += '\r';
        return;
      case 't':
        out += '\t';
        return;
      case 'u':
        append_utf8(out, parse_code_point());
        return;
      default:
        --at_;
        fail("an unknown escape");
    }
  }

  uint32_t parse_hex4() {
    if (text_.size() - at_ < 4) fail("four hexadecimal digits expected");
    uint32_t value = 0;
    const char* const first = text_.data() + at_;
    const auto [end, error] = std::from_chars(first, first + 4, value, 16);
    if (error != std::errc() || end != first + 4) fail("four hexadecimal digits expected");
    at_ += 4;
    return value;
  }

  uint32_t parse_code_point() {
    const uint32_t high = parse_hex4();
    if (high < 0xD800 || high > 0xDFFF) return high;
    if (high > 0xDBFF || !accept_word("\\u")) fail("half of a surrogate pair");
    const uint32_t low = parse_hex4();
    if (low < 0xDC00 || low > 0xDFFF) fail("half of a surrogate pair");
    return 0x10000 + ((high - 0xD800) << 10U) + (low - 0xDC00);
  }

  static void append_utf8(std::string& out, uint32_t code) {
    const auto tail = [&](unsigned shift) { out += static_cast<char>(0x80U | ((code >> shift) & 0x3FU)); };
    if (code < 0x80) {
      out += static_cast<char>(code);
    } else if (code < 0x800) {
      out += static_cast<char>(0xC0U | (code >> 6U));
      tail(0);
    } else if (code < 0x10000) {
      out += static_cast<char>(0xE0U | (code >> 12U));
      tail(6), tail(0);
    } else {
      out += static_cast<char>(0xF0U | (code >> 18U));
      tail(12), tail(6), tail(0);
    }
  }

  // Copies one multi-byte sequence; refuses overlong forms, surrogates and what Unicode does not have.
  void copy_utf8(std::string& out) {
    const auto byte = [&](size_t i) -> uint32_t {
      return at_ + i < text_.size() ? static_cast<unsigned char>(text_[at_ + i]) : 0;
    };
    const uint32_t lead = byte(0);
    const size_t length = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2;
    uint32_t code = lead & (0xFFU >> (length + 1));
    for (size_t i = 1; i < length; ++i) {
      if ((byte(i) & 0xC0U) != 0x80) fail("bytes that are not UTF-8");
      code = (code << 6U) | (byte(i) & 0x3FU);
    }
    constexpr uint32_t kSmallest[5] = {0, 0, 0x80, 0x800, 0x10000};
    const bool surrogate = code >= 0xD800 && code <= 0xDFFF;
    if (lead < 0xC0 || lead > 0xF4 || code < kSmallest[length] || code > 0x10FFFF || surrogate) {
      fail("bytes that are not UTF-8");
    }
    out.append(text_, at_, length);
    at_ += length;
  }

  std::string_view text_;
  size_t at_ = 0;
};

[[noreturn]] void wrong_type(std::string_view what, std::string_view expected) {
  throw Error("'" + std::string(what) + "' must be " + std::string(expected));
}

}  // namespace

Json Json::parse(std::string_view text) { return Parser(text).document(); }

bool Json::boolean(std::string_view what) const {
  const auto* value = std::get_if<bool>(&value_);
  if (value == nullptr) wrong_type(what, "true or false");
  return *value;
}

int64_t Json::integer(std::string_view what) const {
  const auto* value = std::get_if<int64_t>(&value_);
  if (value == nullptr) wrong_type(what, "an integer");
  return *value;
}

double Json::real(std::string_view what) const {
  if (const auto* whole = std::get_if<int64_t>(&value_)) return static_cast<double>(*whole);
  const auto* value = std::get_if<double>(&value_);
  if (value == nullptr) wrong_type(what, "a number");
  return *value;
}

const std::string& Json::string(std::string_view what) const {
  const auto* value = std::get_if<std::string>(&value_);
  if (value == nullptr) wrong_type(what, "a string");
  return *value;
}

const Json::Array& Json::array(std::string_view what) const {
  const auto* value = std::get_if<Array>(&value_);
  if (value == nullptr) wrong_type(what, "a list");
  return *value;
}

const Json::Object& Json::object(std::string_view what) const {
  const auto* value = std::get_if<Object>(&value_);
  if (value == nullptr) wrong_type(what, "an object");
  return *value;
}

const Json* Json::find(std::string_view key) const {
  const auto* members = std::get_if<Object>(&value_);
  if (members == nullptr) return nullptr;
  const auto before = [](const Member& member, std::string_view wanted) { return member.first < wanted; };
  const auto it = std::lower_bound(members->begin(), members->end(), key, before);
  return it != members->end() && it->first == key ? &it->second : nullptr;
}

const Json& Json::at(std::string_view key) const {
  const Json* value = find(key);
  if (value == nullptr) throw Error("'" + std::string(key) + "' is missing");
  return *value;
}

}  // namespace graphopt
