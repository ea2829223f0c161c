// A view whose innermost dimension lies strided, made contiguous by tiled transposes through shared memory.
//
//     a   the dimension adjacent in x, `a_extent` long, at stride `a_stride` in y
//     b   the dimension adjacent in y, `b_extent` long, at stride `b_stride` in x
//     the other dimensions (extent, stride in x, stride in y; innermost first) number the batches
//
//     one        32 × 32 elements: read along a, written along b; rows of 33 elements, so that a column
//                lies in 32 banks
//     pairs      16-bit, 64 × 64: a thread reads words (a, a + 1) at b and b + 1 and turns them by two byte
//                permutations into words (b, b + 1) at a and a + 1. These go to rows a / 2 and 32 + a / 2 of
//                33 words: neighbours in a write to neighbouring banks, neighbours in b read so
//
// Both sides move 128 bytes a warp (`one` in 16 bits: 64). Floor: x read, y written. Launch: 256 threads, a
// block a tile. `pairs` wants x and y on 4 bytes and all extents and strides of a and b even.
#include "words.cuh"

struct Tile {
    u64 x, y;  // offsets of the batch
    u64 a, b;  // first indices of the tile
};

__device__ __forceinline__ Tile tile_of(const u64* batch, u32 rank, u32 a_tiles, u32 b_tiles, u32 side)
{
    u32 rest = blockIdx.x / b_tiles;
    Tile t = {0, 0, 0, static_cast<u64>(blockIdx.x - rest * b_tiles) * side};
    u32 next = rest / a_tiles;
    t.a = static_cast<u64>(rest - next * a_tiles) * side;
#pragma unroll 1
    for (u32 d = 0; d < rank; d++, batch += 3) {
        rest = next;
        const u32 extent = static_cast<u32>(batch[0]);
        next = rest / extent;
        const u64 i = rest - next * extent;
        t.x += i * batch[1];
        t.y += i * batch[2];
    }
    return t;
}

template <typename T>
__device__ __forceinline__ void one(
    T* y, const T* x, const u64* batch, u32 rank, u32 a_tiles, u32 b_tiles, u64 a_extent, u64 b_extent,
    u64 a_stride, u64 b_stride)
{
    __shared__ T tile[32][33];
    const Tile t = tile_of(batch, rank, a_tiles, b_tiles, 32);
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll 1
    for (u32 i = warp; i < 32; i += 8)
        if (t.a + lane < a_extent && t.b + i < b_extent)
            tile[i][lane] = x[t.x + t.a + lane + (t.b + i) * b_stride];
    __syncthreads();
#pragma unroll 1
    for (u32 i = warp; i < 32; i += 8)
        if (t.b + lane < b_extent && t.a + i < a_extent)
            y[t.y + t.b + lane + (t.a + i) * a_stride] = tile[lane][i];
}

#define PERMUTE(NAME, T)                                                                                      \
    extern "C" __global__ void __launch_bounds__(256) permute_fwd_##NAME(                                     \
        T* y, const T* x, const u64* batch, u32 rank, u32 a_tiles, u32 b_tiles, u64 a_extent, u64 b_extent,   \
        u64 a_stride, u64 b_stride)                                                                           \
    {                                                                                                         \
        one<T>(y, x, batch, rank, a_tiles, b_tiles, a_extent, b_extent, a_stride, b_stride);                  \
    }
PERMUTE(b32, u32)
PERMUTE(b16, u16)

extern "C" __global__ void __launch_bounds__(256) permute_fwd_pairs_b16(
    u16* y, const u16* x, const u64* batch, u32 rank, u32 a_tiles, u32 b_tiles, u64 a_extent, u64 b_extent,
    u64 a_stride, u64 b_stride)
{
    __shared__ u32 tile[64][33];
    const Tile t = tile_of(batch, rank, a_tiles, b_tiles, 64);
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll 1
    for (u32 i = warp; i < 32; i += 8) {
        const u64 a = t.a + 2 * lane, b = t.b + 2 * i;
        if (a < a_extent && b < b_extent) {
            const u16* from = x + t.x + a + b * b_stride;
            const u32 low = *reinterpret_cast<const u32*>(from);
            const u32 high = *reinterpret_cast<const u32*>(from + b_stride);
            tile[lane][i] = __byte_perm(low, high, 0x5410);
            tile[32 + lane][i] = __byte_perm(low, high, 0x7632);
        }
    }
    __syncthreads();
#pragma unroll 1
    for (u32 i = warp; i < 64; i += 8) {
        const u64 a = t.a + i, b = t.b + 2 * lane;
        if (a < a_extent && b < b_extent)
            *reinterpret_cast<u32*>(y + t.y + b + a * a_stride) = tile[i % 2 * 32 + i / 2][lane];
    }
}
