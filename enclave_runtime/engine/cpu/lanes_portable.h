/* Sixteen lanes in plain C, for a processor that has neither AVX2 nor AVX-512. Little-endian. */
#include <math.h>
#include <string.h>

#define LANES_NAME "portable"
enum { TILE_ROWS = 1, QUANT_ROWS = 1, QUANT_BLOCKS = 1, BF16_BLOCKS = 1, SIGNED_WEIGHTS = 0, QUERIES = 4 };

typedef struct {
    float v[16];
} vf;
typedef struct {
    int32_t v[16];
} vi;
typedef struct {
    uint8_t v[64];
} vb;

#define EACH for (int i = 0; i < 16; i++)
static inline vf vf_load(const float *p) {
    vf r;
    memcpy(r.v, p, sizeof r.v);
    return r;
}
static inline void vf_store(float *p, vf a) { memcpy(p, a.v, sizeof a.v); }
static inline vf vf_set1(float a) {
    vf r;
    EACH r.v[i] = a;
    return r;
}
static inline vf vf_zero(void) { return vf_set1(0); }
static inline vf vf_add(vf a, vf b) {
    EACH a.v[i] += b.v[i];
    return a;
}
static inline vf vf_sub(vf a, vf b) {
    EACH a.v[i] -= b.v[i];
    return a;
}
static inline vf vf_mul(vf a, vf b) {
    EACH a.v[i] *= b.v[i];
    return a;
}
static inline vf vf_div(vf a, vf b) {
    EACH a.v[i] /= b.v[i];
    return a;
}
static inline vf vf_fma(vf a, vf b, vf c) {
    EACH c.v[i] += a.v[i] * b.v[i];
    return c;
}
static inline vf vf_max(vf a, vf b) {
    EACH a.v[i] = a.v[i] > b.v[i] ? a.v[i] : b.v[i];
    return a;
}
static inline vf vf_min(vf a, vf b) {
    EACH a.v[i] = a.v[i] < b.v[i] ? a.v[i] : b.v[i];
    return a;
}
static inline vf vf_abs(vf a) {
    EACH a.v[i] = fabsf(a.v[i]);
    return a;
}
static inline vf vf_round(vf a) {
    EACH a.v[i] = rintf(a.v[i]);
    return a;
}
/* All lanes added, or the largest: 16 to 8, 4, 2, 1, always the first half with the second. */
static inline float vf_total(vf a) {
    for (int half = 8; half; half /= 2)
        for (int i = 0; i < half; i++) a.v[i] += a.v[i + half];
    return a.v[0];
}
static inline float vf_most(vf a) {
    for (int half = 8; half; half /= 2)
        for (int i = 0; i < half; i++) a.v[i] = a.v[i] > a.v[i + half] ? a.v[i] : a.v[i + half];
    return a.v[0];
}
/* The first `count` lanes of a, b in the others. */
static inline vf vf_first(int count, vf a, vf b) {
    EACH a.v[i] = i < count ? a.v[i] : b.v[i];
    return a;
}
static inline float lane_of(uint32_t bits) {
    float value;
    memcpy(&value, &bits, 4);
    return value;
}
static inline uint32_t bits_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return bits;
}
static inline vf vf_half(const uint16_t *p) {
    vf r;
    EACH {
        uint32_t magnitude = p[i] & 0x7fffu, sign = (uint32_t)(p[i] & 0x8000) << 16;
        /* The exponent is moved by multiplying, which is right for subnormals too. */
        float value = lane_of(magnitude << 13) * 0x1p112f;
        if (magnitude >= 0x7c00) value = lane_of(0x7f800000u | magnitude << 13);
        r.v[i] = lane_of(bits_of(value) | sign);
    }
    return r;
}
static inline void vf_store_half(uint16_t *p, vf a) {
    EACH {
        uint32_t sign = bits_of(a.v[i]) >> 16 & 0x8000, rest = bits_of(a.v[i]) & 0x7fffffffu, half;
        if (rest > 0x7f800000u)
            half = 0x7e00;
        else if (rest >= 0x477ff000u)
            half = 0x7c00;
        else if (rest < 0x38800000u)
            half = bits_of(lane_of(rest) + 0.5f) - 0x3f000000u;
        else
            half = (rest - 0x38000000u + 0xfff + (rest >> 13 & 1)) >> 13;
        p[i] = (uint16_t)(sign | half);
    }
}
static inline void vf_store_bf16(uint16_t *p, vf a) {
    EACH {
        uint32_t bits = bits_of(a.v[i]);
        p[i] = (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
    }
}
/* a times two to the power of n, whole, -126..127. */
static inline vf vf_scale2(vf a, vf n) {
    EACH a.v[i] *= lane_of((uint32_t)((int)n.v[i] + 127) << 23);
    return a;
}
static inline void vf_store_bytes(int8_t *p, vf a) { EACH p[i] = (int8_t)rintf(a.v[i]); }

static inline vi vi_set1(int32_t a) {
    vi r;
    EACH r.v[i] = a;
    return r;
}
static inline vi vi_zero(void) { return vi_set1(0); }
static inline vi vi_add(vi a, vi b) {
    EACH a.v[i] += b.v[i];
    return a;
}
static inline vi vi_times256(vi a) {
    EACH a.v[i] *= 256;
    return a;
}
static inline vf vf_from(vi a) {
    vf r;
    EACH r.v[i] = (float)a.v[i];
    return r;
}

static inline vb vb_load(const uint8_t *p) {
    vb r;
    memcpy(r.v, p, sizeof r.v);
    return r;
}
static inline vb vb_low(vb a) {
    for (int i = 0; i < 64; i++) a.v[i] &= 15;
    return a;
}
static inline vb vb_high(vb a) {
    for (int i = 0; i < 64; i++) a.v[i] >>= 4;
    return a;
}

/* Four bytes of weights (0..255) in every lane times the same four signed bytes. */
static inline vi dot_bytes(vi sum, vb weights, const int8_t *x) {
    EACH for (int k = 0; k < 4; k++) sum.v[i] += weights.v[4 * i + k] * x[k];
    return sum;
}
/* Two bfloat16 weights in every lane times the same two bfloat16. */
static inline vf dot_bf16(vf sum, vb weights, const uint16_t *x) {
    float even = lane_of((uint32_t)x[0] << 16), odd = lane_of((uint32_t)x[1] << 16);
    EACH {
        uint32_t both;
        memcpy(&both, weights.v + 4 * i, 4);
        sum.v[i] += lane_of(both << 16) * even;
        sum.v[i] += lane_of(both & 0xffff0000u) * odd;
    }
    return sum;
}
/* Macros: gcc 12 takes a function that only fetches for one without effect, and leaves its calls out. The second goes
 * past the first cache, for what is read only later. */
#define fetch(p) __builtin_prefetch(p)
#define fetch_far(p) __builtin_prefetch(p, 0, 2)
#undef EACH
