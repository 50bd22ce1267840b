/* A CUDA driver and a cuBLASLt without a GPU: every function has the prototype of the real one (cuda.h is included, so the
 * compiler holds it to that), device memory is the host's, kernels and products are noted and not run. What a capture
 * forbids is refused. The notes are text: a line a call. */

#include <cuda.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char notes[1 << 22];
static size_t noted;
static int capturing;

const char *stub_notes(void) { return notes; }
void stub_forget(void) { noted = 0; notes[0] = 0; }

static CUresult note(const char *format, ...)
{
    va_list values;
    va_start(values, format);
    noted += vsnprintf(notes + noted, sizeof notes - noted, format, values);
    va_end(values);
    if (noted > sizeof notes - 4096) abort();
    return CUDA_SUCCESS;
}

struct kernel { char name[64]; };

CUresult cuInit(unsigned flags) { return note("init %u\n", flags); }
CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device)
{
    *context = (CUcontext)0x7000000000c0;
    return note("retain %d\n", device);
}
CUresult cuCtxSetCurrent(CUcontext context)
{
    return context == (CUcontext)0x7000000000c0 ? note("current\n") : CUDA_ERROR_INVALID_CONTEXT;
}
CUresult cuModuleLoadData(CUmodule *module, const void *image)
{
    if (memcmp(image, "\x7f" "ELF", 4)) return CUDA_ERROR_INVALID_IMAGE;
    *module = (CUmodule)0x7000000000d0;
    return note("load\n");
}
CUresult cuModuleGetFunction(CUfunction *function, CUmodule module, const char *name)
{
    if (module != (CUmodule)0x7000000000d0) return CUDA_ERROR_INVALID_HANDLE;
    struct kernel *made = calloc(1, sizeof *made);
    strncpy(made->name, name, sizeof made->name - 1);
    *function = (CUfunction)made;
    return CUDA_SUCCESS;
}
CUresult cuFuncSetAttribute(CUfunction function, CUfunction_attribute attribute, int value)
{
    return note("attribute %s %d %d\n", ((struct kernel *)function)->name, (int)attribute, value);
}
CUresult cuLaunchKernel(CUfunction function, unsigned x, unsigned y, unsigned z, unsigned bx, unsigned by,
                        unsigned bz, unsigned shared, CUstream stream, void **arguments, void **extra)
{
    if (stream != (CUstream)0x7000000000e0 || extra || by != 1 || bz != 1) return CUDA_ERROR_INVALID_VALUE;
    return note("%slaunch %s %u %u %u threads %u shared %u first %llx\n", capturing ? "captured " : "",
                ((struct kernel *)function)->name, x, y, z, bx, shared, *(unsigned long long *)arguments[0]);
}
CUresult cuMemAlloc(CUdeviceptr *address, size_t size)
{
    if (capturing) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    *address = (CUdeviceptr)(uintptr_t)aligned_alloc(256, (size + 255) / 256 * 256);
    memset((void *)(uintptr_t)*address, 0x5a, size);
    return note("alloc %zu\n", size);
}
CUresult cuMemHostAlloc(void **address, size_t size, unsigned flags)
{
    *address = malloc(size);
    memset(*address, 0x5a, size);
    return capturing ? CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED : note("pinned %zu %u\n", size, flags);
}
CUresult cuMemcpyHtoDAsync(CUdeviceptr target, const void *source, size_t size, CUstream stream)
{
    if (capturing || stream != (CUstream)0x7000000000e0) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    memcpy((void *)(uintptr_t)target, source, size);
    return note("up %zu\n", size);
}
CUresult cuMemcpyDtoHAsync(void *target, CUdeviceptr source, size_t size, CUstream stream)
{
    if (capturing || stream != (CUstream)0x7000000000e0) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    memcpy(target, (const void *)(uintptr_t)source, size);
    return note("down %zu\n", size);
}
CUresult cuMemcpyDtoDAsync(CUdeviceptr target, CUdeviceptr source, size_t size, CUstream stream)
{
    memcpy((void *)(uintptr_t)target, (const void *)(uintptr_t)source, size);
    return stream == (CUstream)0x7000000000e0 ? note("copy %zu\n", size) : CUDA_ERROR_INVALID_VALUE;
}
CUresult cuMemsetD8Async(CUdeviceptr target, unsigned char value, size_t size, CUstream stream)
{
    if (stream != (CUstream)0x7000000000e0) return CUDA_ERROR_INVALID_VALUE;
    if (!capturing) memset((void *)(uintptr_t)target, value, size);
    return note("%szero %zu\n", capturing ? "captured " : "", size);
}
CUresult cuStreamCreate(CUstream *stream, unsigned flags)
{
    *stream = (CUstream)0x7000000000e0;
    return note("stream %u\n", flags);
}
CUresult cuStreamSynchronize(CUstream stream)
{
    if (capturing) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    return stream == (CUstream)0x7000000000e0 ? note("wait\n") : CUDA_ERROR_INVALID_VALUE;
}
CUresult cuStreamBeginCapture(CUstream stream, CUstreamCaptureMode mode)
{
    capturing = stream == (CUstream)0x7000000000e0;
    return note("begin %d\n", (int)mode);
}
CUresult cuStreamEndCapture(CUstream stream, CUgraph *graph)
{
    capturing = 0;
    *graph = (CUgraph)0x7000000000f0;
    return stream == (CUstream)0x7000000000e0 ? note("end\n") : CUDA_ERROR_INVALID_VALUE;
}
CUresult cuGraphInstantiateWithFlags(CUgraphExec *executable, CUgraph graph, unsigned long long flags)
{
    static uintptr_t made;
    if (graph != (CUgraph)0x7000000000f0) return CUDA_ERROR_INVALID_HANDLE;
    *executable = (CUgraphExec)(0x700000001000 + ++made);
    return note("instantiate %llu\n", flags);
}
CUresult cuGraphDestroy(CUgraph graph)
{
    return graph == (CUgraph)0x7000000000f0 ? note("destroy\n") : CUDA_ERROR_INVALID_HANDLE;
}
CUresult cuGraphLaunch(CUgraphExec executable, CUstream stream)
{
    if (stream != (CUstream)0x7000000000e0) return CUDA_ERROR_INVALID_VALUE;
    return note("graph %d\n", (int)((uintptr_t)executable - 0x700000001000));
}

