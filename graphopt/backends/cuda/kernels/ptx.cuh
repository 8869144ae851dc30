// Every use of PTX, as named functions. The simulator defines each of them a second time, after
// the lane layouts in the PTX ISA manual (warp-level matrix instructions, cp.async); a kernel that
// holds PTX of its own could not be checked, so none does.
#ifndef GRAPHOPT_CUDA_SIM
namespace go {

GO_DEVICE float ptx_f16_to_f32(u16 bits) {
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
  return value;
}

GO_DEVICE u16 ptx_f32_to_f16(float value) {
  u16 bits;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
  return bits;
}

// From the second-level cache, which all blocks share.
GO_DEVICE float ptx_load_l2(const float* p) {
  float value;
  asm volatile("ld.global.cg.f32 %0, [%1];" : "=f"(value) : "l"(p) : "memory");
  return value;
}

GO_DEVICE u32 ptx_shared_address(const void* p) {
  return (u32)__cvta_generic_to_shared(p);
}

// 16 bytes from global to shared memory, in the background; zeros when !valid (nothing is read).
GO_DEVICE void ptx_cp_async16(void* to, const void* from, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(ptx_shared_address(to)),
               "l"(from), "r"(valid ? 16 : 0)
               : "memory");
}

GO_DEVICE void ptx_cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most N of the groups that this thread committed are under way.
template <int N>
GO_DEVICE void ptx_cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

// Four 8x8 matrices of 16-bit elements; lane i points at row i % 8 of matrix i / 8.
GO_DEVICE void ptx_ldmatrix_x4(u32* r, const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(ptx_shared_address(row))
               : "memory");
}

// The same, each matrix transposed.
GO_DEVICE void ptx_ldmatrix_x4_trans(u32* r, const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(ptx_shared_address(row))
               : "memory");
}

// c[16x8] += a[16x16] * b[16x8]: a by rows, b by columns, sums in f32.
GO_DEVICE void ptx_mma_m16n8k16(float* c, const u32* a, const u32* b) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

}  // namespace go
#endif
