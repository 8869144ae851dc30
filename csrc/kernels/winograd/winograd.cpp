// Step kernel `conv_winograd`: a 3 x 3 convolution of stride one as F(4 x 4, 3 x 3), a quarter of the
// multiplications of the direct sum. Channels-last, weights packed at compile time (pack.h).
//
// Tiles of 4 x 4 outputs are taken to 36 points, where the convolution is 36 matrix products over the
// channels, and back. Two ways to share that out: each thread takes blocks of tiles through all three
// steps in its own cache; or, where there are few tiles or the weights are too large to be read by every
// thread, all threads go through the steps together and share out the points. Elements are computed alike
// in both. A NaN or infinity in X reaches all outputs of its tiles.
#include <algorithm>
#include <array>

#include "kernels/dense/operands.h"
#include "kernels/dense/spatial.h"
#include "kernels/gemm/driver.h"
#include "kernels/winograd/pack.h"
#include "kernels/winograd/points.h"
#include "kernels/winograd/transform.h"
#include "runtime/cpu.h"

namespace graphopt {

#define GRAPHOPT_WINOGRAD_KERNELS(level, suffix) extern const WinogradKernels winograd_kernels_##suffix;
#include "kernels/winograd/kernels.inc"
#undef GRAPHOPT_WINOGRAD_KERNELS

namespace {

const WinogradKernels& winograd_kernels() {
  static const WinogradKernels& kernels = []() -> const WinogradKernels& {
    switch (cpu_isa()) {
#define GRAPHOPT_WINOGRAD_KERNELS(level, suffix) \
  case Isa::level:                               \
    return winograd_kernels_##suffix;
#include "kernels/winograd/kernels.inc"
#undef GRAPHOPT_WINOGRAD_KERNELS
    }
    return winograd_kernels_portable;
  }();
  return kernels;
}

constexpr int64_t kFloat = static_cast<int64_t>(sizeof(float));
constexpr int64_t kTileRows = 12;          // of the matrix product's micro-kernel: blocks are multiples
constexpr int64_t kMaxBlock = 96;          // tiles of a thread's own block
constexpr int64_t kSharedBytes = 8 << 20;  // of a block that all threads share: stays in the last cache
constexpr int64_t kWeightBytes = 3 << 20;  // weights that every thread may read for itself
constexpr double kWorthSharing = 8e6;      // multiply-adds that pay for waiting for each other three times
constexpr int64_t kMaxChannels = 1 << 20;
constexpr int64_t kTransformGrain = 4'000;  // channels of tiles whose transform is worth a thread

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t round_up(int64_t n, int64_t unit) { return divide_up(n, unit) * unit; }
// Floats of a row of channels: rows begin in different sets of the cache.
int64_t row_step(int64_t channels) { return round_up(channels, kPanel) + kPanel; }

struct Plan {
  int64_t tiles_high;
  int64_t tiles_wide;
  int64_t tiles;
  int64_t block;  // tiles that are in the works together
  bool shared;    // all threads work on one block
  int64_t v_step;
  int64_t m_step;
  GemmShape product;  // of one point

  [[nodiscard]] int64_t block_floats() const { return kWinogradPoints * block * (v_step + m_step); }
};

Plan make_plan(int64_t batch, const Dims3& out, int64_t cin, int64_t cout, int threads) {
  Plan plan{};
  plan.tiles_high = divide_up(out[1], kWinogradOut);
  plan.tiles_wide = divide_up(out[2], kWinogradOut);
  plan.tiles = batch * plan.tiles_high * plan.tiles_wide;
  plan.v_step = row_step(cin);
  plan.m_step = row_step(cout);
  const int64_t tile_bytes = kWinogradPoints * (plan.v_step + plan.m_step) * kFloat;
  const auto weights = static_cast<int64_t>(packed_winograd_size(cout, cin)) * kFloat;
  const double work = static_cast<double>(kWinogradPoints * plan.tiles) * static_cast<double>(cin * cout);
  const bool few = plan.tiles < threads * kTileRows && work > kWorthSharing;
  plan.shared = threads > 1 && (weights > kWeightBytes || few);
  const int64_t room = plan.shared ? kSharedBytes : static_cast<int64_t>(cache_sizes().l2) * 3 / 4;
  int64_t most = std::max<int64_t>(room / tile_bytes / kTileRows, 1) * kTileRows;
  if (!plan.shared) most = std::min(most, kMaxBlock);
  // Blocks of equal size, as many for each thread.
  const int64_t unit = plan.shared ? 1 : threads;
  const int64_t blocks = round_up(std::max<int64_t>(divide_up(plan.tiles, most), 1), unit);
  plan.block = std::max<int64_t>(divide_up(plan.tiles, blocks), 1);
  plan.product.m = plan.block;
  plan.product.n = cout;
  plan.product.depth = cin;
  return plan;
}

struct Operands {
  const float* x;
  const float* w;
  const float* bias;
  const float* residual;
  float* y;
  const float* zeros;
};

// One run: the geometry, the operands and the three steps over ranges of tiles.
class Winograd {
 public:
  Winograd(const Window& window, const Dims3& in, const Dims3& out, int64_t cin, int64_t cout, const Epilogue& epilogue,
           const Plan& plan, const Operands& operands)
      : window_(window),
        in_(in),
        out_(out),
        cin_(cin),
        cout_(cout),
        epilogue_(epilogue),
        plan_(plan),
        operands_(operands),
        blocking_(gemm_blocking(plan.product)) {}

