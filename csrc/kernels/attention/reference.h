// Plain loops in double that define what attention computes.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

namespace graphopt::reference {

struct AttentionProblem {
  int64_t batch = 1, heads = 1, key_heads = 1, queries = 1, keys = 1, size = 1, value_size = 1;
  double scale = 1;
  double softcap = 0;
  bool causal = false;
  int64_t causal_offset = 0, left_window = -1, right_window = -1;
};

// bias: what is added to the scores, [batch, heads, queries, keys].
inline std::vector<double> attention(const AttentionProblem& p, const std::vector<float>& q,
                                     const std::vector<float>& k, const std::vector<float>& v,
                                     const std::vector<double>& bias) {
  std::vector<double> y;
  const int64_t share = p.heads / p.key_heads;
  std::vector<double> weights(static_cast<size_t>(p.keys));
  for (int64_t row = 0; row < p.batch * p.heads * p.queries; ++row) {
    const int64_t s = row % p.queries;
    const int64_t h = row / p.queries % p.heads;
    const int64_t kv = (row / (p.queries * p.heads) * p.key_heads + h / share) * p.keys;
    double most = -std::numeric_limits<double>::infinity();
    for (int64_t t = 0; t < p.keys; ++t) {
      double score = 0;
      for (int64_t d = 0; d < p.size; ++d) {
        score += static_cast<double>(q[static_cast<size_t>(row * p.size + d)]) *
                 static_cast<double>(k[static_cast<size_t>((kv + t) * p.size + d)]);
      }
      score *= p.scale;
      if (p.softcap > 0) score = p.softcap * std::tanh(score / p.softcap);
      score += bias[static_cast<size_t>(row * p.keys + t)];
      const int64_t ahead = t - s - p.causal_offset;
      const bool hidden = (p.causal && ahead > 0) || (p.left_window >= 0 && ahead < -p.left_window) ||
                          (p.right_window >= 0 && ahead > p.right_window);
      if (hidden) score = -std::numeric_limits<double>::infinity();
      weights[static_cast<size_t>(t)] = score;
      most = std::isnan(score) || score > most ? score : most;
    }
    double sum = 0;
    for (double& w : weights) sum += w = std::exp(w - most);
    for (int64_t d = 0; d < p.value_size; ++d) {
      double value = 0;
      for (int64_t t = 0; t < p.keys; ++t) {
        value += weights[static_cast<size_t>(t)] / sum *
                 static_cast<double>(v[static_cast<size_t>((kv + t) * p.value_size + d)]);
      }
      y.push_back(value);
    }
  }
  return y;
}

}  // namespace graphopt::reference
