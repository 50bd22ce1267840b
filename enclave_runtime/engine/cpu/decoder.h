/* The compiled decoder: what its parts say to each other, and what Python says to it.
 *
 * Every structure here is filled by Python through ctypes (binding.py mirrors them field by field), or is private
 * to the C files. Nothing in it allocates once cloister_decoder_new has returned.
 */
#ifndef CLOISTER_DECODER_H
#define CLOISTER_DECODER_H

#include <stddef.h>
#include <stdint.h>

#define CLOISTER_ABI 2
#define EXPORT __attribute__((visibility("default")))
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

enum {
    LANES = 16,      /* outputs computed side by side, and positions of a KV tile */
    GROUP = 32,      /* inputs that share a scale */
    SLICE_ROWS = 64, /* the most rows whose results wait in a thread's own memory */
    QUERY_ROWS = 16, /* rows of one attention task */
    KEY_BLOCK = 64,  /* positions between two rescalings of the running softmax */
    MAX_HEAD = 256,
    KEPT_ITEMS = 10240 /* sums that wait between two runs of inputs, and what tiles are filled from and emptied to */
};

/* How the weights of one matrix are kept. */
enum {
    KIND_BF16 = 0,   /* bfloat16 */
    KIND_Q8 = 1,     /* 8 bits, a scale per 32: w = s (q - 128) */
    KIND_Q8_16 = 2,  /* 8 bits holding 6, a scale per 16: w = s (q - 32) */
    KIND_Q4_MIN = 3, /* 4 bits, scale and offset per 32: w = s q + m */
    KIND_Q4 = 4,     /* 4 bits, a scale per 32: w = s (q - 8) */
    KINDS = 5
};

/* outputs x inputs weights in blocks of 16 outputs. `inputs` counts the padding to a multiple of 32.
 *
 * weights, per block: BF16 [inputs / 2][16][2]; Q8 and Q8_16 [inputs / 4][16][4];
 *                     Q4_MIN and Q4 [inputs / 32][4][16][4], low nibbles inputs 0..15 of the group, high ones 16..31
 * scales, per block, half precision: Q8, Q4 [inputs / 32][16]; Q8_16 [inputs / 16][16]; Q4_MIN [inputs / 32][2][16]
 */
typedef struct {
    int32_t kind;
    int32_t unused;
    int64_t outputs, inputs;
    uint8_t *weights;
    uint16_t *scales;
} matrix;

/* A matrix to lay out and what a file holds of it: `columns` real inputs in every row of `row_bytes`, in the format with
 * ggml's number `stored`; output r is stored row `order[r]`, r itself if order is NULL. */
typedef struct {
    const matrix *matrix;
    const uint8_t *rows;
    const int64_t *order;
    int64_t row_bytes, columns;
    int32_t stored;
    int32_t unused;
} stored_matrix;

/* Norm weights and biases are float32; NULL where the model has none. */
typedef struct {
    matrix query, key, value, output, gate, up, down;
    const float *attention_norm, *mlp_norm;
    const float *query_bias, *key_bias, *value_bias;
    const float *query_norm, *key_norm;
} layer;

typedef struct {
    int64_t vocabulary, hidden, layers, heads, kv_heads, head_dim, intermediate;
    float norm_epsilon;
    int32_t unused;
    matrix embedding, head;
    const float *final_norm;
    const layer *layer;
} model;

/* Which zero point, and of what the sum is: 128 and 8 of the whole group, 32 of each half. */
enum { BIAS_128 = 0, BIAS_32_FIRST = 1, BIAS_32_LAST = 2, BIAS_8 = 3, BIASES = 4 };

/* Activations in the form in which they meet the weights: row after row, `inputs` wide, `stride` apart. */
typedef struct {
    int64_t inputs, stride;
    uint16_t *bf16;          /* [rows][stride] */
    int8_t *quants;          /* [rows][stride], -127..127 */
    int8_t *fractions;       /* [rows][stride], 256ths of a quant; NULL with 8-bit activations */
    float *scales;           /* [rows][stride / 32]: of a quant, or of its 256th where there are fractions */
    float *scaled_sums;      /* [rows][stride / 32]: the sum of the group as rounded */
    int32_t *biases[BIASES]; /* [rows][stride / 32] each: minus a weight's zero point times a sum of the group */
} operand;

/* One run of consecutive positions of one sequence. */
typedef struct {
    int64_t row, count, start;
    const int64_t *pages;
    int64_t wants_logits;
} span;

