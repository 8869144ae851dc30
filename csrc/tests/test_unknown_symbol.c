/* An object that wants what no artifact may have. */
#include <stdlib.h>

int k_system(const char* command) { return system(command); }
