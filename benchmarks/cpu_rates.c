/* What this processor's memory and arithmetic give at most: the physical limits beside which a decoder is measured.
 *
 * Prints JSON: GB/s of streaming reads (64-byte loads, huge pages, a buffer of 512 MiB), and billions of multiply-adds
 * a second of the instructions that the decoder's kernels use, for as many threads as asked for; those of AMX if told
 * that there is one that works (the decoder's library knows).
 * Build: cc -O3 -pthread cpu_rates.c; run: a.out THREADS [tiles]
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#if defined(__x86_64__)
#include <immintrin.h>
#define WIDE __attribute__((target("avx512f,avx512bw,avx512vl,avx512vnni,avx512bf16")))
#if defined(__has_include)
/* gcc's name or clang's: they come with compilers that can assemble these instructions. */
#if __has_include(<amxtileintrin.h>) || __has_include(<amxintrin.h>)
#define TILES
#endif
#endif
#define HAVE_WIDE (__builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bf16"))
#endif

enum { BYTES = 512 << 20, CHAINS = 12, LOOPS = 20000000 };
#ifndef TILE_PRODUCTS
#define TILE_PRODUCTS 8000000 /* a multiple of 4 */
#endif
static char *buffer;
static int threads;
static volatile int64_t sink;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void *read_part(void *number) {
    size_t size = (size_t)BYTES / (size_t)threads / 256 * 256;
    const int64_t *p = (const int64_t *)(buffer + size * (size_t)number);
    int64_t a = 0, b = 0, c = 0, d = 0;
    for (size_t i = 0; i < size / 8; i += 32) { /* the compiler makes vectors of it */
        __builtin_prefetch(p + i + 512);
        __builtin_prefetch(p + i + 520);
        __builtin_prefetch(p + i + 528);
        __builtin_prefetch(p + i + 536);
        for (int k = 0; k < 8; k++) a ^= p[i + k], b ^= p[i + 8 + k], c ^= p[i + 16 + k], d ^= p[i + 24 + k];
    }
    sink = a ^ b ^ c ^ d;
    return NULL;
}

#ifdef WIDE
WIDE static void *bf16_part(void *number) {
    (void)number;
    __m512 sum[CHAINS];
    __m512bh x = (__m512bh)_mm512_set1_epi32(0x3f803f80);
    for (int k = 0; k < CHAINS; k++) sum[k] = _mm512_setzero_ps();
    for (int i = 0; i < LOOPS / CHAINS; i++) {
        __asm__ volatile("" : "+v"(x));
#pragma GCC unroll 12
        for (int k = 0; k < CHAINS; k++) sum[k] = _mm512_dpbf16_ps(sum[k], x, x);
    }
    for (int k = 1; k < CHAINS; k++) sum[0] = _mm512_add_ps(sum[0], sum[k]);
    sink = (int64_t)_mm512_reduce_add_ps(sum[0]);
    return NULL;
}

WIDE static void *int8_part(void *number) {
    (void)number;
    __m512i sum[CHAINS], x = _mm512_set1_epi8(1);
    for (int k = 0; k < CHAINS; k++) sum[k] = _mm512_setzero_si512();
    for (int i = 0; i < LOOPS / CHAINS; i++) {
        __asm__ volatile("" : "+v"(x));
#pragma GCC unroll 12
        for (int k = 0; k < CHAINS; k++) sum[k] = _mm512_dpbusd_epi32(sum[k], x, x);
    }
    for (int k = 1; k < CHAINS; k++) sum[0] = _mm512_add_epi32(sum[0], sum[k]);
    sink = _mm512_reduce_add_epi32(sum[0]);
    return NULL;
}
#endif

#ifdef TILES
/* Two tiles of rows by two of weights, as the decoder takes them, all of them full; nothing is loaded meanwhile. */
#define PART(name, instruction)                                                              \
    static void *name(void *number) {                                                        \
        uint8_t shapes[64] = {1}, line[64];                                                  \
        for (int tile = 0; tile < 8; tile++) shapes[16 + 2 * tile] = 64, shapes[48 + tile] = 16; \
        memset(line, 1, sizeof line);                                                        \
        (void)number;                                                                        \
        __asm__ volatile("ldtilecfg (%0)" ::"r"(shapes) : "memory");                         \
        __asm__ volatile("tileloadd (%0,%1,1), %%tmm4\n\ttileloadd (%0,%1,1), %%tmm5\n\t"    \
                         "tileloadd (%0,%1,1), %%tmm6\n\ttileloadd (%0,%1,1), %%tmm7"        \
                         ::"r"(line), "r"(0L) : "memory");                                   \
        for (int i = 0; i < TILE_PRODUCTS / 4; i++)                                          \
            __asm__ volatile(instruction " %tmm6, %tmm4, %tmm0\n\t"                          \
                             instruction " %tmm7, %tmm4, %tmm1\n\t"                          \
                             instruction " %tmm6, %tmm5, %tmm2\n\t"                          \
                             instruction " %tmm7, %tmm5, %tmm3");                            \
        __asm__ volatile("tilerelease");                                                     \
        return NULL;                                                                         \
    }
PART(bf16_tiles, "tdpbf16ps")
PART(int8_tiles, "tdpbsud")
#endif

static double seconds(void *(*part)(void *)) {
    pthread_t thread[256];
    double best = 1e9;
    for (int round = 0; round < 3; round++) {
        double start = now();
        for (int t = 0; t < threads; t++) pthread_create(&thread[t], NULL, part, (void *)(size_t)t);
        for (int t = 0; t < threads; t++) pthread_join(thread[t], NULL);
        double taken = now() - start;
        if (taken < best) best = taken;
    }
    return best;
}

int main(int count, char **arguments) {
    threads = count > 1 ? atoi(arguments[1]) : 1;
    if (threads < 1 || threads > 256) return 1;
    buffer = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (buffer == MAP_FAILED) return 1;
    madvise(buffer, BYTES, MADV_HUGEPAGE);
    for (size_t i = 0; i < BYTES; i += 4096) buffer[i] = (char)(i >> 12);
    printf("{\"threads\": %d, \"read_GB_s\": %.2f", threads, BYTES / seconds(read_part) * 1e-9);
#ifdef WIDE
    if (HAVE_WIDE) {
        printf(", \"bf16_GMAC_s\": %.1f", 32.0 * LOOPS / CHAINS * CHAINS * threads / seconds(bf16_part) * 1e-9);
        printf(", \"int8_GMAC_s\": %.1f", 64.0 * LOOPS / CHAINS * CHAINS * threads / seconds(int8_part) * 1e-9);
    }
#endif
#ifdef TILES
    /* The system saves the state of tiles (18) for processes that asked for it (0x1023: ARCH_REQ_XCOMP_PERM). */
    if (count > 2 && !strcmp(arguments[2], "tiles") && !syscall(SYS_arch_prctl, 0x1023, 18)) {
        printf(", \"amx_bf16_GMAC_s\": %.1f", 16.0 * 16 * 32 * TILE_PRODUCTS * threads / seconds(bf16_tiles) * 1e-9);
        printf(", \"amx_int8_GMAC_s\": %.1f", 16.0 * 16 * 64 * TILE_PRODUCTS * threads / seconds(int8_tiles) * 1e-9);
    }
#endif
    printf("}\n");
    return 0;
}
