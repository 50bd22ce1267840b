/* Whether one set of kernels multiplies as another does, tried on a small matrix of every kind before the first is
 * trusted: a processor (or what stands for one in a virtual machine) may say that it has instructions and compute
 * something else with them. Takes some hundred microseconds.
 */
#include "decoder.h"

#include <math.h>
#include <string.h>

enum { ROWS = 53, BLOCKS = 3, INPUTS = 320, OUTPUTS = BLOCKS * LANES, GROUPS = INPUTS / GROUP };

typedef struct {
    uint8_t weights[OUTPUTS * INPUTS * 2];
    uint16_t scales[OUTPUTS * GROUPS * 2];
    uint16_t bf16[ROWS * INPUTS];
    int8_t quants[ROWS * INPUTS], fractions[ROWS * INPUTS];
    float factors[ROWS * GROUPS], sums[ROWS * GROUPS];
    int32_t biases[BIASES][ROWS * GROUPS];
    float x[INPUTS];
    float kept[KEPT_ITEMS], expected[ROWS * OUTPUTS], found[ROWS * OUTPUTS], alone[OUTPUTS];
} trial;

/* Numbers that look random (Knuth's linear congruence), the same every time. */
static uint32_t next_of(uint64_t *seed) { return (uint32_t)((*seed = *seed * 6364136223846793005u + 1442695040888963407u) >> 33); }
static float fraction_of(uint64_t *seed) { return (float)next_of(seed) * 0x1p-30f - 1.0f; }
static float whole_of(uint64_t *seed) { return (float)(int32_t)(next_of(seed) >> 20 & 15) - 8.0f; }

static uint16_t upper_half(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return (uint16_t)(bits >> 16);
}

/* A matrix of one kind and rows for it. `whole`: small whole numbers, whose sums are exact in every order. */
static void fill(trial *t, const kernels *by, matrix *m, operand *o, int kind, int fine, int whole, uint64_t seed) {
    *m = (matrix){.kind = kind, .outputs = OUTPUTS, .inputs = INPUTS, .weights = t->weights, .scales = t->scales};
    *o = (operand){.inputs = INPUTS, .stride = INPUTS, .bf16 = t->bf16, .quants = t->quants,
                   .fractions = fine ? t->fractions : NULL, .scales = t->factors, .scaled_sums = t->sums};
    for (int which = 0; which < BIASES; which++) o->biases[which] = t->biases[which];
    for (size_t i = 0; i < sizeof t->weights; i++) t->weights[i] = (uint8_t)(next_of(&seed) >> 8);
    if (kind == KIND_Q8_16)
        for (size_t i = 0; i < sizeof t->weights; i++) t->weights[i] &= 63;
    for (size_t i = 0; i < OUTPUTS * GROUPS * 2; i++) /* half precision, 0.03 to 0.06 */
        t->scales[i] = (uint16_t)(0x2800 | (next_of(&seed) >> 8 & 0x3ff));
    for (int i = 0; kind == KIND_BF16 && i < OUTPUTS * INPUTS; i++) {
        uint16_t weight = upper_half(whole ? whole_of(&seed) : fraction_of(&seed));
        memcpy(t->weights + 2 * i, &weight, 2);
    }
    for (int row = 0; row < ROWS; row++) {
        for (int i = 0; i < INPUTS; i++) t->x[i] = whole ? whole_of(&seed) : fraction_of(&seed);
        by->prepare(t->x, NULL, 0.0f, INPUTS, o, row, 1 << kind);
    }
    for (int i = 0; i < ROWS * OUTPUTS; i++) t->expected[i] = t->found[i] = whole ? whole_of(&seed) : 0.0f;
}

static int answers(trial *t, const kernels *on_trial, const kernels *known, int kind, int fine, int whole, int rows) {
    matrix m;
    operand o;
    fill(t, known, &m, &o, kind, fine, whole, (uint64_t)(kind * 4 + fine * 2 + whole));
    known->product(&m, 0, BLOCKS, &o, 0, rows, t->expected, OUTPUTS, whole, t->kept);
    on_trial->product(&m, 0, BLOCKS, &o, 0, rows, t->found, OUTPUTS, whole, t->kept);
    /* Rounded sums may be taken in another order: then within what that can change, 32 roundings of up to 320. */
    float apart = kind == KIND_BF16 && !whole ? 320 * 32 * 0x1p-24f : 0.0f;
    for (int i = 0; i < rows * OUTPUTS; i++)
        if (!(fabsf(t->found[i] - t->expected[i]) <= apart)) return 0;
    /* A row has the same bits alone. */
    for (int row = 0; row < rows && !whole; row += 17) {
        on_trial->product(&m, 0, BLOCKS, &o, row, 1, t->alone, OUTPUTS, 0, t->kept);
        if (memcmp(t->alone, t->found + row * OUTPUTS, sizeof t->alone) != 0) return 0;
    }
    return 1;
}

int same_answers(const kernels *on_trial, const kernels *known) {
    int same = 1;
    trial *t = cloister_memory(sizeof *t);
    if (!t) return 0;
    for (int rows = 21; rows <= ROWS && same; rows += ROWS - 21) { /* a tile and a bit; two, one and a bit */
        for (int whole = 0; whole < 2; whole++) same = same && answers(t, on_trial, known, KIND_BF16, 0, whole, rows);
        for (int kind = KIND_Q8; kind < KINDS; kind++)
            for (int fine = 0; fine < 2; fine++) same = same && answers(t, on_trial, known, kind, fine, 0, rows);
    }
    cloister_memory_free(t, sizeof *t);
    return same;
}