/* One step. KV memory is half precision [layers][2][pages][page]; in a page keys lie [kv head][tile][head dim][16],
 * values [kv head][position][head dim].
 */
typedef struct {
    const int32_t *tokens; /* [rows] */
    int64_t rows, spans;
    const span *span;
    uint16_t *kv;
    int64_t kv_pages, page_tokens;
    float *logits;         /* [spans that want them][logits_stride] */
    int64_t logits_stride; /* a multiple of 16, at least the vocabulary */
} batch;

/* Where one attention task reads and writes. Queries are [row][heads][head dim], already scaled. */
typedef struct {
    const float *queries;
    float *out;
    int64_t queries_stride, out_stride;
    int64_t rows, start, group, head_dim; /* group: query heads of one kv head, next to each other */
    const uint16_t *keys, *values;        /* of this layer */
    const int64_t *pages;
    int64_t page_tokens, page_items, head_items, kv_head, kv_heads;
} attention;

/* What differs between instruction sets. A row's results depend on that row alone: every output is summed in one
 * fixed order, however many rows are computed together.
 */
typedef struct {
    const char *name;
    int64_t slice; /* rows that `product` takes at once, at most SLICE_ROWS */
    /* out[r][o] = sum over inputs, or += with add, for `blocks` blocks of outputs from `block`. `kept` is memory for
     * KEPT_ITEMS numbers, which the caller overwrites when the step is over. */
    void (*product)(const matrix *, int64_t block, int64_t blocks, const operand *, int64_t row, int64_t rows,
                    float *out, int64_t stride, int add, float *kept);
    /* Bring one row into the forms asked for (bit k: what weights of kind k meet), after an RMS norm if weight is
     * given. */
    void (*prepare)(const float *x, const float *weight, float epsilon, int64_t size, const operand *, int64_t row,
                    int forms);
    /* The same for `count` inputs at x that are those from `from` on; both multiples of 32. */
    void (*round)(const float *x, int64_t from, int64_t count, const operand *, int64_t row, int forms);
    void (*norm)(float *x, const float *weight, float epsilon, int64_t size);
    /* Rotate the pairs (i, i + half) of one head by the angles of its position, and scale. */
    void (*turn)(float *head, const float *cosines, const float *sines, int64_t half, float scale);
    void (*swiglu)(const float *gate, const float *up, float *out, int64_t count);
    void (*to_half)(const float *x, uint16_t *out, int64_t count); /* beyond the largest half: the largest half */
    void (*attend)(const attention *);
} kernels;

extern const kernels cloister_portable;
#if defined(__x86_64__)
extern const kernels cloister_avx2, cloister_avx512;
#if defined(__has_include)
/* gcc's name or clang's: they come with compilers that can assemble these instructions. */
#if __has_include(<amxtileintrin.h>) || __has_include(<amxintrin.h>)
#define CLOISTER_AMX
extern const kernels cloister_amx;
void cloister_amx_product(const matrix *, int64_t block, int64_t blocks, const operand *, int64_t row, int64_t rows,
                          float *out, int64_t stride, int add, float *kept);
#endif
#endif
#endif

/* step.c: zeroed memory in huge pages where the kernel has them; NULL if there is none. */
EXPORT void *cloister_memory(size_t bytes);
EXPORT void cloister_memory_free(void *, size_t bytes);

/* processor.c */
EXPORT int cloister_processor_has_tiles(void);

/* paths.c: the kernels by number, or NULL where this processor does not run them. */
EXPORT int cloister_best_path(void);
EXPORT const kernels *cloister_kernels(int path);

/* known_answers.c: whether the kernels on trial compute what known ones do. */
int same_answers(const kernels *on_trial, const kernels *known);

/* threads.c */
typedef struct pool pool;
typedef void task(void *context, int64_t chunk, int thread);
pool *pool_new(int threads);
void pool_free(pool *);
int pool_threads(const pool *);
void pool_wake(pool *);
void pool_run(pool *, task *, void *context, int64_t chunks);
/* The first chunk of a thread's run in a job of `chunks`. */
int64_t pool_first(const pool *, int thread, int64_t chunks);
/* What a thread reads first in the job after the one that is run next, or NULL: fetched while it waits. */
enum { POOL_AHEAD = 2 };
void pool_next(pool *, int thread, const uint8_t *const *ahead);

/* layout.c */
EXPORT int64_t cloister_matrix_bytes(int32_t kind, int64_t outputs, int64_t inputs);
void matrix_row(const matrix *, int64_t row, float *out);

#endif