/* cuBLASLt, by its documentation: statuses and enumerations are ints, handles are pointers. */

struct layout { int kind; uint64_t rows, columns; int64_t stride; };
struct result { uint64_t algorithm[8]; size_t workspace; int state; float waves; int reserved[4]; };

int cublasLtCreate(void **handle) { *handle = (void *)0x700000000100; return 0; }
int cublasLtMatmulDescCreate(void **operation, int compute, int scale)
{
    *operation = (void *)0x700000000200;
    return compute == 68 && scale == 0 ? 0 : 7;
}
int cublasLtMatmulDescSetAttribute(void *operation, int name, const void *value, size_t size)
{
    return operation == (void *)0x700000000200 && name == 3 && *(int32_t *)value == 1 && size == 4 ? 0 : 7;
}
int cublasLtMatrixLayoutCreate(void **made, int kind, uint64_t rows, uint64_t columns, int64_t stride)
{
    struct layout *layout = malloc(sizeof *layout);
    *layout = (struct layout){kind, rows, columns, stride};
    *made = layout;
    return 0;
}
int cublasLtMatmulPreferenceCreate(void **preference) { *preference = (void *)0x700000000300; return 0; }
int cublasLtMatmulPreferenceSetAttribute(void *preference, int name, const void *value, size_t size)
{
    return preference == (void *)0x700000000300 && name == 1 && *(size_t *)value == 32 << 20 && size == 8 ? 0 : 7;
}
int cublasLtMatmulAlgoGetHeuristic(void *handle, void *operation, struct layout *a, struct layout *b, struct layout *c,
                                   struct layout *d, void *preference, int wanted, struct result *found, int *count)
{
    if (handle != (void *)0x700000000100 || operation != (void *)0x700000000200 || wanted != 1 || c != d) return 7;
    if (preference != (void *)0x700000000300 || sizeof *found != 96) return 7;
    /* transposed A [k × m], B [k × n], C [m × n], each with its rows as leading dimension */
    if (a->rows != b->rows || a->columns != c->rows || b->columns != c->columns) return 7;
    if (a->stride != (int64_t)a->rows || b->stride != (int64_t)b->rows || c->stride != (int64_t)c->rows) return 7;
    memset(found, 0, sizeof *found);
    found->algorithm[7] = 77;
    found->workspace = 4096;
    *count = 1;
    note("heuristic %llu %llu %llu kinds %d %d %d\n", (unsigned long long)b->columns, (unsigned long long)a->rows,
         (unsigned long long)a->columns, a->kind, b->kind, c->kind);
    return 0;
}
int cublasLtMatmul(void *handle, void *operation, const float *alpha, const void *a, struct layout *la, const void *b,
                   struct layout *lb, const float *beta, const void *c, struct layout *lc, void *d, struct layout *ld,
                   const uint64_t *algorithm, void *workspace, size_t room, void *stream)
{
    if (handle != (void *)0x700000000100 || operation != (void *)0x700000000200 || *alpha != 1 || *beta != 0) return 7;
    if (c != d || lc != ld || algorithm[7] != 77 || room != 4096 || stream != (void *)0x7000000000e0) return 7;
    if (!a || !b || !d || !workspace) return 7;
    note("%sproduct %llu %llu %llu\n", capturing ? "captured " : "", (unsigned long long)lb->columns,
         (unsigned long long)la->rows, (unsigned long long)la->columns);
    return 0;
}
