/* The tile registers of AMX, instruction by instruction. Written as assembly so that each says which memory it reads
 * and that none may be moved past another; `tile` is a constant from 0 to 7. */
#include <stdint.h>

#define TILE_CODE static inline __attribute__((always_inline)) void

/* What follows reads memory after what stands before. */
TILE_CODE in_order(void) { __asm__ volatile("" ::: "memory"); }

/* LDTILECFG's operand: for each tile its rows (at most 16) and bytes in a row (at most 64). */
typedef struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} tile_shapes;

/* Gives all tiles their shapes and zeroes them. */
TILE_CODE tiles_shape(const tile_shapes *shapes) { __asm__ volatile("ldtilecfg (%0)" ::"r"(shapes) : "memory"); }
/* Back to the state of a thread that never used a tile: nothing is left in them, nothing to save between threads. */
TILE_CODE tiles_release(void) { __asm__ volatile("tilerelease" ::: "memory"); }
TILE_CODE tile_zero(const int tile) { __asm__ volatile("tilezero %%tmm%c0" ::"i"(tile)); }
/* A row from every `apart` bytes. */
TILE_CODE tile_load(const int tile, const void *from, int64_t apart) {
    __asm__ volatile("tileloadd (%1,%2,1), %%tmm%c0" ::"i"(tile), "r"(from), "r"(apart) : "memory");
}
TILE_CODE tile_store(const int tile, void *to, int64_t apart) {
    __asm__ volatile("tilestored %%tmm%c0, (%1,%2,1)" ::"i"(tile), "r"(to), "r"(apart) : "memory");
}
/* to[m][n] += sum over k of x[m][2k] w[k][2n] and x[m][2k + 1] w[k][2n + 1]: first both sums by themselves, in order,
 * each multiply-add rounded once, then one plus the other, then that plus what was there (Intel's manual, volume 2C,
 * TDPBF16PS). Denormal numbers count as zero. */
TILE_CODE tile_dot_bf16(const int to, const int x, const int w) {
    __asm__ volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(to), "i"(x), "i"(w));
}
/* The same of signed bytes x and unsigned bytes w, four by four, exactly. */
TILE_CODE tile_dot_bytes(const int to, const int x, const int w) {
    __asm__ volatile("tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(to), "i"(x), "i"(w));
}
