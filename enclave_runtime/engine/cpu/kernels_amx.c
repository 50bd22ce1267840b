/* Products on the tiles of AMX; everything else of this path is AVX-512's (kernels_avx512.c).
 *
 * bfloat16: every number of rows goes through tiles, since their sums have an order of their own: 32 inputs at a time,
 * in order, whatever the number of rows. Quantised weights: within a group the sums are exact, and around it the
 * operations are those of product.inc, so results are AVX-512's bit for bit, and few rows are left to it.
 *
 * Each call shapes the tiles and releases them: no thread keeps any state in them, and nothing of the activations.
 */
#include "decoder.h"
#ifdef CLOISTER_AMX
#include "target_avx512.h"

#include "lanes_avx512.h"
#include "tiles.h"

enum {
    TALL = 16,          /* rows of a tile */
    BF16_INPUTS = 32,   /* inputs of a tile */
    BF16_RUN = 256,     /* inputs after which the next blocks have their turn: 64 rows of them stay in the first cache */
    QUANT_RUN = 1024,   /* the same for quantised weights: one block's stay there */
    BF16_AHEAD = 4096   /* bytes fetched ahead of a product that reads its weights once */
};

static inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

/* The longest run of groups that cuts `inputs` evenly into runs of at most `most`. */
static inline int64_t even_run(int64_t inputs, int64_t most) {
    int64_t runs = (inputs + most - 1) / most;
    return ((inputs + runs - 1) / runs + GROUP - 1) / GROUP * GROUP;
}

/* --- bfloat16: two tiles of rows by two blocks --- */

/* Tiles: sums[rows][block] 0 to 3, rows 4 and 5, blocks 6 and 7. */
#define SUMS(r, b) (2 * (r) + (b))
#define ROWS(r) (4 + (r))
#define BLOCKS(b) (6 + (b))

static void shape_bf16(int64_t first, int64_t second) {
    tile_shapes shapes = {.palette = 1};
    for (int tile = 0; tile < 8; tile++) {
        int64_t rows = tile >= BLOCKS(0) ? 16 : tile == ROWS(1) || tile / 2 == 1 ? second : first;
        shapes.rows[tile] = (uint8_t)rows, shapes.row_bytes[tile] = rows ? 64 : 0;
    }
    tiles_shape(&shapes);
}

/* What one set of sums meets: `count` inputs, 16 outputs a block; fetching `ahead`, as many bytes as are read. */
typedef struct {
    const uint8_t *weights, *ahead;
    const uint16_t *x;
    float *out;
    int64_t block_bytes, apart, out_apart, count;
} unit;

/* `tall` tiles of rows by `wide` blocks. The sums begin at what is in `out`, or at zero if they are `fresh`. */
TILE_CODE unit_bf16(const int tall, const int wide, const unit *u, int fresh) {
    int64_t apart = u->apart * 2, out_apart = u->out_apart * 4, count = u->count, block_bytes = u->block_bytes;
    const uint8_t *weights = u->weights, *ahead = u->ahead;
    const uint16_t *x = u->x;
    UNROLL for (int r = 0; r < tall; r++) UNROLL for (int b = 0; b < wide; b++) {
        if (fresh)
            tile_zero(SUMS(r, b));
        else
            tile_load(SUMS(r, b), u->out + r * TALL * u->out_apart + b * LANES, out_apart);
    }
    for (int64_t i = 0; i < count; i += BF16_INPUTS, weights += 1024, x += BF16_INPUTS) {
        UNROLL for (int b = 0; b < wide; b++) tile_load(BLOCKS(b), weights + b * block_bytes, 64);
        UNROLL for (int r = 0; r < tall; r++) {
            tile_load(ROWS(r), x + r * TALL * u->apart, apart);
            UNROLL for (int b = 0; b < wide; b++) tile_dot_bf16(SUMS(r, b), ROWS(r), BLOCKS(b));
        }
        if (ahead) {
            UNROLL for (int b = 0; b < wide; b++) UNROLL for (int line = 0; line < 16; line++)
                fetch_far(ahead + b * block_bytes + line * 64);
            ahead += 1024;
        }
    }
    UNROLL for (int r = 0; r < tall; r++) UNROLL for (int b = 0; b < wide; b++)
        tile_store(SUMS(r, b), u->out + r * TALL * u->out_apart + b * LANES, out_apart);
}

