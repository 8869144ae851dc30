#include "kernels/recurrent/kernels_impl.h"

GRAPHOPT_RECURRENT_TABLE(kKernelsPortable)
