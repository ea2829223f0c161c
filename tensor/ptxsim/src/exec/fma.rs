//! `fma.rn.f32` over a warp, without a hardware fma.
//!
//! The product of two f32 is exact in f64 and the sum is rounded there once; rounding that to f32 is
//! the correctly rounded fma unless the f64 lies exactly half-way between two f32, or the result is
//! subnormal, where the half-way points lie elsewhere. Those lanes are computed by the exact routine.

use super::regs::Row32;
use crate::semantics::float::canonical_f32;

/// Lanes of `a * b + c`, rounded once.
#[inline(always)]
pub(crate) fn fma_rows(a: &Row32, b: &Row32, c: &Row32) -> Row32 {
    let mut out = [0; 32];
    let mut doubtful = 0u64;
    for i in 0..32 {
        let (x, y, z) = (f32::from_bits(a[i]), f32::from_bits(b[i]), f32::from_bits(c[i]));
        let sum = f64::from(x) * f64::from(y) + f64::from(z);
        let bits = sum.to_bits();
        // The 29 bits that f32 does not have: 1000… is half-way.
        let half = u64::from(bits & 0x1fff_ffff == 0x1000_0000);
        // Below 2^-125 (0x382 = 1023 - 125), zero apart.
        let tiny = u64::from(bits & 0x7ff0_0000_0000_0000 < 0x3820_0000_0000_0000);
        let nonzero = u64::from(bits << 1 != 0);
        doubtful |= half | tiny & nonzero;
        out[i] = canonical_f32(sum as f32).to_bits();
    }
    if doubtful != 0 {
        return exact(a, b, c);
    }
    out
}

#[cold]
#[inline(never)]
fn exact(a: &Row32, b: &Row32, c: &Row32) -> Row32 {
    std::array::from_fn(|i| {
        let (x, y, z) = (f32::from_bits(a[i]), f32::from_bits(b[i]), f32::from_bits(c[i]));
        canonical_f32(x.mul_add(y, z)).to_bits()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_the_fused_operation_on_every_kind_of_operand() {
        let mut state = 12345u64;
        let mut next = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 32) as u32
        };
        for round in 0..4000 {
            let mut rows = [[0u32; 32]; 3];
            for row in &mut rows {
                for value in row.iter_mut() {
                    *value = match round % 4 {
                        0 => next(),
                        // Few mantissa bits: many ties.
                        1 => next() & 0xff80_0000 | (next() & 7) << 20,
                        2 => (next() & 0x8000_ffff) | 0x3f80_0000,
                        _ => next() & 0x83ff_ffff | 0x1f00_0000,
                    };
                }
            }
            let got = fma_rows(&rows[0], &rows[1], &rows[2]);
            assert_eq!(got, exact(&rows[0], &rows[1], &rows[2]), "round {round}");
        }
    }
}
