/* Stored weights into the layouts that the kernels read (decoder.h), and single rows back out of them.
 *
 * Block formats are those of ggml (ggml-common.h); a row of a stored matrix is `row_bytes` long.
 */
#include "decoder.h"

#include <math.h>
#include <string.h>

/* Type numbers of ggml, as GGUF files carry them. */
enum { F32 = 0, F16 = 1, Q4_0 = 2, Q4_1 = 3, Q8_0 = 8, Q4_K = 12, Q6_K = 14, BF16 = 30 };

static float float_of(uint32_t bits) {
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

static uint32_t bits_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return bits;
}

static uint16_t read16(const uint8_t *at) { return (uint16_t)(at[0] | at[1] << 8); }

static float half_to_float(uint16_t half) {
    uint32_t sign = (uint32_t)(half & 0x8000) << 16, exponent = half >> 10 & 31, fraction = half & 0x3ff;
    if (exponent == 31) return float_of(sign | 0x7f800000u | fraction << 13);
    if (exponent == 0) {
        float value = (float)fraction * 0x1p-24f;
        return sign ? -value : value;
    }
    return float_of(sign | (exponent + 112) << 23 | fraction << 13);
}

static uint16_t float_to_half(float value) {
    uint32_t bits = bits_of(value), sign = bits >> 16 & 0x8000, rest = bits & 0x7fffffffu;
    if (rest >= 0x7f800000u) return (uint16_t)(sign | (rest > 0x7f800000u ? 0x7e00 : 0x7c00));
    if (rest >= 0x477ff000u) return (uint16_t)(sign | 0x7c00);
    if (rest < 0x38800000u) /* subnormal: the sum rounds to a multiple of 2^-24 */
        return (uint16_t)(sign | (bits_of(float_of(rest) + 0.5f) - 0x3f000000u));
    uint32_t odd = rest >> 13 & 1;
    return (uint16_t)(sign | ((rest - 0x38000000u + 0xfff + odd) >> 13));
}

