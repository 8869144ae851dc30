#include <algorithm>
#include <cstring>
#include <string>

#include "check.h"
#include "fuzz.h"
#include "runtime/zip_reader.h"
#include "zip_writer.h"

using namespace graphopt;
using namespace graphopt::test;

namespace {

const Members& members() {
  static const Members all = {{"manifest.json", to_bytes("{}")},
                              {"weights", Bytes(1000, 7)},
                              {"objects/x86-64-v3.o", to_bytes("code")},
                              {"e", {}}};
  return all;
}

void reads_members() {
  const Bytes file = write_zip(members());
  const ZipReader zip(file, ThreadPool(2));
  CHECK(zip.names().size() == 4);
  for (const auto& [name, data] : members()) {
    const auto found = zip.at(name);
    CHECK(std::equal(found.begin(), found.end(), data.begin(), data.end()));
    CHECK((found.data() - file.data()) % 64 == 0);
  }
  CHECK(zip.find("nothing") == nullptr);
  CHECK_THROWS(zip.at("nothing"), "'nothing' is missing");
}

void refuses_any_flipped_bit() {
  const Bytes file = write_zip(members());
  for (size_t i = 0; i < file.size(); ++i) {
    for (const int bit : {0, 7}) {
      Bytes bad = file;
      bad[i] = static_cast<uint8_t>(bad[i] ^ (1U << bit));
      CHECK_THROWS(ZipReader(bad, Serial()), "artifact");
    }
  }
}

void refuses_any_truncation() {
  const Bytes file = write_zip(members());
  for (size_t size = 0; size < file.size(); ++size) {
    CHECK_THROWS(ZipReader(std::span(file).first(size), Serial()), "artifact");
  }
}

void refuses_unusual_archives() {
  CHECK_THROWS(ZipReader(write_zip(members(), 8), Serial()), "compressed");
  CHECK_THROWS(ZipReader(write_zip(members(), 0, 1), Serial()), "not aligned");
  CHECK_THROWS(ZipReader(write_zip({{"a", {}}, {"a", {}}}), Serial()), "'a' stands twice");
  CHECK_THROWS(ZipReader(to_bytes("#!/bin/sh\necho this is not an artifact at all, but it is long enough\n"), Serial()),
               "not a graphopt artifact");
  Members many;
  for (int i = 0; i < 5000; ++i) many.emplace_back(std::to_string(i), Bytes());
  CHECK_THROWS(ZipReader(write_zip(many), Serial()), "5000 members");
}

// Files whose hash is right although they are hostile.
void survives_mutations_with_a_valid_hash() {
  fuzz(write_zip(members()), 20000, [](Bytes bytes) {
    seal(bytes);
    const ZipReader zip(bytes, Serial());
    for (const std::string& name : zip.names()) {
      uint64_t sum = 0;
      for (const uint8_t byte : zip.at(name)) sum += byte;
      CHECK(sum <= 255 * bytes.size());
    }
  });
}

}  // namespace

int main() {
  reads_members();
  refuses_any_flipped_bit();
  refuses_any_truncation();
  refuses_unusual_archives();
  survives_mutations_with_a_valid_hash();
  return 0;
}
