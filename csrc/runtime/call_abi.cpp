#include "runtime/call_abi.h"

#include <array>
#include <utility>

namespace graphopt {
namespace {

using Call = int (*)(void* function, const uint64_t* arguments);

template <size_t>
using Argument = uint64_t;

template <size_t... I>
int call(void* function, [[maybe_unused]] const uint64_t* arguments, std::index_sequence<I...> /*unused*/) {
  return reinterpret_cast<int (*)(Argument<I>...)>(function)(arguments[I]...);
}

template <size_t Count>
int call_with(void* function, const uint64_t* arguments) {
  return call(function, arguments, std::make_index_sequence<Count>());
}

template <size_t... Count>
constexpr std::array<Call, sizeof...(Count)> make_table(std::index_sequence<Count...> /*unused*/) {
  return {&call_with<Count>...};
}

constexpr auto kCalls = make_table(std::make_index_sequence<kMaxCallArguments + 1>());

}  // namespace

int call_function(void* function, const uint64_t* arguments, size_t count) {
  return kCalls[count](function, arguments);
}

}  // namespace graphopt
