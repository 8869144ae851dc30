#include "kernels/resample/kernels_impl.h"

GRAPHOPT_RESAMPLE_TABLE(kKernelsPortable)
