// Everything but attention, by name. The number of a dense layer is the most columns of k that it takes.
#include "dense.cuh"
#include "rows.cuh"
#include "topk.cuh"

#define LONGBOW_DENSE(name, layer, width)                                                              \
    LONGBOW_KERNEL void LONGBOW_BOUNDS(256, 1) longbow_##name##_##width(LONGBOW_PARAM LongbowDense p) { \
        LONGBOW_SHARED(memory);                                                                         \
        longbow::dense<longbow::Layer::layer, width / 64>(p, memory);                                   \
    }

LONGBOW_DENSE(project, kProject, 256)
LONGBOW_DENSE(project, kProject, 512)
LONGBOW_DENSE(project, kProject, 1024)
LONGBOW_DENSE(output, kOutput, 256)
LONGBOW_DENSE(output, kOutput, 512)
LONGBOW_DENSE(output, kOutput, 1024)
LONGBOW_DENSE(heads, kHeads, 256)
LONGBOW_DENSE(heads, kHeads, 512)
LONGBOW_DENSE(heads, kHeads, 1024)

LONGBOW_KERNEL void LONGBOW_BOUNDS(256, 1) longbow_embed(LONGBOW_PARAM LongbowEmbed p) { longbow::embed(p); }

LONGBOW_KERNEL void LONGBOW_BOUNDS(256, 1) longbow_heads_output(LONGBOW_PARAM LongbowHeads p) {
    longbow::heads_output(p);
}

LONGBOW_KERNEL void LONGBOW_BOUNDS(256, 1)
    longbow_copy_rows(const LongbowCopy* copies, uint16_t* pool, int64_t* times, int64_t page_stride, int head_dim) {
    longbow::copy_rows(copies, pool, times, page_stride, head_dim);
}

#define LONGBOW_TOP(name, query, loads)                                                                     \
    LONGBOW_KERNEL void LONGBOW_BOUNDS(512, 1) longbow_top_##name##_##loads(LONGBOW_PARAM LongbowTopK p, int lanes) { \
        LONGBOW_SHARED(memory);                                                                             \
        longbow::top_scores<longbow::query, loads>(p, lanes, memory);                                       \
    }
LONGBOW_TOP(scores, QueryBf16, 1)
LONGBOW_TOP(scores, QueryBf16, 2)
LONGBOW_TOP(scores, QueryBf16, 4)
LONGBOW_TOP(bytes, QueryInt8, 1)
LONGBOW_TOP(bytes, QueryInt8, 2)

LONGBOW_KERNEL void LONGBOW_BOUNDS(256, 1) longbow_put_rows(LONGBOW_PARAM LongbowPutRows p) { longbow::put_rows(p); }

LONGBOW_KERNEL void LONGBOW_BOUNDS(512, 1) longbow_top_narrow(LONGBOW_PARAM LongbowTopK p, int pass) {
    LONGBOW_SHARED(memory);
    longbow::top_narrow(p, pass, memory);
}

LONGBOW_KERNEL void LONGBOW_BOUNDS(512, 1) longbow_top_gather(LONGBOW_PARAM LongbowTopK p) {
    LONGBOW_SHARED(memory);
    longbow::top_gather(p, memory);
}

LONGBOW_KERNEL void LONGBOW_BOUNDS(512, 1) longbow_top_sort(LONGBOW_PARAM LongbowTopK p) {
    LONGBOW_SHARED(memory);
    longbow::top_sort(p, memory);
}
