//! Sums and other folds of a run of elements in eight lanes: they vectorise, and their order is fixed.

/// Folds `run` with the associative `combine`, whose neutral element is `start`.
pub(crate) fn fold8(run: &[f32], start: f32, combine: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [start; 8];
    let chunks = run.chunks_exact(8);
    let tail = chunks.remainder().iter().fold(start, |a, v| combine(a, *v));
    for chunk in chunks {
        lanes.iter_mut().zip(chunk).for_each(|(lane, v)| *lane = combine(*lane, *v));
    }
    combine(lanes.into_iter().fold(start, &combine), tail)
}

/// `Σ aᵢ·bᵢ`.
pub(crate) fn dot8(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0f32; 8];
    let (ca, cb) = (a.chunks_exact(8), b.chunks_exact(8));
    let tail: f32 = ca.remainder().iter().zip(cb.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in ca.zip(cb) {
        for l in 0..8 {
            lanes[l] += x[l] * y[l];
        }
    }
    lanes.iter().sum::<f32>() + tail
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_element_counts_once() {
        for n in [0usize, 1, 7, 8, 9, 31] {
            let a: Vec<f32> = (1..=n).map(|i| i as f32).collect();
            assert_eq!(fold8(&a, 0.0, |x, y| x + y), (n * (n + 1) / 2) as f32);
            assert_eq!(
                fold8(&a, -1.0, |x, y| if y > x { y } else { x }),
                if n == 0 { -1.0 } else { n as f32 }
            );
            assert_eq!(dot8(&a, &a), (n * (n + 1) * (2 * n + 1) / 6) as f32);
        }
    }
}
