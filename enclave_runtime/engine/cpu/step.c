/* One step of the decoder: every layer for every row, as jobs for the thread pool.
 *
 * All memory a step needs is taken in cloister_decoder_new. What a step wrote there is overwritten before it returns.
 */
#define _GNU_SOURCE
#include "decoder.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

typedef struct {
    int64_t row, count, start;
    const int64_t *pages;
} query_tile;

typedef struct decoder {
    const model *model;
    const kernels *kernels;
    pool *pool;
    int fine;
    int64_t max_rows, positions;
    int64_t width, mixed_width, inner_width; /* strides: hidden, heads, intermediate, padded to 32 */
    uint8_t *arena;
    size_t arena_bytes;
    const float *cosines, *sines; /* [positions][head_dim / 2] */
    float *state;                 /* [rows][width] */
    float *queries, *mixed;       /* [rows][mixed_width] */
    float *last;                  /* [rows][width]: rows whose logits are wanted */
    operand operand;              /* as wide as hidden or heads: what the product at hand takes */
    operand inner;                /* [rows][inner_width]: what the down projection takes */
    query_tile *tiles;            /* [rows] */
    int64_t *position;            /* [rows] */
    const int64_t **pages;        /* [rows] */
    float *scratch;               /* [threads][scratch_items] */
    int64_t scratch_items;
    /* of the step and layer at hand */
    const batch *batch;
    const layer *layer;
    int64_t rows, rows_each, tile_count, wanted, slices;
    uint16_t *keys, *values;
    int64_t page_items, head_items;
    int whole_groups; /* the heads of one kv head fill groups of 32 */
    const matrix *matrix;
    const operand *factor;
    int64_t blocks_each;
    float *product_out;
    int64_t product_stride;
    const float *source, *weight;
    int64_t source_stride, source_size;
    int forms;
} decoder;

enum { MOST_BLOCKS = 64 };

static int64_t round_up(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }
static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
static int64_t blocks_of(const matrix *m) { return round_up(m->outputs, LANES) / LANES; }
/* An odd number of cache lines of bytes: rows a power of two apart would share the few places a cache has for them. */
static int64_t stride_of(int64_t inputs) { return (inputs + 63) / 128 * 128 + 64; }
static int form_of(const matrix *m) { return 1 << m->kind; }

EXPORT void *cloister_memory(size_t bytes) {
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) return NULL;
    madvise(p, bytes, MADV_HUGEPAGE);
    return p;
}

/* Ask for huge pages under memory that nobody has touched yet; without them it works too. */
EXPORT void cloister_prefer_huge_pages(void *p, size_t bytes) {
    uintptr_t from = ((uintptr_t)p + 4095) / 4096 * 4096, to = ((uintptr_t)p + bytes) / 4096 * 4096;
    if (from < to) madvise((void *)from, to - from, MADV_HUGEPAGE);
}

EXPORT void cloister_memory_free(void *p, size_t bytes) {
    if (p) munmap(p, bytes);
}

EXPORT int cloister_abi(void) { return CLOISTER_ABI; }

/* A run of the arena, aligned to cache lines; with arena NULL only counted. */
static void *carve(decoder *d, size_t *used, int64_t items, size_t size) {
    void *place = d->arena ? d->arena + *used : NULL;
    *used += ((size_t)items * size + 63) / 64 * 64;
    return place;
}

static void carve_operand(decoder *d, size_t *used, operand *o, int64_t width) {
    int64_t rows = d->max_rows, groups = stride_of(width) / GROUP;
    o->inputs = width, o->stride = stride_of(width);
    o->bf16 = carve(d, used, rows * o->stride, 2);
    o->quants = carve(d, used, rows * o->stride, 1);
    if (d->fine) o->fractions = carve(d, used, rows * o->stride, 1);
    o->scales = carve(d, used, rows * groups, 4);
    o->scaled_sums = carve(d, used, rows * groups, 4);
    for (int which = 0; which < BIASES; which++) o->biases[which] = carve(d, used, rows * groups, 4);
}

static size_t lay_out(decoder *d) {
    size_t used = 0;
    int64_t rows = d->max_rows;
    d->state = carve(d, &used, rows * d->width, 4);
    d->last = carve(d, &used, rows * d->width, 4);
    d->queries = carve(d, &used, rows * d->mixed_width, 4);
    d->mixed = carve(d, &used, rows * d->mixed_width, 4);
    carve_operand(d, &used, &d->operand, larger(d->width, d->mixed_width));
    carve_operand(d, &used, &d->inner, d->inner_width);
    d->tiles = carve(d, &used, rows, sizeof(query_tile));
    d->position = carve(d, &used, rows, 8);
    d->pages = carve(d, &used, rows, sizeof(int64_t *));
    d->scratch_items = SLICE_ROWS * MAX_HEAD + KEPT_ITEMS;
    d->scratch = carve(d, &used, d->scratch_items * pool_threads(d->pool), 4);
    return used;
}

