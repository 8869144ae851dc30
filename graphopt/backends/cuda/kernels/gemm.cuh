// Products and convolutions as one implicit matrix product, channels last:
//   y[z][m][n] = epilogue(sum_k X[z][m][k] * W[z][n][k])
// A row m is a pixel (batch, oh, ow), k runs over (r, s, c). A plain product is a convolution of
// one tap over M pixels in a row. z numbers batches of products or groups of channels.
//
// P holds the problem and the tile as constants:
//   H W C LD      input height, width, channels a tap reads, elements from pixel to pixel
//   OH OW R S     output size, taps;  SH SW PH PW DH DW  strides, padding, dilation
//   M N K WLD     sizes of the product, elements from one row of W to the next
//   XZ WZ         elements from one z to the next in X and W;  OZ OLD the same for y, rows of y
//   BM BN ...     the tile;  SPLIT parts of k, each with sums of its own in `partial`
//   VECTOR        16-byte loads of X never cross a tap or lose their alignment
// The epilogue takes (offset in y, sum).
namespace go {

template <class P> struct Pixel {
  int h, w, base;  // top left corner of the window, element offset of the image
  GO_DEVICE void set(int m) {
    int ow = m % P::OW, t = m / P::OW, oh = t % P::OH, n = t / P::OH;
    h = m < P::M ? oh * P::SH - P::PH : -(1 << 28);
    w = ow * P::SW - P::PW;
    base = n * (P::H * P::W * P::LD);
  }
  // Offset of element k of the row; -1 where it is padding.
  GO_DEVICE int offset(int k) const {
    int tap = k / P::C, c = k % P::C, r = tap / P::S, s = tap % P::S;
    int y = h + r * P::DH, x = w + s * P::DW;
    bool inside = k < P::K && (unsigned)y < (unsigned)P::H && (unsigned)x < (unsigned)P::W;
    return inside ? base + (y * P::W + x) * P::LD + c : -1;
  }
};

// Where this block works, and the range of its blocks of k.
template <class P, int BK> struct Place {
  int m0, n0, z, split, first, last;
  GO_DEVICE Place() {
    const int total = (P::K + BK - 1) / BK, each = (total + P::SPLIT - 1) / P::SPLIT;
    m0 = blockIdx.x * P::BM;
    n0 = blockIdx.y * P::BN;
    z = blockIdx.z / P::SPLIT;
    split = blockIdx.z % P::SPLIT;
    first = split * each;
    last = first + each < total ? first + each : total;
  }
};

template <class P, class Epilogue>
GO_DEVICE void finish(const Epilogue& epilogue, float* partial, int z, int split, int m, int n, float v) {
  if (m >= P::M || n >= P::N) return;
  if (P::SPLIT == 1) epilogue(z * P::OZ + m * P::OLD + n, v);
  else partial[(((i64)z * P::SPLIT + split) * P::M + m) * P::N + n] = v;
}

// Of the blocks that hold parts of one tile, the last to arrive adds the parts, always in the same
// order. Its tile's counter, 0 before and after, tells which one that is.
template <class P, int THREADS, class Epilogue, class Where>
GO_DEVICE void join(const Epilogue& epilogue, const float* partial, int* counters, const Where& at,
                    unsigned char* shared) {
  int* last = reinterpret_cast<int*>(shared);
  int* counter = counters + (at.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  __threadfence();  // parts are seen before the count
  __syncthreads();
  if (threadIdx.x == 0) *last = atomicAdd(counter, 1) == P::SPLIT - 1;
  __syncthreads();
  if (!*last) return;
  __threadfence();
  for (int i = threadIdx.x; i < P::BM * P::BN; i += THREADS) {
    const int m = at.m0 + i / P::BN, n = at.n0 + i % P::BN;
    if (m >= P::M || n >= P::N) continue;
    float sum = 0.f;
    GO_UNROLL
    for (int s = 0; s < P::SPLIT; ++s)
      sum += ptx_load_l2(partial + (((i64)at.z * P::SPLIT + s) * P::M + m) * P::N + n);
    epilogue(at.z * P::OZ + m * P::OLD + n, sum);
  }
  if (threadIdx.x == 0) *counter = 0;
}

// ---- f32, on the plain cores: BM/TM x BN/TN threads, each TM x TN sums ----

template <class P, class Epilogue>
GO_DEVICE void gemm_f32(const float* x, const float* w, float* partial, int* counters,
                        const Epilogue& epilogue) {
  const int BK = 16, TM = P::TM, TN = P::TN, ACROSS = P::BN / TN, THREADS = P::BM / TM * ACROSS;
  const int AQ = P::BM * 4 / THREADS, BQ = P::BN * 4 / THREADS;  // quads of k that a thread fetches
  const int AS = P::BM + 4, BS = P::BN + 4;
  GO_SHARED(shared);
  float* as = reinterpret_cast<float*>(shared);  // [2][BK][AS]
  float* bs = as + 2 * BK * AS;                  // [2][BK][BS]
  const Place<P, BK> at;
  x += (i64)at.z * P::XZ;
  w += (i64)at.z * P::WZ;
  const int tid = threadIdx.x, quad = tid & 3, row = tid >> 2;
  Pixel<P> pixel[AQ];
  GO_UNROLL
  for (int i = 0; i < AQ; ++i) pixel[i].set(at.m0 + row + i * (THREADS / 4));
  Pack<float, 4> a[AQ], b[BQ];
  auto fetch = [&](int kb) {
    int k = kb * BK + quad * 4;
    GO_UNROLL
    for (int i = 0; i < AQ; ++i) {
      if (P::VECTOR) {
        int o = pixel[i].offset(k);
        if (o >= 0) {
          a[i] = load_pack<float, 4>(x + o);
        } else {
          GO_UNROLL
          for (int j = 0; j < 4; ++j) a[i].at[j] = 0.f;
        }
      } else {
        GO_UNROLL
        for (int j = 0; j < 4; ++j) {
          int o = pixel[i].offset(k + j);
          a[i].at[j] = o >= 0 ? x[o] : 0.f;
        }
      }
    }
    GO_UNROLL
    for (int i = 0; i < BQ; ++i) {
      int n = at.n0 + row + i * (THREADS / 4);
      if (n < P::N && P::WLD % 4 == 0 && k < P::WLD) {
        b[i] = load_pack<float, 4>(w + (i64)n * P::WLD + k);
      } else {
        GO_UNROLL
        for (int j = 0; j < 4; ++j)
          b[i].at[j] = n < P::N && k + j < P::K ? w[(i64)n * P::WLD + k + j] : 0.f;
      }
    }
  };
  auto put = [&](int stage) {
    GO_UNROLL
    for (int i = 0; i < AQ; ++i)
      GO_UNROLL
      for (int j = 0; j < 4; ++j)
        as[(stage * BK + quad * 4 + j) * AS + row + i * (THREADS / 4)] = a[i].at[j];
    GO_UNROLL
    for (int i = 0; i < BQ; ++i)
      GO_UNROLL
      for (int j = 0; j < 4; ++j)
        bs[(stage * BK + quad * 4 + j) * BS + row + i * (THREADS / 4)] = b[i].at[j];
  };
  float sum[TM][TN];
  GO_UNROLL
  for (int i = 0; i < TM; ++i)
    GO_UNROLL
    for (int j = 0; j < TN; ++j) sum[i][j] = 0.f;
  const int tm = tid / ACROSS * TM, tn = tid % ACROSS * TN;
  if (at.first < at.last) {
    fetch(at.first);
    put(0);
  }
  __syncthreads();
  GO_NO_UNROLL
  for (int kb = at.first; kb < at.last; ++kb) {
    const int stage = (kb - at.first) & 1;
    if (kb + 1 < at.last) fetch(kb + 1);
    GO_UNROLL
    for (int k = 0; k < BK; ++k) {
      float u[TM], v[TN];
      GO_UNROLL
      for (int i = 0; i < TM; ++i) u[i] = as[(stage * BK + k) * AS + tm + i];
      GO_UNROLL
      for (int j = 0; j < TN; ++j) v[j] = bs[(stage * BK + k) * BS + tn + j];
      GO_UNROLL
      for (int i = 0; i < TM; ++i)
        GO_UNROLL
        for (int j = 0; j < TN; ++j) sum[i][j] += u[i] * v[j];
    }
    if (kb + 1 < at.last) put(stage ^ 1);
    __syncthreads();
  }
  GO_UNROLL
  for (int i = 0; i < TM; ++i)
    GO_UNROLL
    for (int j = 0; j < TN; ++j)
      finish<P>(epilogue, partial, at.z, at.split, at.m0 + tm + i, at.n0 + tn + j, sum[i][j]);
  if (P::SPLIT > 1) join<P, THREADS>(epilogue, partial, counters, at, shared);
}

// ---- f16 operands, f32 sums, on tensor cores: WM x WN warps, STAGES blocks of 64 k in flight ----

template <class P, class Epilogue>
GO_DEVICE void gemm_f16(const f16* x, const f16* w, float* partial, int* counters,
                        const Epilogue& epilogue) {
  const int BK = 64, WM = P::WM, WN = P::WN, THREADS = 32 * WM * WN, STAGES = P::STAGES;
  const int AI = P::BM * 8 / THREADS, BI = P::BN * 8 / THREADS;  // 16-byte pieces a thread fetches
  const int TM = P::BM / WM / 16, TN = P::BN / WN / 8;
  static_assert(AI >= 1 && BI >= 1 && TM >= 1 && TN >= 2 && TN % 2 == 0, "the tile is too small");
  GO_SHARED(shared);
  f16* as = reinterpret_cast<f16*>(shared);  // [STAGES][BM][64], pieces of a row swizzled
  f16* bs = as + STAGES * P::BM * BK;        // [STAGES][BN][64]
  const Place<P, BK> at;
  x += (i64)at.z * P::XZ;
  w += (i64)at.z * P::WZ;
  const int tid = threadIdx.x, lane = tid & 31, warp = tid >> 5, wm = warp % WM, wn = warp / WM;
  const int piece = tid & 7, row = tid >> 3;
  Pixel<P> pixel[AI];
  GO_UNROLL
  for (int i = 0; i < AI; ++i) pixel[i].set(at.m0 + row + i * (THREADS / 8));
  auto fetch = [&](int kb, int stage) {
    int k = kb * BK + piece * 8;
    GO_UNROLL
    for (int i = 0; i < AI; ++i) {
      int r = row + i * (THREADS / 8);
      f16* to = as + (stage * P::BM + r) * BK + ((piece ^ (r & 7)) << 3);
      if (P::VECTOR) {
        int o = pixel[i].offset(k);
        ptx_cp_async16(to, x + (o >= 0 ? o : 0), o >= 0);
      } else {
        Pack<f16, 8> v;
        GO_UNROLL
        for (int j = 0; j < 8; ++j) {
          int o = pixel[i].offset(k + j);
          if (o >= 0) v.at[j] = x[o];
          else v.at[j].bits = 0;
        }
        store_pack<f16, 8>(to, v);
      }
    }
    GO_UNROLL
    for (int i = 0; i < BI; ++i) {
      int r = row + i * (THREADS / 8), n = at.n0 + r;
      f16* to = bs + (stage * P::BN + r) * BK + ((piece ^ (r & 7)) << 3);
      if (P::WLD % 8 == 0) {
        bool inside = n < P::N && k < P::WLD;
        ptx_cp_async16(to, w + (inside ? (i64)n * P::WLD + k : 0), inside);
      } else {
        Pack<f16, 8> v;
        GO_UNROLL
        for (int j = 0; j < 8; ++j) {
          if (n < P::N && k + j < P::K) v.at[j] = w[(i64)n * P::WLD + k + j];
          else v.at[j].bits = 0;
        }
        store_pack<f16, 8>(to, v);
      }
    }
  };
  float sum[TM][TN][4];
  GO_UNROLL
  for (int i = 0; i < TM; ++i)
    GO_UNROLL
    for (int j = 0; j < TN; ++j)
      GO_UNROLL
      for (int q = 0; q < 4; ++q) sum[i][j][q] = 0.f;
  GO_UNROLL
  for (int s = 0; s < STAGES - 1; ++s) {
    if (at.first + s < at.last) fetch(at.first + s, s);
    ptx_cp_async_commit();
  }
  GO_NO_UNROLL
  for (int kb = at.first; kb < at.last; ++kb) {
    const int step = kb - at.first, stage = step % STAGES;
    ptx_cp_async_wait<STAGES - 2>();
    __syncthreads();
    if (kb + STAGES - 1 < at.last) fetch(kb + STAGES - 1, (step + STAGES - 1) % STAGES);
    ptx_cp_async_commit();
    const f16* a_tile = as + stage * P::BM * BK;
    const f16* b_tile = bs + stage * P::BN * BK;
    GO_UNROLL
    for (int kk = 0; kk < BK / 16; ++kk) {
      u32 a[TM][4], b[TN][2];
      GO_UNROLL
      for (int i = 0; i < TM; ++i) {
        int r = wm * (P::BM / WM) + i * 16 + (lane & 15), c = kk * 2 + (lane >> 4);
        ptx_ldmatrix_x4(a[i], a_tile + r * BK + ((c ^ (r & 7)) << 3));
      }
      GO_UNROLL
      for (int j = 0; j < TN; j += 2) {
        int r = wn * (P::BN / WN) + j * 8 + (lane & 7) + ((lane >> 4) << 3);
        int c = kk * 2 + ((lane >> 3) & 1);
        u32 q[4];
        ptx_ldmatrix_x4(q, b_tile + r * BK + ((c ^ (r & 7)) << 3));
        b[j][0] = q[0];
        b[j][1] = q[1];
        b[j + 1][0] = q[2];
        b[j + 1][1] = q[3];
      }
      GO_UNROLL
      for (int i = 0; i < TM; ++i)
        GO_UNROLL
        for (int j = 0; j < TN; ++j) ptx_mma_m16n8k16(sum[i][j], a[i], b[j]);
    }
  }
  GO_UNROLL
  for (int i = 0; i < TM; ++i)
    GO_UNROLL
    for (int j = 0; j < TN; ++j)
      GO_UNROLL
      for (int q = 0; q < 4; ++q) {
        int m = at.m0 + wm * (P::BM / WM) + i * 16 + (lane >> 2) + (q >> 1) * 8;
        int n = at.n0 + wn * (P::BN / WN) + j * 8 + (lane & 3) * 2 + (q & 1);
        finish<P>(epilogue, partial, at.z, at.split, m, n, sum[i][j][q]);
      }
  if (P::SPLIT > 1) join<P, THREADS>(epilogue, partial, counters, at, shared);
}

}  // namespace go
