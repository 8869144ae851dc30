// Plain loops in double that define what the convolutions compute, on channels-last tensors and ONNX's
// weight order.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/dense/spatial.h"
#include "kernels/gemm/reference.h"

namespace graphopt::reference {

struct ConvProblem {
  int64_t batch = 1;
  Dims3 in{1, 1, 1};
  Dims3 out{1, 1, 1};
  int64_t cin = 1;
  int64_t cout = 1;
  int64_t group = 1;
  Window window;
};

// w is [cout, cin / group, taps].
inline std::vector<double> conv(const ConvProblem& p, const std::vector<float>& x, const std::vector<float>& w,
                                const std::vector<float>& bias, const std::vector<float>& residual,
                                const Epilogue& epilogue) {
  const int64_t cin = p.cin / p.group;
  const int64_t cout = p.cout / p.group;
  std::vector<double> y;
  const int64_t positions = p.batch * volume(p.out);
  Position position(0, p.out);
  for (int64_t i = 0; i < positions; ++i, position.next(p.out)) {
    for (int64_t o = 0; o < p.cout; ++o) {
      double sum = 0;
      Position tap(0, p.window.kernel);
      for (int64_t t = 0; t < p.window.taps(); ++t, tap.next(p.window.kernel)) {
        int64_t at = position.batch;
        bool inside = true;
        for (size_t a = 0; a < 3; ++a) {
          const int64_t v = position.at[a] * p.window.stride[a] - p.window.begin[a] + tap.at[a] * p.window.dilation[a];
          inside = inside && v >= 0 && v < p.in[a];
          at = at * p.in[a] + v;
        }
        if (!inside) continue;
        for (int64_t c = 0; c < cin; ++c) {
          const auto xi = static_cast<size_t>(at * p.cin + o / cout * cin + c);
          const auto wi = static_cast<size_t>((o * cin + c) * p.window.taps() + t);
          sum += static_cast<double>(x[xi]) * static_cast<double>(w[wi]);
        }
      }
      const size_t yi = y.size();
      y.push_back(
          finish(epilogue, sum, bias.empty() ? 0 : bias[static_cast<size_t>(o)], residual.empty() ? 0 : residual[yi]));
    }
  }
  return y;
}

// w is [cin, cout / group, taps].
inline std::vector<double> conv_transpose(const ConvProblem& p, const std::vector<float>& x,
                                          const std::vector<float>& w, const std::vector<float>& bias,
                                          const std::vector<float>& residual, const Epilogue& epilogue) {
  const int64_t cin = p.cin / p.group;
  const int64_t cout = p.cout / p.group;
  std::vector<double> sums(static_cast<size_t>(p.batch * volume(p.out) * p.cout));
  const int64_t positions = p.batch * volume(p.in);
  Position position(0, p.in);
  for (int64_t i = 0; i < positions; ++i, position.next(p.in)) {
    Position tap(0, p.window.kernel);
    for (int64_t t = 0; t < p.window.taps(); ++t, tap.next(p.window.kernel)) {
      int64_t at = position.batch;
      bool inside = true;
      for (size_t a = 0; a < 3; ++a) {
        const int64_t v = position.at[a] * p.window.stride[a] - p.window.begin[a] + tap.at[a] * p.window.dilation[a];
        inside = inside && v >= 0 && v < p.out[a];
        at = at * p.out[a] + v;
      }
      if (!inside) continue;
      for (int64_t c = 0; c < p.cin; ++c) {
        for (int64_t o = 0; o < cout; ++o) {
          const auto wi = static_cast<size_t>((c * cout + o) * p.window.taps() + t);
          sums[static_cast<size_t>(at * p.cout + c / cin * cout + o)] +=
              static_cast<double>(x[static_cast<size_t>(i * p.cin + c)]) * static_cast<double>(w[wi]);
        }
      }
    }
  }
  for (size_t i = 0; i < sums.size(); ++i) {
    const size_t o = i % static_cast<size_t>(p.cout);
    sums[i] = finish(epilogue, sums[i], bias.empty() ? 0 : bias[o], residual.empty() ? 0 : residual[i]);
  }
  return sums;
}

}  // namespace graphopt::reference
