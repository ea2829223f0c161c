//! Bit-equality over thread counts.

use super::*;

impl<O: Op> Check<O> {
    /// Runs forward and backward on one, two and three threads and demands the same bits.
    pub(crate) fn same_on_any_thread_count(self) {
        let run = |threads: usize| -> Vec<Vec<u32>> {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let refs: Vec<&Tensor> = self.inputs.iter().collect();
                let (mut all, saved) = self.op.forward(&refs, &self.needs).unwrap();
                let grads: Vec<Option<Tensor>> = all
                    .iter()
                    .enumerate()
                    .map(|(j, o)| Some(random(o.shape(), 1000 + j as u64, 1.0)))
                    .collect();
                all.extend(self.op.backward(saved, &grads, &self.needs).unwrap().into_iter().flatten());
                let bits = |t: &Tensor| t.to_vec_f32().unwrap().into_iter().map(f32::to_bits).collect();
                all.iter().map(bits).collect()
            })
        };
        let one = run(1);
        for threads in [2, 3] {
            assert!(one == run(threads), "{}: {threads} threads give other bits than one", O::NAME);
        }
    }
}
