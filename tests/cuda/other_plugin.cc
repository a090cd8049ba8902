// A plugin of another build.
#include "calotype/export.h"

extern "C" CALOTYPE_API const char* calotype_cuda_build_id() { return "0.0.0 of long ago"; }
