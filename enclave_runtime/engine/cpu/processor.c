/* What this processor says of itself where compilers' own questions do not reach. */
#include "decoder.h"

#if defined(__x86_64__)
#include <cpuid.h>

enum { XSAVE_IN_USE = 1 << 27, TILE_BITS = 1 << 22 | 1 << 24 | 1 << 25, TILE_STATES = 1 << 17 | 1 << 18 };

/* Whether the processor has tiles and multiplies bfloat16 and bytes in them (CPUID, leaf 7), and the system keeps their
 * contents for each thread (XCR0). A thread may use them only after its process asked the system for them. */
EXPORT int cloister_processor_has_tiles(void) {
    unsigned a, b, c, d, low, high;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & XSAVE_IN_USE)) return 0;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & TILE_BITS) != TILE_BITS) return 0;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (low & TILE_STATES) == TILE_STATES;
}
#else
EXPORT int cloister_processor_has_tiles(void) { return 0; }
#endif
