// Adafactor over all parameters at once: unscale, clip and update.
//
//   adafactor_rows_f32       R ← running mean of the rows of g² + ε          a warp a row
//   adafactor_columns_f32    sums of g² + ε down 256 rows ──► partial        a block 32 columns
//   adafactor_factors_f32    partial ──► C;  1/√(R / mean R), 1/√C           a block a matrix
//   adafactor_squares_f32    Σ u² of a chunk, u = g·row factor·column factor; of a vector v first
//   adafactor_f32            p ← p·decay − lr·u / max(1, rms(u) / d)         both a block a chunk
//
// All sums are in f64 in a fixed order, so a result does not change from run to run. Whether the step is skipped
// and by how much gradients are scaled is read from `Control`, which `updates/control` writes.
//
// Floor, bytes an element of a matrix: 20 (g four times, p read and written); the gradients of an adapter fit in L2.
// Launch: 256 threads.
#include "parameters.cuh"

#define BAND 256 // rows a block of adafactor_columns_f32 goes down

// Laid out by `updates/adafactor/cuda.rs`.
struct Matrix {
    float *p;
    const float *g;
    float *row; // running mean by rows; null: a vector, of which `col` has the running mean
    float *col;
    float *row_factor; // scratch
    float *col_factor;
    double *partial; // scratch [bands, cols]
    u64 n;
    u32 rows;
    u32 cols;
    u32 first_group; // of 8 rows; vectors have none
    u32 first_tile;  // bands × ⌈cols / 32⌉; vectors have none
    u32 first_chunk;
    float decay; // 1 − lr · lr_scale · weight_decay
    float lr;
    u32 unused;
};

// The last entry whose first item is not beyond `item`; one without items is passed over.
__device__ __forceinline__ const Matrix *find(const Matrix *table, u32 entries, u32 item, u32 Matrix::*first) {
    u32 low = 0, high = entries;
    while (high - low > 1) {
        const u32 middle = (low + high) / 2;
        if (table[middle].*first <= item) low = middle;
        else high = middle;
    }
    return table + low;
}

__device__ __forceinline__ double square(float g, float scale, float eps) {
    g = __fmul_rn(g, scale);
    return (double)__fadd_rn(__fmul_rn(g, g), eps);
}

__device__ __forceinline__ float average(float old, double now, float beta2, float rest2) {
    return __fadd_rn(__fmul_rn(old, beta2), __fmul_rn(rest2, (float)now));
}

__device__ __forceinline__ float inverse_root(float x) { return __fdiv_rn(1.0f, __fsqrt_rn(x)); }