  // Tiles [first + begin, first + end) to rows [begin, end) of every point in `block`.
  void to_points(float* block, int64_t first, int64_t begin, int64_t end) const {
    std::array<const float*, kWinogradPoints> taps{};
    WinogradInput tile{taps.data(), cin_, nullptr, plan_.block * plan_.v_step};
    for (int64_t t = begin; t < end; ++t) {
      const Place place = find(first + t);
      fill_taps(place, taps);
      tile.v = block + t * plan_.v_step;
      winograd_kernels().input(tile);
    }
  }

  // The product of one point, `count` rows, panels [panels.begin, panels.end).
  void multiply(float* block, int64_t point, int64_t count, Range panels, void* scratch) const {
    GemmShape shape = plan_.product;
    shape.m = count;
    GemmOperands operands;
    operands.b_panel = cin_ * kPanel;
    operands.b = operands_.w + point * shape.panels() * operands.b_panel;
    operands.c = block + kWinogradPoints * plan_.block * plan_.v_step + point * plan_.block * plan_.m_step;
    DenseRows rows{block + point * plan_.block * plan_.v_step, plan_.v_step, plan_.m_step};
    const Epilogue none;
    GemmTask<DenseRows> task(shape, blocking_, operands, none, rows, scratch);
    task.run({0, count}, panels);
  }

  void from_points(const float* block, int64_t first, int64_t begin, int64_t end) const {
    WinogradOutput tile{};
    tile.step = plan_.block * plan_.m_step;
    tile.channels = cout_;
    tile.bias = operands_.bias;
    tile.column_step = cout_;
    tile.row_step = out_[2] * cout_;
    tile.low = epilogue_.low();
    tile.high = epilogue_.high();
    tile.residual_after = epilogue_.residual_after;
    const float* m = block + kWinogradPoints * plan_.block * plan_.v_step;
    for (int64_t t = begin; t < end; ++t) {
      const Place place = find(first + t);
      const int64_t offset = ((place.batch * out_[1] + place.row) * out_[2] + place.column) * cout_;
      tile.m = m + t * plan_.m_step;
      tile.y = operands_.y + offset;
      tile.rows = std::min(kWinogradOut, out_[1] - place.row);
      tile.columns = std::min(kWinogradOut, out_[2] - place.column);
      const bool later = !epilogue_.is_clamp() && epilogue_.residual_after;
      tile.residual = operands_.residual == nullptr || later ? nullptr : operands_.residual + offset;
      winograd_kernels().output(tile);
      if (!epilogue_.is_clamp()) activate(offset, tile.rows, tile.columns);
    }
  }

 private:
  struct Place {
    int64_t batch;
    int64_t row;  // of the first output
    int64_t column;
  };

  [[nodiscard]] Place find(int64_t tile) const {
    const int64_t line = tile / plan_.tiles_wide;
    return {line / plan_.tiles_high, line % plan_.tiles_high * kWinogradOut, tile % plan_.tiles_wide * kWinogradOut};
  }

