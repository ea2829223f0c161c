// Cooperative groups: tiles, coalesced groups, labelled partitions, reductions and scans.
#include <cooperative_groups.h>
#include <cooperative_groups/reduce.h>
#include <cooperative_groups/scan.h>
namespace cg = cooperative_groups;

// Sum over tiles of 8, over warps, over the block.
extern "C" __global__ void groups_reduce(const float *x, float *by_tile, float *by_warp, float *by_block) {
    __shared__ float partial[8];
    cg::thread_block block = cg::this_thread_block();
    cg::thread_block_tile<32> warp = cg::tiled_partition<32>(block);
    cg::thread_block_tile<8> tile = cg::tiled_partition<8>(warp);
    float v = x[block.group_index().x * block.size() + block.thread_rank()];
    float t = cg::reduce(tile, v, cg::plus<float>());
    if (tile.thread_rank() == 0) by_tile[(block.group_index().x * block.size() + block.thread_rank()) / 8] = t;
    float w = cg::reduce(warp, v, cg::greater<float>());
    if (warp.thread_rank() == 0) by_warp[block.group_index().x * warp.meta_group_size() + warp.meta_group_rank()] = w;
    for (int i = warp.size() / 2; i > 0; i /= 2) v += warp.shfl_down(v, i);
    if (warp.thread_rank() == 0) partial[warp.meta_group_rank()] = v;
    block.sync();
    if (block.thread_rank() == 0) {
        float sum = 0;
        for (unsigned i = 0; i < warp.meta_group_size(); i++) sum += partial[i];
        by_block[block.group_index().x] = sum;
    }
}

// Stream compaction with one atomic a coalesced group; the order is made stable by sorting outside.
extern "C" __global__ void groups_compact(const int *x, int *out, unsigned *count, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n && x[i] > 20) {
        cg::coalesced_group active = cg::coalesced_threads();
        unsigned base = 0;
        if (active.thread_rank() == 0) base = atomicAdd(count, active.size());
        base = active.shfl(base, 0);
        out[base + active.thread_rank()] = x[i];
    }
}

// Integer reductions (redux.sync), scans, votes and labelled partitions (match.any).
extern "C" __global__ void groups_integers(const int *x, int *sums, int *scans, int *labels) {
    cg::thread_block block = cg::this_thread_block();
    auto warp = cg::tiled_partition<32>(block);
    unsigned i = block.thread_rank();
    int v = x[i];
    int total = cg::reduce(warp, v, cg::plus<int>());
    int low = cg::reduce(warp, v, cg::less<int>());
    unsigned bits = cg::reduce(warp, (unsigned)v, cg::bit_xor<unsigned>());
    sums[i] = total + 1000 * low + (bits & 1);
    scans[i] = cg::exclusive_scan(warp, v) + 2 * warp.any(v > 90) + warp.all(v > -101) + __popc(warp.ballot(v > 0));
    auto same = cg::labeled_partition(warp, (unsigned)v & 3u);
    auto half = cg::binary_partition(warp, v > 0);
    labels[i] = same.size() * 100 + half.thread_rank() + cg::reduce(half, 1, cg::plus<int>()) * 10000;
}