extern "C" __global__ void __launch_bounds__(THREADS)
    adafactor_rows_f32(const Matrix *table, u32 entries, const Control *control, float beta2, float rest2, float eps) {
    if (control->found_inf) return;
    const Matrix *e = find(table, entries, blockIdx.x, &Matrix::first_group);
    const u32 lane = threadIdx.x % 32, cols = e->cols;
    const u32 row = (blockIdx.x - e->first_group) * (THREADS / 32) + threadIdx.x / 32;
    if (row >= e->rows) return;
    const float *g = e->g + (u64)row * cols;
    const float scale = control->grad_scale;
    double sum = 0.0;
#pragma unroll 1
    for (u32 c = lane; c < cols; c += 32) sum += square(g[c], scale, eps);
#pragma unroll 1
    for (u32 d = 16; d > 0; d >>= 1) sum += __shfl_xor_sync(~0u, sum, d);
    if (lane == 0) e->row[row] = average(e->row[row], sum / (double)cols, beta2, rest2);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    adafactor_columns_f32(const Matrix *table, u32 entries, const Control *control, float eps) {
    __shared__ double sums[THREADS / 32][32];
    if (control->found_inf) return;
    const Matrix *e = find(table, entries, blockIdx.x, &Matrix::first_tile);
    const u32 cols = e->cols, tiles = (cols + 31) / 32, tile = blockIdx.x - e->first_tile;
    const u32 band = tile / tiles, lane = threadIdx.x % 32, column = (tile % tiles) * 32 + lane;
    const u32 end = e->rows - band * BAND < BAND ? e->rows : (band + 1) * BAND;
    const float scale = control->grad_scale;
    double sum = 0.0;
    if (column < cols) {
#pragma unroll 1
        for (u32 row = band * BAND + threadIdx.x / 32; row < end; row += THREADS / 32)
            sum += square(e->g[(u64)row * cols + column], scale, eps);
    }
    sums[threadIdx.x / 32][lane] = sum;
    __syncthreads();
    if (threadIdx.x < 32 && column < cols) {
        sum = 0.0;
#pragma unroll 1
        for (u32 w = 0; w < THREADS / 32; ++w) sum += sums[w][lane];
        e->partial[(u64)band * cols + column] = sum;
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
    adafactor_factors_f32(const Matrix *table, const Control *control, float beta2, float rest2) {
    if (control->found_inf) return;
    const Matrix *e = table + blockIdx.x;
    const u32 rows = e->rows, cols = e->cols;
    if (!e->row) return;
    double sum = 0.0;
#pragma unroll 1
    for (u32 r = threadIdx.x; r < rows; r += THREADS) sum += (double)e->row[r];
    const float mean = (float)(block_sum(sum) / (double)rows);
#pragma unroll 1
    for (u32 r = threadIdx.x; r < rows; r += THREADS) e->row_factor[r] = inverse_root(__fdiv_rn(e->row[r], mean));
    const u32 bands = (rows + BAND - 1) / BAND;
#pragma unroll 1
    for (u32 c = threadIdx.x; c < cols; c += THREADS) {
        double down = 0.0;
#pragma unroll 1
        for (u32 b = 0; b < bands; ++b) down += e->partial[(u64)b * cols + c];
        const float now = average(e->col[c], down / (double)rows, beta2, rest2);
        e->col[c] = now;
        e->col_factor[c] = inverse_root(now);
    }
}

// Calls `element(index, u)` for the elements of this block's chunk, `u` being the update before clipping.
template <class F>
__device__ __forceinline__ void each_update(const Matrix *e, float scale, F element) {
    const u64 begin = (u64)(blockIdx.x - e->first_chunk) * CHUNK;
    const u32 count = e->n - begin < CHUNK ? (u32)(e->n - begin) : CHUNK;
    const u32 cols = e->cols, row = (u32)(begin / cols), column = (u32)(begin % cols);
#pragma unroll 1
    for (u32 i = threadIdx.x; i < count; i += THREADS) {
        const float g = __fmul_rn(e->g[begin + i], scale);
        float factor;
        if (e->row) {
            const u32 at = column + i;
            factor = __fmul_rn(e->row_factor[row + at / cols], e->col_factor[at % cols]);
        } else {
            factor = inverse_root(e->col[begin + i]);
        }
        element(begin + i, __fmul_rn(factor, g));
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
    adafactor_squares_f32(const Matrix *table, u32 entries, const Control *control, double *squares, float beta2,
                          float rest2, float eps) {
    if (control->found_inf) return;
    const Matrix *e = find(table, entries, blockIdx.x, &Matrix::first_chunk);
    const float scale = control->grad_scale;
    if (!e->row) {
        // A vector's running mean: each thread writes what it alone reads below.
        const u64 begin = (u64)(blockIdx.x - e->first_chunk) * CHUNK;
        const u32 count = e->n - begin < CHUNK ? (u32)(e->n - begin) : CHUNK;
#pragma unroll 1
        for (u32 i = threadIdx.x; i < count; i += THREADS)
            e->col[begin + i] = average(e->col[begin + i], square(e->g[begin + i], scale, eps), beta2, rest2);
    }
    double sum = 0.0;
    each_update(e, scale, [&](u64, float u) { sum = fma((double)u, (double)u, sum); });
    sum = block_sum(sum);
    if (threadIdx.x == 0) squares[blockIdx.x] = sum;
}

extern "C" __global__ void __launch_bounds__(THREADS)
    adafactor_f32(const Matrix *table, u32 entries, const Control *control, const double *squares, float threshold) {
    if (control->found_inf) return;
    const Matrix *e = find(table, entries, blockIdx.x, &Matrix::first_chunk);
    const u32 chunks = (u32)((e->n + CHUNK - 1) / CHUNK);
    double sum = 0.0;
#pragma unroll 1
    for (u32 i = threadIdx.x; i < chunks; i += THREADS) sum += squares[e->first_chunk + i];
    const float rms = (float)sqrt(block_sum(sum) / (double)e->n);
    const float divisor = fmaxf(__fdiv_rn(rms, threshold), 1.0f);
    const float decay = e->decay, lr = e->lr;
    float *p = e->p;
    each_update(e, control->grad_scale, [&](u64 i, float u) {
        p[i] = __fadd_rn(__fmul_rn(p[i], decay), -__fmul_rn(__fdiv_rn(u, divisor), lr));
    });
}
