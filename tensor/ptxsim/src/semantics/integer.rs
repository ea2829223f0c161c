//! Integer and bit instructions.
//!
//! 32-bit operations take and return `u32` bit patterns (signed variants say `i32`); shifts clamp as
//! PTX demands instead of wrapping as the host does; division by zero gives what NVIDIA's own code
//! sequence gives (all ones), not a trap.

/// The modes of `prmt.b32`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PermuteMode {
    /// No mode: four selectors of 4 bits, each with a sign-replicate bit.
    Default,
    /// `.f4e`: four bytes forward from the selected one.
    Forward4Extract,
    /// `.b4e`: four bytes backward.
    Backward4Extract,
    /// `.rc8`: one byte replicated.
    Replicate8,
    /// `.ecl`: edge clamp left.
    EdgeClampLeft,
    /// `.ecr`: edge clamp right.
    EdgeClampRight,
    /// `.rc16`: one 16-bit half replicated.
    Replicate16,
}

/// `prmt.b32 d, a, b, c`: picks four bytes of the pair {b, a} (PTX ISA, table of `prmt`).
#[inline(always)]
pub fn prmt(mode: PermuteMode, a: u32, b: u32, c: u32) -> u32 {
    let pair = u64::from(b) << 32 | u64::from(a);
    let byte = |i: u32| (pair >> (8 * (i & 7))) as u32 & 0xff;
    if mode == PermuteMode::Default {
        let mut out = 0;
        for i in 0..4 {
            let selector = c >> (4 * i) & 0xf;
            let picked = byte(selector & 7);
            let picked = if selector & 8 != 0 { if picked & 0x80 != 0 { 0xff } else { 0 } } else { picked };
            out |= picked << (8 * i);
        }
        return out;
    }
    let s = c & 3;
    let index = |i: u32| match mode {
        PermuteMode::Default => 0,
        PermuteMode::Forward4Extract => s + i,
        PermuteMode::Backward4Extract => s.wrapping_sub(i),
        PermuteMode::Replicate8 => s,
        PermuteMode::EdgeClampLeft => i.max(s),
        PermuteMode::EdgeClampRight => i.min(s),
        PermuteMode::Replicate16 => (s & 1) * 2 + (i & 1),
    };
    (0..4).fold(0, |out, i| out | byte(index(i)) << (8 * i))
}

/// `lop3.b32`: the Boolean function of three inputs whose truth table is `table`.
#[inline(always)]
pub fn lop3(a: u32, b: u32, c: u32, table: u8) -> u32 {
    let t = |i: u32| if table >> i & 1 != 0 { u32::MAX } else { 0 };
    (t(0) & !a & !b & !c)
        | (t(1) & !a & !b & c)
        | (t(2) & !a & b & !c)
        | (t(3) & !a & b & c)
        | (t(4) & a & !b & !c)
        | (t(5) & a & !b & c)
        | (t(6) & a & b & !c)
        | (t(7) & a & b & c)
}

/// `bfe.u32`: `length` bits of `a` from `start` (both taken modulo 256), zero-extended.
#[inline(always)]
pub fn bfe_u32(a: u32, start: u32, length: u32) -> u32 {
    bfe_u64(u64::from(a), start, length) as u32
}

/// `bfe.u64`.
#[inline(always)]
pub fn bfe_u64(a: u64, start: u32, length: u32) -> u64 {
    let (start, length) = (start & 0xff, length & 0xff);
    let shifted = if start > 63 { 0 } else { a >> start };
    if length > 63 { shifted } else { shifted & ((1 << length) - 1) }
}

/// `bfe.s32`: the field sign-extended; beyond the top bit the sign of `a` is repeated.
#[inline(always)]
pub fn bfe_s32(a: i32, start: u32, length: u32) -> i32 {
    let (start, length) = (start & 0xff, length & 0xff);
    if length == 0 {
        return 0;
    }
    let shifted = i64::from(a) >> start.min(63);
    if length > 31 { shifted as i32 } else { (shifted << (64 - length) >> (64 - length)) as i32 }
}

/// `bfe.s64`.
#[inline(always)]
pub fn bfe_s64(a: i64, start: u32, length: u32) -> i64 {
    let (start, length) = (start & 0xff, length & 0xff);
    if length == 0 {
        return 0;
    }
    let shifted = a >> start.min(63);
    if length > 63 { shifted } else { shifted << (64 - length) >> (64 - length) }
}

