//! The chunked head and loss on a GPU: `linear_cross_entropy.cu` between two or three matrix products.

use super::{LinearCrossEntropy, Saved};
use crate::cuda::gemm::{self, Matrix, Options, Target, product};
use crate::cuda::{blocks_for, cast, launch, on_device, ptr, ptx, suffix, u32_arg, upload};
use crate::ops::embedding::cuda::{Scale, gather, scatter};
use medley_tensor::device::{CudaDevice, Device, KernelArg, Ptx};
use medley_tensor::ledger::{self, Category};
use medley_tensor::{DType, Error, Op, Result, Tensor};

static PTX: Ptx = ptx!("linear_cross_entropy.ptx");
const NAME: &str = LinearCrossEntropy::NAME;
const BLOCK: [u32; 3] = [512, 1, 1];

/// Bytes of logits that exist at the same time: with what else the op needs below 100 MB.
const LOGIT_BYTES: usize = 80 << 20;
/// Logits are f32 where this many rows of them fit, else of the compute dtype. Fewer rows would leave the
/// products bound by reading the weight: every row read from it serves one chunk.
const ENOUGH_ROWS: usize = 128;
/// Most rows of a chunk.
const MOST_ROWS: usize = 1024;
/// Elements of a row of logits are padded to this, so that every row is 16-byte aligned.
const PAD: usize = 8;

/// How the logits of one chunk lie.
#[derive(Debug, PartialEq)]
struct Chunks {
    /// Their dtype: f32 or the compute dtype.
    dtype: DType,
    /// Rows of a chunk; the last may have fewer.
    rows: usize,
    /// Elements from row to row.
    pitch: usize,
}

impl Chunks {
    fn choose(rows: usize, vocab: usize, compute: DType) -> Chunks {
        let pitch = vocab.next_multiple_of(PAD).max(PAD);
        let fitting = |dtype: DType| LOGIT_BYTES / dtype.bytes_for(pitch);
        let dtype = if fitting(DType::F32) >= ENOUGH_ROWS { DType::F32 } else { compute };
        // Whole tiles of the product, which are of 128 rows; a chunk of 160 would cost as much as one of 256.
        let tile = if fitting(dtype) >= ENOUGH_ROWS { ENOUGH_ROWS } else { 16 };
        let most = (fitting(dtype) / tile * tile).clamp(16, MOST_ROWS);
        // Chunks of one size: a short last one would use the weight badly.
        let rows = rows.div_ceil(rows.div_ceil(most).max(1)).max(1).next_multiple_of(tile).min(most);
        Chunks { dtype, rows, pitch }
    }
}

/// The head's weight in the compute dtype: itself, or a cast or decoded copy.
fn head(device: &CudaDevice, weight: &Tensor, dtype: DType) -> Result<Tensor> {
    on_device(NAME, device, weight)?;
    match weight.nf4_on_device() {
        Some(matrix) if weight.is_contiguous() && weight.shape() == [matrix.rows, matrix.cols] => {
            gemm::dequantize(NAME, device, matrix, dtype)
        }
        Some(_) => Err(Error::dtype(NAME, "a whole NF4 weight, not a view", DType::Nf4)),
        None => cast(weight, dtype),
    }
}

pub(super) fn forward(
    op: &LinearCrossEntropy,
    device: &CudaDevice,
    hidden: &Tensor,
    weight: &Tensor,
    needs: &[bool],
) -> Result<(Vec<Tensor>, Saved)> {
    let vocab = weight.shape().first().copied().unwrap_or(0);
    let chunks = Chunks::choose(op.rows.len(), vocab, hidden.dtype());
    forward_in(op, device, hidden, weight, needs, &chunks)
}

