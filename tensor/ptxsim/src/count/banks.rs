//! Shared memory: how many wavefronts an access of a warp takes.
//!
//! There are 32 banks of 4 bytes. In one wavefront each bank delivers one word, to any number of lanes.
//! Accesses of up to 4 bytes a lane are served for the whole warp at once, of 8 bytes for each half,
//! of 16 bytes for each quarter (CUDA C++ Programming Guide, "Shared Memory" of compute capability 5.x
//! and later, and NVIDIA's talk on the quarter-warp rule of 128-bit accesses). `ldmatrix` and `stmatrix`
//! read one 8×16-byte matrix at a time.

/// Wavefronts of one access of a warp.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wavefronts {
    /// What it takes.
    pub taken: u32,
    /// What it would take without bank conflicts.
    pub ideal: u32,
}

/// Counts one phase: `words` words from each of these byte addresses at once.
fn phase(addresses: &[u32], words: u32) -> u32 {
    // Distinct words a bank; 32 lanes at most, so a short list a bank is enough.
    let mut seen = [[0u32; 32]; 32];
    let mut depth = [0u8; 32];
    for &address in addresses {
        for word in address / 4..address / 4 + words {
            let bank = (word % 32) as usize;
            let known = depth[bank] as usize;
            if !seen[bank][..known].contains(&word) && known < 32 {
                seen[bank][known] = word;
                depth[bank] += 1;
            }
        }
    }
    u32::from(depth.iter().copied().max().unwrap_or(0))
}

/// Counts the wavefronts of an access of `bytes` a lane by the lanes of `active`.
pub fn count(addresses: &[u32; 32], active: u32, bytes: u32) -> Wavefronts {
    if active == u32::MAX && bytes >= 4 {
        // Consecutive lanes on consecutive elements never conflict.
        let first = addresses[0];
        if addresses.iter().zip(0u32..).all(|(&a, lane)| a == first.wrapping_add(lane * bytes)) {
            let phases = bytes / 4;
            return Wavefronts { taken: phases, ideal: phases };
        }
    }
    let lanes = match bytes {
        0..=4 => 32,
        8 => 16,
        _ => 8,
    };
    let mut total = Wavefronts::default();
    for first in (0..32).step_by(lanes) {
        let mut part = [0; 32];
        let mut n = 0;
        for lane in first..first + lanes {
            if active >> lane & 1 != 0 {
                part[n] = addresses[lane];
                n += 1;
            }
        }
        if n > 0 {
            total.taken += phase(&part[..n], (bytes / 4).max(1));
            total.ideal += 1;
        }
    }
    total
}

/// Counts the wavefronts of `ldmatrix`/`stmatrix` on `matrices` matrices, whose row r of matrix i is at
/// `rows[8 i + r]`.
pub fn count_rows(rows: &[u32; 32], matrices: u32) -> Wavefronts {
    let taken = rows.chunks_exact(8).take(matrices as usize).map(|rows| phase(rows, 4)).sum();
    Wavefronts { taken, ideal: matrices }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lanes(f: impl Fn(u32) -> u32) -> [u32; 32] {
        std::array::from_fn(|lane| f(lane as u32))
    }
    fn w(taken: u32, ideal: u32) -> Wavefronts {
        Wavefronts { taken, ideal }
    }

    #[test]
    fn words() {
        let all = u32::MAX;
        assert_eq!(count(&lanes(|i| 4 * i), all, 4), w(1, 1));
        assert_eq!(count(&lanes(|i| 8 * i), all, 4), w(2, 1));
        assert_eq!(count(&lanes(|i| 128 * i), all, 4), w(32, 1));
        assert_eq!(count(&lanes(|i| 132 * i), all, 4), w(1, 1));
        assert_eq!(count(&lanes(|_| 64), all, 4), w(1, 1));
        assert_eq!(count(&lanes(|i| 2 * i), all, 2), w(1, 1));
        assert_eq!(count(&lanes(|i| 128 * i), 0b111, 4), w(3, 1));
        assert_eq!(count(&lanes(|i| i), 0, 4), w(0, 0));
    }

    #[test]
    fn wide_accesses_go_by_halves_and_quarters() {
        let all = u32::MAX;
        assert_eq!(count(&lanes(|i| 8 * i), all, 8), w(2, 2));
        assert_eq!(count(&lanes(|i| 16 * i), all, 16), w(4, 4));
        // Rows of 128 bytes, one 16-byte piece each: 8-way conflict in every quarter.
        assert_eq!(count(&lanes(|i| 128 * i), all, 16), w(32, 4));
        // The usual swizzle: piece (row xor column) mod 8.
        assert_eq!(count(&lanes(|i| 128 * i + 16 * (i % 8)), all, 16), w(4, 4));
        assert_eq!(count(&lanes(|i| 128 * i), all, 8), w(32, 2));
    }

    #[test]
    fn matrices() {
        assert_eq!(count_rows(&lanes(|i| 16 * i), 4), w(4, 4));
        assert_eq!(count_rows(&lanes(|i| 64 * i), 4), w(16, 4));
        assert_eq!(count_rows(&lanes(|i| 64 * i), 2), w(8, 2));
        assert_eq!(count_rows(&lanes(|i| 80 * i), 4), w(4, 4));
    }
}
