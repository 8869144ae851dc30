#include <algorithm>
#include <new>
#include <string>
#include <vector>

#include "graphopt/graphopt.h"
#include "runtime/dtype.h"
#include "runtime/program.h"

struct graphopt_program {
  std::unique_ptr<graphopt::Program> program;
};

struct graphopt_outputs {
  std::vector<graphopt::OutputTensor> outputs;
  std::vector<graphopt_tensor> tensors;
};

namespace {

using graphopt::ArgumentInfo;

static_assert(GRAPHOPT_MAX_RANK == graphopt::kMaxRank);

std::string& last_error() {
  thread_local std::string text;
  return text;
}

graphopt_status fail(graphopt_status status, const char* text) {
  try {
    last_error() = text;
  } catch (const std::bad_alloc&) {
    last_error().clear();
  }
  return status;
}

// Nothing may be thrown through C.
template <class Body>
graphopt_status guarded(graphopt_status on_error, Body&& body) {
  try {
    body();
    return GRAPHOPT_OK;
  } catch (const graphopt::InputError& error) {
    return fail(GRAPHOPT_BAD_INPUT, error.what());
  } catch (const graphopt::Error& error) {
    return fail(on_error, error.what());
  } catch (const std::bad_alloc&) {
    return fail(GRAPHOPT_OUT_OF_MEMORY, "out of memory");
  } catch (const std::exception& error) {
    return fail(on_error, error.what());
  }
}

const ArgumentInfo* argument(const std::vector<ArgumentInfo>& list, size_t index) {
  return index < list.size() ? &list[index] : nullptr;
}

const ArgumentInfo* input(const graphopt_program* program, size_t index) {
  return program == nullptr ? nullptr : argument(program->program->inputs(), index);
}

const ArgumentInfo* output(const graphopt_program* program, size_t index) {
  return program == nullptr ? nullptr : argument(program->program->outputs(), index);
}

const char* name_of(const ArgumentInfo* info) { return info == nullptr ? nullptr : info->name.c_str(); }
int32_t dtype_of(const ArgumentInfo* info) { return info == nullptr ? 0 : static_cast<int32_t>(info->dtype); }
int32_t rank_of(const ArgumentInfo* info) { return info == nullptr ? 0 : static_cast<int32_t>(info->shape.size()); }

const char* dim_of(const ArgumentInfo* info, int32_t axis) {
  if (info == nullptr || axis < 0 || static_cast<size_t>(axis) >= info->shape.size()) return nullptr;
  return info->shape[static_cast<size_t>(axis)].c_str();
}

graphopt::Tensor to_tensor(const graphopt_tensor& given, size_t index) {
  const std::string what = "input " + std::to_string(index);
  if (given.rank < 0 || given.rank > GRAPHOPT_MAX_RANK) throw graphopt::InputError(what + " has an impossible rank");
  if (given.dtype < 1 || given.dtype > graphopt::kMaxDType) throw graphopt::InputError(what + " has an unknown type");
  graphopt::Tensor tensor;
  tensor.data = given.data;
  tensor.dtype = static_cast<graphopt::DType>(given.dtype);
  tensor.rank = given.rank;
  std::copy_n(given.shape, given.rank, tensor.shape.begin());
  size_t bytes = 0;
  const bool possible = graphopt::checked_nbytes({given.shape, static_cast<size_t>(given.rank)}, tensor.dtype, &bytes);
  if (possible && bytes > 0 && given.data == nullptr) throw graphopt::InputError(what + " has no data");
  return tensor;
}

graphopt_tensor from_tensor(const graphopt::Tensor& tensor) {
  graphopt_tensor result{};
  result.data = tensor.data;
  result.dtype = static_cast<int32_t>(tensor.dtype);
  result.rank = tensor.rank;
  std::copy_n(tensor.shape.begin(), tensor.rank, result.shape);
  return result;
}

}  // namespace

