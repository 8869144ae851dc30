#include <string>

#include "check.h"
#include "fuzz.h"
#include "runtime/json.h"

using namespace graphopt;

namespace {

void reads_values() {
  const Json json = Json::parse(R"( {"a": [1, -2.5, 1e3, true, null, "x\u00e9\ud83d\ude00\n"], "b": {}, "": 0} )");
  const Json::Array& list = json.at("a").array("a");
  CHECK(list[0].integer("a") == 1 && list[0].real("a") == 1.0);
  CHECK(list[1].real("a") == -2.5);
  CHECK(list[2].is_double() && list[2].real("a") == 1000.0);
  CHECK(list[3].boolean("a"));
  CHECK(list[4].is_null());
  CHECK(list[5].string("a") == "x\xC3\xA9\xF0\x9F\x98\x80\n");
  CHECK(json.at("b").object("b").empty());
  CHECK(json.at("").integer("") == 0);
  CHECK(json.find("c") == nullptr);
  CHECK(Json::parse("[Infinity]").array("x")[0].real("x") > 1e308);
  CHECK(Json::parse("-Infinity").real("x") < -1e308);
  CHECK(Json::parse("NaN").real("x") != Json::parse("NaN").real("x"));
  CHECK(Json::parse("9223372036854775807").integer("x") == INT64_MAX);
  CHECK(Json::parse("-9223372036854775808").integer("x") == INT64_MIN);
  CHECK(Json::parse("\"\xE2\x82\xAC\"").string("x") == "\xE2\x82\xAC");
}

void refuses_malformed_text() {
  for (const char* text : {"",
                           " ",
                           "{",
                           "[",
                           "[1",
                           "[1,",
                           "[1,]",
                           "{\"a\"}",
                           "{\"a\":}",
                           "{\"a\":1,}",
                           "{a:1}",
                           "01",
                           "1.",
                           ".5",
                           "-",
                           "1e",
                           "+1",
                           "nul",
                           "truee",
                           "\"",
                           "\"\\x\"",
                           "\"\\u12\"",
                           "\"\\ud800\"",
                           "\"\\udc00\"",
                           "\"\\ud800\\u0041\"",
                           "1 2",
                           "[1 2]",
                           "Nan",
                           "+Infinity",
                           "'a'",
                           "\"\x01\"",
                           "\"\xff\"",
                           "\"\xc0\x80\"",
                           "\"\xed\xa0\x80\"",
                           "\"\xf5\x80\x80\x80\"",
                           "\"\xe2\x82\""}) {
    CHECK_THROWS(Json::parse(text), "malformed JSON");
  }
  CHECK_THROWS(Json::parse("9223372036854775808"), "64 bits");
  CHECK_THROWS(Json::parse("1e999"), "out of range");
  CHECK_THROWS(Json::parse("{\"a\":1,\"b\":2,\"a\":3}"), "'a' stands twice");
  CHECK_THROWS(Json::parse(std::string(100, '[') + std::string(100, ']')), "nested too deeply");
  CHECK_THROWS(Json::parse(std::string(1000000, '[')), "nested too deeply");
  CHECK(Json::parse(std::string(60, '[') + std::string(60, ']')).is_array());
  CHECK_THROWS(Json::parse(std::string("1\0", 2)), "malformed JSON");
}

void names_what_has_the_wrong_type() {
  const Json json = Json::parse("{\"a\": 1}");
  CHECK_THROWS(json.at("b"), "'b' is missing");
  CHECK_THROWS(json.at("a").string("a"), "'a' must be a string");
  CHECK_THROWS(json.at("a").array("a"), "'a' must be a list");
  CHECK_THROWS(json.at("a").object("a"), "'a' must be an object");
  CHECK_THROWS(json.at("a").boolean("a"), "'a' must be true or false");
  CHECK_THROWS(Json(2.5).integer("n"), "'n' must be an integer");
  CHECK_THROWS(Json("x").real("n"), "'n' must be a number");
}

void survives_mutations() {
  const std::string text =
      R"({"version":1,"dims":[5,{"sym":0},["+",0,1]],"s":"\u00e9\ud83d\ude00","x":-1.25e-3,"n":[null,true,false]})";
  test::fuzz({text.begin(), text.end()}, 20000, [](const std::vector<uint8_t>& bytes) {
    (void)Json::parse({reinterpret_cast<const char*>(bytes.data()), bytes.size()});
  });
}

}  // namespace

int main() {
  reads_values();
  refuses_malformed_text();
  names_what_has_the_wrong_type();
  survives_mutations();
  return 0;
}
