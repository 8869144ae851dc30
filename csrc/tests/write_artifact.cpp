// Writes the artifact that the C tests run: y = a + b, of shape [N, 4].
#include <fstream>
#include <iterator>

#include "check.h"
#include "zip_writer.h"

using namespace graphopt::test;

int main(int argc, char** argv) {
  CHECK(argc == 3);
  std::ifstream object(argv[1], std::ios::binary);
  CHECK(object.good());
  const Bytes code{std::istreambuf_iterator<char>(object), {}};
  const char* plan = R"({"version":1,"symbols":["N"],"dims":[{"sym":0},4,["*",0,1]],"values":[
    {"name":"a","dtype":1,"shape":[0,1],"kind":"input"},
    {"name":"b","dtype":1,"shape":[0,1],"kind":"input"},
    {"name":"y","dtype":1,"shape":[0,1],"kind":"temp"}],
    "inputs":[0,1],"outputs":[{"name":"y","value":2}],"steps":[
    {"kind":"object","symbol":"k_add","args":[0,1,2],"dims":[],"extent":2,"grain":64,"name":"add"}],
    "objects":{"x86-64":"o"}})";
  const Bytes file = write_zip(
      {{"manifest.json", to_bytes(R"({"format_version":1})")}, {"plan", to_bytes(plan)}, {"weights", {}}, {"o", code}});
  std::ofstream out(argv[2], std::ios::binary);
  out.write(reinterpret_cast<const char*>(file.data()), static_cast<std::streamsize>(file.size()));
  CHECK(out.good());
  return 0;
}
