// softmax(scale Q K^T + mask) V with an online softmax (Milakov and Gimelshein, "Online normalizer
// calculation for softmax", 2018): blocks of 32 keys go through shared memory once, no score is
// stored. A warp has one query; a lane scores one key, then sums one column in 32 of the values.
//
// P: HEADS SHARE (query heads a key head) Q K (lengths) D DV (sizes), Q?/K?/V?/O?/M? strides in
// elements of batch (B), head (H) and position (L) and, for the mask, of the key (K); ?0 the first; MASK 0 none,
// 1 added, 2 where bool is false the score is FILL; CAUSAL, OFFSET; CAP; ZERO (rows of NaN are 0).
namespace go {

template <class P, class T, class M, class Epilogue>
GO_DEVICE void attention(const T* q, const T* k, const T* v, const M* mask, const Epilogue& epilogue) {
  const int WARPS = 4, KEYS = 32, KS = P::D + 1, COLUMNS = (P::DV + 31) / 32;
  GO_SHARED(shared);
  float* ks = reinterpret_cast<float*>(shared);  // [KEYS][D + 1]
  float* vs = ks + KEYS * KS;                    // [KEYS][DV]
  float* qs = vs + KEYS * P::DV;                 // [WARPS][D]
  const int tid = threadIdx.x, lane = tid & 31, warp = tid >> 5;
  const int row = blockIdx.x * WARPS + warp, head = blockIdx.y, batch = blockIdx.z;
  const bool inside = row < P::Q;
  q += (i64)batch * P::QB + head * P::QH + P::Q0;
  k += (i64)batch * P::KB + head / P::SHARE * P::KH + P::K0;
  v += (i64)batch * P::VB + head / P::SHARE * P::VH + P::V0;
  if (P::MASK) mask += (i64)batch * P::MB + head * P::MH;
  for (int d = lane; d < P::D; d += 32) qs[warp * P::D + d] = inside ? decode(q[row * P::QL + d]) : 0.f;
  float peak = __uint_as_float(0xff800000u), total = 0.f, sum[COLUMNS];
  GO_UNROLL
  for (int j = 0; j < COLUMNS; ++j) sum[j] = 0.f;
  for (int base = 0; base < P::K; base += KEYS) {
    __syncthreads();  // the block of keys before is read
    for (int i = tid; i < KEYS * P::D; i += WARPS * 32) {
      int key = i / P::D, d = i % P::D;
      ks[key * KS + d] = base + key < P::K ? decode(k[(base + key) * P::KL + d]) : 0.f;
    }
    for (int i = tid; i < KEYS * P::DV; i += WARPS * 32) {
      int key = i / P::DV, d = i % P::DV;
      vs[i] = base + key < P::K ? decode(v[(base + key) * P::VL + d]) : 0.f;
    }
    __syncthreads();
    const int key = base + lane;
    float score = 0.f;
    for (int d = 0; d < P::D; ++d) score += qs[warp * P::D + d] * ks[lane * KS + d];
    score *= P::scale();
    if (P::CAP) score = P::cap_value() * tanhf(score / P::cap_value());
    if (P::MASK == 1 && inside && key < P::K) score += (float)decode(mask[row * P::ML + key * P::MK]);
    if (P::MASK == 2 && inside && key < P::K && !decode(mask[row * P::ML + key * P::MK])) score = P::fill();
    if (P::CAUSAL && key > row + P::OFFSET) score = __uint_as_float(0xff800000u);
    if (key >= P::K) score = __uint_as_float(0xff800000u);
    const float top = fold<32>(score, Max(), nullptr);
    const float next = larger(peak, top);
    // While every key so far is at -inf there is nothing to scale, and inf - inf is no number.
    const bool none = next == __uint_as_float(0xff800000u);
    const float keep = none ? 1.f : expf(peak - next);
    const float weight = none ? 0.f : expf(score - next);
    total = total * keep + fold<32>(weight, Sum(), nullptr);
    peak = next;
    GO_UNROLL
    for (int j = 0; j < COLUMNS; ++j) sum[j] *= keep;
    for (int i = 0; i < KEYS; ++i) {
      const float share = __shfl_sync(0xffffffffu, weight, i);
      GO_UNROLL
      for (int j = 0; j < COLUMNS; ++j)
        if (j * 32 + lane < P::DV) sum[j] += share * vs[i * P::DV + j * 32 + lane];
    }
  }
  if (!inside) return;
  GO_UNROLL
  for (int j = 0; j < COLUMNS; ++j) {
    float value = sum[j] / total;  // NaN where no key is left
    if (P::ZERO && (value != value)) value = 0.f;
    if (j * 32 + lane < P::DV)
      epilogue((int)(batch * P::OB + head * P::OH + row * P::OL) + j * 32 + lane, value);
  }
}

}  // namespace go
