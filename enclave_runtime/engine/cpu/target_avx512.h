/* From here on functions are compiled for AVX-512; clang wants its `attribute pop` at the end of the file. */
#if defined(__clang__)
#include <immintrin.h>
#pragma clang attribute push(                                                                             \
    __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16,avx2,fma,f16c"))), \
    apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16,avx2,fma,f16c,prefer-vector-width=512")
#endif
