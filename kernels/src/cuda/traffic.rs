//! What the kernels of the pointwise ops and reductions move, counted by the simulator at aligned shapes.
//! `cargo test --release -p medley-kernels traffic -- --nocapture` prints the table of
//! `docs/gpu/kernels.md`.

use crate::check::random;
use crate::ops::*;
use medley_tensor::device::{CudaDevice, Device, SimOptions};
use medley_tensor::{DType, Op, Tensor};
use std::sync::Arc;

struct Counter {
    device: CudaDevice,
}

impl Counter {
    fn new() -> Self {
        let options = SimOptions { threads: 1, counts: true, ..SimOptions::default() };
        Counter { device: CudaDevice::sim(options).unwrap() }
    }

    fn tensor(&self, shape: &[usize]) -> Tensor {
        random(shape, 3, 1.0)
            .to_dtype(DType::BF16)
            .unwrap()
            .to_device(&Device::Cuda(self.device.clone()))
            .unwrap()
    }

    /// Runs an op forward and backward; each of its kernels may ask for no more sectors than hold what it
    /// needs, and meet no bank conflict.
    fn run<O: Op>(&self, op: O, inputs: &[Tensor]) -> Vec<(String, u64)> {
        let simulator = self.device.simulator().unwrap();
        simulator.reset_reports();
        let refs: Vec<&Tensor> = inputs.iter().collect();
        let needs = vec![true; refs.len()];
        let (y, saved) = op.forward(&refs, &needs).unwrap();
        let grads: Vec<Option<Tensor>> = y.into_iter().map(Some).collect();
        op.backward(saved, &grads, &needs).unwrap();
        self.device.synchronize().unwrap();
        let reports = simulator.reports();
        assert!(!reports.is_empty(), "{}", O::NAME);
        let mut moved = vec![];
        for (kernel, launches, counts) in reports {
            let bytes = counts.sectors() * 32;
            println!(
                "| {kernel} | {launches} | {} | {bytes} | {} | {} | {} |",
                counts.read_footprint + counts.written_footprint,
                counts.sectors_needed() * 32,
                counts.wavefronts() - counts.wavefronts_ideal(),
                counts.warp_instructions(),
            );
            // Eight cosines are read in two accesses that share each sector; the second finds it in L1.
            let twice = if kernel.starts_with("rope") { counts.load_sectors / 3 } else { 0 };
            let excess = counts.sectors() - counts.sectors_needed();
            assert!(excess <= twice, "{kernel}: {excess} sectors more than needed");
            assert_eq!(counts.wavefronts(), counts.wavefronts_ideal(), "{kernel}: bank conflicts");
            moved.push((kernel, bytes));
        }
        moved
    }
}

#[test]
fn aligned_shapes_move_what_they_need() {
    let on = Counter::new();
    let x = on.tensor(&[32, 256]);
    let wide = on.tensor(&[32, 512]);
    let n = 2 * 32 * 256;
    let halves = [wide.narrow(1, 0, 256).unwrap(), wide.narrow(1, 256, 256).unwrap()];
    let both = |kernels: Vec<(String, u64)>, forward: u64, backward: u64| {
        let of = |pass: &str| kernels.iter().find(|(k, _)| k.contains(pass)).unwrap().1;
        assert_eq!((of("_fwd_"), of("_bwd_")), (forward * n, backward * n), "{kernels:?}");
    };
    both(on.run(Swiglu {}, &[x.clone(), x.clone()]), 3, 5);
    both(on.run(Geglu { tanh: true }, &[x.clone(), x.clone()]), 3, 5);
    both(on.run(Unary { kind: UnaryKind::Silu }, &[x.clone()]), 2, 3);
    both(on.run(Binary { kind: BinaryKind::Mul }, &[x.clone(), x.clone()]), 3, 5);
    both(on.run(Softmax {}, &[x.clone()]), 2, 3);
    // Strided and broadcast: the layout is read too, by every warp.
    on.run(Swiglu {}, &halves);
    on.run(Binary { kind: BinaryKind::Add }, &[x.clone(), on.tensor(&[256])]);
    for kernels in [
        on.run(Affine { mul: 2.0, add: 1.0 }, &[x.clone()]),
        on.run(Dropout { p: 0.5, seed: 1, stream: 2 }, &[x.clone()]),
        on.run(Concat { dim: 1 }, &[x.clone(), x.clone()]),
    ] {
        // Forward and backward by one kernel, or two launches of it.
        assert!(kernels.iter().all(|(_, bytes)| *bytes == 4 * n), "{kernels:?}");
    }
    let positions: Arc<[u32]> = (0..32).collect();
    for interleaved in [false, true] {
        let frequencies: Vec<f32> = (0..32).map(|i| 0.9f32.powi(i)).collect();
        let table = RopeTable::new(&frequencies, 1.0, 64, interleaved).unwrap();
        on.run(Rope { table: Arc::new(table), positions: positions.clone() }, &[on.tensor(&[32, 4, 64])]);
    }
    on.run(Slice { dim: 1, start: 64, len: 128 }, &[x.clone()]);
    on.run(IndexSelect { indices: [3, 1, 3, 0].into() }, &[x.clone()]);
    for (kind, dims) in [(ReduceKind::Sum, vec![1]), (ReduceKind::Sum, vec![0]), (ReduceKind::Max, vec![1])] {
        on.run(Reduce { kind, dims, keepdim: false }, &[x.clone()]);
    }
    on.run(Reshape { shape: vec![32 * 256] }, &[x.transpose(0, 1).unwrap()]);
}
