// The attention kernels by name: longbow_{history|candidates}_{sm80|sm90}_{width of a head}_{bias|plain}.
#include "attend_sm80.cuh"
#include "attend_sm90.cuh"

#ifdef LONGBOW_HOST
using longbow::TensorMap;
#elif !defined(__CUDA_ARCH_FEAT_SM90_ALL)
struct alignas(128) TensorMap {
    unsigned char opaque[128];
};
#else
using longbow::TensorMap;
#endif

#define LONGBOW_SM80(name, hd, bias, causal)                                                                   \
    LONGBOW_KERNEL void LONGBOW_BOUNDS(256, 1) longbow_##name(LONGBOW_PARAM LongbowAttend p) {                 \
        LONGBOW_SHARED(memory);                                                                                \
        longbow::attend_sm80<hd, bias, causal>(p, memory);                                                     \
    }

#if defined(LONGBOW_HOST) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define LONGBOW_SM90(name, hd, bias, causal)                                                                   \
    LONGBOW_KERNEL void LONGBOW_BOUNDS(384, 1)                                                                 \
        longbow_##name(LONGBOW_PARAM LongbowAttend p, LONGBOW_PARAM TensorMap q, LONGBOW_PARAM TensorMap kv) { \
        LONGBOW_SHARED(memory);                                                                                \
        longbow::attend_sm90<hd, bias, causal>(p, &q, &kv, memory);                                            \
    }
#else
#define LONGBOW_SM90(name, hd, bias, causal)
#endif

#define LONGBOW_FORMS(hd)                                       \
    LONGBOW_SM80(history_sm80_##hd##_bias, hd, true, true)      \
    LONGBOW_SM80(history_sm80_##hd##_plain, hd, false, true)    \
    LONGBOW_SM80(candidates_sm80_##hd##_bias, hd, true, false)  \
    LONGBOW_SM80(candidates_sm80_##hd##_plain, hd, false, false) \
    LONGBOW_SM90(history_sm90_##hd##_bias, hd, true, true)      \
    LONGBOW_SM90(history_sm90_##hd##_plain, hd, false, true)    \
    LONGBOW_SM90(candidates_sm90_##hd##_bias, hd, true, false)  \
    LONGBOW_SM90(candidates_sm90_##hd##_plain, hd, false, false)

LONGBOW_FORMS(32)
LONGBOW_FORMS(64)
LONGBOW_FORMS(128)
