/* The kernels for avx2. */
#if defined(__x86_64__)
#if defined(__clang__)
#include <immintrin.h>
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC target("avx2,fma,f16c")
#endif
#include "decoder.h"

#include <math.h>
#include <string.h>

#include "lanes_avx2.h"
#define SIGNED_DOT dot_signed
#include "product.inc"
#include "rows.inc"
#include "attend.inc"

const kernels cloister_avx2 = {LANES_NAME, 48, product, prepare, round_inputs, norm, turn, swiglu, to_half, attend};
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
