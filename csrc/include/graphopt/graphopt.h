/* C interface of the graphopt runtime: load a .gopt artifact and run it, without Python.
 *
 * Link with libgraphopt.so. All functions may be called from any thread; a program may run in many
 * threads at the same time. Functions that can fail return a status; graphopt_last_error() then has
 * the reason in words. Strings that are returned belong to the library. */
#ifndef GRAPHOPT_GRAPHOPT_H_
#define GRAPHOPT_GRAPHOPT_H_

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(GRAPHOPT_BUILDING_LIBRARY)
#define GRAPHOPT_API __attribute__((visibility("default")))
#else
#define GRAPHOPT_API
#endif

#define GRAPHOPT_MAX_RANK 12

typedef enum graphopt_status {
  GRAPHOPT_OK = 0,
  GRAPHOPT_BAD_ARGUMENT = 1, /* a null pointer, an index out of range */
  GRAPHOPT_BAD_ARTIFACT = 2, /* cannot be read, damaged, foreign, or not for this processor */
  GRAPHOPT_BAD_INPUT = 3,    /* arrays that do not fit the model's inputs */
  GRAPHOPT_RUN_FAILED = 4,   /* values that an operator forbids, or a node that needs Python */
  GRAPHOPT_OUT_OF_MEMORY = 5
} graphopt_status;

/* Element types, numbered as ONNX TensorProto.DataType. Sub-byte types take a byte an element. */
typedef enum graphopt_dtype {
  GRAPHOPT_FLOAT32 = 1,
  GRAPHOPT_UINT8 = 2,
  GRAPHOPT_INT8 = 3,
  GRAPHOPT_UINT16 = 4,
  GRAPHOPT_INT16 = 5,
  GRAPHOPT_INT32 = 6,
  GRAPHOPT_INT64 = 7,
  GRAPHOPT_BOOL = 9,
  GRAPHOPT_FLOAT16 = 10,
  GRAPHOPT_FLOAT64 = 11,
  GRAPHOPT_UINT32 = 12,
  GRAPHOPT_UINT64 = 13,
  GRAPHOPT_COMPLEX64 = 14,
  GRAPHOPT_COMPLEX128 = 15,
  GRAPHOPT_BFLOAT16 = 16,
  GRAPHOPT_FLOAT8_E4M3FN = 17,
  GRAPHOPT_FLOAT8_E4M3FNUZ = 18,
  GRAPHOPT_FLOAT8_E5M2 = 19,
  GRAPHOPT_FLOAT8_E5M2FNUZ = 20,
  GRAPHOPT_UINT4 = 21,
  GRAPHOPT_INT4 = 22,
  GRAPHOPT_FLOAT4_E2M1 = 23,
  GRAPHOPT_FLOAT8_E8M0 = 24,
  GRAPHOPT_UINT2 = 25,
  GRAPHOPT_INT2 = 26,
  GRAPHOPT_FLOAT6_E2M3 = 27,
  GRAPHOPT_FLOAT6_E3M2 = 28
} graphopt_dtype;

/* A dense row-major array. */
typedef struct graphopt_tensor {
  void* data;
  int32_t dtype; /* graphopt_dtype */
  int32_t rank;
  int64_t shape[GRAPHOPT_MAX_RANK];
} graphopt_tensor;

typedef struct graphopt_program graphopt_program;
typedef struct graphopt_outputs graphopt_outputs;

/* The version of the library, "0.1.0". */
GRAPHOPT_API const char* graphopt_version(void);

/* Why the last call in this thread failed; "" when none did. Valid until the next call that fails. */
GRAPHOPT_API const char* graphopt_last_error(void);

/* Bytes of an element; 0 for what is not an element type. */
GRAPHOPT_API size_t graphopt_element_size(int32_t dtype);

/* Loads an artifact. threads: how many a run may use; 0 for as many as there are processors. */
GRAPHOPT_API graphopt_status graphopt_program_load(const char* path, int threads, graphopt_program** program);

/* The same from memory, which is copied. */
GRAPHOPT_API graphopt_status graphopt_program_load_memory(const void* data, size_t size, int threads,
                                                          graphopt_program** program);

/* Frees a program that nobody runs any more. Null is fine. */
GRAPHOPT_API void graphopt_program_free(graphopt_program* program);

GRAPHOPT_API size_t graphopt_program_input_count(const graphopt_program* program);
GRAPHOPT_API size_t graphopt_program_output_count(const graphopt_program* program);

/* What an input or output is. Null or 0 when the index is out of range. */
GRAPHOPT_API const char* graphopt_program_input_name(const graphopt_program* program, size_t index);
GRAPHOPT_API const char* graphopt_program_output_name(const graphopt_program* program, size_t index);
GRAPHOPT_API int32_t graphopt_program_input_dtype(const graphopt_program* program, size_t index);
GRAPHOPT_API int32_t graphopt_program_output_dtype(const graphopt_program* program, size_t index);
GRAPHOPT_API int32_t graphopt_program_input_rank(const graphopt_program* program, size_t index);
GRAPHOPT_API int32_t graphopt_program_output_rank(const graphopt_program* program, size_t index);

/* A dimension as text: a number ("3") or a size that the inputs decide ("N"). Null when out of range. */
GRAPHOPT_API const char* graphopt_program_input_dim(const graphopt_program* program, size_t index, int32_t axis);
GRAPHOPT_API const char* graphopt_program_output_dim(const graphopt_program* program, size_t index, int32_t axis);

/* Runs a program on arrays in the order of its inputs. They are read in place where they are 16-byte
 * aligned and must not change meanwhile. On success *outputs holds the results until it is freed. */
GRAPHOPT_API graphopt_status graphopt_program_run(graphopt_program* program, const graphopt_tensor* inputs,
                                                  size_t count, graphopt_outputs** outputs);

GRAPHOPT_API size_t graphopt_outputs_count(const graphopt_outputs* outputs);
/* Null when the index is out of range. The data may be changed by the caller. */
GRAPHOPT_API const graphopt_tensor* graphopt_outputs_get(const graphopt_outputs* outputs, size_t index);
GRAPHOPT_API void graphopt_outputs_free(graphopt_outputs* outputs);

#ifdef __cplusplus
}
#endif

#endif /* GRAPHOPT_GRAPHOPT_H_ */