  void fill_taps(const Place& place, std::array<const float*, kWinogradPoints>& taps) const {
    size_t at = 0;
    for (int64_t i = 0; i < kWinogradIn; ++i) {
      const int64_t row = place.row - window_.begin[1] + i;
      const bool inside = row >= 0 && row < in_[1];
      const float* line = inside ? operands_.x + (place.batch * in_[1] + row) * in_[2] * cin_ : nullptr;
      for (int64_t j = 0; j < kWinogradIn; ++j, ++at) {
        const int64_t column = place.column - window_.begin[2] + j;
        taps[at] = inside && column >= 0 && column < in_[2] ? line + column * cin_ : operands_.zeros;
      }
    }
  }

  void activate(int64_t offset, int64_t rows, int64_t columns) const {
    std::array<int64_t, kWinogradOut * kWinogradOut> places{};
    int64_t count = 0;
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t j = 0; j < columns; ++j) places[static_cast<size_t>(count++)] = (i * out_[2] + j) * cout_;
    }
    const bool add = epilogue_.residual_after && operands_.residual != nullptr;
    gemm_kernels().activate(epilogue_.activation, epilogue_.alpha, epilogue_.beta, operands_.y + offset,
                            add ? operands_.residual + offset : nullptr, places.data(), count, cout_);
  }

  const Window& window_;
  const Dims3& in_;
  const Dims3& out_;
  int64_t cin_;
  int64_t cout_;
  const Epilogue& epilogue_;
  const Plan& plan_;
  const Operands& operands_;
  GemmBlocking blocking_;
};

// Parts of the workspace, in bytes.
struct Memory {
  size_t block;  // where the first block begins: behind a line of zeros
  size_t block_bytes;
  size_t scratch_bytes;

  explicit Memory(const Plan& plan)
      : block(static_cast<size_t>(plan.v_step) * sizeof(float)),
        block_bytes(static_cast<size_t>(plan.block_floats()) * sizeof(float)),
        scratch_bytes(gemm_scratch_bytes(plan.product)) {}

  [[nodiscard]] size_t bytes(const Plan& plan, int threads) const {
    const auto workers = static_cast<size_t>(threads);
    return block + (plan.shared ? 1 : workers) * block_bytes + workers * scratch_bytes;
  }
};

void run_apart(const Winograd& winograd, const Plan& plan, const Memory& memory, std::byte* workspace,
               const Parallel& parallel) {
  const auto threads = static_cast<size_t>(parallel.threads());
  std::byte* scratch = workspace + memory.block + threads * memory.block_bytes;
  parallel.for_range(divide_up(plan.tiles, plan.block), 1, [&](int64_t begin, int64_t end, int worker) {
    const auto index = static_cast<size_t>(worker);
    auto* block = reinterpret_cast<float*>(workspace + memory.block + index * memory.block_bytes);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t first = i * plan.block;
      const int64_t count = std::min(plan.block, plan.tiles - first);
      winograd.to_points(block, first, 0, count);
      for (int64_t p = 0; p < kWinogradPoints; ++p) {
        winograd.multiply(block, p, count, {0, plan.product.panels()}, scratch + index * memory.scratch_bytes);
      }
      winograd.from_points(block, first, 0, count);
    }
  });
}

void run_together(const Winograd& winograd, const Plan& plan, const Memory& memory, std::byte* workspace,
                  const Parallel& parallel, int64_t cin, int64_t cout) {
  auto* block = reinterpret_cast<float*>(workspace + memory.block);
  std::byte* scratch = workspace + memory.block + memory.block_bytes;
  const int64_t panels = plan.product.panels();
  // Points are enough for all but the largest machines.
  const int64_t parts = std::clamp<int64_t>(divide_up(2 * parallel.threads(), kWinogradPoints), 1, panels);
  for (int64_t first = 0; first < plan.tiles; first += plan.block) {
    const int64_t count = std::min(plan.block, plan.tiles - first);
    parallel.for_range(count, divide_up(kTransformGrain, cin), [&](int64_t begin, int64_t end, int /*worker*/) {
      winograd.to_points(block, first, begin, end);
    });
    parallel.for_range(kWinogradPoints * parts, 1, [&](int64_t begin, int64_t end, int worker) {
      void* own = scratch + static_cast<size_t>(worker) * memory.scratch_bytes;
      for (int64_t i = begin; i < end; ++i) {
        winograd.multiply(block, i / parts, count, part_of(panels, parts, i % parts), own);
      }
    });
    parallel.for_range(count, divide_up(kTransformGrain, cout), [&](int64_t begin, int64_t end, int /*worker*/) {
      winograd.from_points(block, first, begin, end);
    });
  }
}

