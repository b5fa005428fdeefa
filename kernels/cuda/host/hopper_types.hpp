// Shared memory of each kernel, as the host asks for it.
#pragma once
#include "../attend_sm80.cuh"
#include "../attend_sm90.cuh"

#define LONGBOW_SHARED80 sizeof(longbow::Shared80)
#define LONGBOW_SHARED90(hd)                                  \
    ((hd) == 32   ? sizeof(longbow::Shared90<32>)             \
     : (hd) == 64 ? sizeof(longbow::Shared90<64>)             \
                  : sizeof(longbow::Shared90<128>))
