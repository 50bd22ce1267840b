/* The kernels for portable. */
#include "decoder.h"

#include <math.h>
#include <string.h>

#include "lanes_portable.h"
#include "product.inc"
#include "rows.inc"
#include "attend.inc"

const kernels cloister_portable = {LANES_NAME, 48, product, prepare, round_inputs, norm, turn, swiglu, to_half, attend};
