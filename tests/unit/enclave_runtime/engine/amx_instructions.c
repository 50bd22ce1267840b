/* Every AMX instruction as the assembler writes it, with different registers and addresses, beside plain loops: what the
 * processor does (or amx_emulator.so for it) is what Intel's manual says. Prints how many results were compared.
 * With an argument, one mistake that the manual makes a fault.
 */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

typedef struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} shapes;

enum { ROWS = 11, OUTPUTS = 13, DEPTH = 7 }; /* of a product: tiles of different, odd shapes */
static uint8_t x[16 * 80], w[16 * 80];
static uint32_t start[16 * 20], found[16 * 20];
static shapes relative; /* addressed relative to the next instruction */
static int compared;

static void want(int right, const char *what) {
    compared++;
    if (right) return;
    fprintf(stderr, "%s\n", what);
    exit(1);
}

static void shape(void) {
    shapes s = {.palette = 1}, read;
    for (int tile = 0; tile < 8; tile++) s.rows[tile] = ROWS, s.row_bytes[tile] = OUTPUTS * 4;
    for (int tile = 1; tile < 8; tile += 3) s.row_bytes[tile] = DEPTH * 4; /* 1, 4, 7: rows of x */
    for (int tile = 2; tile < 8; tile += 3) s.rows[tile] = DEPTH;          /* 2, 5: weights */
    relative = s;
    __asm__ volatile("ldtilecfg %0" ::"m"(relative));
    __asm__ volatile("ldtilecfg 0x40(%0,%1,8)" ::"r"((char *)&s - 0x40 - 8 * 3), "r"(3L) : "memory");
    memset(&read, 0xff, sizeof read);
    __asm__ volatile("sttilecfg -0x1000(%0)" ::"r"((char *)&read + 0x1000) : "memory");
    want(memcmp(&read, &s, sizeof s) == 0, "the shapes that were set");
}

#define PRODUCT(name, x_type, w_type)                                                                               \
    {                                                                                                               \
        register const uint8_t *from __asm__("r13") = x;                                                            \
        register long apart __asm__("r12") = 20;                                                                    \
        shape();                                                                                                    \
        __asm__ volatile("tileloadd (%0,%1,4), %%tmm4" ::"r"(from), "r"(apart) : "memory");                         \
        __asm__ volatile("tileloaddt1 0x7f(%0,%1), %%tmm5" ::"a"(w - 0x7f), "D"(80L) : "memory");                   \
        __asm__ volatile("tileloadd -0x100(%0,%1,2), %%tmm3" ::"r"((char *)start + 0x100), "r"(40L) : "memory");    \
        __asm__ volatile(name " %tmm5, %tmm4, %tmm3");                                                              \
        memset(found, 0xee, sizeof found);                                                                          \
        __asm__ volatile("tilestored %%tmm3, (%0,%1,8)" ::"r"(found), "r"(10L) : "memory");                         \
        for (int m = 0; m < 16; m++)                                                                                \
            for (int n = 0; n < 20; n++) {                                                                          \
                uint32_t sum = start[m * 20 + n];                                                                   \
                for (int k = 0; k < DEPTH * 4; k++)                                                                 \
                    sum += (uint32_t)((x_type)x[m * 80 + k] * (w_type)w[k / 4 * 80 + n * 4 + k % 4]);               \
                want(found[m * 20 + n] == (m < ROWS && n < OUTPUTS ? sum : 0xeeeeeeeeu), name);                     \
            }                                                                                                       \
    }

/* A bfloat16 of a whole number from -15 to 15: products and sums are exact in every order. */
static float small(uint8_t byte) { return (float)(byte % 31) - 15; }

