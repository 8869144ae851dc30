#include "kernels/convert/kernels_impl.h"

GRAPHOPT_CONVERT_TABLE(kKernelsAvx2)
