//! Addresses of a warp-wide access, the state space each lane's falls into, and elements to words.

use super::regs::{Reg, Regs, Row32, Row64};
use crate::memory::{LOCAL_WINDOW, PARAM_WINDOW, SHARED_WINDOW, in_window};
use crate::program::{Address, Extend, Place};

/// Up to 16 bytes a lane, by 4-byte word.
pub(crate) type Words = [Row32; 4];

/// Addresses of all lanes.
#[inline(always)]
pub(crate) fn addresses(regs: &Regs, address: &Address) -> Row64 {
    let mut out = match address.base {
        Some(Reg::W64(row)) => *regs.row64(row),
        Some(reg) => regs.get(reg),
        None => [0; 32],
    };
    for a in &mut out {
        *a = a.wrapping_add(address.offset as u64);
    }
    if matches!(address.base, Some(Reg::W32(_))) {
        // The sum has the width of the register: a negative base with an offset is common.
        for a in &mut out {
            *a &= u64::from(u32::MAX);
        }
    }
    out
}

/// Lanes of a generic access by the space their address lies in, addresses made relative to it.
pub(crate) struct Spaces {
    pub global: u32,
    pub shared: u32,
    pub local: u32,
    pub param: u32,
}

/// Sorts the lanes of `mask` by space and makes addresses in windows relative.
#[inline(always)]
pub(crate) fn classify(place: Place, addresses: &mut Row64, mask: u32) -> Spaces {
    let mut spaces = Spaces { global: 0, shared: 0, local: 0, param: 0 };
    match place {
        Place::Global | Place::Const => spaces.global = mask,
        Place::Shared => spaces.shared = mask,
        Place::Local => spaces.local = mask,
        Place::Param | Place::CallParam => spaces.param = mask,
        Place::Generic => {
            if addresses.iter().all(|&a| a < SHARED_WINDOW) {
                spaces.global = mask;
                return spaces;
            }
            for (lane, a) in addresses.iter_mut().enumerate() {
                let bit = mask & 1 << lane;
                if in_window(*a, SHARED_WINDOW) {
                    spaces.shared |= bit;
                    *a -= SHARED_WINDOW;
                } else if in_window(*a, LOCAL_WINDOW) {
                    spaces.local |= bit;
                    *a -= LOCAL_WINDOW;
                } else if in_window(*a, PARAM_WINDOW) {
                    spaces.param |= bit;
                    *a -= PARAM_WINDOW;
                } else {
                    spaces.global |= bit;
                }
            }
        }
    }
    spaces
}

/// Whether lane i's address is lane 0's plus `i * bytes`.
#[inline(always)]
pub(crate) fn consecutive(addresses: &Row64, bytes: u32) -> bool {
    let mut differs = 0;
    for (i, &a) in addresses.iter().enumerate() {
        differs |= a ^ addresses[0].wrapping_add(i as u64 * u64::from(bytes));
    }
    differs == 0
}

/// Writes loaded words into the registers of a vector, `bytes` bytes an element.
#[inline(always)]
pub(crate) fn unpack(regs: &mut Regs, dst: &[Reg], bytes: u32, extend: Extend, words: &Words, mask: u32) {
    for (element, &reg) in dst.iter().enumerate() {
        let at = element * bytes as usize;
        match (bytes, reg, extend) {
            (4, Reg::W32(row), _) => regs.set32(row, mask, &words[at / 4]),
            (8, _, _) => {
                let (low, high) = (&words[at / 4], &words[at / 4 + 1]);
                let mut out = [0; 32];
                for i in 0..32 {
                    out[i] = u64::from(low[i]) | u64::from(high[i]) << 32;
                }
                regs.set(reg, mask, &out);
            }
            _ => {
                let shift = 8 * (at % 4) as u32;
                let keep = if bytes == 4 { u32::MAX } else { (1 << (8 * bytes)) - 1 };
                let spare = 64 - 8 * bytes;
                let mut out = [0u64; 32];
                for i in 0..32 {
                    let raw = u64::from(words[at / 4][i] >> shift & keep);
                    out[i] = match extend {
                        Extend::Zero => raw,
                        Extend::Sign => ((raw << spare) as i64 >> spare) as u64,
                    };
                }
                regs.set(reg, mask, &out);
            }
        }
    }
}

/// Gathers the registers of a vector into words to store.
#[inline(always)]
pub(crate) fn pack(regs: &Regs, src: &[Reg], bytes: u32) -> Words {
    let mut words = [[0; 32]; 4];
    for (element, &reg) in src.iter().enumerate() {
        let at = element * bytes as usize;
        match (bytes, reg) {
            (4, Reg::W32(row)) => words[at / 4] = *regs.row32(row),
            (8, _) => {
                let value = regs.get(reg);
                for i in 0..32 {
                    words[at / 4][i] = value[i] as u32;
                    words[at / 4 + 1][i] = (value[i] >> 32) as u32;
                }
            }
            _ => {
                let shift = 8 * (at % 4) as u32;
                let keep = if bytes == 4 { u32::MAX } else { (1 << (8 * bytes)) - 1 };
                let value = regs.get(reg);
                for i in 0..32 {
                    words[at / 4][i] |= (value[i] as u32 & keep) << shift;
                }
            }
        }
    }
    words
}
