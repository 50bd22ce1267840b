/* The kernels for avx512. */
#if defined(__x86_64__)
#if defined(__clang__)
#include <immintrin.h>
#pragma clang attribute push(                                                                             \
    __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16,avx2,fma,f16c"))), \
    apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16,avx2,fma,f16c,prefer-vector-width=512")
#endif
#include "decoder.h"

#include <math.h>
#include <string.h>

#include "lanes_avx512.h"
#include "product.inc"
#include "rows.inc"
#include "attend.inc"

const kernels cloister_avx512 = {LANES_NAME, 48, product, prepare, round_inputs, norm, turn, swiglu, to_half, attend};
#ifdef CLOISTER_AMX
const kernels cloister_amx = {"amx (bf16, int8), avx512", 64, cloister_amx_product, prepare, round_inputs,
                              norm, turn, swiglu, to_half, attend};
#endif
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
