// What one element is in memory and in registers, and the operations of scalar programs.
namespace go {

template <class T> GO_DEVICE T decode(T v) { return v; }
GO_DEVICE float decode(f16 v) { return ptx_f16_to_f32(v.bits); }
GO_DEVICE float decode(bf16 v) { return __uint_as_float((u32)v.bits << 16); }
GO_DEVICE bool decode(b8 v) { return v.bits != 0; }

template <class T> struct Encode {
  template <class V> static GO_DEVICE T of(V v) { return (T)v; }
};
template <> struct Encode<f16> {
  static GO_DEVICE f16 of(float v) { f16 r; r.bits = ptx_f32_to_f16(v); return r; }
};
template <> struct Encode<bf16> {
  static GO_DEVICE bf16 of(float v) {
    u32 bits = __float_as_uint(v);
    bf16 r;
    if ((bits & 0x7fffffffu) > 0x7f800000u) r.bits = (u16)((bits | 0x400000u) >> 16);
    else r.bits = (u16)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
    return r;
  }
};
template <> struct Encode<b8> {
  static GO_DEVICE b8 of(bool v) { b8 r; r.bits = v ? 1 : 0; return r; }
};
template <class T, class V> GO_DEVICE T encode(V v) { return Encode<T>::of(v); }

// N elements that move together: 16 bytes at most.
template <class T, int N> struct alignas(sizeof(T) * N) Pack { T at[N]; };
template <class T, int N> GO_DEVICE Pack<T, N> load_pack(const T* p) {
  return *reinterpret_cast<const Pack<T, N>*>(p);
}
template <class T, int N> GO_DEVICE void store_pack(T* p, const Pack<T, N>& v) {
  *reinterpret_cast<Pack<T, N>*>(p) = v;
}

// The larger, the smaller; NaN when either is.
template <class T> GO_DEVICE T larger(T a, T b) { return a > b || a != a ? a : b; }
template <class T> GO_DEVICE T smaller(T a, T b) { return a < b || a != a ? a : b; }

template <class T> GO_DEVICE T quotient(T a, T b) {
  if (b == T(0)) return T(0);
  if (T(-1) < T(0) && b == T(-1)) return (T)(u64(0) - (u64)a);
  return (T)(a / b);
}
template <class T> GO_DEVICE T remainder_of(T a, T b) {
  if (b == T(0) || (T(-1) < T(0) && b == T(-1))) return T(0);
  return (T)(a % b);
}
template <class T> GO_DEVICE T integer_power(T base, T exponent) {
  T result = T(1), square = base;
  if (exponent < T(0)) {
    if (base != T(1) && base != (T)-1) return T(0);
  }
  for (int bit = 0; bit < 8; ++bit) {
    if ((exponent >> bit) & 1) result = (T)((u64)result * (u64)square);
    square = (T)((u64)square * (u64)square);
  }
  return result;
}
// Floats to integers: saturating, NaN gives 0. `low` and `high` are the type's bounds.
template <class T, class F> GO_DEVICE T saturated(F v, T low, T high) {
  if (v != v) return T(0);
  if (v <= (F)low) return low;
  if (v >= (F)high) return high;
  return (T)v;
}
template <class I> GO_DEVICE I clamped(I v, I size) { return v < 0 ? 0 : v >= size ? size - 1 : v; }
template <class I> GO_DEVICE I wrapped(I v, I size) { I r = v % size; return r < 0 ? r + size : r; }
template <class I> GO_DEVICE I reflected(I v, I size) {
  I period = size > 1 ? (size - 1) * 2 : 1;
  I r = v % period;
  if (r < 0) r += period;
  return r >= size ? period - r : r;
}

// ---- reductions ----

struct Sum { template <class T> GO_DEVICE T operator()(T a, T b) const { return (T)(a + b); } };
struct Prod { template <class T> GO_DEVICE T operator()(T a, T b) const { return (T)(a * b); } };
struct Max { template <class T> GO_DEVICE T operator()(T a, T b) const { return larger(a, b); } };
struct Min { template <class T> GO_DEVICE T operator()(T a, T b) const { return smaller(a, b); } };

// A value and where it was found; a position below 0 means nothing was.
template <class T> struct At { T value; i64 place; };
// The better of two; NaN beats all else, and of equals the first wins (the last with LAST).
template <bool LARGEST, bool LAST> struct Best {
  template <class T> GO_DEVICE At<T> operator()(At<T> a, At<T> b) const {
    if (a.place < 0) return b;
    if (b.place < 0) return a;
    bool nan_a = a.value != a.value, nan_b = b.value != b.value;
    if (nan_a != nan_b) return nan_a ? a : b;
    if (!nan_a && a.value != b.value) return (LARGEST ? a.value > b.value : a.value < b.value) ? a : b;
    return (LAST ? a.place > b.place : a.place < b.place) ? a : b;
  }
};

template <class T> GO_DEVICE T shuffle_xor(T v, int mask) { return __shfl_xor_sync(0xffffffffu, v, mask); }
template <class T> GO_DEVICE At<T> shuffle_xor(At<T> v, int mask) {
  At<T> r;
  r.value = shuffle_xor(v.value, mask);
  r.place = shuffle_xor(v.place, mask);
  return r;
}
GO_DEVICE u8 shuffle_xor(u8 v, int mask) { return (u8)__shfl_xor_sync(0xffffffffu, (u32)v, mask); }
GO_DEVICE i8 shuffle_xor(i8 v, int mask) { return (i8)__shfl_xor_sync(0xffffffffu, (i32)v, mask); }
GO_DEVICE u16 shuffle_xor(u16 v, int mask) { return (u16)__shfl_xor_sync(0xffffffffu, (u32)v, mask); }
GO_DEVICE i16 shuffle_xor(i16 v, int mask) { return (i16)__shfl_xor_sync(0xffffffffu, (i32)v, mask); }

// `v` of THREADS threads (a warp, or the block) folded by `op`; all of them get the result.
// `scratch` is shared memory for 32 values; with one warp it is not used.
template <int THREADS, class T, class Op> GO_DEVICE T fold(T v, Op op, unsigned char* scratch) {
  GO_UNROLL
  for (int mask = 16; mask > 0; mask /= 2) v = op(v, shuffle_xor(v, mask));
  if (THREADS == 32) return v;
  T* slots = reinterpret_cast<T*>(scratch);
  __syncthreads();  // the slots may still be read for an earlier fold
  if (GO_LANE == 0) slots[threadIdx.x / 32] = v;
  __syncthreads();
  T result = slots[0];
  GO_UNROLL
  for (int warp = 1; warp < THREADS / 32; ++warp) result = op(result, slots[warp]);
  return result;
}

}  // namespace go
