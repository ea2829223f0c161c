//! The modules that ship, each with launches that reach its kernels' loops, tails and clamps.
//!
//! Kernels of one template in several dtypes are run in one of them, bf16 where it exists. Shapes are
//! ragged and small: tiles that end in the middle, several tiles, several splits, unaligned views.

use super::products::{gemm_f32, gemm_nf4, gemm_nn, gemm_nt, gemm_parts, gemm_tn, gemv};
use crate::check::random;
use crate::ops::attention::{DeviceKeyValues, attention_with_device_caches};
use crate::ops::*;
use crate::updates::accumulate::add_into;
use crate::updates::adamw::{Moments, Step};
use crate::updates::grad_norm::grad_norm;
use crate::updates::nf4::{dequantize_tensor, quantize_tensor};
use crate::updates::{Clip, Parameter, Progress, State, StepReport, adafactor, lion};
use medley_tensor::device::{CudaDevice, Device};
use medley_tensor::{DType, Op, Result, Tensor};
use std::sync::Arc;

/// A module and launches of it.
pub(super) struct Subject {
    /// File of the PTX, from the workspace's root.
    pub(super) file: &'static str,
    pub(super) run: fn(&mut Run) -> Result<()>,
}

impl Subject {
    /// The name it is loaded under.
    pub(super) fn module(&self) -> &'static str {
        self.file.rsplit('/').next().unwrap_or(self.file)
    }
}

pub(super) const SUBJECTS: &[Subject] = &[
    Subject { file: "kernels/src/cuda/cast.ptx", run: cast },
    Subject { file: "kernels/src/cuda/gemm/gemm_f32.ptx", run: gemm_f32 },
    Subject { file: "kernels/src/cuda/gemm/gemm_nf4.ptx", run: gemm_nf4 },
    Subject { file: "kernels/src/cuda/gemm/gemm_nn.ptx", run: gemm_nn },
    Subject { file: "kernels/src/cuda/gemm/gemm_nt.ptx", run: gemm_nt },
    Subject { file: "kernels/src/cuda/gemm/gemm_parts.ptx", run: gemm_parts },
    Subject { file: "kernels/src/cuda/gemm/gemm_tn.ptx", run: gemm_tn },
    Subject { file: "kernels/src/cuda/gemm/gemv.ptx", run: gemv },
    Subject { file: "kernels/src/ops/affine/affine.ptx", run: affine },
    Subject { file: "kernels/src/ops/attention/attention_backward.ptx", run: attention },
    Subject { file: "kernels/src/ops/attention/attention_decode.ptx", run: attention_decode },
    Subject { file: "kernels/src/ops/attention/attention_f32.ptx", run: attention_f32 },
    Subject { file: "kernels/src/ops/attention/attention_forward.ptx", run: attention },
    Subject { file: "kernels/src/ops/attention/attention_rows.ptx", run: attention_rows },
    Subject { file: "kernels/src/ops/binary/binary.ptx", run: binary },
    Subject { file: "kernels/src/ops/concat/concat.ptx", run: concat },
    Subject { file: "kernels/src/ops/dora/dora.ptx", run: dora },
    Subject { file: "kernels/src/ops/dropout/dropout.ptx", run: dropout },
    Subject { file: "kernels/src/ops/embedding/embedding.ptx", run: embedding },
    Subject { file: "kernels/src/ops/geglu/geglu.ptx", run: geglu },
    Subject { file: "kernels/src/ops/index_select/index_select.ptx", run: index_select },
    Subject {
        file: "kernels/src/ops/linear_cross_entropy/linear_cross_entropy.ptx",
        run: linear_cross_entropy,
    },
    Subject { file: "kernels/src/ops/neftune/neftune.ptx", run: neftune },
    Subject { file: "kernels/src/ops/permute/permute.ptx", run: permute },
    Subject { file: "kernels/src/ops/reduce/reduce.ptx", run: reduce },
    Subject { file: "kernels/src/ops/rms_norm/rms_norm.ptx", run: rms_norm },
    Subject { file: "kernels/src/ops/rope/rope.ptx", run: rope },
    Subject { file: "kernels/src/ops/slice/slice.ptx", run: slice },
    Subject { file: "kernels/src/ops/softmax/softmax.ptx", run: softmax },
    Subject { file: "kernels/src/ops/swiglu/swiglu.ptx", run: swiglu },
    Subject { file: "kernels/src/ops/unary/unary.ptx", run: unary },
    Subject { file: "kernels/src/updates/accumulate/accumulate.ptx", run: accumulate },
    Subject { file: "kernels/src/updates/adamw/adamw.ptx", run: adamw },
    Subject { file: "kernels/src/updates/adafactor/adafactor.ptx", run: adafactor },
    Subject { file: "kernels/src/updates/control/control.ptx", run: adamw },
    Subject { file: "kernels/src/updates/grad_norm/grad_norm.ptx", run: norm },
    Subject { file: "kernels/src/updates/lion/lion.ptx", run: lion },
    Subject { file: "kernels/src/updates/nf4/nf4.ptx", run: nf4 },
    Subject { file: "tensor/src/device/strided_copy.ptx", run: strided_copy },
];

