/* Runs a compiled model from C, without Python.
 *
 *   run_artifact model.gopt [--threads N] [--input name=file:2,3,224,224 ...] [--output name=file ...]
 *
 * Files hold the bare elements, row by row, in the processor's byte order (numpy's ndarray.tofile).
 * Inputs that are not given are zero, and sizes that the model leaves open are 1. */
#include <graphopt/graphopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_ARGUMENTS 64

static void fail(const char* what, const char* detail) {
  fprintf(stderr, "run_artifact: %s%s%s\n", what, detail[0] != '\0' ? ": " : "", detail);
  exit(1);
}

static void check(graphopt_status status) {
  if (status != GRAPHOPT_OK) fail("graphopt", graphopt_last_error());
}

/* If `argument` is "name=value", the value, else null. */
static const char* value_for(const char* argument, const char* name) {
  const size_t length = strlen(name);
  return strncmp(argument, name, length) == 0 && argument[length] == '=' ? argument + length + 1 : NULL;
}

static size_t byte_size(const graphopt_tensor* tensor) {
  size_t size = graphopt_element_size(tensor->dtype);
  for (int32_t i = 0; i < tensor->rank; ++i) size *= (size_t)tensor->shape[i];
  return size;
}

/* "file:2,3" sets the shape and reads the elements. */
static void read_input(graphopt_tensor* tensor, const char* value) {
  const char* colon = strrchr(value, ':');
  if (colon == NULL) fail("an input must be given as name=file:shape", value);
  const char* text = colon + 1;
  tensor->rank = 0;
  while (*text != '\0') {
    char* end;
    const long long size = strtoll(text, &end, 10);
    if (end == text || size < 0 || tensor->rank == GRAPHOPT_MAX_RANK) fail("not a shape", colon + 1);
    tensor->shape[tensor->rank++] = size;
    text = *end == ',' ? end + 1 : end;
    if (*end != ',' && *end != '\0') fail("not a shape", colon + 1);
  }
  char path[4096];
  snprintf(path, sizeof path, "%.*s", (int)(colon - value), value);
  FILE* file = fopen(path, "rb");
  if (file == NULL) fail("cannot open", path);
  const size_t size = byte_size(tensor);
  tensor->data = aligned_alloc(64, (size + 64) / 64 * 64);
  if (tensor->data == NULL) fail("out of memory", "");
  if (fread(tensor->data, 1, size, file) != size || fgetc(file) != EOF) fail("the file does not fit the shape", value);
  fclose(file);
}

static void zero_input(graphopt_tensor* tensor, const graphopt_program* program, size_t index) {
  tensor->rank = graphopt_program_input_rank(program, index);
  for (int32_t axis = 0; axis < tensor->rank; ++axis) {
    const long long size = atoll(graphopt_program_input_dim(program, index, axis));
    tensor->shape[axis] = size > 0 ? size : 1;
  }
  const size_t size = byte_size(tensor);
  tensor->data = aligned_alloc(64, (size + 64) / 64 * 64);
  if (tensor->data == NULL) fail("out of memory", "");
  memset(tensor->data, 0, size);
}

static void print_tensor(const char* name, const graphopt_tensor* tensor) {
  printf("%s: type %d, shape [", name, (int)tensor->dtype);
  size_t count = 1;
  for (int32_t i = 0; i < tensor->rank; ++i) {
    printf("%s%" PRId64, i > 0 ? ", " : "", tensor->shape[i]);
    count *= (size_t)tensor->shape[i];
  }
  printf("]");
  for (size_t i = 0; i < count && i < 8; ++i) {
    if (tensor->dtype == GRAPHOPT_FLOAT32) printf(" %.9g", (double)((const float*)tensor->data)[i]);
    if (tensor->dtype == GRAPHOPT_INT64) printf(" %" PRId64, ((const int64_t*)tensor->data)[i]);
  }
  printf("%s\n", count > 8 ? " ..." : "");
}

static void write_output(const char* path, const graphopt_tensor* tensor) {
  FILE* file = fopen(path, "wb");
  const size_t size = byte_size(tensor);
  if (file == NULL || fwrite(tensor->data, 1, size, file) != size || fclose(file) != 0) fail("cannot write", path);
}

int main(int argc, char** argv) {
  int threads = 0;
  const char* inputs[MAX_ARGUMENTS];
  const char* outputs[MAX_ARGUMENTS];
  int input_count = 0;
  int output_count = 0;
  if (argc < 2 || argc > MAX_ARGUMENTS) {
    fail("usage: run_artifact model.gopt [--threads N] [--input name=file:shape] [--output name=file]", "");
  }
  for (int i = 2; i < argc; i += 2) {
    if (i + 1 == argc) fail("a value is missing after", argv[i]);
    if (strcmp(argv[i], "--threads") == 0) {
      threads = atoi(argv[i + 1]);
    } else if (strcmp(argv[i], "--input") == 0) {
      inputs[input_count++] = argv[i + 1];
    } else if (strcmp(argv[i], "--output") == 0) {
      outputs[output_count++] = argv[i + 1];
    } else {
      fail("unknown option", argv[i]);
    }
  }

  graphopt_program* program = NULL;
  check(graphopt_program_load(argv[1], threads, &program));

  const size_t count = graphopt_program_input_count(program);
  graphopt_tensor* arrays = calloc(count + 1, sizeof *arrays);
  if (arrays == NULL) fail("out of memory", "");
  for (size_t i = 0; i < count; ++i) {
    arrays[i].dtype = graphopt_program_input_dtype(program, i);
    const char* value = NULL;
    for (int k = 0; k < input_count && value == NULL; ++k) {
      value = value_for(inputs[k], graphopt_program_input_name(program, i));
    }
    if (value != NULL) {
      read_input(&arrays[i], value);
    } else {
      zero_input(&arrays[i], program, i);
    }
  }

  graphopt_outputs* results = NULL;
  check(graphopt_program_run(program, arrays, count, &results));

  for (size_t i = 0; i < graphopt_outputs_count(results); ++i) {
    const graphopt_tensor* result = graphopt_outputs_get(results, i);
    const char* name = graphopt_program_output_name(program, i);
    print_tensor(name, result);
    for (int k = 0; k < output_count; ++k) {
      const char* path = value_for(outputs[k], name);
      if (path != NULL) write_output(path, result);
    }
  }

  graphopt_outputs_free(results);
  graphopt_program_free(program);
  for (size_t i = 0; i < count; ++i) free(arrays[i].data);
  free(arrays);
  return 0;
}
