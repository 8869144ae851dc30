// Runs CUDA C++ on a CPU, for tests: one block at a time, a fiber for each thread.
//
// A warp runs as far as it can before the next one, in an order that the caller picks: a missing
// barrier shows as a wrong result. Shared memory is poisoned before every block and ends at a guard
// page. Asynchronous copies happen when they are waited for. Warp matrix instructions follow the
// lane layouts of the PTX ISA manual. Faults end the launch with a message, not the process.
#pragma once
#include <csetjmp>
#include <csignal>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <vector>
#include <sys/mman.h>

#define GRAPHOPT_CUDA_SIM 1
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __restrict__ __restrict
#define GO_DEVICE inline
#define GO_UNROLL
#define GO_NO_UNROLL
#define GO_SHARED(name) unsigned char* name = gosim::S.shared
#define GO_LANE (gosim::S.current->lane)

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
};

namespace gosim {

enum State { RUN, AT_BLOCK_BARRIER, AT_WARP_BARRIER, DONE };

struct Copy {
  void* to;
  const void* from;
  bool valid;
  int group;
};

struct Fiber {
  void* sp = nullptr;
  char* stack = nullptr;
  dim3 tid;
  int lane = 0, warp = 0, linear = 0;
  State state = RUN;
  const void* slot = nullptr;
  uint64_t value = 0;
  std::vector<Copy> copies;
  int group = 0;
};

constexpr size_t STACK = 128 * 1024, SHARED = 256 * 1024, PAGE = 4096;

struct Sim {
  dim3 grid, block, bid;
  int threads = 0;
  std::vector<Fiber> fibers;
  Fiber* current = nullptr;
  void* scheduler = nullptr;
  unsigned char* room = nullptr;
  unsigned char* shared = nullptr;
  void (*kernel)(void**) = nullptr;
  void** args = nullptr;
  sigjmp_buf escape;
  int signal = 0;
};
inline Sim S;

extern "C" void gosim_switch(void** from, void* to);
#if defined(__x86_64__)
asm(R"(
.text
.weak gosim_switch
.type gosim_switch,@function
gosim_switch:
 pushq %rbp
 pushq %rbx
 pushq %r12
 pushq %r13
 pushq %r14
 pushq %r15
 movq %rsp,(%rdi)
 movq %rsi,%rsp
 popq %r15
 popq %r14
 popq %r13
 popq %r12
 popq %rbx
 popq %rbp
 ret
)");
#else
#error "the simulator switches fibers on x86-64 only"
#endif

inline void yield(State state) {
  Fiber* f = S.current;
  f->state = state;
  gosim_switch(&f->sp, S.scheduler);
}

inline void entry() {
  S.kernel(S.args);
  S.current->state = DONE;
  gosim_switch(&S.current->sp, S.scheduler);
  __builtin_unreachable();
}

inline void prepare(Fiber& f) {
  auto top = reinterpret_cast<uint64_t>(f.stack + STACK) & ~63ull;
  auto* p = reinterpret_cast<uint64_t*>(top - 72);  // as a call would leave it: 8 below 16
  p[0] = 0;
  p[-1] = reinterpret_cast<uint64_t>(&entry);
  f.sp = p - 7;  // six registers and the address to return to
}

inline void on_signal(int number) {
  S.signal = number;
  siglongjmp(S.escape, 1);
}

struct Random {
  uint32_t state;
  unsigned next() { return (state = state * 1664525u + 1013904223u) >> 8; }
};

// One block; false when threads wait for each other for ever.
inline bool run_block(int order, Random& random) {
  const int n = S.threads, warps = (n + 31) / 32;
  for (int i = 0; i < n; i++) {
    Fiber& f = S.fibers[i];
    f.linear = i;
    f.tid = {i % S.block.x, i / S.block.x % S.block.y, i / (S.block.x * S.block.y)};
    f.warp = i / 32;
    f.lane = i % 32;
    f.state = RUN;
    f.copies.clear();
    f.group = 0;
    prepare(f);
  }
  std::vector<int> turn(warps);
  int done = 0;
  while (done < n) {
    for (int i = 0; i < warps; i++) turn[i] = order == 1 ? warps - 1 - i : i;
    if (order >= 2)
      for (int i = warps - 1; i > 0; i--) std::swap(turn[i], turn[random.next() % (i + 1)]);
    bool progress = false;
    int waiting = 0;
    for (int warp : turn) {
      const int low = warp * 32, high = low + 32 < n ? low + 32 : n;
      for (;;) {
        int ran = 0, at_barrier = 0, ended = 0;
        const bool backwards = order == 1 || (order >= 2 && random.next() % 2);
        for (int q = low; q < high; q++) {
          Fiber& f = S.fibers[backwards ? high - 1 - (q - low) : q];
          if (f.state != RUN) continue;
          S.current = &f;
          gosim_switch(&S.scheduler, f.sp);
          ran++;
          done += f.state == DONE;
        }
        for (int i = low; i < high; i++) {
          at_barrier += S.fibers[i].state == AT_WARP_BARRIER;
          ended += S.fibers[i].state == DONE;
        }
        progress |= ran > 0;
        if (!at_barrier || at_barrier + ended != high - low) break;
        for (int i = low; i < high; i++)
          if (S.fibers[i].state == AT_WARP_BARRIER) S.fibers[i].state = RUN;
        progress = true;
      }
      for (int i = low; i < high; i++) waiting += S.fibers[i].state == AT_BLOCK_BARRIER;
    }
    if (waiting && waiting + done == n) {
      for (auto& f : S.fibers)
        if (f.state == AT_BLOCK_BARRIER) f.state = RUN;
      progress = true;
    }
    if (!progress) return false;
  }
  return true;
}

// Runs a kernel. Orders: 0 forwards, 1 backwards, 2 and up at random by that seed. Returns "" or
// what went wrong.
inline std::string launch(void (*kernel)(void**), void** args, dim3 grid, dim3 block, size_t shared,
                          int order) {
  S.kernel = kernel;
  S.args = args;
  S.grid = grid;
  S.block = block;
  const int n = block.x * block.y * block.z;
  if (n < 1 || n > 1024) return "a block has " + std::to_string(n) + " threads";
  if (shared > 227 * 1024) return "a block asks for " + std::to_string(shared) + " bytes";
  if (!S.room) {
    void* p = mmap(nullptr, SHARED + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) return "no memory for the simulator";
    S.room = static_cast<unsigned char*>(p);
    mprotect(S.room + SHARED, PAGE, PROT_NONE);
  }
  S.shared = S.room + SHARED - (shared + 127) / 128 * 128;
  if (S.threads != n) {
    for (auto& f : S.fibers) free(f.stack);
    S.fibers.assign(n, Fiber());
    for (auto& f : S.fibers) f.stack = static_cast<char*>(aligned_alloc(64, STACK));
    S.threads = n;
  }
  const int signals[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE};
  struct sigaction old[4], now = {};
  now.sa_handler = on_signal;
  now.sa_flags = SA_ONSTACK;
  for (int i = 0; i < 4; i++) sigaction(signals[i], &now, &old[i]);
  std::string error;
  Random random{static_cast<uint32_t>(order) * 2654435761u + 1};
  if (sigsetjmp(S.escape, 1) == 0) {
    for (unsigned z = 0; z < grid.z && error.empty(); z++)
      for (unsigned y = 0; y < grid.y && error.empty(); y++)
        for (unsigned x = 0; x < grid.x && error.empty(); x++) {
          S.bid = {x, y, z};
          memset(S.room, 0xFF, SHARED);  // NaN, as f32 and as f16
          if (!run_block(order, random)) error = "threads wait at a barrier that others never reach";
        }
  } else {
    error = S.signal == SIGILL ? "a misaligned access or undefined operation"
            : S.signal == SIGFPE ? "an integer division by zero"
                                 : "an access outside of the buffers";
  }
  for (int i = 0; i < 4; i++) sigaction(signals[i], &old[i], nullptr);
  if (!error.empty()) {
    char where[96];
    snprintf(where, sizeof where, ", block %u,%u,%u thread %d", S.bid.x, S.bid.y, S.bid.z,
             S.current ? S.current->linear : -1);
    error += where;
  }
  return error;
}

inline const Fiber& lane(int i) { return S.fibers[S.current->warp * 32 + i]; }

template <class T> T exchange(T v, int source) {
  static_assert(sizeof v <= 8);
  Fiber* f = S.current;
  f->value = 0;
  memcpy(&f->value, &v, sizeof v);
  yield(AT_WARP_BARRIER);
  T r = v;
  if (f->warp * 32 + source < S.threads) memcpy(&r, &lane(source).value, sizeof r);
  yield(AT_WARP_BARRIER);
  return r;
}

}  // namespace gosim