/// One run on a device: makes inputs and collects what the kernels gave.
pub(super) struct Run {
    pub(super) device: CudaDevice,
    /// Bits of all outputs.
    pub(super) outputs: Vec<u32>,
}

pub(super) const BF16: DType = DType::BF16;
pub(super) const F32: DType = DType::F32;
pub(super) const NAME: &str = "mutation test";

impl Run {
    pub(super) fn on(&self) -> Device {
        Device::Cuda(self.device.clone())
    }

    pub(super) fn tensor(&self, shape: &[usize], seed: u64, dtype: DType) -> Result<Tensor> {
        random(shape, seed, 1.0).to_dtype(dtype)?.to_device(&self.on())
    }

    /// A vector that begins `skip` elements after an aligned address.
    fn skewed(&self, n: usize, skip: usize, seed: u64, dtype: DType) -> Result<Tensor> {
        self.tensor(&[n + skip], seed, dtype)?.narrow(0, skip, n)
    }

    pub(super) fn keep(&mut self, t: &Tensor) -> Result<()> {
        let t = t.to_device(&Device::Cpu)?;
        match t.dtype() {
            DType::U8 => self.outputs.extend(t.as_slice::<u8>()?.iter().map(|b| u32::from(*b))),
            _ => self.outputs.extend(t.to_vec_f32()?.into_iter().map(f32::to_bits)),
        }
        Ok(())
    }

    /// Forward and backward.
    fn op<O: Op>(&mut self, op: O, inputs: &[Tensor]) -> Result<()> {
        let refs: Vec<&Tensor> = inputs.iter().collect();
        let needs: Vec<bool> = inputs.iter().map(|t| t.dtype() != DType::Nf4).collect();
        let (y, saved) = op.forward(&refs, &needs)?;
        let mut grads = vec![];
        for (i, y) in y.iter().enumerate() {
            self.keep(y)?;
            grads.push(Some(self.tensor(y.shape(), 90 + i as u64, y.dtype())?));
        }
        for grad in op.backward(saved, &grads, &needs)?.into_iter().flatten() {
            self.keep(&grad)?;
        }
        Ok(())
    }
}

fn cast(run: &mut Run) -> Result<()> {
    for n in [2053, 4096] {
        for skip in [0, 1] {
            let x = run.skewed(n, skip, 1, F32)?;
            let half = crate::cuda::cast(&x, BF16)?;
            run.keep(&half)?;
            let back = run.skewed(n, skip, 2, BF16)?;
            let wide = crate::cuda::cast(&back, F32)?;
            run.keep(&wide)?;
        }
    }
    Ok(())
}