fn forward_in(
    op: &LinearCrossEntropy,
    device: &CudaDevice,
    hidden: &Tensor,
    weight: &Tensor,
    needs: &[bool],
    chunks: &Chunks,
) -> Result<(Vec<Tensor>, Saved)> {
    let &[vocab, h] = weight.shape() else {
        return Err(Error::shape(NAME, "a weight [V, H]", weight.shape()));
    };
    if hidden.shape().last() != Some(&h) {
        return Err(Error::shape(NAME, format!("hidden [.., {h}]"), hidden.shape()));
    }
    let tokens = hidden.shape().iter().rev().skip(1).product();
    op.check(tokens, vocab)?;
    let (here, dtype, r) = (Device::Cuda(device.clone()), hidden.dtype(), op.rows.len());
    let name = suffix(NAME, dtype)?;
    let rows = hidden.reshape(&[tokens, h])?;

    let nll = Tensor::empty_on(&here, &[r], DType::F32)?;
    let loss = Tensor::empty_on(&here, &[], DType::F32)?;
    let d_rows = if needs[0] { Some(Tensor::empty_on(&here, &[r, h], dtype)?) } else { None };
    let d_weight = match needs[1] {
        true if r == 0 => Some(Tensor::zeros_on(&here, &[vocab, h], DType::F32)?),
        true => Some(Tensor::empty_on(&here, &[vocab, h], DType::F32)?),
        false => None,
    };

    let _scope = ledger::scope(Category::Workspace);
    let (targets, weights) = (upload(device, &op.targets)?, upload(device, &op.weights)?);
    if r > 0 {
        let weight = head(device, weight, dtype)?;
        let weight = Matrix::of(NAME, &weight)?;
        let logits = Tensor::empty_on(&here, &[chunks.rows.min(r), chunks.pitch], chunks.dtype)?;
        let pitch_bytes = chunks.dtype.bytes_for(chunks.pitch);
        // The gradient of a row lies at the row's start, in the compute dtype.
        let d_pitch = pitch_bytes / dtype.bytes_for(1);
        let expected = if needs.contains(&true) { op.expected_upstream } else { 0.0 };
        for start in (0..r).step_by(chunks.rows) {
            let n = chunks.rows.min(r - start);
            let chunk = gather(device, &rows, &op.rows[start..start + n], dtype)?;
            let chunk = Matrix::of(NAME, &chunk)?;
            let target = Target { ld: Some(chunks.pitch), ..Target::of(&logits)? };
            product(NAME, device, 1.0, chunk, weight.t(), target, Options::default())?;
            let arguments = [
                KernelArg::Ptr(logits.device_ptr()?),
                KernelArg::U32(u32::from(chunks.dtype == DType::F32)),
                KernelArg::U64(pitch_bytes as u64),
                u32_arg(NAME, "the vocabulary", vocab)?,
                KernelArg::Ptr(targets.ptr() + 4 * start as u64),
                KernelArg::Ptr(weights.ptr() + 4 * start as u64),
                KernelArg::F32(expected),
                KernelArg::Ptr(nll.device_ptr()? + 4 * start as u64),
            ];
            let entry = format!("linear_cross_entropy_fwd_{name}");
            launch(device, &PTX, &entry, [blocks_for(NAME, n, 1)?, 1, 1], BLOCK, 0, &arguments)?;

            let address = logits.device_ptr()?;
            let d_logits =
                Matrix { address, rows: n, cols: vocab, row_stride: d_pitch, col_stride: 1, dtype };
            if let Some(d_rows) = &d_rows {
                let address = d_rows.device_ptr()? + dtype.bytes_for(start * h) as u64;
                let target = Target { address, ..Target::of(d_rows)? };
                product(NAME, device, 1.0, d_logits, weight, target, Options::default())?;
            }
            if let Some(d_weight) = &d_weight {
                let options = Options { beta: if start == 0 { 0.0 } else { 1.0 }, ..Options::default() };
                product(NAME, device, 1.0, d_logits.t(), chunk, Target::of(d_weight)?, options)?;
            }
        }
    }
    let arguments = [
        ptr(NAME, device, &loss)?,
        ptr(NAME, device, &nll)?,
        KernelArg::Ptr(weights.ptr()),
        u32_arg(NAME, "the number of labels", r)?,
    ];
    launch(device, &PTX, "linear_cross_entropy_fwd_loss_f32", [1, 1, 1], BLOCK, 0, &arguments)?;
    let saved = Saved { d_rows, d_weight, hidden_shape: hidden.shape().to_vec() };
    Ok((vec![loss, nll], saved))
}

