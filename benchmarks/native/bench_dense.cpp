// GFLOP/s of the dense step kernels, and their share of the machine's multiply-add peak.
//
//   bench_dense [-t THREADS] [-s SECONDS] [-c] [-u] [FILTER]
//
// -c takes other weights in every run, as a model that is larger than the cache does. -u counts the
// processor time of the one thread, on a machine that others use too.
#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <string>
#include <string_view>
#include <vector>

#include "graphopt/kernel.h"
#include "kernels/gemm/peak.h"
#include "kernels/pack.h"
#include "runtime/cpu.h"
#include "runtime/thread_pool.h"

using namespace graphopt;

namespace {

bool count_processor_time = false;

double now() {
  timespec time{};
  clock_gettime(count_processor_time ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

double seconds_since(double begin) { return now() - begin; }

struct Options {
  int threads = 2;
  double seconds = 0.3;
  bool cold = false;
  std::string_view filter;
};

class Buffer {
 public:
  explicit Buffer(int64_t count) : size_(static_cast<size_t>(std::max<int64_t>(count, 1))) {
    data_ = static_cast<float*>(std::aligned_alloc(64, (size_ * sizeof(float) + 63) / 64 * 64));
    for (size_t i = 0; i < size_; ++i) data_[i] = static_cast<float>(i * 2654435761U % 1000) / 1000 - 0.5F;
  }
  ~Buffer() { std::free(data_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  [[nodiscard]] float* data() const { return data_; }

 private:
  size_t size_;
  float* data_;
};

class NoAllocator final : public OutputAllocator {
 public:
  Tensor& allocate(int /*index*/, std::span<const int64_t> /*shape*/) override { throw Error("not data dependent"); }
};

struct Case {
  std::string name;
  std::string kernel;
  Attrs attrs;
  std::vector<std::vector<int64_t>> inputs;  // an empty shape: absent
  std::vector<int64_t> output;
  double flops;
  bool weights;  // input 1 holds weights
};

Tensor tensor(const std::vector<int64_t>& shape, float* data) {
  Tensor t;
  t.data = data;
  t.dtype = DType::kF32;
  t.rank = static_cast<int32_t>(shape.size());
  std::copy(shape.begin(), shape.end(), t.shape.begin());
  return t;
}

void run_case(const Case& c, const ThreadPool& pool, const Options& options, double peak) {
  const std::unique_ptr<Kernel> kernel = find_kernel(c.kernel)(c.attrs);
  std::vector<std::unique_ptr<Buffer>> buffers;
  std::vector<Tensor> inputs;
  for (const auto& shape : c.inputs) {
    if (shape.empty()) {
      inputs.emplace_back();
      continue;
    }
    Tensor t = tensor(shape, nullptr);
    buffers.push_back(std::make_unique<Buffer>(t.numel()));
    t.data = buffers.back()->data();
    inputs.push_back(t);
  }
  std::vector<float*> weights;
  if (c.weights) {
    const size_t copies = options.cold ? std::max<size_t>(1, (size_t{160} << 20U) / inputs[1].nbytes()) : 1;
    weights.push_back(inputs[1].ptr<float>());
    while (weights.size() < copies) {
      buffers.push_back(std::make_unique<Buffer>(inputs[1].numel()));
      weights.push_back(buffers.back()->data());
    }
  }
  Tensor output = tensor(c.output, nullptr);
  const Buffer y(output.numel());
  output.data = y.data();
  std::vector<Tensor> outputs = {output};
  const size_t bytes = kernel->workspace_bytes(inputs, outputs, pool.threads());
  const Buffer workspace(static_cast<int64_t>(bytes / sizeof(float) + 1));
  NoAllocator allocator;
  std::vector<double> times;
  const auto begin = now();
  while (seconds_since(begin) < options.seconds || times.size() < 5) {
    if (c.weights) inputs[1].data = weights[times.size() % weights.size()];
    KernelArgs args{inputs, outputs, workspace.data(), pool, allocator};
    const auto start = now();
    kernel->run(args);
    times.push_back(seconds_since(start));
  }
  std::sort(times.begin(), times.end());
  const double best = times.front();
  const double median = times[times.size() / 2];
  std::printf("%-44s %9.1f us  median %9.1f us  %7.1f GFLOP/s  %5.1f %%\n", c.name.c_str(), best * 1e6, median * 1e6,
              c.flops / best / 1e9, 100 * c.flops / best / 1e9 / peak);
  std::fflush(stdout);
}

Case gemm(int64_t m, int64_t n, int64_t k) {
  Attrs attrs;
  attrs.set("k", k);
  attrs.set("n", n);
  const auto size = static_cast<int64_t>(packed_gemm_size(k, n));
  return {"gemm " + std::to_string(m) + "x" + std::to_string(n) + "x" + std::to_string(k),
          "gemm",
          attrs,
          {{m, k}, {size}, {n}},
          {m, n},
          2.0 * static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k),
          true};
}

// A square convolution with "same" padding, floor((size + stride - 1) / stride) outputs a side.
Case conv(int64_t size, int64_t cin, int64_t cout, int64_t kernel, int64_t stride, int64_t group = 1) {
  Attrs attrs;
  const int64_t out = (size + stride - 1) / stride;
  const int64_t pad = (kernel - 1) / 2;
  attrs.set("kernel_shape", std::vector<int64_t>{kernel, kernel});
  attrs.set("strides", std::vector<int64_t>{stride, stride});
  attrs.set("pads", std::vector<int64_t>{pad, pad, pad, pad});
  attrs.set("group", group);
  attrs.set("cin", cin);
  attrs.set("cout", cout);
  attrs.set("activation", std::string("relu"));
  const auto packed = static_cast<int64_t>(packed_conv_size(cout, cin / group, kernel * kernel, group));
  std::string name = "conv " + std::to_string(size) + "x" + std::to_string(size) + " " + std::to_string(cin) + "->" +
                     std::to_string(cout) + " k" + std::to_string(kernel) + " s" + std::to_string(stride);
  if (group > 1) name += " g" + std::to_string(group);
  return {name,
          "conv",
          attrs,
          {{1, size, size, cin}, {packed}, {cout}},
          {1, out, out, cout},
          2.0 * static_cast<double>(out * out * cout * (cin / group) * kernel * kernel),
          true};
}

Case matmul(int64_t batch, int64_t m, int64_t n, int64_t k, bool trans_b, bool trans_a = false) {
  Attrs attrs;
  attrs.set("trans_a", int64_t{trans_a});
  attrs.set("trans_b", int64_t{trans_b});
  const std::string name = "matmul " + std::to_string(batch) + "*" + std::to_string(m) + "x" + std::to_string(n) + "x" +
                           std::to_string(k) + (trans_a ? " tA" : "") + (trans_b ? " tB" : "");
  return {name,          "matmul",
          attrs,         {{batch, trans_a ? k : m, trans_a ? m : k}, {batch, trans_b ? n : k, trans_b ? k : n}},
          {batch, m, n}, 2.0 * static_cast<double>(batch * m * n * k),
          false};
}

Case attention(int64_t heads, int64_t key_heads, int64_t queries, int64_t keys, int64_t size, bool causal = false) {
  Attrs attrs;
  attrs.set("causal", int64_t{causal});
  const std::string name = "attention " + std::to_string(heads) + "/" + std::to_string(key_heads) + " heads " +
                           std::to_string(queries) + "x" + std::to_string(keys) + "x" + std::to_string(size) +
                           (causal ? " causal" : "");
  return {name,
          "attention",
          attrs,
          {{1, heads, queries, size}, {1, key_heads, keys, size}, {1, key_heads, keys, size}},
          {1, heads, queries, size},
          4.0 * static_cast<double>(heads * queries * keys * size) * (causal ? 0.5 : 1),
          false};
}

// For pools the rate is of elements read.
Case pool(const std::string& step, int64_t size, int64_t channels, int64_t kernel, int64_t stride) {
  Attrs attrs;
  const int64_t pad = kernel < size ? (kernel - 1) / 2 : 0;
  const int64_t out = (size + 2 * pad - kernel) / stride + 1;
  attrs.set("kernel_shape", std::vector<int64_t>{kernel, kernel});
  attrs.set("strides", std::vector<int64_t>{stride, stride});
  attrs.set("pads", std::vector<int64_t>{pad, pad, pad, pad});
  return {step + " " + std::to_string(size) + "x" + std::to_string(size) + "x" + std::to_string(channels) + " k" +
              std::to_string(kernel) + " s" + std::to_string(stride),
          step,
          attrs,
          {{1, size, size, channels}},
          {1, out, out, channels},
          static_cast<double>(out * out * channels * kernel * kernel),
          false};
}

Case conv_transpose(int64_t size, int64_t cin, int64_t cout, int64_t kernel, int64_t stride) {
  Attrs attrs;
  const int64_t pad = (kernel - stride) / 2;
  const int64_t out = (size - 1) * stride + kernel - 2 * pad;
  attrs.set("kernel_shape", std::vector<int64_t>{kernel, kernel});
  attrs.set("strides", std::vector<int64_t>{stride, stride});
  attrs.set("pads", std::vector<int64_t>{pad, pad, pad, pad});
  attrs.set("cin", cin);
  attrs.set("cout", cout);
  const auto packed = static_cast<int64_t>(packed_conv_transpose_size(cin, cout, kernel * kernel, 1));
  return {"conv_transpose " + std::to_string(size) + "x" + std::to_string(size) + " " + std::to_string(cin) + "->" +
              std::to_string(cout) + " k" + std::to_string(kernel) + " s" + std::to_string(stride),
          "conv_transpose",
          attrs,
          {{1, size, size, cin}, {packed}, {cout}},
          {1, out, out, cout},
          2.0 * static_cast<double>(size * size * cin * cout * kernel * kernel),
          true};
}

// An inverted residual: cin -> channels by 1 x 1 (or 3 x 3 of stride two where cin is 3; not at all where
// it is `channels`), depthwise, -> cout by 1 x 1.
Case chain(int64_t size, int64_t cin, int64_t channels, int64_t cout, int64_t kernel, int64_t stride) {
  Attrs attrs;
  const int64_t stem = cin == 3 ? 2 : 1;
  const int64_t middle = (size + stem - 1) / stem;
  const int64_t out = (middle + stride - 1) / stride;
  const int64_t pad = (kernel - 1) / 2;
  const bool expands = cin != channels;
  attrs.set("kernel_shape", std::vector<int64_t>{kernel, kernel});
  attrs.set("strides", std::vector<int64_t>{stride, stride});
  attrs.set("pads", std::vector<int64_t>{pad, pad, pad, pad});
  if (expands) {
    attrs.set("expand_kernel_shape", std::vector<int64_t>(2, 2 * stem - 1));
    attrs.set("expand_strides", std::vector<int64_t>(2, stem));
    attrs.set("expand_pads", std::vector<int64_t>(4, stem - 1));
  }
  attrs.set("cin", cin);
  attrs.set("channels", channels);
  attrs.set("cout", cout);
  attrs.set("projects", int64_t{1});
  attrs.set("activations", std::vector<std::string>{"relu", "relu", "none"});
  attrs.set("alphas", std::vector<double>(3));
  attrs.set("betas", std::vector<double>(3));
  const int64_t taps = expands ? (2 * stem - 1) * (2 * stem - 1) : 0;
  const auto first = static_cast<int64_t>(packed_conv_size(channels, cin, taps, 1));
  const auto second = static_cast<int64_t>(packed_conv_size(channels, 1, kernel * kernel, channels));
  const auto third = static_cast<int64_t>(packed_gemm_size(channels, cout));
  std::vector<std::vector<int64_t>> inputs = {{1, size, size, cin}, {}, {}, {second}, {channels}, {third}, {cout}};
  if (expands) {
    inputs[1] = {first};
    inputs[2] = {channels};
  }
  const double work = static_cast<double>(middle * middle * channels * taps * cin) +
                      static_cast<double>(out * out * channels * (kernel * kernel + cout));
  return {"chain " + std::to_string(size) + "x" + std::to_string(size) + " " + std::to_string(cin) + "->" +
              std::to_string(channels) + "->" + std::to_string(cout) + " k" + std::to_string(kernel) + " s" +
              std::to_string(stride),
          "conv_chain",
          attrs,
          inputs,
          {1, out, out, cout},
          2.0 * work,
          false};
}

std::vector<Case> all_cases() {
  std::vector<Case> cases;
  for (const auto& [m, n, k] : {std::array<int64_t, 3>{128, 768, 768},
                                {128, 3072, 768},
                                {128, 768, 3072},
                                {128, 2304, 768},
                                {197, 768, 768},
                                {197, 2304, 768},
                                {197, 768, 3072},
                                {197, 3072, 768},
                                {3136, 256, 64},
                                {784, 128, 512},
                                {196, 1024, 256},
                                {196, 256, 1024},
                                {49, 2048, 512},
                                {49, 512, 2048},
                                {12544, 64, 32},
                                {1, 768, 768},
                                {1, 3072, 768},
                                {1, 1000, 2048},
                                {2, 3072, 768},
                                {4, 3072, 768},
                                {8, 3072, 768},
                                {16, 3072, 768},
                                {1024, 1024, 1024}}) {
    cases.push_back(gemm(m, n, k));
  }
  for (const auto& [size, cin, cout, kernel, stride] : {std::array<int64_t, 5>{224, 3, 64, 7, 2},
                                                        {224, 3, 32, 3, 2},
                                                        {224, 3, 64, 3, 1},
                                                        {224, 64, 64, 3, 1},
                                                        {112, 128, 128, 3, 1},
                                                        {56, 64, 64, 3, 1},
                                                        {28, 128, 128, 3, 1},
                                                        {14, 256, 256, 3, 1},
                                                        {7, 512, 512, 3, 1},
                                                        {56, 128, 128, 3, 2},
                                                        {28, 256, 256, 3, 2},
                                                        {14, 512, 512, 3, 2},
                                                        {28, 512, 512, 3, 1},
                                                        {56, 64, 256, 1, 1},
                                                        {56, 256, 64, 1, 1},
                                                        {56, 256, 512, 1, 2},
                                                        {14, 1024, 256, 1, 1},
                                                        {14, 1024, 2048, 1, 2},
                                                        {7, 2048, 512, 1, 1},
                                                        {112, 32, 16, 1, 1},
                                                        {112, 16, 96, 1, 1},
                                                        {56, 24, 144, 1, 1},
                                                        {7, 160, 960, 1, 1}}) {
    cases.push_back(conv(size, cin, cout, kernel, stride));
  }
  for (const auto& [size, channels, kernel, stride] : {std::array<int64_t, 4>{112, 32, 3, 1},
                                                       {112, 96, 3, 2},
                                                       {56, 144, 3, 1},
                                                       {28, 192, 3, 1},
                                                       {28, 240, 5, 1},
                                                       {14, 576, 3, 1},
                                                       {14, 480, 5, 1},
                                                       {14, 672, 5, 2},
                                                       {7, 960, 3, 1},
                                                       {7, 1152, 5, 1},
                                                       {56, 96, 7, 1}}) {
    cases.push_back(conv(size, channels, channels, kernel, stride, channels));
  }
  for (const auto& [size, cin, channels, cout, kernel, stride] : {std::array<int64_t, 6>{224, 3, 32, 16, 3, 1},
                                                                  {112, 16, 96, 24, 3, 2},
                                                                  {56, 24, 144, 24, 3, 1},
                                                                  {56, 24, 144, 32, 3, 2},
                                                                  {28, 32, 192, 32, 3, 1},
                                                                  {14, 96, 576, 96, 3, 1},
                                                                  {14, 112, 672, 112, 5, 1},
                                                                  {7, 160, 960, 160, 3, 1},
                                                                  {112, 32, 32, 64, 3, 1},
                                                                  {14, 512, 512, 512, 3, 1}}) {
    cases.push_back(chain(size, cin, channels, cout, kernel, stride));
  }
  cases.push_back(conv(56, 128, 128, 3, 1, 32));
  cases.push_back(conv(14, 512, 512, 3, 1, 32));
  cases.push_back(conv_transpose(28, 128, 64, 4, 2));
  cases.push_back(conv_transpose(64, 64, 32, 2, 2));
  cases.push_back(matmul(12, 128, 128, 64, true));
  cases.push_back(matmul(12, 128, 64, 128, false));
  cases.push_back(matmul(12, 197, 197, 64, true));
  cases.push_back(matmul(12, 197, 64, 197, false));
  cases.push_back(matmul(1, 1024, 1024, 1024, false));
  cases.push_back(matmul(1, 1024, 1024, 1024, true, true));
  cases.push_back(matmul(1, 128, 768, 768, false));
  cases.push_back(matmul(1, 128, 768, 768, true));
  cases.push_back(matmul(1, 1, 3072, 768, false));
  cases.push_back(matmul(1, 1, 3072, 768, true));
  cases.push_back(matmul(12, 1, 512, 64, true));
  cases.push_back(matmul(256, 8, 8, 8, false));
  cases.push_back(matmul(1, 3072, 1, 768, false));
  cases.push_back(attention(12, 12, 128, 128, 64));
  cases.push_back(attention(12, 12, 197, 197, 64));
  cases.push_back(attention(12, 12, 512, 512, 64));
  cases.push_back(attention(8, 8, 2048, 2048, 64, true));
  cases.push_back(attention(32, 8, 1, 1024, 128));
  cases.push_back(pool("max_pool", 112, 64, 3, 2));
  cases.push_back(pool("max_pool", 224, 64, 2, 2));
  cases.push_back(pool("average_pool", 7, 2048, 7, 1));
  cases.push_back(pool("average_pool", 56, 128, 2, 2));
  cases.push_back(pool("average_pool", 112, 64, 112, 1));
  return cases;
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string_view arg = argv[i];
    if (arg == "-t" && i + 1 < argc) {
      options.threads = std::atoi(argv[++i]);
    } else if (arg == "-s" && i + 1 < argc) {
      options.seconds = std::atof(argv[++i]);
    } else if (arg == "-c") {
      options.cold = true;
    } else if (arg == "-u") {
      count_processor_time = true;
      options.threads = 1;
    } else {
      options.filter = arg;
    }
  }
  const ThreadPool pool(options.threads);
  const double peak = multiply_add_rate(pool) / 1e9;
  std::printf("isa %s, %d threads, multiply-add peak %.1f GFLOP/s\n", std::string(isa_name(cpu_isa())).c_str(),
              options.threads, peak);
  for (const Case& c : all_cases()) {
    if (c.name.find(options.filter) != std::string::npos) run_case(c, pool, options, peak);
  }
  return 0;
}
