/* Products of the AMX kernels beside references, case by case: bfloat16 against the manual's order of operations in plain
 * C, bit by bit, and against double precision; quantised weights against the AVX-512 kernels, bit by bit. What must not
 * be read lies behind a page that cannot be, what must not be written is looked at afterwards.
 *
 * Takes the kernels out of the decoder's library; runs where there is AMX, or with amx_emulator.so preloaded.
 * Usage: amx_products LIBRARY KIND FINE INPUTS BLOCKS ROWS...; prints how many cases there were and the largest error.
 */
#define _GNU_SOURCE
#include "decoder.h"

#include <dlfcn.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <xmmintrin.h>

enum { BEFORE = 3, PAGE = 4096 }; /* rows before the first */

static uint64_t seed = 1;
static uint32_t any(void) { return (uint32_t)((seed = seed * 6364136223846793005u + 1442695040888963407u) >> 33); }
static float normal(void) { /* nearly */
    float sum = 0;
    for (int i = 0; i < 6; i++) sum += (float)any() * 0x1p-31f - 0.5f;
    return sum;
}

/* `bytes` that end where nothing can be read. */
static void *fenced(size_t bytes) {
    size_t whole = (bytes + PAGE - 1) / PAGE * PAGE;
    uint8_t *p = mmap(NULL, whole + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED || mprotect(p + whole, PAGE, PROT_NONE)) exit(3);
    return p + whole - bytes;
}

static void unfence(void *p, size_t bytes) {
    size_t whole = (bytes + PAGE - 1) / PAGE * PAGE;
    munmap((uint8_t *)p + bytes - whole, whole + PAGE);
}

static float real(uint16_t bf16) {
    uint32_t bits = (uint32_t)bf16 << 16;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

static uint16_t bf16_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return (uint16_t)(bits >> 16);
}

/* One output by the manual: 32 inputs at a time, even and odd ones by themselves. */
static __attribute__((noinline)) float by_the_manual(const uint16_t *x, const uint16_t *w, int64_t inputs, float sum) {
    for (int64_t i = 0; i < inputs; i += 32) {
        volatile float even = 0, odd = 0;
        for (int64_t k = i; k < i + 32; k += 2) {
            even = fmaf(real(x[k]), real(w[k / 2 * 32]), even);
            odd = fmaf(real(x[k + 1]), real(w[k / 2 * 32 + 1]), odd);
        }
        volatile float both = even + odd;
        sum = sum + both;
    }
    return sum;
}

static double worst;
static const kernels *amx, *avx512;

static int check_bf16(const matrix *m, int64_t block, const operand *x, int64_t row, const float *before,
                      const float *found, int64_t rows, int64_t blocks, int64_t stride, int add) {
    for (int64_t r = 0; r < rows; r++)
        for (int64_t o = 0; o < blocks * LANES; o++) {
            const uint16_t *at = x->bf16 + (row + r) * x->stride;
            const uint16_t *w = (const uint16_t *)m->weights + (block + o / LANES) * LANES * m->inputs + o % LANES * 2;
            float start = add ? before[r * stride + o] : 0.0f;
            unsigned mode = _mm_getcsr();
            _mm_setcsr(0x9fc0);
            float expected = by_the_manual(at, w, m->inputs, start);
            _mm_setcsr(mode);
            double exact = start, size = fabs(start);
            for (int64_t k = 0; k < m->inputs; k++) {
                double product = (double)real(at[k]) * real(w[k / 2 * 32 + k % 2]);
                exact += product, size += fabs(product);
            }
            double error = fabs(found[r * stride + o] - exact) / (size > 0 ? size : 1);
            if (error > worst) worst = error;
            if (memcmp(&expected, &found[r * stride + o], 4) != 0) {
                fprintf(stderr, "row %ld output %ld: %a, by the manual %a\n", (long)r, (long)o,
                        found[r * stride + o], expected);
                return 0;
            }
        }
    return 1;
}

