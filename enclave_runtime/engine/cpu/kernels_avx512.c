/* The kernels for avx512. */
#if defined(__x86_64__)
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16,avx2,fma,f16c,prefer-vector-width=512")
#include "decoder.h"

#include <math.h>
#include <string.h>

#include "lanes_avx512.h"
#include "product.inc"
#include "rows.inc"
#include "attend.inc"

const kernels cloister_avx512 = {LANES_NAME, product, prepare, round_inputs, norm, turn, swiglu, to_half, attend};
#endif