static uint16_t float_to_bf16(float value) {
    uint32_t bits = bits_of(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

EXPORT int64_t cloister_matrix_bytes(int32_t kind, int64_t outputs, int64_t inputs) {
    int64_t items = (outputs + LANES - 1) / LANES * LANES * inputs;
    return kind == KIND_BF16 ? 2 * items : kind == KIND_Q8 || kind == KIND_Q8_16 ? items : items / 2;
}

EXPORT int64_t cloister_scale_bytes(int32_t kind, int64_t outputs, int64_t inputs) {
    int64_t groups = (outputs + LANES - 1) / LANES * LANES * (inputs / GROUP);
    return kind == KIND_BF16 ? 0 : kind == KIND_Q8 || kind == KIND_Q4 ? 2 * groups : 4 * groups;
}

/* 32 weights taken out of a stored block: quants of the matrix's kind, one or two scales, an offset. */
typedef struct {
    uint8_t quants[GROUP];
    float scale[2], offset;
} group;

static void read_group(int stored, const uint8_t *row, int64_t number, group *out) {
    if (stored == Q4_K) {
        const uint8_t *block = row + number / 8 * 144, *packed = block + 4;
        int part = (int)(number % 8), scale, offset;
        if (part < 4) {
            scale = packed[part] & 63;
            offset = packed[part + 4] & 63;
        } else {
            scale = (packed[part + 4] & 15) | (packed[part - 4] >> 6) << 4;
            offset = packed[part + 4] >> 4 | (packed[part] >> 6) << 4;
        }
        out->scale[0] = half_to_float(read16(block)) * (float)scale;
        out->offset = -half_to_float(read16(block + 2)) * (float)offset;
        const uint8_t *quants = block + 16 + part / 2 * 32;
        for (int i = 0; i < GROUP; i++) out->quants[i] = part % 2 ? quants[i] >> 4 : quants[i] & 15;
    } else { /* Q6_K: 128 low halves, 64 upper quarters, 16 scales, one scale for all */
        const uint8_t *block = row + number / 8 * 210;
        int part = (int)(number % 8), half = part / 4, quarter = part % 4;
        const uint8_t *low = block + half * 64 + quarter % 2 * 32, *high = block + 128 + half * 32;
        float all = half_to_float(read16(block + 208));
        for (int i = 0; i < 2; i++) out->scale[i] = all * (float)(int8_t)block[192 + part * 2 + i];
        for (int i = 0; i < GROUP; i++)
            out->quants[i] = (uint8_t)((quarter < 2 ? low[i] & 15 : low[i] >> 4) | (high[i] >> 2 * quarter & 3) << 4);
    }
}

/* Rounding to the nearest of 255 levels, as Q8_0 does. */
static void quantise_group(const float *x, group *out) {
    float most = 0;
    for (int i = 0; i < GROUP; i++) most = fmaxf(most, fabsf(x[i]));
    float scale = most / 127, inverse = scale ? 1 / scale : 0;
    for (int i = 0; i < GROUP; i++) out->quants[i] = (uint8_t)((int)rintf(x[i] * inverse) + 128);
    out->scale[0] = scale;
}

static void read_floats(int stored, const uint8_t *row, int64_t from, int64_t count, float *out) {
    for (int64_t i = 0; i < count; i++) {
        const uint8_t *at = row + (from + i) * (stored == F32 ? 4 : 2);
        if (stored == F32)
            memcpy(&out[i], at, 4);
        else
            out[i] = stored == F16 ? half_to_float(read16(at)) : float_of((uint32_t)read16(at) << 16);
    }
}

static int is_float(int stored) { return stored == F32 || stored == F16 || stored == BF16; }

static int finite_half(uint16_t half) { return (half & 0x7c00) != 0x7c00; }

static int place_group(const matrix *m, int64_t output, int64_t number, const group *from) {
    int64_t groups = m->inputs / GROUP, place = output / LANES * groups + number;
    int lane = (int)(output % LANES), finite;
    if (m->kind == KIND_Q8 || m->kind == KIND_Q8_16) {
        for (int quad = 0; quad < 8; quad++)
            memcpy(m->weights + (place * 8 + quad) * 64 + lane * 4, from->quants + quad * 4, 4);
    } else {
        for (int i = 0; i < 16; i++)
            m->weights[(place * 4 + i / 4) * 64 + lane * 4 + i % 4] =
                (uint8_t)(from->quants[i] | from->quants[i + 16] << 4);
    }
    if (m->kind == KIND_Q8 || m->kind == KIND_Q4) {
        uint16_t scale = m->scales[place * 16 + lane] = float_to_half(from->scale[0]);
        finite = finite_half(scale);
    } else {
        float second = m->kind == KIND_Q4_MIN ? from->offset : from->scale[1];
        uint16_t one = m->scales[place * 32 + lane] = float_to_half(from->scale[0]);
        uint16_t two = m->scales[place * 32 + 16 + lane] = float_to_half(second);
        finite = finite_half(one) && finite_half(two);
    }
    return finite;
}

/* 32 weights that are kept as they are stored: scale, offset and quants go over bit by bit, four quants at a time. */
static int copy_group(const matrix *m, int stored, const uint8_t *block, uint8_t *quants, uint16_t *scales) {
    uint16_t scale = read16(block), offset = 0;
    int head = stored == Q4_1 ? 4 : 2, words = stored == Q8_0 ? 8 : 4;
    uint32_t flip = stored == Q8_0 ? 0x80808080u : 0;
    for (int i = 0; i < words; i++) {
        uint32_t word;
        memcpy(&word, block + head + 4 * i, 4);
        word ^= flip;
        memcpy(quants + LANES * 4 * i, &word, 4);
    }
    scales[0] = scale;
    if (m->kind == KIND_Q4_MIN) scales[LANES] = offset = read16(block + 2);
    return finite_half(scale) && finite_half(offset);
}

static int copy_row(const matrix *m, int stored, const uint8_t *row, int64_t groups, int64_t output) {
    int64_t block = stored == Q8_0 ? 34 : stored == Q4_0 ? 18 : 20, place = output / LANES * (m->inputs / GROUP);
    int64_t quant_bytes = m->kind == KIND_Q8 ? 512 : 256, scale_items = m->kind == KIND_Q4_MIN ? 2 * LANES : LANES;
    uint8_t *quants = m->weights + place * quant_bytes + output % LANES * 4;
    uint16_t *scales = m->scales + place * scale_items + output % LANES;
    int finite = 1;
    for (int64_t number = 0; number < groups; number++)
        finite &= copy_group(m, stored, row + number * block, quants + number * quant_bytes, scales + number * scale_items);
    return finite;
}

/* Lay out stored rows `first` to `first + count` of a matrix as its outputs of these numbers. Row r is stored row
 * `order[r]`, r itself if order is NULL. `columns` real inputs are in a row, the rest up to m->inputs stays as it is
 * (zero). Returns 0, -1 if this kind of matrix cannot hold this type, -2 for a scale that is not finite.
 */
static int pack_rows(const stored_matrix *from, int64_t first, int64_t count) {
    const matrix *m = from->matrix;
    const int32_t stored = from->stored;
    const int64_t columns = from->columns;
    int whole = (stored == Q8_0 && m->kind == KIND_Q8) || (stored == Q6_K && m->kind == KIND_Q8_16) ||
                ((stored == Q4_1 || stored == Q4_K) && m->kind == KIND_Q4_MIN) ||
                (stored == Q4_0 && m->kind == KIND_Q4);
    if (!whole && !(is_float(stored) && (m->kind == KIND_BF16 || m->kind == KIND_Q8))) return -1;
    for (int64_t output = first; output < first + count; output++) {
        const uint8_t *row = from->rows + (from->order ? from->order[output] : output) * from->row_bytes;
        if (m->kind == KIND_BF16) {
            uint16_t *block = (uint16_t *)m->weights + output / LANES * LANES * m->inputs + output % LANES * 2;
            for (int64_t i = 0; i < columns; i++) {
                float value;
                if (stored == BF16) {
                    block[i / 2 * 32 + i % 2] = read16(row + 2 * i);
                    continue;
                }
                read_floats(stored, row, i, 1, &value);
                block[i / 2 * 32 + i % 2] = float_to_bf16(value);
            }
            continue;
        }
        if (stored == Q8_0 || stored == Q4_0 || stored == Q4_1) {
            if (!copy_row(m, stored, row, columns / GROUP, output)) return -2;
            continue;
        }
        for (int64_t number = 0; number * GROUP < columns; number++) {
            group g = {.offset = 0};
            if (whole)
                read_group(stored, row, number, &g);
            else {
                float x[GROUP] = {0};
                int64_t left = columns - number * GROUP;
                read_floats(stored, row, number * GROUP, left < GROUP ? left : GROUP, x);
                for (int i = 0; i < GROUP; i++)
                    if (!isfinite(x[i])) return -2;
                quantise_group(x, &g);
            }
            if (!place_group(m, output, number, &g)) return -2;
        }
    }
    return 0;
}

/* Rows that a thread lays out at a time: whole blocks of outputs, so that no two threads write the same place. */
enum { PIECE_ROWS = 16 * LANES };

static int64_t pieces_of(const stored_matrix *from) { return (from->matrix->outputs + PIECE_ROWS - 1) / PIECE_ROWS; }

/* Lay out `count` matrices, a few rows at a time. Threads share the work by calling this with the same `next`, which is
 * 0 at first and counts what was begun. Returns 0, or 1 more than the number of a matrix that cannot be laid out; what
 * the others get is then unfinished. */
EXPORT int64_t cloister_pack(const stored_matrix *list, int64_t count, int64_t *next) {
    int64_t number = 0, before = 0; /* where the piece lies: in this matrix, after those of the ones before */
    for (;;) {
        int64_t piece = __atomic_fetch_add(next, 1, __ATOMIC_RELAXED);
        for (; number < count && piece - before >= pieces_of(&list[number]); number++) before += pieces_of(&list[number]);
        if (number == count) return 0;
        int64_t first = (piece - before) * PIECE_ROWS, left = list[number].matrix->outputs - first;
        if (pack_rows(&list[number], first, left < PIECE_ROWS ? left : PIECE_ROWS)) return number + 1;
    }
}

/* One output's weights as float32 [inputs]: how a token's embedding is looked up. */
void matrix_row(const matrix *m, int64_t row, float *out) {
    int64_t groups = m->inputs / GROUP, block = row / LANES;
    int lane = (int)(row % LANES);
    if (m->kind == KIND_BF16) {
        const uint16_t *at = (const uint16_t *)m->weights + block * LANES * m->inputs + lane * 2;
        for (int64_t i = 0; i < m->inputs; i++) out[i] = float_of((uint32_t)at[i / 2 * 32 + i % 2] << 16);
        return;
    }
    for (int64_t number = 0; number < groups; number++) {
        int64_t place = block * groups + number;
        int two = m->kind == KIND_Q8_16 || m->kind == KIND_Q4_MIN;
        const uint16_t *scales = m->scales + place * (two ? 32 : 16) + lane;
        float scale = half_to_float(scales[0]), second = two ? half_to_float(scales[16]) : 0;
        for (int i = 0; i < GROUP; i++) {
            float *to = out + number * GROUP + i;
            if (m->kind == KIND_Q8 || m->kind == KIND_Q8_16) {
                int quant = m->weights[(place * 8 + i / 4) * 64 + lane * 4 + i % 4];
                *to = m->kind == KIND_Q8 ? scale * (float)(quant - 128)
                                         : (i < 16 ? scale : second) * (float)(quant - 32);
            } else {
                int both = m->weights[(place * 4 + i % 16 / 4) * 64 + lane * 4 + i % 4];
                int quant = i < 16 ? both & 15 : both >> 4;
                *to = m->kind == KIND_Q4 ? scale * (float)(quant - 8) : scale * (float)quant + second;
            }
        }
    }
}
