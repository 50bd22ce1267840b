/* Sixteen lanes in two registers: AVX2 with FMA and F16C. */
#include <immintrin.h>

#define LANES_NAME "avx2"
enum { TILE_ROWS = 4, QUANT_ROWS = 4, QUANT_BLOCKS = 1, BF16_BLOCKS = 1, SIGNED_WEIGHTS = 1, QUERIES = 4 };

typedef struct {
    __m256 a, b;
} vf;
typedef struct {
    __m256i a, b;
} vi;
typedef vi vb;

#define BOTH(f, ...) {f(x.a, ##__VA_ARGS__), f(x.b, ##__VA_ARGS__)}
#define PAIR(f) {f(x.a, y.a), f(x.b, y.b)}
static inline vf vf_load(const float *p) { return (vf){_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
static inline void vf_store(float *p, vf x) {
    _mm256_storeu_ps(p, x.a);
    _mm256_storeu_ps(p + 8, x.b);
}
static inline vf vf_set1(float a) { return (vf){_mm256_set1_ps(a), _mm256_set1_ps(a)}; }
static inline vf vf_zero(void) { return (vf){_mm256_setzero_ps(), _mm256_setzero_ps()}; }
static inline vf vf_add(vf x, vf y) { return (vf)PAIR(_mm256_add_ps); }
static inline vf vf_sub(vf x, vf y) { return (vf)PAIR(_mm256_sub_ps); }
static inline vf vf_mul(vf x, vf y) { return (vf)PAIR(_mm256_mul_ps); }
static inline vf vf_div(vf x, vf y) { return (vf)PAIR(_mm256_div_ps); }
static inline vf vf_fma(vf x, vf y, vf z) { return (vf){_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)}; }
static inline vf vf_max(vf x, vf y) { return (vf)PAIR(_mm256_max_ps); }
static inline vf vf_min(vf x, vf y) { return (vf)PAIR(_mm256_min_ps); }
static inline vf vf_abs(vf x) {
    __m256 y = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
    return (vf)BOTH(_mm256_and_ps, y);
}
static inline vf vf_round(vf x) { return (vf)BOTH(_mm256_round_ps, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
/* All lanes added, or the largest: 16 to 8, 4, 2, 1, always the first half with the second. */
static inline float vf_total(vf x) {
    __m256 eight = _mm256_add_ps(x.a, x.b);
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
static inline float vf_most(vf x) {
    __m256 eight = _mm256_max_ps(x.a, x.b);
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}
/* The first `count` lanes of x, y in the others. */
static inline vf vf_first(int count, vf x, vf y) {
    __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    __m256i low = _mm256_cmpgt_epi32(_mm256_set1_epi32(count), lane);
    __m256i high = _mm256_cmpgt_epi32(_mm256_set1_epi32(count - 8), lane);
    return (vf){_mm256_blendv_ps(y.a, x.a, _mm256_castsi256_ps(low)),
                _mm256_blendv_ps(y.b, x.b, _mm256_castsi256_ps(high))};
}
static inline vf vf_half(const uint16_t *p) {
    return (vf){_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)),
                _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(p + 8)))};
}
static inline void vf_store_half(uint16_t *p, vf x) {
    _mm_storeu_si128((__m128i *)p, _mm256_cvtps_ph(x.a, _MM_FROUND_TO_NEAREST_INT));
    _mm_storeu_si128((__m128i *)(p + 8), _mm256_cvtps_ph(x.b, _MM_FROUND_TO_NEAREST_INT));
}
static inline __m256i round_bf16(__m256 a) {
    __m256i bits = _mm256_castps_si256(a), odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    return _mm256_srli_epi32(_mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
}
static inline void vf_store_bf16(uint16_t *p, vf x) {
    __m256i both = _mm256_packus_epi32(round_bf16(x.a), round_bf16(x.b));
    _mm256_storeu_si256((__m256i *)p, _mm256_permute4x64_epi64(both, 0xd8));
}
static inline __m256 scale2(__m256 a, __m256 n) {
    __m256i power = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
    return _mm256_mul_ps(a, _mm256_castsi256_ps(power));
}
/* x times two to the power of n, whole, -126..127. */
static inline vf vf_scale2(vf x, vf y) { return (vf)PAIR(scale2); }
static inline void vf_store_bytes(int8_t *p, vf x) {
    __m256i words = _mm256_packs_epi32(_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b));
    words = _mm256_permute4x64_epi64(words, 0xd8);
    _mm_storeu_si128((__m128i *)p, _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
}

static inline vi vi_set1(int32_t a) { return (vi){_mm256_set1_epi32(a), _mm256_set1_epi32(a)}; }
static inline vi vi_zero(void) { return (vi){_mm256_setzero_si256(), _mm256_setzero_si256()}; }
static inline vi vi_add(vi x, vi y) { return (vi)PAIR(_mm256_add_epi32); }
static inline vi vi_times256(vi x) { return (vi)BOTH(_mm256_slli_epi32, 8); }
static inline vf vf_from(vi x) { return (vf)BOTH(_mm256_cvtepi32_ps); }

static inline vb vb_load(const uint8_t *p) {
    return (vb){_mm256_loadu_si256((const __m256i *)p), _mm256_loadu_si256((const __m256i *)(p + 32))};
}
static inline vb vb_low(vb x) {
    __m256i y = _mm256_set1_epi8(15);
    return (vb)BOTH(_mm256_and_si256, y);
}
static inline vb vb_high(vb x) {
    vb y = {_mm256_srli_epi16(x.a, 4), _mm256_srli_epi16(x.b, 4)};
    return vb_low(y);
}

static inline int32_t four_bytes(const void *p) {
    int32_t value;
    __builtin_memcpy(&value, p, 4);
    return value;
}
static inline __m256i add_products(__m256i sum, __m256i bytes, __m256i x) {
    __m256i pairs = _mm256_maddubs_epi16(bytes, x);
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
/* Four bytes of weights (0..127: no pair of products may reach 2^15) in every lane times the same four signed bytes. */
static inline vi dot_bytes(vi sum, vb weights, const int8_t *x) {
    __m256i four = _mm256_set1_epi32(four_bytes(x));
    return (vi){add_products(sum.a, weights.a, four), add_products(sum.b, weights.b, four)};
}
/* The same for weights 0..255 that stand for -128..127. */
static inline __m256i add_signed(__m256i sum, __m256i weights, __m256i x) {
    __m256i value = _mm256_xor_si256(weights, _mm256_set1_epi8((char)0x80));
    return add_products(sum, _mm256_abs_epi8(value), _mm256_sign_epi8(x, value));
}
static inline vi dot_signed(vi sum, vb weights, const int8_t *x) {
    __m256i four = _mm256_set1_epi32(four_bytes(x));
    return (vi){add_signed(sum.a, weights.a, four), add_signed(sum.b, weights.b, four)};
}
static inline __m256 add_bf16(__m256 sum, __m256i weights, __m256 even, __m256 odd) {
    sum = _mm256_fmadd_ps(_mm256_castsi256_ps(_mm256_slli_epi32(weights, 16)), even, sum);
    __m256i upper = _mm256_and_si256(weights, _mm256_set1_epi32((int)0xffff0000));
    return _mm256_fmadd_ps(_mm256_castsi256_ps(upper), odd, sum);
}
/* Two bfloat16 weights in every lane times the same two bfloat16. */
static inline vf dot_bf16(vf sum, vb weights, const uint16_t *x) {
    __m256i both = _mm256_set1_epi32(four_bytes(x));
    __m256 even = _mm256_castsi256_ps(_mm256_slli_epi32(both, 16));
    __m256 odd = _mm256_castsi256_ps(_mm256_and_si256(both, _mm256_set1_epi32((int)0xffff0000)));
    return (vf){add_bf16(sum.a, weights.a, even, odd), add_bf16(sum.b, weights.b, even, odd)};
}
/* Macros: gcc 12 takes a function that only fetches for one without effect, and leaves its calls out. The second goes
 * past the first cache, for what is read only later. */
#define fetch(p) _mm_prefetch((const char *)(p), _MM_HINT_T0)
#define fetch_far(p) _mm_prefetch((const char *)(p), _MM_HINT_T1)
#undef BOTH
#undef PAIR
