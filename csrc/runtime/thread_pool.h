// A fork/join pool for short parallel regions.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

#include "graphopt/kernel.h"

namespace graphopt {

// Runs everything on the calling thread.
class Serial final : public Parallel {
 public:
  [[nodiscard]] int threads() const override { return 1; }
  void run(int64_t n, int64_t /*grain*/, Body body, void* context) const override {
    if (n > 0) body(context, 0, n, 0);
  }
};

// `threads() - 1` workers and the calling thread. Idle workers spin for at most 20 us, then sleep on a
// futex: pools that only spin collapse when other processes want the cores.
//
// A region's range is cut into chunks. Each worker starts in its own share (so that the same worker
// sees the same rows in every step) and then helps with the others'. The caller never waits for a
// worker that has not started: when nobody wakes in time it does all the work itself.
//
// In a forked child, which has none of its parent's threads, the caller does all the work.
//
// run() may be called by one thread at a time, and not from inside a body. Callers that share a pool
// take it with try_acquire() and fall back to Serial.
class ThreadPool final : public Parallel {
 public:
  explicit ThreadPool(int threads);
  ~ThreadPool() override;
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  [[nodiscard]] int threads() const override { return threads_; }
  void run(int64_t n, int64_t grain, Body body, void* context) const override;

  [[nodiscard]] bool try_acquire() const { return !busy_.exchange(true, std::memory_order_acquire); }
  void release() const { busy_.store(false, std::memory_order_release); }

 private:
  // The chunks of one worker's share that nobody has claimed yet.
  struct alignas(64) Share {
    std::atomic<int64_t> next{0};
    int64_t end = 0;
  };
  // What the open region is. Written only while no worker is inside.
  struct Job {
    int64_t n = 0;
    int64_t chunk = 1;
    Body body = nullptr;
    void* context = nullptr;
  };

  void worker_loop(int worker);
  void work(int worker) const;
  void wait_for_workers() const;
  bool enter() const;
  void leave() const;

  int threads_;
  int process_;  // whose threads the workers are
  mutable Job job_;
  mutable std::unique_ptr<Share[]> shares_;
  // Bit 31: open to workers. Bit 30: the caller sleeps until the count is zero. Rest: workers inside.
  alignas(64) mutable std::atomic<uint32_t> gate_{0};
  alignas(64) mutable std::atomic<uint32_t> epoch_{0};  // one more for every region; workers sleep on it
  alignas(64) mutable std::atomic<int> sleepers_{0};
  mutable std::atomic<bool> busy_{false};
  std::atomic<bool> stop_{false};
  std::vector<std::thread> workers_;
};

// The pool for as long as this object lives if it is free, else Serial.
class PoolLease {
 public:
  explicit PoolLease(const ThreadPool& pool) : pool_(pool.threads() > 1 && pool.try_acquire() ? &pool : nullptr) {}
  ~PoolLease() {
    if (pool_ != nullptr) pool_->release();
  }
  PoolLease(const PoolLease&) = delete;
  PoolLease& operator=(const PoolLease&) = delete;

  [[nodiscard]] const Parallel& parallel() const {
    return pool_ != nullptr ? static_cast<const Parallel&>(*pool_) : serial_;
  }

 private:
  const ThreadPool* pool_;
  Serial serial_;
};

}  // namespace graphopt
