/* Kernels in the form that generated code has: pointers, dimensions, then the range to compute. */
#include <math.h>
#include <stdint.h>
#include <string.h>

static const float table[4] = {1.0f, 2.0f, 3.0f, 4.0f};
static float counter[2];
static const float* volatile table_pointer = table;

int k_add(const float* a, const float* b, float* y, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) y[i] = a[i] + b[i];
  return 0;
}

int k_scale(const float* a, float* y, int64_t factor, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) y[i] = a[i] * (float)factor;
  return 0;
}

/* Calls a library function and reads constants, so that there are stubs and relocated data. */
int k_exp_table(const float* a, float* y, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) y[i] = expf(a[i]) + table_pointer[i & 3];
  return 0;
}

int k_copy(const char* a, char* y, int64_t bytes, int64_t begin, int64_t end) {
  if (begin < end) memcpy(y, a, (size_t)bytes);
  return 0;
}

int k_count(float* y, int64_t begin, int64_t end) {
  (void)begin, (void)end;
  counter[0] += 1.0f;
  y[0] = counter[0];
  return 0;
}

int k_fail(float* y, int64_t begin, int64_t end) {
  (void)y, (void)begin, (void)end;
  return -1;
}

int k_less(const int64_t* a, const int64_t* b, uint8_t* y, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) y[i] = a[i] < b[i];
  return 0;
}

int k_add_i64(const int64_t* a, const int64_t* b, int64_t* y, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) y[i] = a[i] + b[i];
  return 0;
}

/* Indexes a constant array: without -fPIC its address becomes a 32-bit absolute one. */
int k_lookup(const int64_t* index, float* y, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) y[i] = table[index[i] & 3];
  return 0;
}
