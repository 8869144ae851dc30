#include <atomic>
#include <chrono>
#include <numeric>
#include <thread>
#include <vector>

#include "check.h"
#include "runtime/thread_pool.h"

using namespace graphopt;

namespace {

// Every index is visited once, by a worker that is not inside two calls at a time.
void check_cover(const Parallel& parallel, int64_t n, int64_t grain) {
  std::vector<int> visits(static_cast<size_t>(n), 0);
  std::vector<std::atomic<int>> inside(static_cast<size_t>(parallel.threads()));
  parallel.for_range(n, grain, [&](int64_t begin, int64_t end, int worker) {
    CHECK(begin >= 0 && begin < end && end <= n);
    CHECK(worker >= 0 && worker < parallel.threads());
    CHECK(inside[static_cast<size_t>(worker)].fetch_add(1) == 0);
    for (int64_t i = begin; i < end; ++i) ++visits[static_cast<size_t>(i)];
    inside[static_cast<size_t>(worker)].fetch_sub(1);
  });
  for (const int count : visits) CHECK(count == 1);
}

void covers_every_range() {
  for (const int threads : {1, 2, 3, 8}) {
    const ThreadPool pool(threads);
    CHECK(pool.threads() == threads);
    for (const int64_t n : {0, 1, 2, 3, 7, 8, 64, 1000}) {
      for (const int64_t grain : {0, 1, 3, 8, 100, 5000}) check_cover(pool, n, grain);
    }
  }
  check_cover(Serial(), 17, 1);
}

void many_short_regions() {
  const ThreadPool pool(4);
  std::vector<int64_t> data(4096, 0);
  for (int round = 0; round < 5000; ++round) {
    pool.for_range(4096, 16, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) data[static_cast<size_t>(i)] += i;
    });
  }
  for (size_t i = 0; i < data.size(); ++i) CHECK(data[i] == static_cast<int64_t>(5000 * i));
}

void wakes_sleepers() {
  const ThreadPool pool(3);
  for (int round = 0; round < 20; ++round) {
    std::this_thread::sleep_for(std::chrono::microseconds(300));  // longer than workers spin
    check_cover(pool, 100, 1);
  }
}

void waits_for_slow_workers() {
  const ThreadPool pool(2);
  std::atomic<int> done{0};
  pool.for_range(2, 1, [&](int64_t begin, int64_t end, int) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));  // longer than the caller spins
    done += static_cast<int>(end - begin);
  });
  CHECK(done == 2);
}

void is_leased_to_one_run_at_a_time() {
  const ThreadPool pool(2);
  const PoolLease first(pool);
  CHECK(first.parallel().threads() == 2);
  {
    const PoolLease second(pool);
    CHECK(second.parallel().threads() == 1);
    check_cover(second.parallel(), 10, 1);
  }
  CHECK(!pool.try_acquire());
}

}  // namespace

int main() {
  covers_every_range();
  many_short_regions();
  wakes_sleepers();
  waits_for_slow_workers();
  is_leased_to_one_run_at_a_time();
  CHECK_THROWS(ThreadPool(0), "number of threads");
  CHECK_THROWS(ThreadPool(100000), "number of threads");
  return 0;
}
