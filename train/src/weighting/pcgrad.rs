//! PCGrad, projecting conflicting gradients (Yu et al. 2020, arXiv 2001.06782, algorithm 1).
//!
//! Each task's gradient g_i goes through the others in random order; where `g_i·g_j < 0`, the part of g_i along
//! g_j is taken off: `g_i ← g_i − (g_i·g_j)/‖g_j‖² · g_j`, g_j being the other's gradient as it was. The results
//! are summed. Every g_i stays a combination of the original gradients, so the Gram matrix `g_i·g_j` is all that
//! the algorithm needs to look at: K² dot products, then one weighted sum, whatever the number of parameters.

use medley_tensor::rng::Philox;

/// The factor of each task's own gradient in PCGrad's sum. `gram[i][j] = g_i·g_j` (\[K\]\[K\]); `orders[i]` names
/// the tasks that g_i is held against, in order (i itself is passed over). All 1 where no pair conflicts, and
/// where a product is not finite: the optimizer then sees the plain sum and says what is wrong with it.
pub fn factors(gram: &[Vec<f64>], orders: &[Vec<usize>]) -> Vec<f64> {
    let tasks = gram.len();
    let mut sum = vec![0.0; tasks];
    if gram.iter().flatten().any(|g| !g.is_finite()) {
        return vec![1.0; tasks];
    }
    for (i, order) in orders.iter().enumerate() {
        // g_i as Σ_k own[k]·g_k.
        let mut own = vec![0.0; tasks];
        own[i] = 1.0;
        for &j in order.iter().filter(|j| **j != i) {
            let product: f64 = own.iter().zip(gram).map(|(factor, row)| factor * row[j]).sum();
            if product < 0.0 && gram[j][j] > 0.0 {
                own[j] -= product / gram[j][j];
            }
        }
        for (sum, own) in sum.iter_mut().zip(own) {
            *sum += own;
        }
    }
    sum
}

/// An order of the other tasks for each task, from the stream `rng`.
pub fn random_orders(tasks: usize, mut rng: Philox) -> Vec<Vec<usize>> {
    (0..tasks)
        .map(|i| {
            let mut order: Vec<usize> = (0..tasks).filter(|j| *j != i).collect();
            rng.shuffle(&mut order);
            order
        })
        .collect()
}
