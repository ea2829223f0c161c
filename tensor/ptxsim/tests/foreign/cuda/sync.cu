// Threads that wait for one another without __syncthreads: cuda::barrier (mbarrier), a flag with fences,
// a tile of two warps (reserved shared memory), cp.async with a pipeline of two stages.
#include <cooperative_groups.h>
#include <cooperative_groups/reduce.h>
#include <cuda/barrier>
#include <cuda/pipeline>

namespace cg = cooperative_groups;
using Barrier = cuda::barrier<cuda::thread_scope_block>;

// Warp 0 produces 32 values a turn in two buffers, warp 1 writes them out reversed.
extern "C" __global__ void sync_barrier(const float* x, float* out, int turns) {
  __shared__ Barrier full[2], empty[2];
  __shared__ float buffer[2][32];
  int t = threadIdx.x, lane = t % 32;
  if (t < 2) {
    init(&full[t], 64);
    init(&empty[t], 64);
  }
  __syncthreads();
  if (t < 32) {
    for (int i = 0; i < turns; i++) {
      empty[i & 1].arrive_and_wait();
      buffer[i & 1][lane] = x[i * 32 + lane];
      (void)full[i & 1].arrive();
    }
  } else {
    (void)empty[0].arrive();
    (void)empty[1].arrive();
    for (int i = 0; i < turns; i++) {
      full[i & 1].arrive_and_wait();
      out[i * 32 + lane] = buffer[i & 1][31 - lane];
      (void)empty[i & 1].arrive();
    }
  }
}

// The second warp waits for a flag of the first.
extern "C" __global__ void sync_flag(const int* x, int* out) {
  __shared__ int data[32], flag;
  int lane = threadIdx.x % 32;
  if (threadIdx.x == 0) flag = 0;
  __syncthreads();
  if (threadIdx.x < 32) {
    data[lane] = x[lane];
    __syncwarp();
    __threadfence_block();
    if (lane == 0) atomicExch(&flag, 1);
  } else {
    while (*(volatile int*)&flag == 0) {}
    __threadfence_block();
    out[lane] = data[31 - lane];
  }
}

extern "C" __global__ void sync_tile(const int* x, int* out) {
  __shared__ cg::block_tile_memory<128> memory;
  auto block = cg::this_thread_block(memory);
  auto tile = cg::tiled_partition<64>(block);
  out[block.thread_rank()] = cg::reduce(tile, x[block.thread_rank()], cg::plus<int>());
}

extern "C" __global__ void sync_pipeline(const float* x, float* out, int turns) {
  __shared__ float buffer[2][128];
  __shared__ cuda::pipeline_shared_state<cuda::thread_scope_block, 2> state;
  auto block = cg::this_thread_block();
  auto pipe = cuda::make_pipeline(block, &state);
  for (int i = 0, next = 0; i < turns; i++) {
    for (; next < turns && next < i + 2; next++) {
      pipe.producer_acquire();
      cuda::memcpy_async(block, buffer[next % 2], x + next * 128, cuda::aligned_size_t<16>(512), pipe);
      pipe.producer_commit();
    }
    pipe.consumer_wait();
    block.sync();
    out[i * 128 + threadIdx.x] = buffer[i % 2][127 - threadIdx.x] * 2;
    block.sync();
    pipe.consumer_release();
  }
}