/// A vector of whole and ragged length from aligned and odd addresses, and a strided view.
fn pointwise<O: Op + Copy>(run: &mut Run, op: O) -> Result<()> {
    for (n, skip) in [(2053, 0), (515, 1), (4096, 0)] {
        let x = run.skewed(n, skip, 1, BF16)?;
        run.op(op, &[x])?;
    }
    let x = run.tensor(&[33, 19], 1, BF16)?.transpose(0, 1)?.narrow(0, 1, 17)?;
    run.op(op, &[x])
}

fn affine(run: &mut Run) -> Result<()> {
    pointwise(run, Affine { mul: 2.5, add: -1.0 })
}

fn unary(run: &mut Run) -> Result<()> {
    for kind in UnaryKind::ALL {
        pointwise(run, Unary { kind: *kind })?;
    }
    Ok(())
}

fn dropout(run: &mut Run) -> Result<()> {
    pointwise(run, Dropout { p: 0.4, seed: u64::MAX - 3, stream: (1 << 40) | 5 })
}

/// Rows of one and two tiles, whole and ragged; one and two slabs; norms over an NF4 weight.
fn dora(run: &mut Run) -> Result<()> {
    for (rows, n) in [(3, 5), (70, 24), (130, 300), (2, 2056)] {
        let z = run.tensor(&[rows, n], 1, BF16)?;
        let vectors = [2, 3, 4].map(|seed| run.tensor(&[n], seed, F32));
        let [m, norm, bias] = vectors;
        run.op(Dora {}, &[z, m?, norm?, bias?])?;
    }
    let weight = run.tensor(&[300, 64], 1, F32)?;
    let (a, b) = (run.tensor(&[5, 64], 2, F32)?, run.tensor(&[300, 5], 3, F32)?);
    let squares = dora::squared_rows(&weight)?;
    run.keep(&dora::row_norms(&weight, &a, &b, 0.5, &squares, F32)?)
}

/// The same for two operands, and broadcast ones.
fn pairs<O: Op + Copy>(run: &mut Run, op: O, broadcast: bool) -> Result<()> {
    for (n, skip) in [(2053, 0), (515, 1), (4096, 0)] {
        let both = [run.skewed(n, skip, 1, BF16)?, run.skewed(n, skip, 2, BF16)?];
        run.op(op, &both)?;
    }
    let fused = run.tensor(&[19, 66], 1, BF16)?;
    let halves = [fused.narrow(1, 0, 33)?, fused.narrow(1, 33, 33)?];
    run.op(op, &halves)?;
    let fused = run.tensor(&[19, 64], 1, BF16)?;
    let halves = [fused.narrow(1, 0, 32)?, fused.narrow(1, 32, 32)?];
    run.op(op, &halves)?;
    if broadcast {
        let operands = [run.tensor(&[5, 7, 24], 1, BF16)?, run.tensor(&[7, 1], 2, BF16)?];
        run.op(op, &operands)?;
        let operands = [run.tensor(&[13, 24], 1, BF16)?, run.tensor(&[24], 2, BF16)?];
        run.op(op, &operands)?;
    }
    Ok(())
}

fn binary(run: &mut Run) -> Result<()> {
    for kind in [BinaryKind::Add, BinaryKind::Sub, BinaryKind::Mul, BinaryKind::Div] {
        pairs(run, Binary { kind }, true)?;
    }
    Ok(())
}

fn swiglu(run: &mut Run) -> Result<()> {
    pairs(run, Swiglu {}, false)
}

fn geglu(run: &mut Run) -> Result<()> {
    pairs(run, Geglu { tanh: true }, false)?;
    pairs(run, Geglu { tanh: false }, false)
}

/// Sequences of no, one and many tokens; heads of each template, whole and shorter; windows.
fn attention(run: &mut Run) -> Result<()> {
    for (cu_seqlens, hq, d, window) in [
        (&[0u32, 70, 70, 71, 99][..], 2, 64, None),
        (&[0, 150], 1, 40, Some(17)),
        (&[0, 1, 67, 85], 2, 128, None),
        (&[0, 135], 1, 80, Some(30)),
        (&[0, 66, 70], 1, 256, None),
        (&[0, 135], 1, 168, Some(20)),
        (&[0, 40], 1, 24, None),
    ] {
        attend(run, cu_seqlens, [hq, 1, d], window, BF16)?;
    }
    Ok(())
}

