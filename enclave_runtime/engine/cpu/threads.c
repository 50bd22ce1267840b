/* The decoder's own threads, made once.
 *
 * A job is a number of chunks that the threads take one by one. The caller works too and waits only for chunks that
 * someone has begun, so a thread that the kernel does not run holds nobody up. Idle threads spin for a moment, then
 * sleep in a futex.
 */
#define _GNU_SOURCE
#include "decoder.h"

#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { MAX_THREADS = 1024, SPINS = 4000, MOST_CHUNKS = 0xffff };

struct pool {
    /* One word: the job's number in the upper 32 bits, then 16 bits of its chunks in all, then 16 of the next one to
     * take. All of it is read and claimed together: were the number of chunks read apart, a thread that comes late to
     * a job that is over could meet the next job's number and claim a chunk that nobody has offered. */
    _Alignas(64) _Atomic uint64_t next;
    _Alignas(64) _Atomic int64_t done;
    _Alignas(64) _Atomic uint32_t bell; /* rung with every job */
    _Alignas(64) _Atomic uint32_t sleepers;
    _Atomic int stopping;
    _Alignas(64) task *_Atomic work;
    void *_Atomic context;
    _Atomic int64_t base; /* what chunk 0 of this job is for the caller */
    int threads;
    pthread_t thread[];
};

typedef struct {
    pool *pool;
    int number;
} start;

static inline void pause_cpu(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#else
    atomic_thread_fence(memory_order_seq_cst);
#endif
}

static void work_on(pool *p, int thread) {
    for (;;) {
        uint64_t seen = atomic_load_explicit(&p->next, memory_order_acquire);
        int64_t chunk = (int64_t)(seen & 0xffff), chunks = (int64_t)(seen >> 16 & 0xffff);
        if (chunk >= chunks) return;
        /* Read before the claim: these change only once every chunk of the job is done, and a claim that succeeds
         * proves that this one was not. */
        task *work = atomic_load_explicit(&p->work, memory_order_relaxed);
        void *context = atomic_load_explicit(&p->context, memory_order_relaxed);
        int64_t base = atomic_load_explicit(&p->base, memory_order_relaxed);
        if (!atomic_compare_exchange_weak_explicit(&p->next, &seen, seen + 1, memory_order_acq_rel,
                                                   memory_order_relaxed))
            continue;
        work(context, base + chunk, thread);
        atomic_fetch_add_explicit(&p->done, 1, memory_order_release);
    }
}

static void *live(void *argument) {
    start *given = argument;
    pool *p = given->pool;
    int thread = given->number;
    free(given);
    uint32_t heard = 0;
    for (;;) {
        uint32_t bell;
        int spins = 0;
        while ((bell = atomic_load_explicit(&p->bell, memory_order_acquire)) == heard) {
            if (++spins < SPINS) {
                pause_cpu();
                continue;
            }
            atomic_fetch_add(&p->sleepers, 1);
            syscall(SYS_futex, &p->bell, FUTEX_WAIT_PRIVATE, heard, NULL, NULL, 0);
            atomic_fetch_sub(&p->sleepers, 1);
            spins = 0;
        }
        heard = bell;
        if (atomic_load_explicit(&p->stopping, memory_order_acquire)) return NULL;
        work_on(p, thread);
    }
}

static void ring(pool *p) {
    atomic_fetch_add(&p->bell, 1);
    if (atomic_load(&p->sleepers)) syscall(SYS_futex, &p->bell, FUTEX_WAKE_PRIVATE, MAX_THREADS, NULL, NULL, 0);
}

pool *pool_new(int threads) {
    if (threads < 1 || threads > MAX_THREADS) return NULL;
    size_t size = sizeof(pool) + (size_t)threads * sizeof(pthread_t);
    pool *p = aligned_alloc(64, (size + 63) / 64 * 64);
    if (!p) return NULL;
    *p = (pool){.threads = 1};
    /* Signals are the interpreter's business. */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    for (int number = 1; number < threads; number++) {
        start *given = malloc(sizeof *given);
        if (!given) break;
        *given = (start){p, number};
        if (pthread_create(&p->thread[number], NULL, live, given)) {
            free(given);
            break;
        }
        p->threads++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (p->threads != threads) {
        pool_free(p);
        return NULL;
    }
    return p;
}

void pool_free(pool *p) {
    if (!p) return;
    atomic_store(&p->stopping, 1);
    atomic_fetch_add(&p->bell, 1);
    syscall(SYS_futex, &p->bell, FUTEX_WAKE_PRIVATE, MAX_THREADS, NULL, NULL, 0);
    for (int number = 1; number < p->threads; number++) pthread_join(p->thread[number], NULL);
    free(p);
}

int pool_threads(const pool *p) { return p->threads; }

static void run_job(pool *p, task *work, void *context, int64_t base, int64_t chunks) {
    atomic_store_explicit(&p->work, work, memory_order_relaxed);
    atomic_store_explicit(&p->context, context, memory_order_relaxed);
    atomic_store_explicit(&p->base, base, memory_order_relaxed);
    atomic_store_explicit(&p->done, 0, memory_order_relaxed);
    uint64_t job = (atomic_load_explicit(&p->next, memory_order_relaxed) >> 32) + 1;
    atomic_store_explicit(&p->next, job << 32 | (uint64_t)chunks << 16, memory_order_release);
    ring(p);
    work_on(p, 0);
    for (int spins = 0; atomic_load_explicit(&p->done, memory_order_acquire) < chunks; spins++) {
        if (spins < SPINS)
            pause_cpu();
        else
            sched_yield();
    }
}

void pool_run(pool *p, task *work, void *context, int64_t chunks) {
    if (p->threads == 1 || chunks == 1) {
        for (int64_t chunk = 0; chunk < chunks; chunk++) work(context, chunk, 0);
        return;
    }
    for (int64_t base = 0; base < chunks; base += MOST_CHUNKS) {
        int64_t left = chunks - base;
        run_job(p, work, context, base, left < MOST_CHUNKS ? left : MOST_CHUNKS);
    }
}
