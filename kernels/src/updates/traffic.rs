//! What the kernels' headers claim: every byte once, and only whole sectors. Counted by the simulator.

use super::accumulate::add_into;
use super::adamw::{Moments, Step};
use super::grad_norm::grad_norm;
use super::{Clip, Parameter, Progress, lion};
use crate::check::random;
use crate::ops::{Embedding, LinearCrossEntropy, Neftune};
use medley_tensor::device::{CudaDevice, Device, SimOptions};
use medley_tensor::{DType, Op, Tensor};

const N: usize = super::CHUNK;

fn counting() -> CudaDevice {
    CudaDevice::sim(SimOptions { counts: true, threads: 1, ..SimOptions::default() }).unwrap()
}

/// Demands that `kernel` moved at most `floor` bytes and `slack` of a hundred more since the last reset, in
/// sectors that are used whole to within `waste` of a hundred.
fn moved(device: &CudaDevice, kernel: &str, floor: usize, slack: f64, waste: f64) {
    let reports = device.simulator().unwrap().reports();
    let (_, _, counts) = reports.iter().find(|(name, ..)| name == kernel).unwrap();
    let bytes = counts.sectors() as f64 * 32.0;
    println!("{kernel}: {bytes} bytes for a floor of {floor}: {:.4}", bytes / floor as f64);
    assert!(
        bytes <= floor as f64 * (1.0 + slack / 100.0),
        "{kernel} moves {bytes} bytes, the floor is {floor}"
    );
    let needed = counts.sectors_needed() as f64;
    assert!(counts.sectors() as f64 <= needed * (1.0 + waste / 100.0), "{kernel}: sectors are used in part");
}

#[test]
fn updates_move_each_byte_once() {
    let device = counting();
    let on = Device::Cuda(device.clone());
    let tensor =
        |n: usize, dtype: DType| random(&[n], 3, 1.0).to_dtype(dtype).unwrap().to_device(&on).unwrap();
    for dtype in [DType::F32, DType::BF16, DType::F16] {
        add_into(&mut tensor(N, dtype), &tensor(N, dtype)).unwrap();
        moved(&device, &format!("accumulate_{dtype}"), 3 * dtype.bytes_for(N), 0.0, 0.0);
    }
    for (eight_bit, kernel, floor) in
        [(false, "adamw_f32", 28 * N), (true, "adamw_8bit_f32", 16 * N + 16 * N / 256)]
    {
        device.simulator().unwrap().reset_reports();
        let (mut value, grad) = (tensor(N, DType::F32), tensor(N, DType::F32));
        let mut moments = Moments::zeros(&on, &[N], eight_bit).unwrap();
        let mut parameters = [Parameter {
            value: &mut value,
            grad: &grad,
            state: &mut moments,
            weight_decay: 0.1,
            lr_scale: 1.0,
        }];
        let step = Step {
            lr: 1e-3,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            clip: Clip { max_norm: 1.0, loss_scale: 1.0 },
        };
        step.run(&mut parameters, &mut Progress::default()).unwrap();
        moved(&device, "grad_norm_f32", 4 * N, 2.0, 2.0);
        // Eight-bit: each of a block's eight warps fetches the sector with the two scales of its 256 elements.
        let (slack, waste) = if eight_bit { (20.0, 20.0) } else { (1.0, 1.0) };
        moved(&device, kernel, floor, slack, waste);
    }
    let (mut value, grad) = (tensor(N, DType::F32), tensor(N, DType::F32));
    let mut moment = lion::Moment::zeros(&on, &[N], false).unwrap();
    let mut parameters =
        [Parameter { value: &mut value, grad: &grad, state: &mut moment, weight_decay: 0.1, lr_scale: 1.0 }];
    let clip = Clip { max_norm: 1.0, loss_scale: 1.0 };
    let step = lion::Step { lr: 1e-3, beta1: 0.9, beta2: 0.99, clip };
    step.run(&mut parameters, &mut Progress::default()).unwrap();
    moved(&device, "lion_f32", 20 * N, 1.0, 1.0);
    let x = tensor(N, DType::BF16).reshape(&[N / 64, 64]).unwrap();
    let op = Neftune { alpha: 5.0, seed: 1, stream: 2, cu_seqlens: [0, (N / 64) as u32].into() };
    op.forward(&[&x], &[true]).unwrap();
    // Each warp fetches the sectors with the three numbers of its sequence beside its own 512 bytes.
    moved(&device, "neftune_fwd_bf16", 4 * N, 19.0, 25.0);
    assert!(grad_norm(&[&tensor(5, DType::F32)]).unwrap() > 0.0);
}

#[test]
fn rows_of_the_loss_and_of_the_embedding_are_whole_sectors() {
    let device = counting();
    let on = Device::Cuda(device.clone());
    let (tokens, h, vocab) = (16, 512, 4096);
    let x = random(&[tokens, h], 1, 0.1).to_dtype(DType::BF16).unwrap().to_device(&on).unwrap();
    let w = random(&[vocab, h], 2, 0.1).to_dtype(DType::BF16).unwrap().to_device(&on).unwrap();
    let op = LinearCrossEntropy {
        rows: (0..16).collect(),
        targets: (0..16).map(|t| t * 250).collect(),
        weights: vec![1.0 / 16.0; 16].into(),
        expected_upstream: 1.0,
    };
    let (_, saved) = op.forward(&[&x, &w], &[true, false]).unwrap();
    // f32 logits are read twice, the bf16 gradient is written once; every warp asks for target and weight.
    moved(&device, "linear_cross_entropy_fwd_bf16", 16 * vocab * 10, 5.0, 5.0);
    moved(&device, "embedding_fwd_bf16", 2 * 2 * tokens * h, 15.0, 15.0);
    let upstream = Tensor::scalar(1.0).to_device(&on).unwrap();
    op.backward(saved, &[Some(upstream), None], &[true, false]).unwrap();
    // Rows of 1 KB, and eight warps that each ask for the group's numbers; 7 % with rows of 8 KB.
    moved(&device, "embedding_bwd_bf16", 2 * 2 * tokens * h, 60.0, 60.0);

    device.simulator().unwrap().reset_reports();
    let op = Embedding { ids: (0..16).map(|t| t % 5).collect(), output: Some(DType::BF16) };
    op.backward([vocab, h], &[Some(x)], &[true]).unwrap();
    moved(&device, "embedding_bwd_bf16", (2 * tokens + 4 * 5) * h, 40.0, 40.0);
}
