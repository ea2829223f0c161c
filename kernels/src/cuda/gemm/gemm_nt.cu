// y = x · Wᵀ: A [M, K] and B [N, K], k contiguous in both. Idea, drawing, floor and launch: dense.cuh.
#include "dense.cuh"
DENSE_128(nt, true, true, bf16, Bf16)
DENSE_128(nt, true, true, f16, F16)
DENSE_64(nt, true, true, bf16, Bf16)
DENSE_64(nt, true, true, f16, F16)