/// `bfi.b32 f, a, b, c, d`: `b` with `length` bits from `start` replaced by the low bits of `a`.
#[inline(always)]
pub fn bfi_b32(a: u32, b: u32, start: u32, length: u32) -> u32 {
    bfi_b64(u64::from(a), u64::from(b), start, length) as u32
}

/// `bfi.b64`.
#[inline(always)]
pub fn bfi_b64(a: u64, b: u64, start: u32, length: u32) -> u64 {
    let (start, length) = (start & 0xff, length & 0xff);
    if start > 63 {
        return b;
    }
    let ones = if length > 63 { u64::MAX } else { (1 << length) - 1 };
    let mask = ones << start;
    b & !mask | a << start & mask
}

/// `bfind.u32`: position of the highest one, `0xffffffff` if there is none; with `.shiftamt` the
/// distance that brings it to the top.
#[inline(always)]
pub fn bfind_u32(a: u32, shift_amount: bool) -> u32 {
    if a == 0 {
        u32::MAX
    } else if shift_amount {
        a.leading_zeros()
    } else {
        31 - a.leading_zeros()
    }
}

/// `bfind.s32`: as [`bfind_u32`] on the magnitude bits (a negative value is inverted first).
#[inline(always)]
pub fn bfind_s32(a: i32, shift_amount: bool) -> u32 {
    bfind_u32((if a < 0 { !a } else { a }) as u32, shift_amount)
}

/// `bfind.u64`.
#[inline(always)]
pub fn bfind_u64(a: u64, shift_amount: bool) -> u32 {
    if a == 0 {
        u32::MAX
    } else if shift_amount {
        a.leading_zeros()
    } else {
        63 - a.leading_zeros()
    }
}

/// `bfind.s64`.
#[inline(always)]
pub fn bfind_s64(a: i64, shift_amount: bool) -> u32 {
    bfind_u64((if a < 0 { !a } else { a }) as u64, shift_amount)
}

/// `fns.b32`: position of the `offset`-th set bit from `base` (negative: downwards; 0: the bit
/// itself), `0xffffffff` if there is none.
pub fn fns(mask: u32, base: u32, offset: i32) -> u32 {
    let set = |i: i64| (0..32).contains(&i) && mask >> i & 1 != 0;
    let base = i64::from(base);
    if offset == 0 {
        return if set(base) { base as u32 } else { u32::MAX };
    }
    let step = i64::from(offset.signum());
    let mut left = offset.unsigned_abs();
    let mut i = base;
    while (0..32).contains(&i) {
        if set(i) {
            left -= 1;
            if left == 0 {
                return i as u32;
            }
        }
        i += step;
    }
    u32::MAX
}

/// `bmsk.clamp/.wrap.b32`: `length` ones from bit `start`.
pub fn bmsk(start: u32, length: u32, wrap: bool) -> u32 {
    let (start, length) = if wrap { (start & 31, length & 31) } else { (start.min(32), length.min(32)) };
    let ones = if length >= 32 { u64::from(u32::MAX) } else { (1u64 << length) - 1 };
    (ones << start) as u32
}

/// `szext.clamp/.wrap`: `a` cut to its low `bits` bits and extended by zero or by sign.
pub fn szext(a: u32, bits: u32, signed: bool, wrap: bool) -> u32 {
    let bits = if wrap { bits & 31 } else { bits.min(32) };
    match bits {
        0 => 0,
        32 => a,
        n if signed => ((a << (32 - n)) as i32 >> (32 - n)) as u32,
        n => a & ((1 << n) - 1),
    }
}

