#include <string_view>
#include <vector>

#include "check.h"
#include "runtime/thread_pool.h"
#include "runtime/xxh64.h"

using namespace graphopt;

namespace {

uint64_t hash(std::string_view text, uint64_t seed = 0) {
  return xxh64({reinterpret_cast<const uint8_t*>(text.data()), text.size()}, seed);
}

}  // namespace

int main() {
  // Values of the reference implementation.
  CHECK(hash("") == 0xEF46DB3751D8E999U);
  CHECK(hash("a") == 0xD24EC4F1A98C6E5BU);
  CHECK(hash("abc") == 0x44BC2CF5AD770999U);
  CHECK(hash("Nobody inspects the spammish repetition") == 0xFBCEA83C8A378BF1U);
  CHECK(hash("Nobody inspects the spammish repetition", 1) != hash("Nobody inspects the spammish repetition"));

  std::vector<uint8_t> data(3 * kHashChunk + 12345);
  for (size_t i = 0; i < data.size(); ++i) data[i] = static_cast<uint8_t>(i * 131 + i / 7);
  const uint64_t serial = chunked_xxh64(data, Serial());
  CHECK(serial == chunked_xxh64(data, ThreadPool(4)));
  data.back() ^= 1U;
  CHECK(serial != chunked_xxh64(data, Serial()));
  CHECK(chunked_xxh64({}, Serial()) == hash(""));
  return 0;
}
