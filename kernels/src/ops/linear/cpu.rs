//! The parts of a linear layer that are not a matrix product: its bias.

use rayon::prelude::*;

/// Columns summed by one task.
const COLUMNS: usize = 256;

/// Writes `bias` into every row of `y`.
pub(crate) fn fill_rows(y: &mut [f32], bias: &[f32]) {
    if !bias.is_empty() {
        y.chunks_exact_mut(bias.len()).for_each(|row| row.copy_from_slice(bias));
    }
}

/// Column sums of the rows of `n` elements in `dy`, each column from the first row to the last.
pub(crate) fn column_sums(dy: &[f32], n: usize) -> Vec<f32> {
    let mut sums = vec![0.0; n];
    sums.par_chunks_mut(COLUMNS).enumerate().for_each(|(chunk, sums)| {
        let start = chunk * COLUMNS;
        for row in dy.chunks_exact(n) {
            for (sum, value) in sums.iter_mut().zip(&row[start..]) {
                *sum += value;
            }
        }
    });
    sums
}
