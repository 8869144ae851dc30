#include "kernels/int8/int4_impl.h"

namespace graphopt::int8 {

constinit const NibbleKernel nibble_kernel_portable = nibbles;

}  // namespace graphopt::int8
