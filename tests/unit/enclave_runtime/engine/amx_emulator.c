/* AMX for a processor without it: preloaded into a process, it carries out each tile instruction when the processor
 * refuses it (SIGILL), as Intel's Software Developer's Manual, volume 2, describes it, and answers for CPUID and for the
 * system's permission. Whatever the manual makes a fault ends the process with a message.
 *
 * Build: cc -O3 -march=native -ffp-contract=off -shared -fPIC amx_emulator.c -o amx_emulator.so -ldl
 * The environment may make it err, for tests of what notices: AMX_EMULATOR=no-permission, wrong-bf16, wrong-bytes,
 * neighbours (a row's sums depend on the row before it).
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <immintrin.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))
enum { TILES = 8, MOST_ROWS = 16, MOST_BYTES = 64 };

typedef struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} shapes;
_Static_assert(sizeof(shapes) == 64, "a line");

typedef union {
    uint8_t byte[MOST_ROWS][MOST_BYTES];
    uint32_t word[MOST_ROWS][MOST_BYTES / 4];
    int32_t number[MOST_ROWS][MOST_BYTES / 4];
    float real[MOST_ROWS][MOST_BYTES / 4];
} tile;

static __thread __attribute__((tls_model("initial-exec"))) struct {
    shapes shapes;
    tile tile[TILES];
} own;

static _Atomic int64_t configured, executed, products;
static _Atomic int permitted;
static enum { RIGHT, NO_PERMISSION, WRONG_BF16, WRONG_BYTES, NEIGHBOURS } mistake;

/* For tests: instructions carried out, products among them, threads whose tiles hold something. */
EXPORT int64_t amx_emulator_executed(void) { return executed; }
EXPORT int64_t amx_emulator_products(void) { return products; }
EXPORT int64_t amx_emulator_configured(void) { return configured; }

static _Noreturn void fault(const char *what, int a, int b) {
    char text[160];
    int length = snprintf(text, sizeof text, "amx_emulator: %s (%d, %d)\n", what, a, b);
    if (write(2, text, (size_t)length) < 0) _exit(98);
    _exit(97);
}

/* --- instructions, operation by operation --- */

static void check_configured(int number) {
    if (own.shapes.palette != 1) fault("#UD: tiles are not configured", number, 0);
    if (number >= TILES) fault("#UD: no such tile", number, 0);
    if (!own.shapes.rows[number] || !own.shapes.row_bytes[number]) fault("#UD: a tile without a shape", number, 0);
}

static void release(void) {
    if (own.shapes.palette) configured--;
    memset(&own, 0, sizeof own);
}

static void ldtilecfg(const shapes *from) {
    shapes wanted;
    memcpy(&wanted, from, sizeof wanted);
    if (!permitted) fault("the system was not asked for tiles", 0, 0);
    if (wanted.palette == 0) {
        release();
        return;
    }
    if (wanted.palette != 1) fault("#GP: palette", wanted.palette, 0);
    for (int i = 0; i < 14; i++)
        if (wanted.reserved[i]) fault("#GP: reserved byte", i, wanted.reserved[i]);
    for (int i = 0; i < 16; i++) {
        int rows = wanted.rows[i], bytes = wanted.row_bytes[i];
        if (i >= TILES && (rows || bytes)) fault("#GP: shape of a tile beyond the eighth", rows, bytes);
        if (rows > MOST_ROWS || bytes > MOST_BYTES) fault("#GP: too large a tile", rows, bytes);
        if (!rows != !bytes) fault("#GP: rows without bytes or bytes without rows", rows, bytes);
    }
    if (wanted.start_row) fault("a start row: nothing here resumes", wanted.start_row, 0);
    release();
    own.shapes = wanted;
    configured++;
}

