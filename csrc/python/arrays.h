// numpy arrays as tensors and back.
#pragma once

#include <nanobind/nanobind.h>

#include <span>
#include <string>

#include "graphopt/tensor.h"
#include "runtime/buffer.h"

namespace graphopt::python {

// A tensor over the memory of a numpy array, which it keeps alive. An array that isn't C-contiguous
// is copied first. Any numpy or ml_dtypes element type; strings and objects are refused.
class BorrowedArray {
 public:
  // `what` names the array in messages. None gives an absent tensor. Throws InputError.
  BorrowedArray(nanobind::handle array, const std::string& what);
  ~BorrowedArray();
  BorrowedArray(const BorrowedArray&) = delete;
  BorrowedArray& operator=(const BorrowedArray&) = delete;

  [[nodiscard]] const Tensor& tensor() const { return tensor_; }

 private:
  void borrow(nanobind::handle array, const std::string& what);

  Tensor tensor_;
  Py_buffer view_{};
  bool held_ = false;
  nanobind::object array_;
};

// A numpy array that owns `memory`, whose first bytes are `tensor`'s elements.
nanobind::object own_array(const Tensor& tensor, Buffer memory);

// A numpy array over memory that somebody else keeps alive.
nanobind::object view_array(const Tensor& tensor, bool writable);

}  // namespace graphopt::python
