/* The decoder's own threads, made once.
 *
 * A job is a number of chunks. Each thread has a run of consecutive ones and takes them one by one, then those of
 * others: in the ordinary case every thread reads one stretch of memory from its beginning to its end, and a thread
 * that the kernel does not run holds nobody up, since the caller waits only for chunks that someone has begun. While a
 * thread waits it fetches what it will read first in the next job into its cache; with none coming it sleeps in a futex.
 */
#define _GNU_SOURCE
#include "decoder.h"

#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { MAX_THREADS = 1024, SPINS = 16000, MOST_CHUNKS = 0xffff, LINE = 64 };
#ifndef AHEAD_BYTES
#define AHEAD_BYTES 16384 /* fetched of each address */
#endif

/* What one thread is to do. */
typedef struct {
    /* One word: the job's number in the upper 32 bits, then 16 bits of where its chunks end, then 16 of the next one
     * to take. All of it is read and claimed together: were the end read apart, a thread that comes late to a job that
     * is over could meet the next job's number and claim a chunk that nobody has offered. */
    _Alignas(64) _Atomic uint64_t next;
    const uint8_t *_Atomic ahead[POOL_AHEAD]; /* only ever fetched: a late reader's mixture of two jobs does no harm */
} share;

struct pool {
    _Alignas(64) _Atomic int64_t done;
    _Alignas(64) _Atomic uint32_t bell; /* rung with every job */
    _Alignas(64) _Atomic uint32_t sleepers;
    _Atomic int stopping;
    _Alignas(64) task *_Atomic work;
    void *_Atomic context;
    _Atomic int64_t base; /* what chunk 0 of this job is for the caller */
    share *share;
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

/* Chunks of one share until there are none; how many it was. */
static int64_t take_from(pool *p, share *from, int thread) {
    for (int64_t count = 0;;) {
        uint64_t seen = atomic_load_explicit(&from->next, memory_order_acquire);
        int64_t chunk = (int64_t)(seen & 0xffff), end = (int64_t)(seen >> 16 & 0xffff);
        if (chunk >= end) return count;
        /* Read before the claim: these change only once every chunk of the job is done, and a claim that succeeds
         * proves that this one was not. */
        task *work = atomic_load_explicit(&p->work, memory_order_relaxed);
        void *context = atomic_load_explicit(&p->context, memory_order_relaxed);
        int64_t base = atomic_load_explicit(&p->base, memory_order_relaxed);
        if (!atomic_compare_exchange_weak_explicit(&from->next, &seen, seen + 1, memory_order_acq_rel,
                                                   memory_order_relaxed))
            continue;
        work(context, base + chunk, thread);
        count++;
    }
}

static void work_on(pool *p, int thread) {
    int64_t count = 0;
    for (int other = 0, whose = thread; other < p->threads; other++, whose = whose + 1 == p->threads ? 0 : whose + 1)
        count += take_from(p, &p->share[whose], thread);
    if (count) atomic_fetch_add_explicit(&p->done, count, memory_order_release);
}

/* A moment of waiting: the next lines of what is read next, or nothing once they are all on their way. */
static inline void wait_a_moment(const share *own, int64_t *fetched) {
    if (*fetched >= AHEAD_BYTES) {
        pause_cpu();
        return;
    }
    for (int which = 0; which < POOL_AHEAD; which++) {
        const uint8_t *from = atomic_load_explicit(&own->ahead[which], memory_order_relaxed);
        if (from) __builtin_prefetch(from + *fetched, 0, 2), __builtin_prefetch(from + *fetched + LINE, 0, 2);
    }
    *fetched += 2 * LINE;
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
        int64_t fetched = 0;
        while ((bell = atomic_load_explicit(&p->bell, memory_order_acquire)) == heard) {
            if (++spins < SPINS) {
                wait_a_moment(&p->share[thread], &fetched);
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

/* Wake the threads: a job comes soon. */
void pool_wake(pool *p) {
    atomic_fetch_add(&p->bell, 1);
    if (atomic_load(&p->sleepers)) syscall(SYS_futex, &p->bell, FUTEX_WAKE_PRIVATE, MAX_THREADS, NULL, NULL, 0);
}

pool *pool_new(int threads) {
    if (threads < 1 || threads > MAX_THREADS) return NULL;
    size_t size = sizeof(pool) + (size_t)threads * sizeof(pthread_t);
    pool *p = aligned_alloc(64, (size + 63) / 64 * 64);
    share *shares = aligned_alloc(64, (size_t)threads * sizeof *shares);
    if (!p || !shares) {
        free(p), free(shares);
        return NULL;
    }
    memset(shares, 0, (size_t)threads * sizeof *shares);
    *p = (pool){.threads = 1, .share = shares};
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
    free(p->share);
    free(p);
}

int pool_threads(const pool *p) { return p->threads; }

int64_t pool_first(const pool *p, int thread, int64_t chunks) { return thread * chunks / p->threads; }

void pool_next(pool *p, int thread, const uint8_t *const *ahead) {
    for (int which = 0; which < POOL_AHEAD; which++)
        atomic_store_explicit(&p->share[thread].ahead[which], ahead[which], memory_order_relaxed);
}

static void run_job(pool *p, task *work, void *context, int64_t base, int64_t chunks) {
    atomic_store_explicit(&p->work, work, memory_order_relaxed);
    atomic_store_explicit(&p->context, context, memory_order_relaxed);
    atomic_store_explicit(&p->base, base, memory_order_relaxed);
    atomic_store_explicit(&p->done, 0, memory_order_relaxed);
    uint64_t job = (atomic_load_explicit(&p->share[0].next, memory_order_relaxed) >> 32) + 1;
    for (int thread = p->threads - 1; thread >= 0; thread--) {
        uint64_t first = (uint64_t)pool_first(p, thread, chunks), end = (uint64_t)pool_first(p, thread + 1, chunks);
        atomic_store_explicit(&p->share[thread].next, job << 32 | end << 16 | first, memory_order_release);
    }
    pool_wake(p);
    work_on(p, 0);
    int64_t fetched = 0;
    for (int spins = 0; atomic_load_explicit(&p->done, memory_order_acquire) < chunks; spins++) {
        if (spins < SPINS)
            wait_a_moment(&p->share[0], &fetched);
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