static void tileload(int number, const uint8_t *from, int64_t apart) {
    check_configured(number);
    if (own.shapes.row_bytes[number] % 4) fault("#UD: row bytes", number, own.shapes.row_bytes[number]);
    memset(&own.tile[number], 0, sizeof own.tile[number]);
    for (int row = 0; row < own.shapes.rows[number]; row++)
        memcpy(own.tile[number].byte[row], from + row * apart, own.shapes.row_bytes[number]);
}

static void tilestore(int number, uint8_t *to, int64_t apart) {
    check_configured(number);
    if (own.shapes.row_bytes[number] % 4) fault("#UD: row bytes", number, own.shapes.row_bytes[number]);
    for (int row = 0; row < own.shapes.rows[number]; row++)
        memcpy(to + row * apart, own.tile[number].byte[row], own.shapes.row_bytes[number]);
}

static void check_product(int to, int x, int w) {
    check_configured(to), check_configured(x), check_configured(w);
    if (to == x || to == w || x == w) fault("#UD: the same tile twice", to, x);
    for (const int *each = (int[]){to, x, w, -1}; *each >= 0; each++)
        if (own.shapes.row_bytes[*each] % 4) fault("#UD: row bytes", *each, own.shapes.row_bytes[*each]);
    if (own.shapes.row_bytes[to] != own.shapes.row_bytes[w]) fault("#UD: columns", to, w);
    if (own.shapes.rows[to] != own.shapes.rows[x]) fault("#UD: rows", to, x);
    if (own.shapes.row_bytes[x] / 4 != own.shapes.rows[w]) fault("#UD: depth", x, w);
}

