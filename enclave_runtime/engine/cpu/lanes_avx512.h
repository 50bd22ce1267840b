/* Sixteen lanes in one register: AVX-512 with VNNI and BF16. */
#include <immintrin.h>

#define LANES_NAME "avx512 (vnni, bf16)"
enum { TILE_ROWS = 12, QUANT_ROWS = 4, QUANT_BLOCKS = 2, BF16_BLOCKS = 2, SIGNED_WEIGHTS = 0, QUERIES = 6 };

typedef __m512 vf;
typedef __m512i vi;
typedef __m512i vb;

static inline vf vf_load(const float *p) { return _mm512_loadu_ps(p); }
static inline void vf_store(float *p, vf a) { _mm512_storeu_ps(p, a); }
static inline vf vf_set1(float a) { return _mm512_set1_ps(a); }
static inline vf vf_zero(void) { return _mm512_setzero_ps(); }
static inline vf vf_add(vf a, vf b) { return _mm512_add_ps(a, b); }
static inline vf vf_sub(vf a, vf b) { return _mm512_sub_ps(a, b); }
static inline vf vf_mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
static inline vf vf_div(vf a, vf b) { return _mm512_div_ps(a, b); }
static inline vf vf_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
static inline vf vf_max(vf a, vf b) { return _mm512_max_ps(a, b); }
static inline vf vf_min(vf a, vf b) { return _mm512_min_ps(a, b); }
static inline vf vf_abs(vf a) { return _mm512_abs_ps(a); }
static inline vf vf_round(vf a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
/* All lanes added, or the largest: 16 to 8, 4, 2, 1, always the first half with the second. */
static inline float vf_total(vf a) {
    __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
static inline float vf_most(vf a) {
    __m256 eight = _mm256_max_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}
/* The first `count` lanes of a, b in the others. */
static inline vf vf_first(int count, vf a, vf b) {
    return _mm512_mask_mov_ps(b, (__mmask16)((1u << count) - 1), a);
}
static inline vf vf_half(const uint16_t *p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p)); }
static inline void vf_store_half(uint16_t *p, vf a) {
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
static inline void vf_store_bf16(uint16_t *p, vf a) { _mm256_storeu_si256((__m256i *)p, (__m256i)_mm512_cvtneps_pbh(a)); }
/* a times two to the power of n, whole and small. */
static inline vf vf_scale2(vf a, vf n) { return _mm512_scalef_ps(a, n); }
static inline void vf_store_bytes(int8_t *p, vf a) { _mm_storeu_si128((__m128i *)p, _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(a))); }

static inline vi vi_set1(int32_t a) { return _mm512_set1_epi32(a); }
static inline vi vi_zero(void) { return _mm512_setzero_si512(); }
static inline vi vi_add(vi a, vi b) { return _mm512_add_epi32(a, b); }
static inline vi vi_times256(vi a) { return _mm512_slli_epi32(a, 8); }
static inline vf vf_from(vi a) { return _mm512_cvtepi32_ps(a); }

static inline vb vb_load(const uint8_t *p) { return _mm512_loadu_si512(p); }
static inline vb vb_low(vb a) { return _mm512_and_si512(a, _mm512_set1_epi8(15)); }
static inline vb vb_high(vb a) { return _mm512_and_si512(_mm512_srli_epi16(a, 4), _mm512_set1_epi8(15)); }

static inline int32_t four_bytes(const void *p) {
    int32_t value;
    __builtin_memcpy(&value, p, 4);
    return value;
}
/* Four bytes of weights (0..255) in every lane times the same four signed bytes. */
static inline vi dot_bytes(vi sum, vb weights, const int8_t *x) {
    return _mm512_dpbusd_epi32(sum, weights, _mm512_set1_epi32(four_bytes(x)));
}
/* Two bfloat16 weights in every lane times the same two bfloat16. */
static inline vf dot_bf16(vf sum, vb weights, const uint16_t *x) {
    return _mm512_dpbf16_ps(sum, (__m512bh)weights, (__m512bh)_mm512_set1_epi32(four_bytes(x)));
}
/* Macros: gcc 12 takes a function that only fetches for one without effect, and leaves its calls out. The second goes
 * past the first cache, for what is read only later. */
#define fetch(p) _mm_prefetch((const char *)(p), _MM_HINT_T0)
#define fetch_far(p) _mm_prefetch((const char *)(p), _MM_HINT_T1)