static void unit_of(int64_t tall, int64_t wide, const unit *u, int fresh) {
    if (tall == 2 && wide == 2)
        unit_bf16(2, 2, u, fresh);
    else if (tall == 2)
        unit_bf16(2, 1, u, fresh);
    else if (wide == 2)
        unit_bf16(1, 2, u, fresh);
    else
        unit_bf16(1, 1, u, fresh);
}

/* `tiles` shapes are set. Runs of inputs outside, blocks inside, rows innermost: what is read of the activations stays
 * in the first cache for every block, and a block's weights for every pair of tiles. A product of at most one pair
 * reads its weights once, in the order in which they lie. */
static void rows_bf16(const matrix *m, int64_t block, int64_t blocks, const operand *x, int64_t row, int64_t pairs,
                      int64_t tall, float *out, int64_t stride, int add) {
    int64_t inputs = m->inputs, block_bytes = inputs * LANES * 2;
    int64_t each = pairs > 1 ? even_run(inputs, BF16_RUN) : inputs;
    const uint8_t *first = m->weights + block * block_bytes;
    for (int64_t begin = 0; begin < inputs; begin += each)
        for (int64_t b = 0; b < blocks; b += 2) {
            int64_t at = b * block_bytes + begin * LANES * 2, wide = least(2, blocks - b);
            /* Meanwhile what comes next: the following blocks, after the last ones the following run of inputs, and
             * after that what lies behind. */
            int64_t next = b + 2 < blocks ? at + 2 * block_bytes
                           : begin + each < inputs ? (begin + each) * LANES * 2 : blocks * block_bytes;
            for (int64_t pair = 0; pair < pairs; pair++)
                unit_of(tall, wide, &(unit){
                    .weights = first + at, .ahead = pair ? NULL : first + (pairs > 1 ? next : at + BF16_AHEAD),
                    .x = x->bf16 + (row + pair * 2 * TALL) * x->stride + begin,
                    .out = out + pair * 2 * TALL * stride + b * LANES, .block_bytes = block_bytes,
                    .apart = x->stride, .out_apart = stride, .count = least(each, inputs - begin)},
                    !add && begin == 0);
        }
}

static void product_bf16(const matrix *m, int64_t block, int64_t blocks, const operand *x, int64_t row, int64_t rows,
                         float *out, int64_t stride, int add) {
    int64_t pairs = rows / (2 * TALL), rest = rows % (2 * TALL);
    if (pairs) {
        shape_bf16(TALL, TALL);
        rows_bf16(m, block, blocks, x, row, pairs, 2, out, stride, add);
    }
    if (rest) {
        int64_t done = rows - rest;
        shape_bf16(least(TALL, rest), rest > TALL ? rest - TALL : 0);
        rows_bf16(m, block, blocks, x, row + done, 1, rest > TALL ? 2 : 1, out + done * stride, stride, add);
    }
    tiles_release();
}

/* --- quantised weights: a tile of rows by one block, group by group --- */

/* Tiles: sums 0 to 3, a group's rows 4 (quants) and 5 (fractions), its weights 6; of a group with two scales, weights
 * and rows are those of half of it. */
enum { QUANTS = 4, FRACTIONS = 5, WEIGHTS = 6 };

/* Where a thread keeps what goes through tiles, in the memory that the caller overwrites. */
typedef struct {
    float sums[SLICE_ROWS][LANES];   /* between two runs of inputs */
    int32_t dots[2][4][TALL][LANES]; /* of a group and of the next one: halves of the group by planes */
    uint8_t weights[QUANT_RUN / 4][LANES][4]; /* of a run, 4 bits made 8 */
} through;
_Static_assert(sizeof(through) <= KEPT_ITEMS * sizeof(float), "what is kept has a place");

static void shape_quants(int halves) {
    tile_shapes shapes = {.palette = 1};
    for (int tile = 0; tile <= WEIGHTS; tile++) {
        shapes.rows[tile] = (uint8_t)(tile == WEIGHTS ? 8 / halves : TALL);
        shapes.row_bytes[tile] = (uint16_t)(tile < QUANTS || tile == WEIGHTS ? 64 : GROUP / halves);
    }
    tiles_shape(&shapes);
}