fn attend(
    run: &mut Run,
    cu_seqlens: &[u32],
    [hq, hkv, d]: [usize; 3],
    window: Option<usize>,
    dtype: DType,
) -> Result<()> {
    let t = cu_seqlens.last().map_or(0, |t| *t as usize);
    let op = Attention { cu_seqlens: cu_seqlens.into(), scale: 1.0 / (d as f32).sqrt(), window };
    let inputs = [
        run.tensor(&[t, hq, d], 1, dtype)?,
        run.tensor(&[t, hkv, d], 2, dtype)?,
        run.tensor(&[t, hkv, d], 3, dtype)?,
    ];
    run.op(op, &inputs)
}

fn attention_f32(run: &mut Run) -> Result<()> {
    for (d, window) in [(64, None), (48, Some(5)), (256, None), (3, None)] {
        attend(run, &[0, 33, 34], [2, 1, d], window, F32)?;
    }
    Ok(())
}

/// The row sums of the backward pass, and the copy of heads that are not aligned.
fn attention_rows(run: &mut Run) -> Result<()> {
    for (t, hq, d) in [(37, 2, 64), (5, 1, 20), (9, 3, 24), (33, 2, 5)] {
        attend(run, &[0, t], [hq, 1, d], None, BF16)?;
    }
    let fused = run.tensor(&[21, 4, 17], 1, BF16)?;
    let part = |from, n| fused.narrow(1, from, n)?.narrow(2, 1, 16);
    let inputs = [part(0, 2)?, part(2, 1)?, part(3, 1)?];
    run.op(Attention { cu_seqlens: [0, 21].into(), scale: 0.25, window: None }, &inputs)
}

fn attention_decode(run: &mut Run) -> Result<()> {
    for (lens, ends, [hq, hkv, d], window) in [
        (&[300usize, 7, 33][..], &[1usize, 2, 3][..], [6, 2, 64], None),
        (&[290, 9], &[8, 11], [4, 2, 128], None),
        (&[300, 33], &[1, 6], [6, 2, 16], Some(40)),
        (&[700], &[2], [5, 1, 24], None),
        (&[300, 9], &[8, 9], [6, 2, 32], None),
    ] {
        let q = run.tensor(&[ends.last().copied().unwrap_or(0), hq, d], 1, BF16)?;
        let mut stored = vec![];
        for (i, len) in lens.iter().enumerate() {
            let shape = [*len, hkv, d];
            stored.push((run.tensor(&shape, 10 + i as u64, BF16)?, run.tensor(&shape, 20 + i as u64, BF16)?));
        }
        let caches: Vec<_> =
            stored.iter().zip(lens).map(|((k, v), len)| DeviceKeyValues { k, v, len: *len }).collect();
        let y = attention_with_device_caches(&q, ends, &caches, 1.0 / (d as f32).sqrt(), window)?;
        run.keep(&y)?;
    }
    Ok(())
}

fn concat(run: &mut Run) -> Result<()> {
    let odd =
        [run.tensor(&[37, 3], 1, BF16)?, run.tensor(&[37, 1], 2, BF16)?, run.tensor(&[37, 4], 3, BF16)?];
    run.op(Concat { dim: 1 }, &odd)?;
    let whole = [run.tensor(&[3, 16], 1, BF16)?, run.tensor(&[3, 8], 2, BF16)?];
    run.op(Concat { dim: 1 }, &whole)
}

fn slice(run: &mut Run) -> Result<()> {
    let x = run.tensor(&[37, 19], 1, BF16)?;
    run.op(Slice { dim: 1, start: 3, len: 11 }, &[x])?;
    let x = run.tensor(&[9, 64], 1, BF16)?;
    run.op(Slice { dim: 1, start: 8, len: 32 }, &[x])
}

