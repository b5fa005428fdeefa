// The kernel for AMX tiles of bfloat16, with AVX-512 and its BF16 conversions around them.
#include "params.h"
#include "vec512.hpp"
#include "tiles.hpp"

#ifdef __linux__
#include <sys/syscall.h>
#include <unistd.h>
#endif

extern "C" uint64_t longbow_attention_scratch_amx(const LongbowAttention* params) { return tile_scratch_floats(*params); }
extern "C" int32_t longbow_attention_amx(const LongbowAttention* params) { return tile_attention(*params); }

extern "C" int32_t longbow_amx_permit() {
#ifdef __linux__
    constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0 ? LONGBOW_OK : LONGBOW_NO_TILES;
#else
    return LONGBOW_NO_TILES;
#endif
}