EXPORT void cloister_decoder_free(decoder *d) {
    if (!d) return;
    pool_free(d->pool);
    cloister_memory_free(d->arena, d->arena_bytes);
    free(d);
}

/* A decoder for at most `rows` rows a step, and its threads. With `fine`, activations that meet 8-bit or 4-bit weights
 * have 16 bits instead of 8. `model`, `cosines` and `sines` must outlive it. */
EXPORT decoder *cloister_decoder_new(const model *m, int path, int fine, int64_t rows, int threads,
                                     int64_t positions, const float *cosines, const float *sines) {
    const kernels *k = cloister_kernels(path);
    if (!k || rows < 1 || m->head_dim % LANES || m->head_dim > MAX_HEAD) return NULL;
    decoder *d = calloc(1, sizeof *d);
    if (!d) return NULL;
    d->model = m, d->kernels = k, d->fine = fine, d->max_rows = rows;
    d->positions = positions, d->cosines = cosines, d->sines = sines;
    d->width = round_up(m->hidden, GROUP);
    d->mixed_width = round_up(m->heads * m->head_dim, GROUP);
    d->inner_width = round_up(m->intermediate, GROUP);
    d->pool = pool_new(threads);
    if (!d->pool) {
        free(d);
        return NULL;
    }
    d->arena_bytes = lay_out(d);
    d->arena = cloister_memory(d->arena_bytes);
    if (!d->arena) {
        cloister_decoder_free(d);
        return NULL;
    }
    lay_out(d);
    memset(d->arena, 0, d->arena_bytes); /* every page is there before the first step */
    return d;
}

/* --- what the threads read next --- */

static size_t block_bytes(const matrix *m) {
    return (size_t)cloister_matrix_bytes(m->kind, LANES, m->inputs);
}

/* Where the weights lie that a thread reads first when `chunks` chunks of `blocks` blocks are shared out. */
static const uint8_t *first_weights(const decoder *d, const matrix *m, int thread, int64_t chunks, int64_t blocks) {
    return m->weights + (size_t)(pool_first(d->pool, thread, chunks) * blocks) * block_bytes(m);
}

static void product_next(const decoder *d, const matrix *one, const matrix *two, int64_t blocks_each) {
    int64_t chunks = (blocks_of(one) + blocks_each - 1) / blocks_each;
    for (int thread = 0; thread < pool_threads(d->pool); thread++)
        pool_next(d->pool, thread, (const uint8_t *[POOL_AHEAD]){
            first_weights(d, one, thread, chunks, blocks_each),
            two ? first_weights(d, two, thread, chunks, blocks_each) : NULL,
        });
}

/* --- rows into the form the next product takes --- */

static void prepare_chunk(void *context, int64_t chunk, int thread) {
    decoder *d = context;
    (void)thread;
    for (int64_t row = chunk * d->rows_each; row < smaller((chunk + 1) * d->rows_each, d->rows); row++)
        d->kernels->prepare(d->source + row * d->source_stride, d->weight, d->model->norm_epsilon, d->source_size,
                            &d->operand, row, d->forms);
}

static void prepare(decoder *d, const float *from, int64_t stride, const float *weight, int64_t size, int forms) {
    d->source = from, d->source_stride = stride, d->weight = weight, d->source_size = size, d->forms = forms;
    d->operand.inputs = stride, d->operand.stride = stride_of(stride);
    d->rows_each = d->rows <= 4 ? d->rows : smaller(8, larger(1, d->rows / (2 * pool_threads(d->pool))));
    pool_run(d->pool, prepare_chunk, d, (d->rows + d->rows_each - 1) / d->rows_each);
}

/* --- a product straight into memory --- */

static void product_chunk(void *context, int64_t chunk, int thread) {
    decoder *d = context;
    int64_t block = chunk / d->slices * d->blocks_each, blocks = smaller(d->blocks_each, blocks_of(d->matrix) - block);
    int64_t first = chunk % d->slices * d->kernels->slice, count = smaller(d->kernels->slice, d->rows - first);
    d->kernels->product(d->matrix, block, blocks, d->factor, first, count,
                        d->product_out + first * d->product_stride + block * LANES, d->product_stride,
                        d->product_out == d->state, d->scratch + thread * d->scratch_items);
}

