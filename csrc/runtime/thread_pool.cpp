#include "runtime/thread_pool.h"

#include <immintrin.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <climits>
#include <string>

namespace graphopt {
namespace {

constexpr uint32_t kOpen = 1U << 31U;
constexpr uint32_t kWaiting = 1U << 30U;
constexpr uint32_t kInside = kWaiting - 1;
constexpr std::chrono::microseconds kSpin{20};
constexpr int kMaxThreads = 1024;
// Chunks a worker's share is cut into: enough to even out late or slow workers.
constexpr int64_t kChunksPerShare = 4;

void futex_wait(std::atomic<uint32_t>& word, uint32_t expected) {
  static_assert(sizeof(std::atomic<uint32_t>) == sizeof(uint32_t));
  syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, expected, nullptr, nullptr, 0);
}

void futex_wake_all(std::atomic<uint32_t>& word) {
  syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
}

// Spins until done() or the spin time is over; returns done().
template <class Done>
bool spin_until(Done&& done) {
  for (int i = 0; i < 32; ++i) {
    if (done()) return true;
    _mm_pause();
  }
  const auto deadline = std::chrono::steady_clock::now() + kSpin;
  do {
    for (int i = 0; i < 16; ++i) {
      if (done()) return true;
      _mm_pause();
    }
  } while (std::chrono::steady_clock::now() < deadline);
  return done();
}

}  // namespace

ThreadPool::ThreadPool(int threads) : threads_(threads), process_(getpid()) {
  if (threads < 1 || threads > kMaxThreads) {
    throw Error("the number of threads is " + std::to_string(threads) + "; it must be 1 to " +
                std::to_string(kMaxThreads));
  }
  shares_ = std::make_unique<Share[]>(static_cast<size_t>(threads));
  workers_.reserve(static_cast<size_t>(threads - 1));
  for (int worker = 1; worker < threads; ++worker) workers_.emplace_back([this, worker] { worker_loop(worker); });
}

ThreadPool::~ThreadPool() {
  stop_.store(true);
  epoch_.fetch_add(1);
  futex_wake_all(epoch_);
  for (std::thread& worker : workers_) {
    if (getpid() == process_) {
      worker.join();
    } else {
      worker.detach();  // a thread of the parent: joining it would never end
    }
  }
}

void ThreadPool::run(int64_t n, int64_t grain, Body body, void* context) const {
  if (n <= 0) return;
  grain = std::max<int64_t>(grain, 1);
  if (threads_ == 1 || n <= grain) {
    body(context, 0, n, 0);
    return;
  }
  const int64_t shares = threads_;
  const int64_t wanted = (n - 1) / (shares * kChunksPerShare) + 1;
  job_ = {n, std::max(wanted, grain), body, context};
  const int64_t chunks = (n - 1) / job_.chunk + 1;
  for (int64_t s = 0; s < shares; ++s) {
    Share& share = shares_[static_cast<size_t>(s)];
    share.next.store(chunks * s / shares, std::memory_order_relaxed);
    share.end = chunks * (s + 1) / shares;
  }
  gate_.store(kOpen, std::memory_order_release);
  // Sequentially consistent with the sleeper's own check: either it sees the new epoch or we see it.
  epoch_.fetch_add(1);
  if (sleepers_.load() > 0) futex_wake_all(epoch_);
  work(0);
  wait_for_workers();
}

void ThreadPool::work(int worker) const {
  const Job job = job_;
  for (int i = 0; i < threads_; ++i) {
    Share& share = shares_[static_cast<size_t>((worker + i) % threads_)];
    for (;;) {
      if (share.next.load(std::memory_order_relaxed) >= share.end) break;
      const int64_t chunk = share.next.fetch_add(1, std::memory_order_relaxed);
      if (chunk >= share.end) break;
      const int64_t begin = chunk * job.chunk;
      job.body(job.context, begin, std::min(begin + job.chunk, job.n), worker);
    }
  }
}

// Closes the region and waits for the workers inside: they may still be in their last chunk.
void ThreadPool::wait_for_workers() const {
  gate_.fetch_and(~kOpen, std::memory_order_acq_rel);
  const auto empty = [this] { return (gate_.load(std::memory_order_acquire) & kInside) == 0; };
  if (spin_until(empty)) return;
  uint32_t gate = gate_.fetch_or(kWaiting, std::memory_order_acq_rel) | kWaiting;
  while ((gate & kInside) != 0) {
    futex_wait(gate_, gate);
    gate = gate_.load(std::memory_order_acquire);
  }
  gate_.fetch_and(~kWaiting, std::memory_order_relaxed);
}

bool ThreadPool::enter() const {
  uint32_t gate = gate_.load(std::memory_order_relaxed);
  while ((gate & kOpen) != 0) {
    if (gate_.compare_exchange_weak(gate, gate + 1, std::memory_order_acquire, std::memory_order_relaxed)) return true;
  }
  return false;
}

void ThreadPool::leave() const {
  const uint32_t before = gate_.fetch_sub(1, std::memory_order_acq_rel);
  if ((before & kWaiting) != 0 && (before & kInside) == 1) futex_wake_all(gate_);
}

void ThreadPool::worker_loop(int worker) {
  uint32_t seen = 0;
  for (;;) {
    const auto changed = [&] { return epoch_.load(std::memory_order_acquire) != seen; };
    if (!spin_until(changed)) {
      sleepers_.fetch_add(1);
      while (epoch_.load() == seen) futex_wait(epoch_, seen);
      sleepers_.fetch_sub(1);
    }
    seen = epoch_.load(std::memory_order_acquire);
    if (stop_.load(std::memory_order_acquire)) return;
    if (enter()) {
      work(worker);
      leave();
    }
  }
}

}  // namespace graphopt