/// `shl.b32`: shifts of 32 and more give 0.
#[inline(always)]
pub fn shl_b32(a: u32, by: u32) -> u32 {
    if by > 31 { 0 } else { a << by }
}
/// `shl.b64`.
#[inline(always)]
pub fn shl_b64(a: u64, by: u32) -> u64 {
    if by > 63 { 0 } else { a << by }
}
/// `shl.b16`.
#[inline(always)]
pub fn shl_b16(a: u16, by: u32) -> u16 {
    if by > 15 { 0 } else { a << by }
}
/// `shr.u32`/`shr.b32`.
#[inline(always)]
pub fn shr_u32(a: u32, by: u32) -> u32 {
    if by > 31 { 0 } else { a >> by }
}
/// `shr.u64`/`shr.b64`.
#[inline(always)]
pub fn shr_u64(a: u64, by: u32) -> u64 {
    if by > 63 { 0 } else { a >> by }
}
/// `shr.u16`/`shr.b16`.
#[inline(always)]
pub fn shr_u16(a: u16, by: u32) -> u16 {
    if by > 15 { 0 } else { a >> by }
}
/// `shr.s32`: shifts of 32 and more give the sign.
#[inline(always)]
pub fn shr_s32(a: i32, by: u32) -> i32 {
    a >> by.min(31)
}
/// `shr.s64`.
#[inline(always)]
pub fn shr_s64(a: i64, by: u32) -> i64 {
    a >> by.min(63)
}
/// `shr.s16`.
#[inline(always)]
pub fn shr_s16(a: i16, by: u32) -> i16 {
    a >> by.min(15)
}

/// `shf.l.clamp/.wrap.b32 d, a, b, c`: the upper word of `{b, a} << c`.
#[inline(always)]
pub fn shf_left(a: u32, b: u32, by: u32, wrap: bool) -> u32 {
    let n = if wrap { by & 31 } else { by.min(32) };
    let pair = u64::from(b) << 32 | u64::from(a);
    (pair << n >> 32) as u32
}

/// `shf.r.clamp/.wrap.b32 d, a, b, c`: the lower word of `{b, a} >> c`.
#[inline(always)]
pub fn shf_right(a: u32, b: u32, by: u32, wrap: bool) -> u32 {
    let n = if wrap { by & 31 } else { by.min(32) };
    let pair = u64::from(b) << 32 | u64::from(a);
    (pair >> n) as u32
}

/// `mul.hi.u32`.
#[inline(always)]
pub fn mul_hi_u32(a: u32, b: u32) -> u32 {
    (u64::from(a) * u64::from(b) >> 32) as u32
}
/// `mul.hi.s32`.
#[inline(always)]
pub fn mul_hi_s32(a: i32, b: i32) -> i32 {
    (i64::from(a) * i64::from(b) >> 32) as i32
}
/// `mul.hi.u64`.
#[inline(always)]
pub fn mul_hi_u64(a: u64, b: u64) -> u64 {
    (u128::from(a) * u128::from(b) >> 64) as u64
}
/// `mul.hi.s64`.
#[inline(always)]
pub fn mul_hi_s64(a: i64, b: i64) -> i64 {
    (i128::from(a) * i128::from(b) >> 64) as i64
}
/// `mul.hi.u16`.
#[inline(always)]
pub fn mul_hi_u16(a: u16, b: u16) -> u16 {
    (u32::from(a) * u32::from(b) >> 16) as u16
}
/// `mul.hi.s16`.
#[inline(always)]
pub fn mul_hi_s16(a: i16, b: i16) -> i16 {
    (i32::from(a) * i32::from(b) >> 16) as i16
}

/// `mul24.lo/.hi.u32`: the 48-bit product of the low 24 bits; its low 32 bits, or bits 47..16.
pub fn mul24_u32(a: u32, b: u32, high: bool) -> u32 {
    let product = u64::from(a & 0x00ff_ffff) * u64::from(b & 0x00ff_ffff);
    (if high { product >> 16 } else { product }) as u32
}
/// `mul24.lo/.hi.s32`.
pub fn mul24_s32(a: i32, b: i32, high: bool) -> i32 {
    let product = i64::from(a << 8 >> 8) * i64::from(b << 8 >> 8);
    (if high { product >> 16 } else { product }) as i32
}

/// `mad.hi.sat.s32`.
pub fn mad_hi_sat_s32(a: i32, b: i32, c: i32) -> i32 {
    mul_hi_s32(a, b).saturating_add(c)
}

/// `sad.u32`: c + |a − b|.
#[inline(always)]
pub fn sad_u32(a: u32, b: u32, c: u32) -> u32 {
    c.wrapping_add(a.abs_diff(b))
}
/// `sad.s32`.
#[inline(always)]
pub fn sad_s32(a: i32, b: i32, c: i32) -> i32 {
    c.wrapping_add(a.abs_diff(b) as i32)
}
/// `sad.u64`.
pub fn sad_u64(a: u64, b: u64, c: u64) -> u64 {
    c.wrapping_add(a.abs_diff(b))
}
/// `sad.s64`.
pub fn sad_s64(a: i64, b: i64, c: i64) -> i64 {
    c.wrapping_add(a.abs_diff(b) as i64)
}

