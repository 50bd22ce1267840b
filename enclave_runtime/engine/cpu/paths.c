/* Which kernels compute: decided once, at the start, by what the processor has. */
#define _GNU_SOURCE
#include "decoder.h"

#include <pthread.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif
#include <sys/syscall.h>
#include <unistd.h>

enum { PORTABLE, AVX2, AVX512, AMX };

static int best = PORTABLE;
static pthread_once_t decided = PTHREAD_ONCE_INIT;

#if defined(__x86_64__)
static int has_avx2(void) {
    unsigned a, b, c, d;
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __get_cpuid(1, &a, &b, &c, &d) &&
           (c & bit_F16C);
}

static int has_avx512(void) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bf16");
}

#ifdef CLOISTER_AMX
/* The system saves tiles only for processes that asked (Linux, Documentation/arch/x86/xstate.rst). Holds for all
 * threads and for what is forked; it is refused where a thread's signal stack would be too small. */
static int may_use_tiles(void) {
    enum { REQUEST_STATE = 0x1023, TILE_DATA = 18 };
    return syscall(SYS_arch_prctl, REQUEST_STATE, TILE_DATA) == 0;
}

/* Last, what no list of features says: that the tiles compute what the other kernels do. */
static int has_amx(void) {
    return cloister_processor_has_tiles() && may_use_tiles() && same_answers(&cloister_amx, &cloister_avx512);
}
#endif

static void decide(void) {
    __builtin_cpu_init();
    if (has_avx512()) {
        best = AVX512;
#ifdef CLOISTER_AMX
        if (has_amx()) best = AMX;
#endif
    } else if (has_avx2()) {
        best = AVX2;
    }
}
#else
static void decide(void) {}
#endif

/* Which kernels this processor runs best; 0 portable, 1 AVX2, 2 AVX-512, 3 AMX beside AVX-512. It runs those before
 * them too. The first call asks the system for tiles, which it no longer may once the process is sealed. */
EXPORT int cloister_best_path(void) {
    pthread_once(&decided, decide);
    return best;
}

EXPORT const kernels *cloister_kernels(int path) {
    if (path > cloister_best_path()) return NULL;
    switch (path) {
#if defined(__x86_64__)
#ifdef CLOISTER_AMX
    case AMX: return &cloister_amx;
#endif
    case AVX512: return &cloister_avx512;
    case AVX2: return &cloister_avx2;
#endif
    case PORTABLE: return &cloister_portable;
    default: return NULL;
    }
}

EXPORT const char *cloister_path_name(int path) {
    const kernels *k = cloister_kernels(path);
    return k ? k->name : "";
}