static void bf16(void) {
    float from[16 * 20];
    uint16_t a[16 * 40], b[16 * 40];
    for (int i = 0; i < 16 * 40; i++) {
        float first = small(x[i]), second = small(w[i]);
        a[i] = ((uint16_t *)&first)[1], b[i] = ((uint16_t *)&second)[1];
    }
    for (int i = 0; i < 16 * 20; i++) from[i] = small((uint8_t)start[i]);
    shape();
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm7" ::"r"(a), "r"(80L) : "memory");
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm2" ::"r"(b), "r"(80L) : "memory");
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm6" ::"r"(from), "r"(80L) : "memory");
    __asm__ volatile("tdpbf16ps %tmm2, %tmm7, %tmm6");
    __asm__ volatile("tilestored %%tmm6, (%0,%1,1)" ::"r"(found), "r"(80L) : "memory");
    for (int m = 0; m < ROWS; m++)
        for (int n = 0; n < OUTPUTS; n++) {
            float sum = from[m * 20 + n], is;
            for (int k = 0; k < DEPTH * 2; k++) sum += small(x[m * 40 + k]) * small(w[k / 2 * 40 + n * 2 + k % 2]);
            memcpy(&is, &found[m * 20 + n], 4);
            want(is == sum, "tdpbf16ps");
        }
}

static void err(const char *how) {
    shapes s = {.palette = 1};
    if (!strcmp(how, "without shapes")) __asm__ volatile("tilezero %tmm0");
    if (!strcmp(how, "too many rows")) s.rows[0] = 17, s.row_bytes[0] = 64;
    if (!strcmp(how, "rows without bytes")) s.rows[0] = 16;
    if (!strcmp(how, "reserved bytes")) s.reserved[3] = 1;
    if (!strcmp(how, "another palette")) s.palette = 2;
    __asm__ volatile("ldtilecfg (%0)" ::"r"(&s) : "memory");
    shape();
    if (!strcmp(how, "the same tile twice")) /* tdpbssd %tmm5, %tmm4, %tmm5, which no assembler writes */
        __asm__ volatile(".byte 0xc4, 0xe2, 0x53, 0x5e, 0xec");
    if (!strcmp(how, "depths that differ")) __asm__ volatile("tdpbssd %tmm0, %tmm4, %tmm3");
    if (!strcmp(how, "rows that differ")) __asm__ volatile("tdpbssd %tmm2, %tmm4, %tmm5");
    __asm__ volatile("tilerelease");
    if (!strcmp(how, "after the release")) __asm__ volatile("tdpbf16ps %tmm5, %tmm4, %tmm3");
}

int main(int count, char **arguments) {
    if (count > 1 && !strcmp(arguments[1], "without permission")) shape();
    if (syscall(SYS_arch_prctl, 0x1023, 18)) return 2;
    if (count > 1) {
        err(arguments[1]);
        return 0;
    }
    srand(1);
    for (size_t i = 0; i < sizeof x; i++) x[i] = (uint8_t)(rand() >> 8), w[i] = (uint8_t)(rand() >> 8);
    for (size_t i = 0; i < 16 * 20; i++) start[i] = (uint32_t)rand() * 2654435761u;
    PRODUCT("tdpbssd", int8_t, int8_t)
    PRODUCT("tdpbsud", int8_t, uint8_t)
    PRODUCT("tdpbusd", uint8_t, int8_t)
    PRODUCT("tdpbuud", uint8_t, uint8_t)
    bf16();
    /* A tile that was set to zero, and one that nothing was loaded into since the shapes were set. */
    shape();
    memset(found, 0xee, sizeof found);
    __asm__ volatile("tilestored %%tmm0, (%0,%1,1)" ::"r"(found), "r"(80L) : "memory");
    for (int n = 0; n < 20; n++) want(found[10 * 20 + n] == (n < OUTPUTS ? 0 : 0xeeeeeeeeu), "a fresh tile");
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm0\n\ttilezero %%tmm0\n\ttilestored %%tmm0, (%0,%1,1)"
                     ::"r"(found), "r"(80L) : "memory");
    for (int n = 0; n < OUTPUTS; n++) want(found[n] == 0, "tilezero");
    shapes none = {0}, read;
    memset(&read, 0xff, sizeof read);
    __asm__ volatile("tilerelease\n\tsttilecfg (%0)" ::"r"(&read) : "memory");
    want(memcmp(&read, &none, sizeof none) == 0, "tilerelease");
    printf("%d\n", compared);
    return 0;
}
