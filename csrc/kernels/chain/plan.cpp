#include "kernels/chain/plan.h"

#include <algorithm>
#include <string>

#include "kernels/conv/pack.h"
#include "runtime/cpu.h"

namespace graphopt {
namespace {

constexpr int64_t kFloat = static_cast<int64_t>(sizeof(float));
// Rows that make a product efficient.
constexpr int64_t kRows = 64;
// With fewer lines bands don't share out evenly.
constexpr int64_t kLines = 24;
// Channels of a slice: what its lines take should stay in L1 from one convolution to the next, but many
// short products cost more than that saves.
constexpr int64_t kSliceChannels = 96;

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
size_t lines_of(size_t bytes) { return (bytes + 63) / 64 * 64; }

Attrs expand_attrs(const Attrs& attrs) {
  Attrs result;
  for (const char* name : {"kernel_shape", "strides", "dilations", "pads"}) {
    const std::string key = std::string("expand_") + name;
    if (attrs.has(key)) result.set(name, attrs.ints(key));
  }
  return result;
}

Epilogue epilogue_of(const Attrs& attrs, size_t index, bool last) {
  Attrs one;
  one.set("activation", attrs.strings("activations")[index]);
  one.set("alpha", attrs.reals("alphas")[index]);
  one.set("beta", attrs.reals("betas")[index]);
  if (last) one.set("residual_after", attrs.i("residual_after", 0));
  return parse_epilogue(one);
}

int64_t size_out(const Window& window, size_t axis, int64_t in) {
  const int64_t room = in + window.begin[axis] + window.end[axis] - window.extent(axis);
  return room < 0 ? 0 : room / window.stride[axis] + 1;
}

}  // namespace

Chain parse_chain(const Attrs& attrs) {
  Chain chain;
  chain.expands = attrs.has("expand_kernel_shape");
  chain.projects = attrs.i("projects", 0) != 0;
  chain.cin = attrs.i("cin");
  chain.channels = attrs.i("channels");
  chain.cout = attrs.i("cout");
  if (chain.cin < 1 || chain.channels < 2 || chain.cout < 1 || (!chain.expands && chain.cin != chain.channels) ||
      (!chain.projects && chain.cout != chain.channels)) {
    throw Error("conv_chain: cin, channels and cout don't fit");
  }
  if (!chain.expands && !chain.projects) throw Error("conv_chain: one convolution is no chain");
  chain.depthwise = parse_window(attrs, "conv_chain");
  if (chain.expands) chain.expand = parse_window(expand_attrs(attrs), "conv_chain");
  if (chain.depthwise.rank != 2 || (chain.expands && chain.expand.rank != 2)) {
    throw Error("conv_chain: windows must have two dimensions");
  }
  for (size_t axis = 1; axis < 3; ++axis) {
    if (std::min(chain.depthwise.begin[axis], chain.depthwise.end[axis]) < 0) {
      throw Error("conv_chain: negative padding");
    }
  }
  for (const char* name : {"activations", "alphas", "betas"}) {
    const size_t size = name[1] == 'c' ? attrs.strings(name).size() : attrs.reals(name).size();
    if (size != 3) throw Error(std::string("conv_chain: '") + name + "' must hold three values");
  }
  chain.expand_epilogue = epilogue_of(attrs, 0, false);
  chain.depthwise_epilogue = epilogue_of(attrs, 1, !chain.projects);
  chain.project_epilogue = epilogue_of(attrs, 2, true);
  return chain;
}

ChainGeometry chain_geometry(const Chain& chain, const Tensor& x, const Tensor& y) {
  ChainGeometry g;
  g.batch = x.dim(0);
  g.lines_in = x.dim(1);
  g.columns_in = x.dim(2);
  if (chain.expands) {
    const Window& w = chain.expand;
    ConvGeometry& e = g.expand;
    e.window = w;
    e.batch = g.batch;
    e.in = {1, x.dim(1), x.dim(2)};
    e.out = {1, size_out(w, 1, x.dim(1)), size_out(w, 2, x.dim(2))};
    e.channels = chain.cin;
    e.window_channels = chain.cin;
    e.out_channels = chain.channels;
    e.merged = merges_taps(w, chain.cin);
    g.lines_in = e.out[1];
    g.columns_in = e.out[2];
    g.plain = w.is_plain();
  }
  g.lines = y.dim(1);
  g.columns = y.dim(2);
  check_conv_output(chain.depthwise, {1, g.lines_in, g.columns_in}, {1, g.lines, g.columns}, "conv_chain");
  return g;
}

ChainCut chain_cut(const Chain& chain, const ChainGeometry& g) {
  const Window& w = chain.depthwise;
  ChainCut cut;
  int64_t rows = kRows;
  // Lines of X are read from beyond L1 again for every group: fewer groups, as long as their outputs stay near.
  if (!chain.expands) rows = std::max(rows, static_cast<int64_t>(cache_sizes().l2) / 8 / (chain.channels * kFloat));
  cut.group = std::clamp<int64_t>(divide_up(rows, std::max<int64_t>(g.columns, 1)), 1, std::max<int64_t>(g.lines, 1));
  const int64_t panels = divide_up(chain.channels, kPanel);
  const int64_t expanded = g.lines_in * g.columns_in * chain.channels * kFloat;
  cut.by_bands = g.lines >= kLines && (!chain.expands || expanded > static_cast<int64_t>(cache_sizes().l2));
  if (!chain.expands && cut.by_bands) {
    cut.slice_channels = panels * kPanel;
    return cut;
  }
  cut.slices = divide_up(panels * kPanel, kSliceChannels);
  // An even number shares out better.
  if (!cut.by_bands && cut.slices > 1) cut.slices += cut.slices % 2;
  for (int64_t i = 0; i < cut.slices; ++i) {
    const Range slice = chain_slice(chain, cut, i);
    cut.slice_channels = std::max(cut.slice_channels, divide_up(slice.end - slice.begin, kPanel) * kPanel);
  }
  cut.ring = (cut.group - 1) * w.stride[1] + w.extent(1);
  cut.width = w.begin[2] + g.columns_in + w.end[2];
  return cut;
}

Range chain_slice(const Chain& chain, const ChainCut& cut, int64_t index) {
  // Of whole tiles, but where slices are tasks they should be alike.
  return part_of(chain.channels, cut.slices, index, cut.by_bands ? 2 * int64_t{kPanel} : kPanel);
}

int64_t chain_bands(const Chain& chain, const ChainGeometry& g, const ChainCut& cut, int threads) {
  if (!cut.by_bands || threads == 1 || g.batch >= 4 * threads || g.batch % threads == 0) return 1;
  const int64_t groups = divide_up(g.lines, cut.group);
  // Only a first product is done twice where bands meet.
  return std::min<int64_t>(groups, chain.expands ? threads : 4 * int64_t{threads});
}

GemmShape expand_shape(const Chain& chain, const ChainGeometry& g, const ChainCut& cut) {
  GemmShape shape;
  shape.m = cut.ring * g.columns_in;
  shape.n = cut.slice_channels;
  shape.segments = g.expand.segments();
  shape.depth = g.expand.depth();
  const Window& w = chain.expand;
  if (g.expand.merged && (w.begin[2] != 0 || w.end[2] != 0)) shape.spare_floats = shape.k();
  return shape;
}

GemmShape project_shape(const Chain& chain, const ChainGeometry& g, const ChainCut& cut) {
  GemmShape shape;
  shape.m = cut.by_bands ? cut.group * g.columns : g.positions();
  shape.n = chain.cout;
  shape.depth = chain.channels;
  return shape;
}

int64_t project_step(const Chain& chain) {
  const int64_t step = divide_up(chain.channels, kPanel) * kPanel;
  return rows_collide(step) ? step + kPanel : step;
}

ChainScratch chain_scratch(const Chain& chain, const ChainGeometry& g, const ChainCut& cut) {
  ChainScratch scratch{};
  size_t at = 0;
  size_t products = 0;
  scratch.expanded = at;
  if (chain.expands) {
    const int64_t slices = cut.by_bands ? cut.slices : 1;
    at += lines_of(static_cast<size_t>(slices * cut.ring * cut.width * cut.slice_channels * kFloat));
    products = gemm_scratch_bytes(expand_shape(chain, g, cut));
  }
  scratch.outputs = at;
  if (chain.projects && cut.by_bands) {
    at += lines_of(static_cast<size_t>(cut.group * g.columns * project_step(chain) * kFloat));
    products = std::max(products, gemm_scratch_bytes(project_shape(chain, g, cut)));
  }
  const auto most = static_cast<size_t>(cut.group * chain.depthwise.kernel[1]);
  scratch.lines = at;
  at += lines_of(most * sizeof(float*));
  scratch.taps = at;
  at += lines_of(most * sizeof(int64_t));
  scratch.line_begin = at;
  at += lines_of(static_cast<size_t>(cut.group + 1) * sizeof(int64_t));
  scratch.products = at;
  // A line between workers' memories, against false sharing.
  scratch.bytes = lines_of(at + products) + 64;
  return scratch;
}

}  // namespace graphopt
