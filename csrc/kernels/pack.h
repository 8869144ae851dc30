// Every packing function of constant weights.
#pragma once

#include "kernels/conv/pack.h"      // IWYU pragma: export
#include "kernels/gemm/pack.h"      // IWYU pragma: export
#include "kernels/winograd/pack.h"  // IWYU pragma: export
