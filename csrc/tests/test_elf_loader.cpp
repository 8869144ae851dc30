#include <cmath>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "check.h"
#include "fuzz.h"
#include "runtime/elf_loader.h"

using namespace graphopt;

namespace {

using Bytes = std::vector<uint8_t>;

Bytes read_file(const char* path) {
  std::ifstream file(path, std::ios::binary);
  CHECK(file.good());
  return {std::istreambuf_iterator<char>(file), {}};
}

void runs_code() {
  const LoadedObject object(read_file(TEST_OBJECT), "test");
  const auto add =
      reinterpret_cast<int (*)(const float*, const float*, float*, int64_t, int64_t)>(object.function("k_add"));
  const float a[3] = {1, 2, 3};
  const float b[3] = {10, 20, 30};
  float y[3] = {0, 0, 0};
  CHECK(add(a, b, y, 1, 3) == 0);
  CHECK(y[0] == 0 && y[1] == 22 && y[2] == 33);

  const auto exp_table =
      reinterpret_cast<int (*)(const float*, float*, int64_t, int64_t)>(object.function("k_exp_table"));
  CHECK(exp_table(a, y, 0, 3) == 0);
  for (int i = 0; i < 3; ++i) CHECK(y[i] == expf(a[i]) + static_cast<float>(i + 1));

  const auto count = reinterpret_cast<int (*)(float*, int64_t, int64_t)>(object.function("k_count"));
  count(y, 0, 1), count(y, 0, 1);
  CHECK(y[0] == 2);
  CHECK(object.function("k_nothing") == nullptr);
  CHECK(object.function("table") == nullptr);  // data
}

// No page of the process is writable and executable.
void maps_no_page_writable_and_executable() {
  const LoadedObject object(read_file(TEST_OBJECT), "test");
  std::ifstream maps("/proc/self/maps");
  std::string line;
  while (std::getline(maps, line)) CHECK(line.find("rwx") == std::string::npos);
}

void refuses_foreign_objects() {
  CHECK_THROWS(LoadedObject(read_file(TEST_UNKNOWN_OBJECT), "x"), "cannot load object 'x': unknown symbol 'system'");
  CHECK_THROWS(LoadedObject({}, "x"), "not an ELF object");
  CHECK_THROWS(LoadedObject(Bytes(200, 0), "x"), "not an ELF object");
  CHECK_THROWS(LoadedObject(read_file(TEST_NON_PIC_OBJECT), "x"), "position-independent");
  Bytes executable = read_file("/proc/self/exe");
  CHECK_THROWS(LoadedObject(executable, "x"), "not a relocatable x86-64 object");
  Bytes other_machine = read_file(TEST_OBJECT);
  other_machine[18] = 0xB7;  // AArch64
  CHECK_THROWS(LoadedObject(other_machine, "x"), "not a relocatable x86-64 object");
}

void refuses_any_truncation() {
  const Bytes object = read_file(TEST_OBJECT);
  for (size_t size = 0; size < object.size(); ++size) {
    CHECK_THROWS(LoadedObject(std::span(object).first(size), "x"), "cannot load object 'x'");
  }
}

void survives_mutations() {
  const Bytes object = read_file(TEST_OBJECT);
  test::fuzz(object, 20000, [](const Bytes& bytes) { (void)LoadedObject(bytes, "x").function("k_add"); });
  // Headers decide most, and are a small part of the file: mutate them alone, too.
  const size_t tables = object.size() > 2048 ? object.size() - 2048 : 0;
  const Bytes tail(object.begin() + static_cast<std::ptrdiff_t>(tables), object.end());
  test::fuzz(tail, 20000, [&](const Bytes& bytes) {
    Bytes whole(object.begin(), object.begin() + static_cast<std::ptrdiff_t>(tables));
    whole.insert(whole.end(), bytes.begin(), bytes.end());
    (void)LoadedObject(whole, "x").function("k_add");
  });
}

}  // namespace

int main() {
  runs_code();
  maps_no_page_writable_and_executable();
  refuses_foreign_objects();
  refuses_any_truncation();
  survives_mutations();
  CHECK(external_symbol("memcpy") != nullptr && external_symbol("system") == nullptr);
  return 0;
}