/* The 4-bit weights of `groups` groups as bytes, laid out as those of 8 bits are. */
static void widen(const uint8_t *from, int64_t groups, uint8_t (*to)[LANES][4]) {
    for (int64_t g = 0; g < groups; g++, to += 8)
        UNROLL for (int i = 0; i < 4; i++, from += 64) {
            vb both = vb_load(from);
            _mm512_storeu_si512(to + i, vb_low(both));
            _mm512_storeu_si512(to + i + 4, vb_high(both));
        }
}

/* Exact sums of a group, 16 rows by 16 outputs, into memory. */
TILE_CODE dots_of(const int halves, const int fine, const uint8_t *weights, const int8_t *quants,
                  const int8_t *fractions, int64_t apart, int32_t (*dots)[TALL][LANES]) {
    UNROLL for (int half = 0; half < halves; half++) {
        tile_load(WEIGHTS, weights + half * 256, 64);
        UNROLL for (int plane = 0; plane <= fine; plane++) {
            const int8_t *x = plane ? fractions : quants;
            tile_zero(2 * half + plane);
            tile_load(QUANTS + plane, x + half * 16, apart);
            tile_dot_bytes(2 * half + plane, QUANTS + plane, WEIGHTS);
            tile_store(2 * half + plane, dots[2 * half + plane], 64);
        }
    }
}

/* As dot_planes in product.inc: the planes together, less the weights' zero point. */
static inline vi whole_dot(const int fine, const int biased, const int32_t (*dots)[TALL][LANES], int r,
                           const int32_t *bias) {
    vi dot = vb_load((const uint8_t *)dots[0][r]);
    if (fine) dot = vi_add(vi_times256(dot), vb_load((const uint8_t *)dots[1][r]));
    return biased ? vi_add(dot, vi_set1(*bias)) : dot;
}

/* 16 rows by one block over groups `begin` to `end`; `weights` are those of `begin`, with 8 bits. At the matrix's end
 * rows from `from` on are written out. The float operations are those of tile_quants in product.inc, one by one. */
TILE_CODE rows_quants(const int kind, const int fine, const matrix *m, int64_t block, int64_t begin, int64_t end,
                      const uint8_t *weights, const operand *x, int64_t row, float (*sums)[LANES],
                      int32_t (*dots)[4][TALL][LANES], const uint8_t *ahead, float *out, int64_t stride, int64_t from,
                      int add) {
    const int halves = kind == KIND_Q8_16 ? 2 : 1, two = kind == KIND_Q4_MIN || kind == KIND_Q8_16;
    const int biased = kind != KIND_Q4_MIN, lines = kind == KIND_Q8 || kind == KIND_Q8_16 ? 8 : 4;
    int64_t groups = m->inputs / GROUP, apart = x->stride, groups_apart = apart / GROUP;
    int64_t place = row * groups_apart + begin;
    const uint16_t *scales = m->scales + (block * groups + begin) * (two ? 32 : 16);
    const int8_t *quants = x->quants + place * GROUP, *fractions = fine ? x->fractions + place * GROUP : quants;
    const float *factors = x->scales + place, *offsets = x->scaled_sums + place;
    const int32_t *bias = x->biases[kind == KIND_Q8 ? BIAS_128 : kind == KIND_Q4 ? BIAS_8 : BIAS_32_FIRST] + place;
    const int32_t *last_bias = x->biases[BIAS_32_LAST] + place;
    vf sum[TALL];
    UNROLL for (int r = 0; r < TALL; r++) sum[r] = begin ? vf_load(sums[r]) : vf_zero();
    dots_of(halves, fine, weights, quants, fractions, apart, dots[0]);
    for (int64_t g = begin; g < end; g++) {
        /* The tiles work on the next group while the lanes work on this one. */
        weights += 512, quants += GROUP, fractions += GROUP;
        if (g + 1 < end) dots_of(halves, fine, weights, quants, fractions, apart, dots[(g + 1 - begin) % 2]);
        const int32_t (*dot)[TALL][LANES] = (const int32_t(*)[TALL][LANES])dots[(g - begin) % 2];
        if (ahead) {
            UNROLL for (int i = 0; i < lines; i++) fetch_far(ahead + i * 64);
            ahead += lines * 64;
        }
        vf scale = vf_half(scales), second = two ? vf_half(scales + 16) : vf_zero();
        UNROLL for (int r = 0; r < TALL; r++) {
            vf real = vf_from(whole_dot(fine, biased, dot, r, bias + r * groups_apart));
            vf factor = vf_set1(factors[r * groups_apart]);
            if (kind == KIND_Q8_16) {
                vf last = vf_from(whole_dot(fine, biased, dot + 2, r, last_bias + r * groups_apart));
                sum[r] = vf_fma(vf_fma(last, second, vf_mul(real, scale)), factor, sum[r]);
            } else {
                sum[r] = vf_fma(real, vf_mul(scale, factor), sum[r]);
                if (kind == KIND_Q4_MIN) sum[r] = vf_fma(second, vf_set1(offsets[r * groups_apart]), sum[r]);
            }
            in_order(); /* else the compiler loads every row's dots before the first is used, and has no place for them */
        }
        scales += two ? 32 : 16, factors++, offsets++, bias++, last_bias++;
    }
    if (end < groups) {
        UNROLL for (int r = 0; r < TALL; r++) vf_store(sums[r], sum[r]);
        return;
    }
    UNROLL for (int r = 0; r < TALL; r++) {
        float *to = out + r * stride;
        if (r >= from) vf_store(to, add ? vf_add(vf_load(to), sum[r]) : sum[r]);
    }
}