/* How many blocks of a matrix go into a chunk: about eight chunks a thread, an even number of blocks where there are
 * enough. */
static int64_t share_of(const decoder *d, const matrix *m, int64_t most) {
    int64_t blocks = smaller(most, blocks_of(m) / (pool_threads(d->pool) * 8));
    return blocks < 2 ? 2 : blocks / 2 * 2;
}

static void multiply(decoder *d, const matrix *m, const operand *x, float *out, int64_t stride) {
    d->matrix = m, d->factor = x, d->product_out = out, d->product_stride = stride;
    d->slices = (d->rows + d->kernels->slice - 1) / d->kernels->slice;
    d->blocks_each = share_of(d, m, MOST_BLOCKS);
    pool_run(d->pool, product_chunk, d, (blocks_of(m) + d->blocks_each - 1) / d->blocks_each * d->slices);
}

/* --- query, key and value, one head of one of them at a time --- */

static uint16_t *kv_place(const decoder *d, uint16_t *base, int64_t kv_head, int64_t row, int64_t *inside) {
    int64_t position = d->position[row], page_tokens = d->batch->page_tokens;
    *inside = position % page_tokens;
    return base + d->pages[row][position / page_tokens] * d->page_items + kv_head * d->head_items;
}

static void project_chunk(void *context, int64_t chunk, int thread) {
    decoder *d = context;
    const model *m = d->model;
    const layer *l = d->layer;
    int64_t head = chunk / d->slices, first = chunk % d->slices * d->kernels->slice, dim = m->head_dim;
    int64_t count = smaller(d->kernels->slice, d->rows - first), blocks = dim / LANES;
    int which = head < m->heads ? 0 : head < m->heads + m->kv_heads ? 1 : 2;
    if (which) head = (head - m->heads) % m->kv_heads;
    const matrix *from = which == 0 ? &l->query : which == 1 ? &l->key : &l->value;
    const float *bias = which == 0 ? l->query_bias : which == 1 ? l->key_bias : l->value_bias;
    const float *weight = which == 0 ? l->query_norm : which == 1 ? l->key_norm : NULL;
    float *kept = d->scratch + thread * d->scratch_items, *out = kept + KEPT_ITEMS;
    float scale = which ? 1.0f : 1.0f / sqrtf((float)dim);
    d->kernels->product(from, head * blocks, blocks, &d->operand, first, count, out, dim, 0, kept);
    for (int64_t r = 0; r < count; r++) {
        int64_t row = first + r, at = d->position[row] * (dim / 2), inside;
        float *x = out + r * dim;
        if (bias)
            for (int64_t i = 0; i < dim; i++) x[i] += bias[head * dim + i];
        if (weight) d->kernels->norm(x, weight, m->norm_epsilon, dim);
        if (which < 2) d->kernels->turn(x, d->cosines + at, d->sines + at, dim / 2, scale);
        if (which == 0) {
            memcpy(d->queries + row * d->mixed_width + head * dim, x, (size_t)dim * sizeof *x);
        } else if (which == 1) {
            uint16_t halves[MAX_HEAD], *to = kv_place(d, d->keys, head, row, &inside);
            to += inside / LANES * LANES * dim + inside % LANES;
            d->kernels->to_half(x, halves, dim);
            for (int64_t i = 0; i < dim; i++) to[i * LANES] = halves[i];
        } else {
            uint16_t *to = kv_place(d, d->values, head, row, &inside);
            d->kernels->to_half(x, to + inside * dim, dim);
        }
    }
}

static void projection_next(const decoder *d, const layer *l) {
    const model *m = d->model;
    int64_t blocks = m->head_dim / LANES, heads = m->heads + 2 * m->kv_heads;
    for (int thread = 0; thread < pool_threads(d->pool); thread++) {
        int64_t head = pool_first(d->pool, thread, heads);
        const matrix *from = head < m->heads ? &l->query : head < m->heads + m->kv_heads ? &l->key : &l->value;
        int64_t before = head < m->heads ? 0 : head < m->heads + m->kv_heads ? m->heads : m->heads + m->kv_heads;
        pool_next(d->pool, thread, (const uint8_t *[POOL_AHEAD]){
            from->weights + (size_t)((head - before) * blocks) * block_bytes(from), NULL});
    }
}

/* --- attention --- */