fn byte_of(x: u32, i: u32, signed: bool) -> i64 {
    let byte = (x >> (8 * i)) as u8;
    if signed { i64::from(byte as i8) } else { i64::from(byte) }
}

/// `dp4a.atype.btype d, a, b, c`: c plus the dot product of four bytes each.
#[inline(always)]
pub fn dp4a(a: u32, b: u32, c: u32, a_signed: bool, b_signed: bool) -> u32 {
    let dot: i64 = (0..4).map(|i| byte_of(a, i, a_signed) * byte_of(b, i, b_signed)).sum();
    c.wrapping_add(dot as u32)
}

/// `dp2a.lo/.hi`: two 16-bit values of `a` with the lower or upper two bytes of `b`.
#[inline(always)]
pub fn dp2a(a: u32, b: u32, c: u32, a_signed: bool, b_signed: bool, high: bool) -> u32 {
    let word = |i: u32| {
        let half = (a >> (16 * i)) as u16;
        if a_signed { i64::from(half as i16) } else { i64::from(half) }
    };
    let first = if high { 2 } else { 0 };
    let dot: i64 = (0..2).map(|i| word(i) * byte_of(b, first + i, b_signed)).sum();
    c.wrapping_add(dot as u32)
}

/// `add.cc`/`addc.cc.u32`: sum and carry out.
#[inline(always)]
pub fn add_carry_u32(a: u32, b: u32, carry: bool) -> (u32, bool) {
    let sum = u64::from(a) + u64::from(b) + u64::from(carry);
    (sum as u32, sum >> 32 != 0)
}
/// `add.cc`/`addc.cc.u64`.
#[inline(always)]
pub fn add_carry_u64(a: u64, b: u64, carry: bool) -> (u64, bool) {
    let sum = u128::from(a) + u128::from(b) + u128::from(carry);
    (sum as u64, sum >> 64 != 0)
}
/// `sub.cc`/`subc.cc.u32`: a + ¬b + carry and the carry out, which is set when nothing was borrowed.
///
/// The ISA speaks of a borrow; the hardware keeps its complement, and NVIDIA's own 128-bit division
/// reads it with `addc` after `subc.cc`. `sub` itself begins with a carry of 1.
#[inline(always)]
pub fn sub_carry_u32(a: u32, b: u32, carry: bool) -> (u32, bool) {
    add_carry_u32(a, !b, carry)
}
/// `sub.cc`/`subc.cc.u64`.
#[inline(always)]
pub fn sub_carry_u64(a: u64, b: u64, carry: bool) -> (u64, bool) {
    add_carry_u64(a, !b, carry)
}

/// `div.u32`; by zero: all ones.
#[inline(always)]
pub fn div_u32(a: u32, b: u32) -> u32 {
    a.checked_div(b).unwrap_or(u32::MAX)
}
/// `div.u64`; by zero: all ones.
#[inline(always)]
pub fn div_u64(a: u64, b: u64) -> u64 {
    a.checked_div(b).unwrap_or(u64::MAX)
}
/// `div.s32`; by zero: all ones; the one overflow wraps.
#[inline(always)]
pub fn div_s32(a: i32, b: i32) -> i32 {
    if b == 0 { -1 } else { a.wrapping_div(b) }
}
/// `div.s64`; by zero: all ones.
#[inline(always)]
pub fn div_s64(a: i64, b: i64) -> i64 {
    if b == 0 { -1 } else { a.wrapping_div(b) }
}
/// `rem.u32`; by zero: all ones.
#[inline(always)]
pub fn rem_u32(a: u32, b: u32) -> u32 {
    a.checked_rem(b).unwrap_or(u32::MAX)
}
/// `rem.u64`; by zero: all ones.
#[inline(always)]
pub fn rem_u64(a: u64, b: u64) -> u64 {
    a.checked_rem(b).unwrap_or(u64::MAX)
}
/// `rem.s32`: the sign of the dividend; by zero: all ones.
#[inline(always)]
pub fn rem_s32(a: i32, b: i32) -> i32 {
    if b == 0 { -1 } else { a.wrapping_rem(b) }
}
/// `rem.s64`; by zero: all ones.
#[inline(always)]
pub fn rem_s64(a: i64, b: i64) -> i64 {
    if b == 0 { -1 } else { a.wrapping_rem(b) }
}

