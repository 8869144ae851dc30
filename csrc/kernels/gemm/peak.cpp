#include "kernels/gemm/peak.h"

#include <algorithm>
#include <chrono>
#include <numeric>
#include <vector>

#include "kernels/gemm/driver.h"

namespace graphopt {

double multiply_add_rate(const Parallel& parallel) {
  constexpr int64_t kSteps = 500'000;
  constexpr int kRounds = 20;
  const auto threads = static_cast<size_t>(parallel.threads());
  double best = 0;
  for (int round = 0; round < kRounds; ++round) {
    std::vector<double> done(threads, 0);
    const auto begin = std::chrono::steady_clock::now();
    parallel.for_range(parallel.threads(), 1, [&](int64_t first, int64_t last, int worker) {
      for (int64_t i = first; i < last; ++i) {
        done[static_cast<size_t>(worker)] += gemm_kernels().multiply_adds(kSteps);
      }
    });
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
    best = std::max(best, std::accumulate(done.begin(), done.end(), 0.0) / seconds.count());
  }
  return best;
}

}  // namespace graphopt
