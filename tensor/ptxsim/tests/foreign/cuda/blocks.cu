// CUB's building blocks of a warp and a block.
#include <cub/block/block_discontinuity.cuh>
#include <cub/block/block_histogram.cuh>
#include <cub/block/block_load.cuh>
#include <cub/block/block_merge_sort.cuh>
#include <cub/block/block_radix_sort.cuh>
#include <cub/block/block_reduce.cuh>
#include <cub/block/block_scan.cuh>
#include <cub/block/block_store.cuh>
#include <cub/warp/warp_reduce.cuh>
#include <cub/warp/warp_scan.cuh>

extern "C" __global__ void blocks_reduce(const float *x, float *sums, float *tops) {
    using Reduce = cub::BlockReduce<float, 128>;
    using Raking = cub::BlockReduce<float, 128, cub::BLOCK_REDUCE_RAKING>;
    __shared__ union { Reduce::TempStorage a; Raking::TempStorage b; } shared;
    float v = x[blockIdx.x * 128 + threadIdx.x];
    float sum = Reduce(shared.a).Sum(v);
    __syncthreads();
    float top = Raking(shared.b).Reduce(v, [](float p, float q) { return p > q ? p : q; });
    if (threadIdx.x == 0) {
        sums[blockIdx.x] = sum;
        tops[blockIdx.x] = top;
    }
}

extern "C" __global__ void blocks_scan(const int *x, int *out, int *by_warp) {
    using Load = cub::BlockLoad<int, 64, 4, cub::BLOCK_LOAD_TRANSPOSE>;
    using Scan = cub::BlockScan<int, 64>;
    using Store = cub::BlockStore<int, 64, 4, cub::BLOCK_STORE_WARP_TRANSPOSE>;
    using Warp = cub::WarpReduce<int>;
    __shared__ union { Load::TempStorage load; Scan::TempStorage scan; Store::TempStorage store; Warp::TempStorage warp[2]; } shared;
    int v[4];
    Load(shared.load).Load(x, v, 250, 0);
    __syncthreads();
    int mine = v[0] + v[1] + v[2] + v[3];
    int sum = Warp(shared.warp[threadIdx.x / 32]).Sum(mine);
    if (threadIdx.x % 32 == 0) by_warp[threadIdx.x / 32] = sum;
    __syncthreads();
    Scan(shared.scan).InclusiveSum(v, v);
    __syncthreads();
    Store(shared.store).Store(out, v, 250);
}

extern "C" __global__ void blocks_sort(const int *x, int *keys_out, int *values_out) {
    using Sort = cub::BlockRadixSort<int, 64, 4, int>;
    __shared__ typename Sort::TempStorage shared;
    int keys[4], values[4];
    for (int i = 0; i < 4; i++) {
        keys[i] = x[threadIdx.x * 4 + i];
        values[i] = threadIdx.x * 4 + i;
    }
    Sort(shared).Sort(keys, values);
    for (int i = 0; i < 4; i++) {
        keys_out[threadIdx.x * 4 + i] = keys[i];
        values_out[threadIdx.x * 4 + i] = values[i];
    }
}
