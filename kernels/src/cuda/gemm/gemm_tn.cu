// dW = dyᵀ · x: A [K, M] and B [K, N], the outputs' dimensions contiguous. Idea, drawing, floor and launch: dense.cuh.
#include "dense.cuh"
DENSE_128(tn, false, false, bf16, Bf16)
DENSE_128(tn, false, false, f16, F16)