static inline float real_of(uint32_t bits) {
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

/* In MXCSR's modes, not the program's: round to nearest, denormals are zero and become zero. */
static __attribute__((noinline)) void add_bf16(tile *to, const tile *x, const tile *w, int rows, int columns, int depth) {
    for (int m = 0; m < rows; m++) {
        float even[16] = {0}, odd[16] = {0};
        for (int k = 0; k < depth; k++) {
            float first = real_of(x->word[m][k] << 16), second = real_of(x->word[m][k] & 0xffff0000u);
            for (int n = 0; n < 16; n++) {
                even[n] = __builtin_fmaf(first, real_of(w->word[k][n] << 16), even[n]);
                odd[n] = __builtin_fmaf(second, real_of(w->word[k][n] & 0xffff0000u), odd[n]);
            }
        }
        for (int n = 0; n < 16; n++) even[n] = even[n] + odd[n];
        for (int n = 0; n < columns; n++) to->real[m][n] = to->real[m][n] + even[n];
    }
}

static void tdpbf16ps(int to, int x, int w) {
    check_product(to, x, w);
    unsigned before = _mm_getcsr();
    _mm_setcsr(0x9fc0); /* every exception masked, flush to zero, denormals are zero, to nearest */
    add_bf16(&own.tile[to], &own.tile[x], &own.tile[w], own.shapes.rows[to], own.shapes.row_bytes[to] / 4,
             own.shapes.rows[w]);
    if (mistake == WRONG_BF16) own.tile[to].real[own.shapes.rows[to] - 1][0] *= 1.001f;
    if (mistake == NEIGHBOURS && own.shapes.rows[to] > 1) own.tile[to].word[1][3] += own.tile[to].word[0][3] & 1;
    _mm_setcsr(before);
}

static void tdpb(int to, int x, int w, int x_signed, int w_signed) {
    check_product(to, x, w);
    tile *t = &own.tile[to];
    for (int m = 0; m < own.shapes.rows[to]; m++)
        for (int k = 0; k < own.shapes.rows[w]; k++)
            for (int n = 0; n < own.shapes.row_bytes[to] / 4; n++)
                for (int i = 0; i < 4; i++) {
                    uint8_t a = own.tile[x].byte[m][4 * k + i], b = own.tile[w].byte[k][4 * n + i];
                    int product = (x_signed ? (int8_t)a : a) * (w_signed ? (int8_t)b : b);
                    t->word[m][n] += (uint32_t)product;
                }
    if (mistake == WRONG_BYTES) t->word[own.shapes.rows[to] - 1][15] += 1;
}

/* --- one instruction at an address --- */

enum { NONE, P66, PF3, PF2 };
static const int REGISTER[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                                 REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};

/* The bytes of an operand in memory after its ModRM byte: base address, and index times scale. Returns their end. */
static const uint8_t *memory_operand(const uint8_t *at, const greg_t *registers, int b, int x, int64_t *base,
                                     int64_t *index, int *has_index) {
    int modrm = *at++, mode = modrm >> 6, rm = modrm & 7;
    *index = 0, *has_index = 0;
    int no_base = 0;
    if (rm == 4) {
        int sib = *at++, scale = sib >> 6, which = (sib >> 3 & 7) | x << 3, from = (sib & 7) | b << 3;
        if (which != 4) *index = registers[REGISTER[which]] << scale, *has_index = 1;
        no_base = (sib & 7) == 5 && mode == 0;
        *base = no_base ? 0 : registers[REGISTER[from]];
    } else if (rm == 5 && mode == 0) {
        int32_t displacement;
        memcpy(&displacement, at, 4);
        at += 4;
        *base = (int64_t)(intptr_t)at + displacement; /* relative to the next instruction */
        return at;
    } else {
        *base = registers[REGISTER[rm | b << 3]];
    }
    if (mode == 1) {
        *base += (int8_t)*at++;
    } else if (mode == 2 || no_base) {
        int32_t displacement;
        memcpy(&displacement, at, 4);
        at += 4, *base += displacement;
    }
    return at;
}

/* How long the instruction at `at` is, carried out; 0 if it is none of AMX's. */
static int carry_out(const uint8_t *at, const greg_t *registers) {
    if (at[0] != 0xc4 || (at[1] & 0x1f) != 2 || at[2] & 0x84) return 0; /* VEX.128.0F38.W0 */
    int prefix = at[2] & 3, vvvv = ~at[2] >> 3 & 15, opcode = at[3], modrm = at[4];
    int r = !(at[1] & 0x80), x = !(at[1] & 0x40), b = !(at[1] & 0x20);
    int in_register = modrm >> 6 == 3, reg = (modrm >> 3 & 7) | r << 3, rm = (modrm & 7) | b << 3;
    int64_t base, index;
    int has_index;
    if (in_register) {
        if (opcode == 0x49 && prefix == NONE && modrm == 0xc0 && vvvv == 0) {
            release();
        } else if (opcode == 0x49 && prefix == PF2 && (modrm & 7) == 0 && vvvv == 0) {
            check_configured(reg);
            memset(&own.tile[reg], 0, sizeof own.tile[reg]);
        } else if (opcode == 0x5c && prefix == PF3) {
            tdpbf16ps(reg, rm, vvvv);
            products++;
        } else if (opcode == 0x5e) {
            tdpb(reg, rm, vvvv, prefix == PF2 || prefix == PF3, prefix == PF2 || prefix == P66);
            products++;
        } else {
            return 0;
        }
        return 5;
    }
    if (vvvv != 0 || (opcode != 0x49 && opcode != 0x4b)) return 0;
    const uint8_t *end = memory_operand(at + 4, registers, b, x, &base, &index, &has_index);
    if (opcode == 0x49) {
        if ((modrm >> 3 & 7) != 0 || (prefix != NONE && prefix != P66)) return 0;
        if (prefix == NONE)
            ldtilecfg((const shapes *)(intptr_t)(base + index));
        else
            memcpy((void *)(intptr_t)(base + index), &own.shapes, sizeof own.shapes);
    } else {
        if ((modrm & 7) != 4) fault("#UD: a tile's address without a SIB byte", modrm, 0);
        if (prefix == NONE) return 0;
        if (!has_index) index = 0;
        if (prefix == PF3)
            tilestore(reg, (uint8_t *)(intptr_t)base, index);
        else
            tileload(reg, (const uint8_t *)(intptr_t)base, index);
    }
    return (int)(end - at);
}

/* --- the process around it --- */

static struct sigaction others;

static void on_illegal(int signal, siginfo_t *info, void *context) {
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    int any = 0, length;
    while ((length = carry_out((const uint8_t *)(intptr_t)registers[REG_RIP], registers))) {
        registers[REG_RIP] += length; /* and those right behind it, since a signal takes longer than an instruction */
        executed++;
        any = 1;
    }
    if (any) return;
    if (others.sa_flags & SA_SIGINFO && others.sa_sigaction)
        others.sa_sigaction(signal, info, context);
    else if (!(others.sa_flags & SA_SIGINFO) && others.sa_handler != SIG_DFL && others.sa_handler != SIG_IGN)
        others.sa_handler(signal);
    else
        fault("an illegal instruction that is none of AMX's", ((uint8_t *)(intptr_t)registers[REG_RIP])[0], 0);
}

typedef int act(int, const struct sigaction *, struct sigaction *);
typedef int mask(int, const sigset_t *, sigset_t *);

/* Whoever wants to hear of illegal instructions hears of those that are none of AMX's. */
EXPORT int sigaction(int signal, const struct sigaction *wanted, struct sigaction *before) {
    if (signal != SIGILL) return ((act *)dlsym(RTLD_NEXT, "sigaction"))(signal, wanted, before);
    if (before) *before = others;
    if (wanted) others = *wanted;
    return 0;
}

/* A refused instruction in a thread that blocks the signal would end the process. */
static int masked(const char *name, int how, const sigset_t *wanted, sigset_t *before) {
    sigset_t less;
    if (wanted && how != SIG_UNBLOCK) {
        less = *wanted;
        sigdelset(&less, SIGILL);
        wanted = &less;
    }
    return ((mask *)dlsym(RTLD_NEXT, name))(how, wanted, before);
}
EXPORT int pthread_sigmask(int how, const sigset_t *wanted, sigset_t *before) {
    return masked("pthread_sigmask", how, wanted, before);
}
EXPORT int sigprocmask(int how, const sigset_t *wanted, sigset_t *before) {
    return masked("sigprocmask", how, wanted, before);
}

/* What CPUID would say (the decoder's processor.c). */
EXPORT int cloister_processor_has_tiles(void) { return 1; }

EXPORT long syscall(long number, ...) {
    va_list given;
    va_start(given, number);
    long a = va_arg(given, long), b = va_arg(given, long), c = va_arg(given, long);
    long d = va_arg(given, long), e = va_arg(given, long), f = va_arg(given, long);
    va_end(given);
    if (number == SYS_arch_prctl && a == 0x1023) { /* ARCH_REQ_XCOMP_PERM */
        if (b != 18 || mistake == NO_PERMISSION) {
            errno = b != 18 ? EINVAL : EOPNOTSUPP;
            return -1;
        }
        permitted = 1;
        return 0;
    }
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    long result;
    __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    if (result < 0 && result > -4096) {
        errno = (int)-result;
        return -1;
    }
    return result;
}

__attribute__((constructor)) static void start(void) {
    const char *wish = getenv("AMX_EMULATOR");
    if (wish && !strcmp(wish, "no-permission")) mistake = NO_PERMISSION;
    if (wish && !strcmp(wish, "wrong-bf16")) mistake = WRONG_BF16;
    if (wish && !strcmp(wish, "wrong-bytes")) mistake = WRONG_BYTES;
    if (wish && !strcmp(wish, "neighbours")) mistake = NEIGHBOURS;
    struct sigaction ours = {.sa_sigaction = on_illegal, .sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK};
    sigfillset(&ours.sa_mask);
    ((act *)dlsym(RTLD_NEXT, "sigaction"))(SIGILL, &ours, NULL);
}