pub(super) fn backward(
    op: &LinearCrossEntropy,
    device: &CudaDevice,
    saved: Saved,
    upstream: &Tensor,
) -> Result<Vec<Option<Tensor>>> {
    if upstream.dtype() != DType::F32 {
        return Err(Error::dtype(NAME, "an f32 gradient of the loss", upstream.dtype()));
    }
    let expected = op.expected_upstream;
    let d_hidden = match &saved.d_rows {
        Some(d_rows) => {
            let tokens = saved.hidden_shape.iter().rev().skip(1).product();
            let scale = Scale { upstream, expected };
            let d = scatter(device, d_rows, &op.rows, tokens, d_rows.dtype(), Some(scale))?;
            Some(d.reshape(&saved.hidden_shape)?)
        }
        None => None,
    };
    let mut d_weight = saved.d_weight;
    if let Some(d) = d_weight.as_mut().filter(|d| d.numel() > 0) {
        let n = d.numel();
        let arguments = [
            KernelArg::Ptr(d.device_ptr_mut()?),
            KernelArg::U64(n as u64),
            ptr(NAME, device, upstream)?,
            KernelArg::F32(expected),
        ];
        let blocks = blocks_for(NAME, n, BLOCK[0] as usize * 4)?.min(4 * device.info().multiprocessors);
        launch(device, &PTX, "linear_cross_entropy_bwd_f32", [blocks, 1, 1], BLOCK, 0, &arguments)?;
    }
    Ok(vec![d_hidden, d_weight])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_of_logits_stays_within_its_bytes() {
        use DType::{BF16, F32};
        for (rows, vocab, compute, want) in [
            (8192, 32_000, BF16, F32),
            (8192, 128_256, BF16, F32),
            (8192, 256_000, BF16, BF16),
            (8192, 256_000, F32, F32),
            (5, 100, BF16, F32),
            (8192, 50_257, BF16, F32),
        ] {
            let chunks = Chunks::choose(rows, vocab, compute);
            assert_eq!(chunks.dtype, want, "{vocab}");
            assert!(chunks.rows * chunks.dtype.bytes_for(chunks.pitch) <= LOGIT_BYTES);
            assert!(chunks.pitch >= vocab && chunks.pitch.is_multiple_of(PAD));
            if vocab == 256_000 && compute == BF16 {
                assert_eq!(chunks.rows, ENOUGH_ROWS);
            }
        }
        // Equal chunks: 700 rows are not 640 and 60.
        assert_eq!(Chunks::choose(700, 32_000, BF16).rows, 384);
    }

    /// Chunks that vocabularies of 256k need, at a size the simulator runs: logits in the compute dtype, and
    /// more chunks than one.
    #[test]
    fn narrow_logits_and_several_chunks_agree_with_the_cpu() {
        use crate::check::random;
        use medley_tensor::rng::Philox;
        let device = crate::check::device::device();
        let on = Device::Cuda(device.clone());
        let (tokens, h, vocab, r) = (30, 24, 77, 41);
        let mut rng = Philox::new(1, 9);
        let op = LinearCrossEntropy {
            rows: (0..r).map(|_| rng.below(tokens) as u32).collect(),
            targets: (0..r).map(|_| rng.below(vocab) as u32).collect(),
            weights: (0..r).map(|_| rng.uniform_f32() * 0.1).collect(),
            expected_upstream: 1024.0,
        };
        for (dtype, logits, bound) in [
            (DType::F32, DType::F32, 2e-5),
            (DType::F16, DType::F32, 2e-3),
            (DType::F16, DType::F16, 4e-3),
            (DType::BF16, DType::BF16, 2e-2),
        ] {
            let round = |t: Tensor| t.to_dtype(dtype).unwrap().to_dtype(DType::F32).unwrap();
            let (x, w) = (round(random(&[tokens, h], 1, 0.5)), round(random(&[vocab, h], 2, 0.5)));
            let (want, saved) = op.forward(&[&x, &w], &[true; 2]).unwrap();
            let want_grads = op.backward(saved, &[Some(Tensor::scalar(512.0)), None], &[true; 2]).unwrap();

            let chunks = Chunks { dtype: logits, rows: 16, pitch: vocab.next_multiple_of(PAD) };
            let x = x.to_dtype(dtype).unwrap().to_device(&on).unwrap();
            let w = w.to_device(&on).unwrap();
            let (got, saved) = forward_in(&op, &device, &x, &w, &[true; 2], &chunks).unwrap();
            let upstream = Tensor::scalar(512.0).to_device(&on).unwrap();
            let got_grads = op.backward(saved, &[Some(upstream), None], &[true; 2]).unwrap();
            let close = |what: &str, got: &Tensor, want: &Tensor| {
                let (got, want) = (got.to_vec_f32().unwrap(), want.to_vec_f32().unwrap());
                let most = want.iter().fold(1e-9f32, |a, x| a.max(x.abs()));
                for (i, (g, w)) in got.iter().zip(&want).enumerate() {
                    assert!((g - w).abs() <= bound * most, "{what} {i} in {dtype}/{logits}: {g} for {w}");
                }
            };
            close("loss", &got[0], &want[0]);
            close("nll", &got[1], &want[1]);
            for (what, g, w) in [("dx", &got_grads[0], &want_grads[0]), ("dw", &got_grads[1], &want_grads[1])] {
                close(what, g.as_ref().unwrap(), w.as_ref().unwrap());
            }
            assert_eq!(got_grads[0].as_ref().unwrap().dtype(), dtype);
            assert_eq!(got_grads[1].as_ref().unwrap().dtype(), DType::F32);
        }
    }
}
