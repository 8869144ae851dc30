// Every packing function of constant weights.
#pragma once

#include "kernels/gemm/pack.h"  // IWYU pragma: export
