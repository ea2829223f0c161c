// Copies of bytes whose dtype does not matter, in units of 16, 4 or 2 bytes (`unit` = 4, 2, 1: its log₂).
#pragma once
#include "words.cuh"

__device__ __forceinline__ void copy_unit(char* to, const char* from, u32 unit) {
    if (unit == 4) {
        *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(from);
    } else if (unit == 2) {
        *reinterpret_cast<u32*>(to) = *reinterpret_cast<const u32*>(from);
    } else {
        *reinterpret_cast<u16*>(to) = *reinterpret_cast<const u16*>(from);
    }
}

__device__ __forceinline__ void zero_unit(char* to, u32 unit) {
    if (unit == 4) {
        *reinterpret_cast<uint4*>(to) = make_uint4(0, 0, 0, 0);
    } else if (unit == 2) {
        *reinterpret_cast<u32*>(to) = 0;
    } else {
        *reinterpret_cast<u16*>(to) = 0;
    }
}