class WinogradKernel final : public Kernel {
 public:
  explicit WinogradKernel(const Attrs& attrs)
      : window_(parse_window(attrs, "conv_winograd")),
        cin_(attrs.i("cin")),
        cout_(attrs.i("cout")),
        epilogue_(parse_epilogue(attrs)) {
    constexpr Dims3 kWindow{1, 3, 3};
    constexpr Dims3 kOnes{1, 1, 1};
    if (window_.rank != 2 || window_.kernel != kWindow || window_.stride != kOnes || window_.dilation != kOnes ||
        attrs.i("group", 1) != 1) {
      throw Error("conv_winograd: only 3 x 3 windows of stride 1 without dilation or groups");
    }
    if (std::min(cin_, cout_) < 1 || std::max(cin_, cout_) > kMaxChannels) {
      throw Error("conv_winograd: cin or cout is out of range");
    }
  }

  [[nodiscard]] size_t workspace_bytes(std::span<const Tensor> inputs, std::span<const Tensor> outputs,
                                       int threads) const override {
    const Plan plan = this->plan(operand(inputs, 0), operand(outputs, 0), threads);
    return Memory(plan).bytes(plan, threads);
  }

  void run(KernelArgs& args) const override {
    const Tensor& x = operand(args.inputs, 0);
    const Tensor& w = operand(args.inputs, 1);
    const Tensor& bias = operand(args.inputs, 2);
    const Tensor& residual = operand(args.inputs, 3);
    const Tensor& y = args.outputs[0];
    require_f32("conv_winograd", {&x, &w, &bias, &residual, &y});
    check(x, w, bias, residual, y);
    const Dims3 in = spatial_dims(x, 1, 2);
    const Dims3 out = spatial_dims(y, 1, 2);
    check_conv_output(window_, in, out, "conv_winograd");
    if (y.numel() == 0) return;
    const Plan plan = this->plan(x, y, args.parallel.threads());
    const Memory memory(plan);
    auto* workspace = static_cast<std::byte*>(args.workspace);
    auto* zeros = reinterpret_cast<float*>(workspace);
    std::fill_n(zeros, plan.v_step, 0.0F);
    const Operands operands{x.ptr<float>(),         w.ptr<float>(), data_or_null(bias),
                            data_or_null(residual), y.ptr<float>(), zeros};
    const Winograd winograd(window_, in, out, cin_, cout_, epilogue_, plan, operands);
    if (plan.shared) {
      run_together(winograd, plan, memory, workspace, args.parallel, cin_, cout_);
    } else {
      run_apart(winograd, plan, memory, workspace, args.parallel);
    }
  }

 private:
  [[nodiscard]] Plan plan(const Tensor& x, const Tensor& y, int threads) const {
    return make_plan(x.dim(0), spatial_dims(y, 1, 2), cin_, cout_, threads);
  }

  void check(const Tensor& x, const Tensor& w, const Tensor& bias, const Tensor& residual, const Tensor& y) const {
    if (x.rank != 4 || y.rank != 4) throw Error("conv_winograd: X and Y must be [N, H, W, C]");
    if (x.dim(-1) != cin_ || y.dim(-1) != cout_ || x.dim(0) != y.dim(0)) {
      throw Error("conv_winograd: X or Y doesn't have the channels or the batch size that the step says");
    }
    if (w.numel() != static_cast<int64_t>(packed_winograd_size(cout_, cin_))) {
      throw Error("conv_winograd: W isn't packed for this step");
    }
    if (bias.present() && bias.numel() != cout_) throw Error("conv_winograd: bias must hold cout values");
    if (residual.present() && residual.numel() != y.numel()) {
      throw Error("conv_winograd: residual must be as large as Y");
    }
  }

  Window window_;
  int64_t cin_;
  int64_t cout_;
  Epilogue epilogue_;
};

}  // namespace

std::unique_ptr<Kernel> make_conv_winograd(const Attrs& attrs) { return std::make_unique<WinogradKernel>(attrs); }

}  // namespace graphopt