static void one(int kind, int fine, int64_t inputs, int64_t blocks, int64_t rows, int add) {
    int64_t all = BEFORE + rows, stride_x = inputs, groups = inputs / GROUP, width = blocks * LANES, stride = width + 16;
    int64_t outputs = (blocks + 1) * LANES; /* the first block is left out */
    size_t weight_bytes = (size_t)(outputs * inputs) * (kind == KIND_BF16 ? 2 : 1) / (kind >= KIND_Q4_MIN ? 2 : 1);
    size_t scale_items = (size_t)(outputs * groups) * (kind == KIND_Q8_16 || kind == KIND_Q4_MIN ? 2 : 1);
    size_t cells = (size_t)(all * stride_x), parts = (size_t)(all * groups);
    matrix m = {.kind = kind, .outputs = outputs, .inputs = inputs, .weights = fenced(weight_bytes),
                .scales = fenced(scale_items * 2)};
    operand x = {.inputs = inputs, .stride = stride_x, .bf16 = fenced(cells * 2), .quants = fenced(cells),
                 .fractions = fine ? fenced(cells) : NULL, .scales = fenced(parts * 4),
                 .scaled_sums = fenced(parts * 4)};
    for (int which = 0; which < BIASES; which++) x.biases[which] = fenced(parts * 4);
    for (size_t i = 0; i < weight_bytes; i++) m.weights[i] = (uint8_t)(any() >> 8) & (kind == KIND_Q8_16 ? 63 : 255);
    for (size_t i = 0; kind == KIND_BF16 && i < weight_bytes / 2; i++)
        ((uint16_t *)m.weights)[i] = bf16_of(any() % 64 ? normal() : ldexpf(normal(), -128)); /* and denormal ones */
    for (size_t i = 0; i < scale_items; i++) m.scales[i] = (uint16_t)(any() >> 8 & 0x83ff) | 0x2400;
    float *line = calloc((size_t)inputs, 4);
    for (int64_t r = 0; r < all; r++) {
        for (int64_t i = 0; i < inputs; i++) line[i] = any() % 97 ? normal() * (float)(1 + r % 5) : ldexpf(normal(), -126);
        avx512->prepare(line, NULL, 0, inputs, &x, r, 1 << kind);
    }
    for (int64_t i = 0; i < inputs; i++) x.bf16[i] = 0x7fc1; /* row 0, a NaN, has no part in it */
    size_t items = (size_t)(rows * stride - 16); /* the last row ends with its last output */
    float *before = fenced(items * 4), *found = fenced(items * 4), *known = fenced(items * 4);
    float *kept = aligned_alloc(64, KEPT_ITEMS * 4), *other = aligned_alloc(64, KEPT_ITEMS * 4);
    memset(kept, 0x7f, KEPT_ITEMS * 4), memset(other, 0x7f, KEPT_ITEMS * 4);
    for (size_t i = 0; i < items; i++) before[i] = found[i] = known[i] = normal() * 3;
    amx->product(&m, 1, blocks, &x, BEFORE, rows, found, stride, add, kept);
    int right = 1;
    if (kind == KIND_BF16) {
        right = check_bf16(&m, 1, &x, BEFORE, before, found, rows, blocks, stride, add);
    } else {
        avx512->product(&m, 1, blocks, &x, BEFORE, rows, known, stride, add, other);
        right = memcmp(known, found, items * 4) == 0;
    }
    for (size_t i = 0; i < items; i++)
        if ((int64_t)i % stride >= width && memcmp(&found[i], &before[i], 4) != 0) right = 0;
    if (!right) {
        fprintf(stderr, "kind %d fine %d inputs %ld blocks %ld rows %ld add %d\n", kind, fine, (long)inputs,
                (long)blocks, (long)rows, add);
        exit(1);
    }
    unfence(m.weights, weight_bytes), unfence(m.scales, scale_items * 2), unfence(x.bf16, cells * 2);
    unfence(x.quants, cells), unfence(x.scales, parts * 4), unfence(x.scaled_sums, parts * 4);
    if (fine) unfence(x.fractions, cells);
    for (int which = 0; which < BIASES; which++) unfence(x.biases[which], parts * 4);
    unfence(before, items * 4), unfence(found, items * 4), unfence(known, items * 4);
    free(line), free(kept), free(other);
}

int main(int count, char **arguments) {
    void *library = count > 6 ? dlopen(arguments[1], RTLD_NOW) : NULL;
    const kernels *(*by_number)(int) = library ? dlsym(library, "cloister_kernels") : NULL;
    if (!by_number || !(avx512 = by_number(2)) || !(amx = by_number(3))) return 2;
    int cases = 0;
    for (int i = 6; i < count; i++)
        for (int add = 0; add < 2; add++, cases++)
            one(atoi(arguments[2]), atoi(arguments[3]), atol(arguments[4]), atol(arguments[5]), atol(arguments[i]), add);
    printf("{\"cases\": %d, \"worst\": %.3g}\n", cases, worst);
    return 0;
}
