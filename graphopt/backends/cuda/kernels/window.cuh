// Sliding windows over channels-last images: depthwise convolution and pools. A thread makes V
// neighbouring channels of one output pixel. P as for products, with V, TOTAL = outputs / V.
namespace go {

template <class P> struct Output {
  int c, n, h, w, offset;
  bool inside;
  GO_DEVICE Output() {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    inside = i < P::TOTAL;
    c = i % (P::C / P::V) * P::V;
    int pixel = i / (P::C / P::V), ow = pixel % P::OW, t = pixel / P::OW;
    n = t / P::OH;
    h = t % P::OH * P::SH - P::PH;
    w = ow * P::SW - P::PW;
    offset = pixel * P::C + c;
  }
  // Calls step(tap, offset) for the taps that lie in the image.
  template <class Step> GO_DEVICE void taps(const Step& step) const {
    GO_UNROLL
    for (int r = 0; r < P::R; ++r)
      GO_UNROLL
      for (int s = 0; s < P::S; ++s) {
        int y = h + r * P::DH, x = w + s * P::DW;
        if ((unsigned)y < (unsigned)P::H && (unsigned)x < (unsigned)P::W)
          step(r * P::S + s, ((n * P::H + y) * P::W + x) * P::C + c);
      }
  }
};

// Weights [taps][C].
template <class P, class T, class Epilogue>
GO_DEVICE void depthwise(const T* x, const T* w, const Epilogue& epilogue) {
  const Output<P> out;
  if (!out.inside) return;
  float sum[P::V];
  GO_UNROLL
  for (int j = 0; j < P::V; ++j) sum[j] = 0.f;
  out.taps([&](int tap, int offset) {
    Pack<T, P::V> a = load_pack<T, P::V>(x + offset), b = load_pack<T, P::V>(w + tap * P::C + out.c);
    GO_UNROLL
    for (int j = 0; j < P::V; ++j) sum[j] += decode(a.at[j]) * decode(b.at[j]);
  });
  GO_UNROLL
  for (int j = 0; j < P::V; ++j) epilogue(out.offset + j, sum[j]);
}

template <class P, class T, class Epilogue>
GO_DEVICE void max_pool(const T* x, const Epilogue& epilogue) {
  const Output<P> out;
  if (!out.inside) return;
  float best[P::V];
  GO_UNROLL
  for (int j = 0; j < P::V; ++j) best[j] = __uint_as_float(0xff800000u);
  out.taps([&](int, int offset) {
    Pack<T, P::V> a = load_pack<T, P::V>(x + offset);
    GO_UNROLL
    for (int j = 0; j < P::V; ++j) best[j] = larger(best[j], decode(a.at[j]));
  });
  GO_UNROLL
  for (int j = 0; j < P::V; ++j) epilogue(out.offset + j, best[j]);
}

// EH, EW: how far a window may reach for its size to count; padding counts where INCLUDE is set.
template <class P, class T, class Epilogue>
GO_DEVICE void average_pool(const T* x, const Epilogue& epilogue) {
  const Output<P> out;
  if (!out.inside) return;
  float sum[P::V];
  int count = 0;
  GO_UNROLL
  for (int j = 0; j < P::V; ++j) sum[j] = 0.f;
  out.taps([&](int, int offset) {
    Pack<T, P::V> a = load_pack<T, P::V>(x + offset);
    ++count;
    GO_UNROLL
    for (int j = 0; j < P::V; ++j) sum[j] += decode(a.at[j]);
  });
  if (P::INCLUDE) {
    count = 0;
    for (int r = 0; r < P::R; ++r)
      for (int s = 0; s < P::S; ++s)
        count += out.h + r * P::DH < P::EH && out.w + s * P::DW < P::EW;
  }
  GO_UNROLL
  for (int j = 0; j < P::V; ++j) epilogue(out.offset + j, sum[j] / (float)count);
}

}  // namespace go
