/* The kernels for avx512. */
#if defined(__x86_64__)
#include "target_avx512.h"
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