fn embedding(run: &mut Run) -> Result<()> {
    let ids: Arc<[u32]> = (0..23).map(|i| i * i % 11).collect();
    for h in [5, 37, 64, 300, 2056] {
        for dtype in [F32, BF16] {
            let table = run.tensor(&[11, h], 1, dtype)?;
            run.op(Embedding { ids: ids.clone(), output: Some(BF16) }, &[table])?;
        }
        let table = run.nf4_matrix(11, h, h != 64)?;
        let (y, _) = Embedding { ids: ids.clone(), output: None }.forward(&[&table], &[false])?;
        run.keep(&y[0])?;
    }
    Ok(())
}

fn index_select(run: &mut Run) -> Result<()> {
    for shape in [&[9, 5][..], &[9, 24], &[9, 3, 100]] {
        let x = run.tensor(shape, 1, BF16)?;
        run.op(IndexSelect { indices: [5, 5, 0, 8, 3, 5, 5].into() }, &[x])?;
    }
    Ok(())
}

fn linear_cross_entropy(run: &mut Run) -> Result<()> {
    for (tokens, h, vocab, r) in [(19, 24, 77, 21), (9, 16, 2056, 7), (7, 9, 77, 5)] {
        let op = LinearCrossEntropy {
            rows: (0..r).map(|i| i * 7 % tokens).collect(),
            targets: (0..r).map(|i| (i * 31 + 70) % vocab).collect(),
            weights: (0..r).map(|i| 0.01 * (i + 1) as f32).collect(),
            expected_upstream: 1024.0,
        };
        let x = run.tensor(&[tokens as usize, h], 1, BF16)?;
        let w = run.tensor(&[vocab as usize, h], 2, BF16)?;
        let (y, saved) = op.forward(&[&x, &w], &[true; 2])?;
        run.keep(&y[0])?;
        run.keep(&y[1])?;
        let upstream = Tensor::scalar(512.0).to_device(&run.on())?;
        for grad in op.backward(saved, &[Some(upstream), None], &[true; 2])?.into_iter().flatten() {
            run.keep(&grad)?;
        }
    }
    Ok(())
}

fn permute(run: &mut Run) -> Result<()> {
    for dtype in [BF16, F32] {
        for (shape, order) in [
            (&[3, 66, 70][..], &[0, 2, 1][..]),
            (&[2, 33, 35], &[0, 2, 1]),
            (&[35, 2, 34], &[2, 1, 0]),
            (&[2, 64, 64], &[0, 2, 1]),
        ] {
            let view = run.tensor(shape, 1, dtype)?.permute(order)?;
            let n = view.numel();
            run.op(Reshape { shape: vec![n] }, &[view])?;
        }
    }
    Ok(())
}

fn reduce(run: &mut Run) -> Result<()> {
    for kind in [ReduceKind::Mean, ReduceKind::Max] {
        for (shape, dims) in [
            (&[35, 5][..], &[1][..]),
            (&[2, 1111], &[1]),
            (&[2, 8200], &[1]),
            (&[700, 3], &[0]),
            (&[300, 264], &[0]),
            (&[2, 40, 35], &[1]),
            (&[9, 64], &[1]),
            (&[5, 64], &[0]),
            (&[3, 35], &[0]),
        ] {
            for dtype in [BF16, F32] {
                let x = run.tensor(shape, 1, dtype)?;
                run.op(Reduce { kind, dims: dims.to_vec(), keepdim: false }, &[x])?;
            }
        }
    }
    Ok(())
}

fn rms_norm(run: &mut Run) -> Result<()> {
    for (rows, h) in [(3, 5), (6, 300), (70, 24), (5, 1024), (2, 8200), (130, 72)] {
        let operands = [run.tensor(&[rows, h], 1, BF16)?, run.tensor(&[rows, h], 2, BF16)?];
        let w = run.tensor(&[h], 3, F32)?;
        run.op(RmsNorm { eps: 1e-5 }, &[operands[0].clone(), w.clone()])?;
        run.op(AddRmsNorm { eps: 1e-5 }, &[operands[0].clone(), operands[1].clone(), w])?;
    }
    Ok(())
}

