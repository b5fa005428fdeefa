// The tile kernel on a model of the tiles: for tests on machines without them.
#define LONGBOW_TILE_MODEL
#include "params.h"
#include "vec512.hpp"
#include "tiles.hpp"

extern "C" int32_t longbow_attention_amx_model(const LongbowAttention* params) { return tile_attention(*params); }
