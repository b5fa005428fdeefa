// The attention kernels by the names that the driver finds them under.
#pragma once
#include "../hopper.cuh"

using longbow::TensorMap;

#define LONGBOW_ATTENTION(hd)                                                                  \
    extern "C" void longbow_history_sm80_##hd##_bias(LongbowAttend);                           \
    extern "C" void longbow_history_sm80_##hd##_plain(LongbowAttend);                          \
    extern "C" void longbow_candidates_sm80_##hd##_bias(LongbowAttend);                        \
    extern "C" void longbow_candidates_sm80_##hd##_plain(LongbowAttend);                       \
    extern "C" void longbow_history_sm90_##hd##_bias(LongbowAttend, TensorMap, TensorMap);     \
    extern "C" void longbow_history_sm90_##hd##_plain(LongbowAttend, TensorMap, TensorMap);    \
    extern "C" void longbow_candidates_sm90_##hd##_bias(LongbowAttend, TensorMap, TensorMap);  \
    extern "C" void longbow_candidates_sm90_##hd##_plain(LongbowAttend, TensorMap, TensorMap);
LONGBOW_ATTENTION(32)
LONGBOW_ATTENTION(64)
LONGBOW_ATTENTION(128)
