// Element types and scalar helpers that all kernels share. Compiles with NVRTC, nvcc and, in the
// simulator, with a host compiler; it includes no header.
#ifndef GRAPHOPT_CUDA_SIM
#define GO_DEVICE __device__ __forceinline__
#define GO_SHARED(name) extern __shared__ __align__(128) unsigned char name[]
#define GO_UNROLL _Pragma("unroll")
#define GO_NO_UNROLL _Pragma("unroll 1")
#define GO_LANE (threadIdx.x & 31)
#endif

namespace go {

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef signed char i8;
typedef short i16;
typedef int i32;
typedef long long i64;

// Elements that memory holds in another form than registers do.
struct f16 { u16 bits; };
struct bf16 { u16 bits; };
struct b8 { u8 bits; };

}  // namespace go