/// `atom.inc.u32`: `old >= limit ? 0 : old + 1`.
#[inline(always)]
pub fn atomic_increment(old: u32, limit: u32) -> u32 {
    if old >= limit { 0 } else { old + 1 }
}
/// `atom.dec.u32`: `old == 0 || old > limit ? limit : old - 1`.
#[inline(always)]
pub fn atomic_decrement(old: u32, limit: u32) -> u32 {
    if old == 0 || old > limit { limit } else { old - 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permute_modes() {
        let (a, b) = (0x8322_1100, 0x7766_5544);
        let p = |mode, c| prmt(mode, a, b, c);
        assert_eq!(p(PermuteMode::Default, 0x7531), 0x7755_8311);
        assert_eq!(p(PermuteMode::Default, 0x5410), 0x5544_1100);
        assert_eq!(p(PermuteMode::Default, 0x000b), 0x0000_00ff | 0x0000_0000);
        assert_eq!(p(PermuteMode::Default, 0xba98), 0xff00_0000);
        assert_eq!(p(PermuteMode::Forward4Extract, 1), 0x4483_2211);
        assert_eq!(p(PermuteMode::Forward4Extract, 3), 0x6655_4483);
        assert_eq!(p(PermuteMode::Backward4Extract, 0), 0x5566_7700);
        assert_eq!(p(PermuteMode::Backward4Extract, 3), 0x0011_2283);
        assert_eq!(p(PermuteMode::Replicate8, 2), 0x2222_2222);
        assert_eq!(p(PermuteMode::EdgeClampLeft, 1), 0x8322_1111);
        assert_eq!(p(PermuteMode::EdgeClampRight, 1), 0x1111_1100);
        assert_eq!(p(PermuteMode::Replicate16, 1), 0x8322_8322);
    }

    #[test]
    fn lop3_is_its_truth_table() {
        let (a, b, c) = (0xf0f0_1234, 0xcccc_5678, 0xaaaa_9abc);
        // The table of a function is the function applied to 0xf0, 0xcc, 0xaa.
        assert_eq!(lop3(a, b, c, 0xf0 & 0xcc & 0xaa), a & b & c);
        assert_eq!(lop3(a, b, c, 0xf0 ^ 0xcc ^ 0xaa), a ^ b ^ c);
        assert_eq!(lop3(a, b, c, (0xf0 & 0xcc) | 0xaa), a & b | c);
        assert_eq!(lop3(a, b, c, (0xf0 & 0xcc) | (!0xf0 & 0xaa)), a & b | !a & c);
    }

    #[test]
    fn bit_fields() {
        assert_eq!(bfe_u32(0xdead_beef, 8, 16), 0xadbe);
        assert_eq!(bfe_u32(0xdead_beef, 28, 16), 0xd);
        assert_eq!(bfe_u32(0xdead_beef, 40, 4), 0);
        assert_eq!(bfe_u32(0xdead_beef, 0, 0), 0);
        assert_eq!(bfe_s32(0xdead_beef_u32 as i32, 28, 4), -3);
        assert_eq!(bfe_s32(0xdead_beef_u32 as i32, 30, 8), -1 - 1 + 1); // bits 31..30 = 11, sign repeated
        assert_eq!(bfe_s32(0x0000_0080, 4, 4), -8);
        assert_eq!(bfe_s32(-5, 200, 4), -1);
        assert_eq!(bfe_s64(-5, 0, 200), -5);
        assert_eq!(bfe_u64(u64::MAX, 60, 10), 15);
        assert_eq!(bfi_b32(0xff, 0, 28, 8), 0xf000_0000);
        assert_eq!(bfi_b32(0xab, 0xffff_ffff, 8, 8), 0xffff_abff);
        assert_eq!(bfi_b32(0xab, 7, 32, 8), 7);
        assert_eq!(bfi_b32(0xab, 7, 0, 0), 7);
        assert_eq!(bfind_u32(0, false), u32::MAX);
        assert_eq!(bfind_u32(0x10, false), 4);
        assert_eq!(bfind_u32(0x10, true), 27);
        assert_eq!(bfind_s32(-1, false), u32::MAX);
        assert_eq!(bfind_s32(-256, false), 7);
        assert_eq!(bfind_u64(1 << 40, false), 40);
        assert_eq!(fns(0b1011_0000, 4, 1), 4);
        assert_eq!(fns(0b1011_0000, 4, 3), 7);
        assert_eq!(fns(0b1011_0000, 6, -1), 5);
        assert_eq!(fns(0b1011_0000, 6, 0), u32::MAX);
        assert_eq!(bmsk(4, 8, false), 0xff0);
        assert_eq!(bmsk(32, 8, false), 0);
        assert_eq!(bmsk(33, 33, true), 2);
        assert_eq!(szext(0xff, 8, true, false), u32::MAX);
        assert_eq!(szext(0x1ff, 8, false, false), 0xff);
    }

    #[test]
    fn shifts_clamp_and_funnel() {
        assert_eq!(shl_b32(1, 32), 0);
        assert_eq!(shr_s32(-8, 100), -1);
        assert_eq!(shr_u64(1 << 63, 64), 0);
        assert_eq!(shl_b16(1, 16), 0);
        assert_eq!(shf_left(0x1234_5678, 0x9abc_def0, 8, false), 0xbcde_f012);
        assert_eq!(shf_left(0x1234_5678, 0x9abc_def0, 40, false), 0x1234_5678);
        assert_eq!(shf_left(0x1234_5678, 0x9abc_def0, 40, true), 0xbcde_f012);
        assert_eq!(shf_right(0x1234_5678, 0x9abc_def0, 8, false), 0xf012_3456);
        assert_eq!(shf_right(0x1234_5678, 0x9abc_def0, 32, false), 0x9abc_def0);
        assert_eq!(shf_right(0x1234_5678, 0x9abc_def0, 32, true), 0x1234_5678);
    }

    #[test]
    fn products_and_sums() {
        assert_eq!(mul_hi_u32(u32::MAX, u32::MAX), u32::MAX - 1);
        assert_eq!(mul_hi_s32(i32::MIN, 2), -1);
        assert_eq!(mul_hi_s64(-1, 1), -1);
        assert_eq!(mul_hi_u64(u64::MAX, 2), 1);
        assert_eq!(mul24_u32(0x01ff_ffff, 2, false), 0x01ff_fffe);
        assert_eq!(mul24_s32(0x00ff_ffff, 5, false), -5);
        assert_eq!(mad_hi_sat_s32(i32::MAX, i32::MAX, i32::MAX), i32::MAX);
        assert_eq!(sad_s32(-5, 7, 1), 13);
        assert_eq!(sad_u32(5, 7, 1), 3);
        assert_eq!(dp4a(0xff02_0304, 0x0101_0101, 10, true, true) as i32, 10 + 4 + 3 + 2 - 1);
        assert_eq!(dp4a(0xff02_0304, 0x0101_0101, 10, false, false), 10 + 4 + 3 + 2 + 255);
        assert_eq!(dp2a(0xffff_0002, 0x0403_0201, 0, true, false, false) as i32, 2 - 2);
        assert_eq!(dp2a(0xffff_0002, 0x0403_0201, 0, true, false, true) as i32, 6 - 4);
        assert_eq!(add_carry_u32(u32::MAX, 0, true), (0, true));
        assert_eq!(sub_carry_u32(0, 0, false), (u32::MAX, false));
        assert_eq!(sub_carry_u32(0, 0, true), (0, true));
        assert_eq!(sub_carry_u32(5, u32::MAX, false), (5, false));
        assert_eq!(add_carry_u64(u64::MAX, 1, false), (0, true));
        assert_eq!(sub_carry_u64(5, 3, false), (1, true));
    }

    #[test]
    fn division_never_traps() {
        assert_eq!((div_u32(7, 0), rem_u32(7, 0)), (u32::MAX, u32::MAX));
        assert_eq!((div_s32(i32::MIN, -1), rem_s32(i32::MIN, -1)), (i32::MIN, 0));
        assert_eq!((div_s32(-7, 2), rem_s32(-7, 2)), (-3, -1));
        assert_eq!((div_s64(1, 0), rem_u64(1, 0)), (-1, u64::MAX));
        assert_eq!((atomic_increment(3, 3), atomic_increment(2, 3)), (0, 3));
        assert_eq!((atomic_decrement(0, 9), atomic_decrement(10, 9), atomic_decrement(5, 9)), (9, 9, 4));
    }
}