extern "C" {

const char* graphopt_version(void) { return GRAPHOPT_VERSION; }

const char* graphopt_last_error(void) { return last_error().c_str(); }

size_t graphopt_element_size(int32_t dtype) {
  if (dtype < 1 || dtype > graphopt::kMaxDType) return 0;
  return graphopt::element_size(static_cast<graphopt::DType>(dtype));
}

graphopt_status graphopt_program_load(const char* path, int threads, graphopt_program** program) {
  if (path == nullptr || program == nullptr) return fail(GRAPHOPT_BAD_ARGUMENT, "a null pointer was given");
  *program = nullptr;
  return guarded(GRAPHOPT_BAD_ARTIFACT,
                 [&] { *program = new graphopt_program{graphopt::Program::open(path, threads, nullptr)}; });
}

graphopt_status graphopt_program_load_memory(const void* data, size_t size, int threads, graphopt_program** program) {
  if (data == nullptr || program == nullptr) return fail(GRAPHOPT_BAD_ARGUMENT, "a null pointer was given");
  *program = nullptr;
  return guarded(GRAPHOPT_BAD_ARTIFACT, [&] {
    const std::span<const uint8_t> bytes(static_cast<const uint8_t*>(data), size);
    *program = new graphopt_program{graphopt::Program::from_bytes(bytes, threads, nullptr)};
  });
}

void graphopt_program_free(graphopt_program* program) { delete program; }

size_t graphopt_program_input_count(const graphopt_program* program) {
  return program == nullptr ? 0 : program->program->inputs().size();
}
size_t graphopt_program_output_count(const graphopt_program* program) {
  return program == nullptr ? 0 : program->program->outputs().size();
}
const char* graphopt_program_input_name(const graphopt_program* program, size_t index) {
  return name_of(input(program, index));
}
const char* graphopt_program_output_name(const graphopt_program* program, size_t index) {
  return name_of(output(program, index));
}
int32_t graphopt_program_input_dtype(const graphopt_program* program, size_t index) {
  return dtype_of(input(program, index));
}
int32_t graphopt_program_output_dtype(const graphopt_program* program, size_t index) {
  return dtype_of(output(program, index));
}
int32_t graphopt_program_input_rank(const graphopt_program* program, size_t index) {
  return rank_of(input(program, index));
}
int32_t graphopt_program_output_rank(const graphopt_program* program, size_t index) {
  return rank_of(output(program, index));
}
const char* graphopt_program_input_dim(const graphopt_program* program, size_t index, int32_t axis) {
  return dim_of(input(program, index), axis);
}
const char* graphopt_program_output_dim(const graphopt_program* program, size_t index, int32_t axis) {
  return dim_of(output(program, index), axis);
}

graphopt_status graphopt_program_run(graphopt_program* program, const graphopt_tensor* inputs, size_t count,
                                     graphopt_outputs** outputs) {
  if (program == nullptr || outputs == nullptr || (inputs == nullptr && count > 0)) {
    return fail(GRAPHOPT_BAD_ARGUMENT, "a null pointer was given");
  }
  *outputs = nullptr;
  return guarded(GRAPHOPT_RUN_FAILED, [&] {
    std::vector<graphopt::Tensor> tensors;
    for (size_t i = 0; i < count; ++i) tensors.push_back(to_tensor(inputs[i], i));
    auto result = std::make_unique<graphopt_outputs>();
    result->outputs = program->program->run(tensors);
    for (const graphopt::OutputTensor& one : result->outputs) result->tensors.push_back(from_tensor(one.tensor));
    *outputs = result.release();
  });
}

size_t graphopt_outputs_count(const graphopt_outputs* outputs) {
  return outputs == nullptr ? 0 : outputs->tensors.size();
}

const graphopt_tensor* graphopt_outputs_get(const graphopt_outputs* outputs, size_t index) {
  return outputs == nullptr || index >= outputs->tensors.size() ? nullptr : &outputs->tensors[index];
}

void graphopt_outputs_free(graphopt_outputs* outputs) { delete outputs; }

}  // extern "C"
