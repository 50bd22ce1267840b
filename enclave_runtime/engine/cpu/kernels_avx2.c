/* The kernels for avx2. */
#if defined(__x86_64__)
#pragma GCC target("avx2,fma,f16c")
#include "decoder.h"

#include <math.h>
#include <string.h>

#include "lanes_avx2.h"
#define SIGNED_DOT dot_signed
#include "product.inc"
#include "rows.inc"
#include "attend.inc"

const kernels cloister_avx2 = {LANES_NAME, 48, product, prepare, round_inputs, norm, turn, swiglu, to_half, attend};
#endif
