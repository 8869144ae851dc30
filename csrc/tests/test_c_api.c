/* The C interface, from C: what succeeds, and what every kind of failure answers. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "graphopt/graphopt.h"

#define CHECK(condition)                                                                                            \
  do {                                                                                                              \
    if (!(condition)) {                                                                                             \
      fprintf(stderr, "%s:%d: CHECK(%s); last error: %s\n", __FILE__, __LINE__, #condition, graphopt_last_error()); \
      exit(1);                                                                                                      \
    }                                                                                                               \
  } while (0)

static void describes(const graphopt_program* program) {
  CHECK(graphopt_program_input_count(program) == 2 && graphopt_program_output_count(program) == 1);
  CHECK(strcmp(graphopt_program_input_name(program, 1), "b") == 0);
  CHECK(strcmp(graphopt_program_output_name(program, 0), "y") == 0);
  CHECK(graphopt_program_input_dtype(program, 0) == GRAPHOPT_FLOAT32);
  CHECK(graphopt_program_output_dtype(program, 0) == GRAPHOPT_FLOAT32);
  CHECK(graphopt_program_input_rank(program, 0) == 2 && graphopt_program_output_rank(program, 0) == 2);
  CHECK(strcmp(graphopt_program_input_dim(program, 0, 0), "N") == 0);
  CHECK(strcmp(graphopt_program_output_dim(program, 0, 1), "4") == 0);
  CHECK(graphopt_program_input_name(program, 2) == NULL && graphopt_program_output_name(program, 1) == NULL);
  CHECK(graphopt_program_input_dim(program, 0, 2) == NULL && graphopt_program_input_dim(program, 0, -1) == NULL);
  CHECK(graphopt_program_input_dtype(program, 2) == 0 && graphopt_program_input_rank(program, 2) == 0);
  CHECK(graphopt_element_size(GRAPHOPT_BFLOAT16) == 2 && graphopt_element_size(8) == 0);
  CHECK(graphopt_element_size(99) == 0 && strlen(graphopt_version()) >= 5);
}

static void runs(graphopt_program* program) {
  float a[8] = {1, 2, 3, 4, 5, 6, 7, 8};
  float b[8] = {1, 1, 1, 1, 1, 1, 1, 1};
  graphopt_tensor inputs[2] = {{a, GRAPHOPT_FLOAT32, 2, {2, 4}}, {b, GRAPHOPT_FLOAT32, 2, {2, 4}}};
  graphopt_outputs* outputs = NULL;
  CHECK(graphopt_program_run(program, inputs, 2, &outputs) == GRAPHOPT_OK);
  CHECK(graphopt_outputs_count(outputs) == 1 && graphopt_outputs_get(outputs, 1) == NULL);
  const graphopt_tensor* y = graphopt_outputs_get(outputs, 0);
  CHECK(y->dtype == GRAPHOPT_FLOAT32 && y->rank == 2 && y->shape[0] == 2 && y->shape[1] == 4);
  for (int i = 0; i < 8; ++i) CHECK(((const float*)y->data)[i] == a[i] + b[i]);
  graphopt_outputs_free(outputs);

  CHECK(graphopt_program_run(program, inputs, 1, &outputs) == GRAPHOPT_BAD_INPUT && outputs == NULL);
  CHECK(strstr(graphopt_last_error(), "expected 2 inputs, got 1") != NULL);
  inputs[1].shape[0] = 3;
  CHECK(graphopt_program_run(program, inputs, 2, &outputs) == GRAPHOPT_BAD_INPUT);
  CHECK(strstr(graphopt_last_error(), "input 'b'") != NULL);
  inputs[1].shape[0] = 2;
  inputs[1].rank = 13;
  CHECK(graphopt_program_run(program, inputs, 2, &outputs) == GRAPHOPT_BAD_INPUT);
  inputs[1].rank = 2;
  inputs[1].dtype = 77;
  CHECK(graphopt_program_run(program, inputs, 2, &outputs) == GRAPHOPT_BAD_INPUT);
  inputs[1].dtype = GRAPHOPT_FLOAT32;
  inputs[1].data = NULL;
  CHECK(graphopt_program_run(program, inputs, 2, &outputs) == GRAPHOPT_BAD_INPUT);
  CHECK(strstr(graphopt_last_error(), "input 1 has no data") != NULL);
  CHECK(graphopt_program_run(NULL, inputs, 2, &outputs) == GRAPHOPT_BAD_ARGUMENT);
  CHECK(graphopt_program_run(program, NULL, 2, &outputs) == GRAPHOPT_BAD_ARGUMENT);
}

int main(int argc, char** argv) {
  CHECK(argc == 2);
  graphopt_program* program = NULL;
  CHECK(graphopt_program_load("/nowhere.gopt", 1, &program) == GRAPHOPT_BAD_ARTIFACT && program == NULL);
  CHECK(strstr(graphopt_last_error(), "/nowhere.gopt") != NULL);
  CHECK(graphopt_program_load(NULL, 1, &program) == GRAPHOPT_BAD_ARGUMENT);
  CHECK(graphopt_program_load_memory("nonsense", 8, 1, &program) == GRAPHOPT_BAD_ARTIFACT);
  CHECK(graphopt_program_load(argv[1], -1, &program) == GRAPHOPT_BAD_ARTIFACT);
  CHECK(graphopt_program_load(argv[1], 2, &program) == GRAPHOPT_OK);
  describes(program);
  runs(program);
  graphopt_program_free(program);
  graphopt_program_free(NULL);
  graphopt_outputs_free(NULL);
  return 0;
}
