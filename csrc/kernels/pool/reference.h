// Plain loops in double that define what the pools compute, on channels-last tensors.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "kernels/dense/spatial.h"

namespace graphopt::reference {

struct PoolProblem {
  int64_t batch = 1;
  Dims3 in{1, 1, 1};
  Dims3 out{1, 1, 1};
  int64_t channels = 1;
  Window window;
  int64_t p = 2;
  bool count_padding = false;
  bool column_major = false;
};

// indices: filled when not null (then the first maximum counts and NaN doesn't win).
inline std::vector<double> pool(const std::string& step, const PoolProblem& q, const std::vector<double>& x,
                                std::vector<int64_t>* indices) {
  std::vector<double> y;
  Position position(0, q.out);
  for (int64_t i = 0; i < q.batch * volume(q.out); ++i, position.next(q.out)) {
    for (int64_t c = 0; c < q.channels; ++c) {
      double best = -std::numeric_limits<double>::infinity();
      double sum = 0;
      int64_t count = 0;
      int64_t index = -1;
      Position tap(0, q.window.kernel);
      for (int64_t t = 0; t < q.window.taps(); ++t, tap.next(q.window.kernel)) {
        Dims3 at{};
        bool inside = true;
        bool padded = true;
        for (size_t a = 0; a < 3; ++a) {
          at[a] = position.at[a] * q.window.stride[a] - q.window.begin[a] + tap.at[a] * q.window.dilation[a];
          inside = inside && at[a] >= 0 && at[a] < q.in[a];
          padded = padded && at[a] < q.in[a] + q.window.end[a];
        }
        if (inside || (padded && q.count_padding)) ++count;
        if (!inside) continue;
        const int64_t from = ((position.batch * q.in[0] + at[0]) * q.in[1] + at[1]) * q.in[2] + at[2];
        const double v = x[static_cast<size_t>(from * q.channels + c)];
        if (indices == nullptr ? (v > best || std::isnan(v)) && !std::isnan(best) : v > best || index < 0) {
          best = v;
          index = q.column_major ? (at[2] * q.in[1] + at[1]) * q.in[0] + at[0]
                                 : (at[0] * q.in[1] + at[1]) * q.in[2] + at[2];
        }
        sum += step == "average_pool" ? v : std::pow(std::abs(v), static_cast<double>(q.p));
      }
      if (step == "max_pool") {
        y.push_back(best);
        if (indices != nullptr) indices->push_back((position.batch * q.channels + c) * volume(q.in) + index);
      } else {
        y.push_back(step == "average_pool" ? sum / static_cast<double>(count)
                                           : std::pow(sum, 1.0 / static_cast<double>(q.p)));
      }
    }
  }
  return y;
}

}  // namespace graphopt::reference
