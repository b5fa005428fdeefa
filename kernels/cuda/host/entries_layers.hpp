// The kernels of the layers, of rows and of the top-k by the names that the driver finds them under.
#pragma once
#include "../dense.cuh"
#include "../rows.cuh"
#include "../topk.cuh"

#define LONGBOW_DENSE_FORMS(name)                             \
    extern "C" void longbow_##name##_256(LongbowDense); \
    extern "C" void longbow_##name##_512(LongbowDense); \
    extern "C" void longbow_##name##_1024(LongbowDense);
LONGBOW_DENSE_FORMS(project)
LONGBOW_DENSE_FORMS(output)
LONGBOW_DENSE_FORMS(heads)
extern "C" void longbow_embed(LongbowEmbed);
extern "C" void longbow_heads_output(LongbowHeads);
extern "C" void longbow_copy_rows(const LongbowCopy*, uint16_t*, int64_t*, int64_t, int);
extern "C" void longbow_top_scores_1(LongbowTopK, int);
extern "C" void longbow_top_scores_2(LongbowTopK, int);
extern "C" void longbow_top_scores_4(LongbowTopK, int);
extern "C" void longbow_top_bytes_1(LongbowTopK, int);
extern "C" void longbow_top_bytes_2(LongbowTopK, int);
extern "C" void longbow_put_rows(LongbowPutRows);
extern "C" void longbow_top_narrow(LongbowTopK, int);
extern "C" void longbow_top_gather(LongbowTopK);
extern "C" void longbow_top_sort(LongbowTopK);