fn rope(run: &mut Run) -> Result<()> {
    for (t, heads, d, rot) in [(5, 3, 8, 8), (7, 2, 10, 6), (70, 3, 6, 6), (13, 5, 32, 32), (12, 3, 48, 16)] {
        for interleaved in [false, true] {
            let inv_freq: Vec<f32> = (0..rot / 2).map(|i| 0.9f32.powi(i)).collect();
            let table = Arc::new(RopeTable::new(&inv_freq, 1.25, 64, interleaved)?);
            let positions: Arc<[u32]> = (0..t).map(|i| i * 13 % 64).collect();
            let x = run.tensor(&[t as usize, heads, d], 1, BF16)?;
            run.op(Rope { table, positions }, &[x])?;
        }
    }
    Ok(())
}

fn softmax(run: &mut Run) -> Result<()> {
    for shape in [[37, 7], [5, 500], [9, 64], [2, 1030], [3, 1032], [1, 25_600], [1, 25_603]] {
        let x = run.tensor(&shape, 1, BF16)?;
        run.op(Softmax {}, &[x])?;
    }
    Ok(())
}

fn accumulate(run: &mut Run) -> Result<()> {
    for (n, skip) in [(2053, 0), (515, 1), (4096, 0)] {
        for dtype in [F32, BF16] {
            let mut sum = run.skewed(n, skip, 1, dtype)?.contiguous()?;
            let other = run.skewed(n, skip, 2, dtype)?;
            add_into(&mut sum, &other)?;
            run.keep(&sum)?;
        }
    }
    Ok(())
}

fn adamw(run: &mut Run) -> Result<()> {
    // Several tensors, and one alone.
    for (eight_bit, sizes) in [
        (false, &[4096 + 300, 37, 32_768 + 77, 1][..]),
        (true, &[4096 + 300, 37, 32_768 + 77, 1]),
        (false, &[4096 + 44]),
        (true, &[4096 + 44]),
    ] {
        let on = run.on();
        let mut values = vec![];
        let mut grads = vec![];
        let mut moments = vec![];
        for (i, &n) in sizes.iter().enumerate() {
            values.push(run.tensor(&[n], i as u64, F32)?);
            grads.push(run.tensor(&[n], 100 + i as u64, F32)?);
            moments.push(Moments::zeros(&on, &[n], eight_bit)?);
        }
        let mut progress = Progress::default();
        let step = Step {
            lr: 1e-2,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            clip: Clip { max_norm: 1.0, loss_scale: 4.0 },
        };
        for _ in 0..2 {
            let mut parameters: Vec<Parameter<Moments>> = values
                .iter_mut()
                .zip(&grads)
                .zip(&mut moments)
                .map(|((value, grad), state)| Parameter {
                    value,
                    grad,
                    state,
                    weight_decay: 0.1,
                    lr_scale: 2.0,
                })
                .collect();
            step.run(&mut parameters, &mut progress)?;
        }
        for t in values.iter().chain(moments.iter().flat_map(State::parts).map(|(_, t)| t)) {
            run.keep(t)?;
        }
    }
    Ok(())
}