static void attend_chunk(void *context, int64_t chunk, int thread) {
    decoder *d = context;
    const model *m = d->model;
    (void)thread;
    const query_tile *tile = &d->tiles[chunk / m->kv_heads];
    int64_t kv_head = chunk % m->kv_heads, group = m->heads / m->kv_heads;
    int64_t from = kv_head * group * m->head_dim, place = tile->row * d->mixed_width + from;
    d->kernels->attend(&(attention){
        .queries = d->queries + place, .out = d->mixed + place,
        .queries_stride = d->mixed_width, .out_stride = d->mixed_width,
        .rows = tile->count, .start = tile->start, .group = group, .head_dim = m->head_dim,
        .keys = d->keys, .values = d->values, .pages = tile->pages,
        .page_tokens = d->batch->page_tokens, .page_items = d->page_items, .head_items = d->head_items,
        .kv_head = kv_head, .kv_heads = m->kv_heads,
    });
    if (!d->whole_groups) return;
    for (int64_t r = 0; r < tile->count; r++)
        d->kernels->round(d->mixed + place + r * d->mixed_width, from, group * m->head_dim, &d->operand, tile->row + r,
                          form_of(&d->layer->output));
}

/* --- gate and up, a few blocks of each at a time --- */

static void expand_chunk(void *context, int64_t chunk, int thread) {
    decoder *d = context;
    const layer *l = d->layer;
    float *kept = d->scratch + thread * d->scratch_items, *gate = kept + KEPT_ITEMS;
    float *up = gate + SLICE_ROWS * MAX_HEAD / 2;
    int64_t block = chunk / d->slices * d->blocks_each, blocks = smaller(d->blocks_each, blocks_of(&l->gate) - block);
    int64_t first = chunk % d->slices * d->kernels->slice, count = smaller(d->kernels->slice, d->rows - first);
    int64_t stride = round_up(blocks * LANES, GROUP);
    d->kernels->product(&l->gate, block, blocks, &d->operand, first, count, gate, stride, 0, kept);
    d->kernels->product(&l->up, block, blocks, &d->operand, first, count, up, stride, 0, kept);
    for (int64_t r = 0; r < count; r++) {
        if (stride > blocks * LANES) { /* the last block fills half a group */
            memset(gate + r * stride + blocks * LANES, 0, LANES * sizeof *gate);
            memset(up + r * stride + blocks * LANES, 0, LANES * sizeof *up);
        }
        d->kernels->swiglu(gate + r * stride, up + r * stride, gate + r * stride, stride);
        d->kernels->round(gate + r * stride, block * LANES, stride, &d->inner, first + r, form_of(&l->down));
    }
}

static void run_layer(decoder *d, int64_t number) {
    const model *m = d->model;
    const layer *l = d->layer = &m->layer[number];
    const batch *b = d->batch;
    d->page_items = b->page_tokens * m->kv_heads * m->head_dim;
    d->head_items = b->page_tokens * m->head_dim;
    d->keys = b->kv + 2 * number * b->kv_pages * d->page_items;
    d->values = d->keys + b->kv_pages * d->page_items;
    d->slices = (d->rows + d->kernels->slice - 1) / d->kernels->slice;
    d->whole_groups = m->heads / m->kv_heads * m->head_dim % GROUP == 0;

    prepare(d, d->state, d->width, l->attention_norm, m->hidden,
            form_of(&l->query) | form_of(&l->key) | form_of(&l->value));
    product_next(d, &l->output, NULL, share_of(d, &l->output, MOST_BLOCKS));
    pool_run(d->pool, project_chunk, d, (m->heads + 2 * m->kv_heads) * d->slices);
    d->operand.inputs = d->mixed_width, d->operand.stride = stride_of(d->mixed_width);
    pool_run(d->pool, attend_chunk, d, d->tile_count * m->kv_heads);
    if (!d->whole_groups)
        prepare(d, d->mixed, d->mixed_width, NULL, m->heads * m->head_dim, form_of(&l->output));
    int64_t blocks = share_of(d, &l->gate, MAX_HEAD / LANES / 2);
    product_next(d, &l->gate, &l->up, blocks);
    multiply(d, &l->output, &d->operand, d->state, d->width);

    prepare(d, d->state, d->width, l->mlp_norm, m->hidden, form_of(&l->gate) | form_of(&l->up));
    d->blocks_each = blocks;
    product_next(d, &l->down, NULL, share_of(d, &l->down, MOST_BLOCKS));
    pool_run(d->pool, expand_chunk, d, (blocks_of(&l->gate) + blocks - 1) / blocks * d->slices);
    if (number + 1 < m->layers)
        projection_next(d, &m->layer[number + 1]);
    else
        product_next(d, &m->head, NULL, share_of(d, &m->head, MOST_BLOCKS));
    multiply(d, &l->down, &d->inner, d->state, d->width);
}