#define threadIdx (gosim::S.current->tid)
#define blockIdx (gosim::S.bid)
#define blockDim (gosim::S.block)
#define gridDim (gosim::S.grid)
inline void __syncthreads() { gosim::yield(gosim::AT_BLOCK_BARRIER); }
inline void __syncwarp(unsigned = ~0u) { gosim::yield(gosim::AT_WARP_BARRIER); }
template <class T> T __shfl_sync(unsigned, T v, int i) { return gosim::exchange(v, i & 31); }
template <class T> T __shfl_xor_sync(unsigned, T v, int mask) {
  return gosim::exchange(v, gosim::S.current->lane ^ mask);
}
inline void __threadfence() {}
inline int atomicAdd(int* p, int v) {
  const int old = *p;
  *p = old + v;
  return old;
}
inline float __uint_as_float(unsigned v) { float r; memcpy(&r, &v, 4); return r; }
inline unsigned __float_as_uint(float v) { unsigned r; memcpy(&r, &v, 4); return r; }

// ---- the twins of kernels/ptx.cuh ----

namespace go {

inline float half_bits(unsigned short bits) {
  _Float16 h;
  memcpy(&h, &bits, 2);
  return static_cast<float>(h);
}
inline float ptx_f16_to_f32(unsigned short bits) { return half_bits(bits); }
inline unsigned short ptx_f32_to_f16(float value) {
  _Float16 h = static_cast<_Float16>(value);
  unsigned short bits;
  memcpy(&bits, &h, 2);
  return bits;
}

inline float ptx_load_l2(const float* p) { return *p; }

inline void ptx_cp_async16(void* to, const void* from, bool valid) {
  auto* f = gosim::S.current;
  if (reinterpret_cast<uintptr_t>(to) % 16 || (valid && reinterpret_cast<uintptr_t>(from) % 16))
    __builtin_trap();
  f->copies.push_back({to, from, valid, f->group});
  memset(to, 0xFF, 16);
}
inline void ptx_cp_async_commit() { gosim::S.current->group++; }
template <int N> inline void ptx_cp_async_wait() {
  auto* f = gosim::S.current;
  size_t i = 0;
  for (; i < f->copies.size() && f->copies[i].group < f->group - N; i++) {
    const auto& c = f->copies[i];
    if (c.valid) memcpy(c.to, c.from, 16);
    else memset(c.to, 0, 16);
  }
  f->copies.erase(f->copies.begin(), f->copies.begin() + static_cast<long>(i));
}

// Lane i holds row i / 4, elements 2 * (i % 4) and the next, of each matrix.
inline void ptx_ldmatrix_x4(unsigned* r, const void* row) {
  auto* me = gosim::S.current;
  if (reinterpret_cast<uintptr_t>(row) % 16) __builtin_trap();
  me->slot = row;
  gosim::yield(gosim::AT_WARP_BARRIER);
  for (int i = 0; i < 4; i++) {
    const auto* source = static_cast<const unsigned*>(gosim::lane(i * 8 + me->lane / 4).slot);
    r[i] = source[me->lane % 4];
  }
  gosim::yield(gosim::AT_WARP_BARRIER);
}
inline void ptx_ldmatrix_x4_trans(unsigned* r, const void* row) {
  auto* me = gosim::S.current;
  if (reinterpret_cast<uintptr_t>(row) % 16) __builtin_trap();
  me->slot = row;
  gosim::yield(gosim::AT_WARP_BARRIER);
  for (int i = 0; i < 4; i++) {
    unsigned halves[2];
    for (int h = 0; h < 2; h++) {
      const auto* source =
          static_cast<const unsigned short*>(gosim::lane(i * 8 + me->lane % 4 * 2 + h).slot);
      halves[h] = source[me->lane / 4];
    }
    r[i] = halves[0] | halves[1] << 16;
  }
  gosim::yield(gosim::AT_WARP_BARRIER);
}

// Lane i, g = i / 4, t = i % 4. A: a[0] row g, a[1] row g + 8, columns 2t, 2t + 1; a[2], a[3] the
// same rows, columns 8 on. B: b[0] rows 2t, 2t + 1 of column g; b[1] rows 8 on. C: c[0], c[1] row g,
// columns 2t, 2t + 1; c[2], c[3] row g + 8.
inline void ptx_mma_m16n8k16(float* c, const unsigned* a, const unsigned* b) {
  auto* me = gosim::S.current;
  const void* both[2] = {a, b};
  me->slot = both;
  gosim::yield(gosim::AT_WARP_BARRIER);
  auto element = [](int lane, int operand, int index, int half) {
    const void* const* slots = static_cast<const void* const*>(gosim::lane(lane).slot);
    unsigned word = static_cast<const unsigned*>(slots[operand])[index];
    return half_bits(static_cast<unsigned short>(half ? word >> 16 : word));
  };
  const int g = me->lane / 4, t = me->lane % 4;
  float sums[4] = {c[0], c[1], c[2], c[3]};
  for (int k = 0; k < 16; k++) {
    const int pair = k % 8 / 2, upper = k / 8, half = k % 2;
    for (int i = 0; i < 2; i++) {
      const float left = element(g * 4 + pair, 0, upper * 2 + i, half);
      for (int j = 0; j < 2; j++)
        sums[i * 2 + j] += left * element((t * 2 + j) * 4 + pair, 1, upper, half);
    }
  }
  gosim::yield(gosim::AT_WARP_BARRIER);
  for (int i = 0; i < 4; i++) c[i] = sums[i];
}

}  // namespace go