/// Two steps over matrices, which end inside bands and tiles, and vectors; several and one alone.
fn steps<S: State>(
    run: &mut Run,
    zeros: impl Fn(&Device, &[usize]) -> Result<S>,
    step: impl Fn(&mut [Parameter<S>], &mut Progress) -> Result<StepReport>,
) -> Result<()> {
    let on = run.on();
    for shapes in [&[&[300, 130][..], &[37], &[32_768 + 77], &[3, 5]][..], &[&[70, 67]]] {
        let (mut values, mut grads, mut states) = (vec![], vec![], vec![]);
        for (shape, i) in shapes.iter().zip(0..) {
            values.push(run.tensor(shape, i, F32)?);
            grads.push(run.tensor(shape, 100 + i, F32)?);
            states.push(zeros(&on, shape)?);
        }
        let mut progress = Progress::default();
        for _ in 0..2 {
            let mut parameters: Vec<Parameter<S>> = values
                .iter_mut()
                .zip(&grads)
                .zip(&mut states)
                .map(|((value, grad), state)| Parameter {
                    value,
                    grad,
                    state,
                    weight_decay: 0.1,
                    lr_scale: 2.0,
                })
                .collect();
            step(&mut parameters, &mut progress)?;
        }
        for t in values.iter().chain(states.iter().flat_map(State::parts).map(|(_, t)| t)) {
            run.keep(t)?;
        }
    }
    Ok(())
}

const CLIP: Clip = Clip { max_norm: 1.0, loss_scale: 4.0 };

fn lion(run: &mut Run) -> Result<()> {
    let step = lion::Step { lr: 1e-2, beta1: 0.9, beta2: 0.99, clip: CLIP };
    for eight_bit in [false, true] {
        steps(run, |on, shape| lion::Moment::zeros(on, shape, eight_bit), |p, made| step.run(p, made))?;
    }
    Ok(())
}

fn adafactor(run: &mut Run) -> Result<()> {
    let step = adafactor::Step { lr: 1e-2, decay_rate: -0.8, eps: 1e-30, clip_threshold: 1.0, clip: CLIP };
    steps(run, adafactor::SecondMoment::zeros, |p, made| step.run(p, made))
}

fn neftune(run: &mut Run) -> Result<()> {
    for (cuts, h) in [(&[0u32, 3, 4, 9][..], 520), (&[0, 5], 7)] {
        let op = Neftune { alpha: 5.0, seed: 1, stream: 2, cu_seqlens: cuts.into() };
        let x = run.tensor(&[cuts[cuts.len() - 1] as usize, h], 1, BF16)?;
        run.keep(&op.forward(&[&x], &[true])?.0[0])?;
    }
    Ok(())
}

fn norm(run: &mut Run) -> Result<()> {
    let grads = [
        run.tensor(&[4096 + 300], 1, F32)?,
        run.skewed(37, 1, 2, F32)?,
        run.tensor(&[40_003], 3, F32)?,
        run.tensor(&[37], 4, F32)?,
    ];
    for part in [&grads[..], &grads[..1]] {
        let norm = grad_norm(&part.iter().collect::<Vec<_>>())?;
        run.outputs.extend([norm.to_bits() as u32, (norm.to_bits() >> 32) as u32]);
    }
    Ok(())
}

fn nf4(run: &mut Run) -> Result<()> {
    for (rows, cols, double) in [(3, 100, true), (140, 257, true), (2, 64, false)] {
        let weight = run.tensor(&[rows, cols], 1, F32)?;
        let stored = quantize_tensor(&weight, double)?;
        let wide = dequantize_tensor(&stored, F32)?;
        run.keep(&wide)?;
        let half = dequantize_tensor(&stored, BF16)?;
        run.keep(&half)?;
    }
    let half = run.tensor(&[5, 77], 2, BF16)?;
    let wide = dequantize_tensor(&quantize_tensor(&half, true)?, BF16)?;
    run.keep(&wide)
}

fn strided_copy(run: &mut Run) -> Result<()> {
    for (shape, order, dtype) in
        [(&[37, 19, 3][..], &[2, 0, 1][..], BF16), (&[17, 9], &[1, 0], F32), (&[5, 6, 16], &[1, 0, 2], F32)]
    {
        let view = run.tensor(shape, 1, dtype)?.permute(order)?.contiguous()?;
        run.keep(&view)?;
    }
    let bytes: Vec<u8> = (0..15).collect();
    let bytes = Tensor::from_vec(bytes, &[3, 5])?.to_device(&run.on())?.transpose(0, 1)?.contiguous()?;
    run.keep(&bytes)
}
