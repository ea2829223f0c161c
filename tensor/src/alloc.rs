//! A cache of f32 vectors. A training step frees and takes the same sizes over and over; going
//! back to the operating system each time would cost a page fault every 4 KiB.

use std::sync::{Mutex, PoisonError};

/// Vectors below this many elements are left to the global allocator.
const SMALL: usize = 1 << 14;
/// The cache holds at most this many bytes; past it the largest entry is dropped first.
const LIMIT_BYTES: usize = 256 << 20;

static CACHE: Mutex<Vec<Vec<f32>>> = Mutex::new(Vec::new());

/// A vector of `len` elements whose contents are unspecified (old values, never uninitialised
/// memory). For kernels that write every element before anyone reads it.
pub fn take(len: usize) -> Vec<f32> {
    if len < SMALL {
        return vec![0.0; len];
    }
    let found = {
        let mut cache = CACHE.lock().unwrap_or_else(PoisonError::into_inner);
        let best = cache
            .iter()
            .enumerate()
            .filter(|(_, v)| v.capacity() >= len && v.capacity() <= len + len / 2)
            .min_by_key(|(_, v)| v.capacity())
            .map(|(i, _)| i);
        best.map(|i| cache.swap_remove(i))
    };
    match found {
        Some(mut v) => {
            v.resize(len, 0.0);
            v
        }
        None => {
            // Round up so that slightly different batch sizes share cache entries.
            let class = len.next_multiple_of((len.next_power_of_two() / 16).max(1));
            let mut v = vec![0.0; class];
            v.truncate(len);
            v
        }
    }
}

/// A vector of `len` zeros.
pub fn take_zeroed(len: usize) -> Vec<f32> {
    if len < SMALL {
        return vec![0.0; len];
    }
    let mut v = take(len);
    v.fill(0.0);
    v
}

/// Gives a vector to the cache.
pub fn recycle(data: Vec<f32>) {
    if data.capacity() < SMALL {
        return;
    }
    let mut cache = CACHE.lock().unwrap_or_else(PoisonError::into_inner);
    cache.push(data);
    while cache.iter().map(|v| v.capacity() * 4).sum::<usize>() > LIMIT_BYTES {
        let Some(largest) = (0..cache.len()).max_by_key(|&i| cache[i].capacity()) else { break };
        drop(cache.swap_remove(largest));
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn recycled_memory_is_reused_and_zeroed_on_request() {
        let mut v = super::take(SIZE);
        const SIZE: usize = 777_777;
        v.fill(3.0);
        super::recycle(v);
        let z = super::take_zeroed(SIZE - 100);
        assert_eq!(z.len(), SIZE - 100);
        assert!(z.iter().all(|&x| x == 0.0));
    }
}