static void plan(decoder *d) {
    const batch *b = d->batch;
    d->tile_count = d->wanted = 0;
    for (int64_t s = 0; s < b->spans; s++) {
        const span *at = &b->span[s];
        for (int64_t i = 0; i < at->count; i++) {
            d->position[at->row + i] = at->start + i;
            d->pages[at->row + i] = at->pages;
        }
        for (int64_t i = 0; i < at->count; i += QUERY_ROWS)
            d->tiles[d->tile_count++] =
                (query_tile){at->row + i, smaller(QUERY_ROWS, at->count - i), at->start + i, at->pages};
        if (at->wants_logits) d->wanted++;
    }
}

static void head(decoder *d) {
    const batch *b = d->batch;
    int64_t number = 0, rows = d->rows;
    for (int64_t s = 0; s < b->spans; s++)
        if (b->span[s].wants_logits)
            memcpy(d->last + number++ * d->width, d->state + (b->span[s].row + b->span[s].count - 1) * d->width,
                   (size_t)d->width * sizeof(float));
    d->rows = number;
    prepare(d, d->last, d->width, d->model->final_norm, d->model->hidden, form_of(&d->model->head));
    projection_next(d, &d->model->layer[0]);
    multiply(d, &d->model->head, &d->operand, b->logits, b->logits_stride);
    d->rows = rows;
}

static void wipe_operand(const decoder *d, const operand *o, int64_t width) {
    size_t items = (size_t)(d->rows * stride_of(width));
    memset(o->bf16, 0, items * 2);
    memset(o->quants, 0, items);
    if (d->fine) memset(o->fractions, 0, items);
    memset(o->scales, 0, items / GROUP * 4);
    memset(o->scaled_sums, 0, items / GROUP * 4);
    for (int which = 0; which < BIASES; which++) memset(o->biases[which], 0, items / GROUP * 4);
}

static void wipe(decoder *d) {
    size_t rows = (size_t)d->rows;
    memset(d->state, 0, rows * (size_t)d->width * 4);
    memset(d->last, 0, (size_t)d->wanted * (size_t)d->width * 4);
    memset(d->queries, 0, rows * (size_t)d->mixed_width * 4);
    memset(d->mixed, 0, rows * (size_t)d->mixed_width * 4);
    wipe_operand(d, &d->operand, larger(d->width, d->mixed_width));
    wipe_operand(d, &d->inner, d->inner_width);
    memset(d->scratch, 0, (size_t)(d->scratch_items * pool_threads(d->pool)) * sizeof *d->scratch);
}

/* How many bytes of the memory of steps are not zero: a step leaves none behind but positions and places of pages. */
EXPORT int64_t cloister_residue(const decoder *d) {
    int64_t count = 0;
    const uint8_t *places = (const uint8_t *)d->tiles, *after = (const uint8_t *)d->scratch;
    for (const uint8_t *p = d->arena; p < d->arena + d->arena_bytes; p++)
        if (*p && !(p >= places && p < after)) count++;
    return count;
}

/* Compute a batch. Returns 0, or -1 (nothing done) for more rows or a further position than was reserved, or a token
 * that the model does not have. Page numbers are the caller's to check.
 */
EXPORT int cloister_step(decoder *d, const batch *b) {
    const model *m = d->model;
    if (b->rows < 1 || b->rows > d->max_rows || b->page_tokens % LANES) return -1;
    for (int64_t r = 0; r < b->rows; r++)
        if (b->tokens[r] < 0 || b->tokens[r] >= m->vocabulary) return -1;
    for (int64_t s = 0; s < b->spans; s++) {
        const span *at = &b->span[s];
        if (at->row < 0 || at->count < 1 || at->row + at->count > b->rows || at->start < 0 ||
            at->start + at->count > d->positions)
            return -1;
    }
    d->batch = b, d->rows = b->rows;
    pool_wake(d->pool);
    plan(d);
    for (int64_t r = 0; r < b->rows; r++) matrix_row(&m->embedding, b->tokens[r], d->state + r * d->width);
    for (int64_t number = 0; number < m->layers; number++) run_layer(d, number);
    if (d->wanted) head(d);
    wipe(d);
    return 0;
}