/* At least 16 rows. The last tile ends with the last row: what it has in common with the one before is computed twice
 * and written once. */
TILE_CODE blocks_quants(const int kind, const int fine, const matrix *m, int64_t block, int64_t blocks,
                        const operand *x, int64_t row, int64_t rows, float *out, int64_t stride, int add,
                        through *by) {
    const int wide = kind == KIND_Q8 || kind == KIND_Q8_16, group_bytes = wide ? 512 : 256;
    int64_t groups = m->inputs / GROUP, each = even_run(m->inputs, QUANT_RUN) / GROUP;
    for (; blocks; block++, blocks--, out += LANES)
        for (int64_t begin = 0; begin < groups; begin += each) {
            int64_t end = least(begin + each, groups);
            const uint8_t *stored = m->weights + (block * groups + begin) * group_bytes, *weights = stored;
            if (!wide) {
                widen(stored, end - begin, by->weights);
                weights = by->weights[0][0];
            }
            for (int64_t first = 0, at; first < rows; first += TALL) {
                at = least(first, rows - TALL);
                rows_quants(kind, fine, m, block, begin, end, weights, x, row + at, by->sums + first, by->dots,
                            first ? NULL : stored + (end - begin) * group_bytes, out + at * stride, stride,
                            first - at, add);
            }
        }
}

#define QUANTISED(name, kind)                                                                                        \
    static void name(const matrix *m, int64_t block, int64_t blocks, const operand *x, int64_t row, int64_t rows,    \
                     float *out, int64_t stride, int add, through *by) {                                             \
        shape_quants(kind == KIND_Q8_16 ? 2 : 1);                                                                    \
        if (x->fractions)                                                                                            \
            blocks_quants(kind, 1, m, block, blocks, x, row, rows, out, stride, add, by);                            \
        else                                                                                                         \
            blocks_quants(kind, 0, m, block, blocks, x, row, rows, out, stride, add, by);                            \
        tiles_release();                                                                                             \
    }
QUANTISED(product_q8, KIND_Q8)
QUANTISED(product_q8_16, KIND_Q8_16)
QUANTISED(product_q4_min, KIND_Q4_MIN)
QUANTISED(product_q4, KIND_Q4)

/* The interface of `kernels`. */
void cloister_amx_product(const matrix *m, int64_t block, int64_t blocks, const operand *x, int64_t row, int64_t rows,
                          float *out, int64_t stride, int add, float *kept) {
    static void (*const by_kind[KINDS])(const matrix *, int64_t, int64_t, const operand *, int64_t, int64_t, float *,
                                        int64_t, int, through *) = {
        [KIND_Q8] = product_q8, [KIND_Q8_16] = product_q8_16, [KIND_Q4_MIN] = product_q4_min, [KIND_Q4] = product_q4,
    };
    if (m->kind == KIND_BF16)
        product_bf16(m, block, blocks, x, row, rows, out, stride, add);
    else if (rows < TALL)
        cloister_avx512.product(m, block, blocks, x, row, rows, out, stride, add, kept);
    else
        by_kind[m->kind](m, block, blocks, x, row, rows, out, stride, add, (through *)kept);
}
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
