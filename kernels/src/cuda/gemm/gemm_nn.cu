// dx = dy · W: A [M, K] with k contiguous, B [K, N] with n contiguous. Idea, drawing, floor and launch: dense.cuh.
#include "dense.cuh"
DENSE_128(nn, true, false, bf16, Bf16)
DENSE_128(nn, true, false, f16, F16)
DENSE_64(nn, true, false, bf16, Bf16)
DENSE_64(nn, true, false, f16, F16)
