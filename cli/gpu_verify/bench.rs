//! What is timed: the engine's heavy kernels at the shapes of Llama 7B, and the same kernels small enough for the
//! simulator. Shared by `gpu-verify` and `benches/gpu.rs`.

use std::sync::Arc;

use anyhow::{Context, Result};
use half::{bf16, f16};
use medley_kernels::ops::{AddRmsNorm, Attention, Linear, LinearCrossEntropy, LoraLinear, RmsNorm, Swiglu};
use medley_tensor::device::Device;
use medley_tensor::rng::Philox;
use medley_tensor::{DType, Op, Tensor};

/// Shapes of the real thing, or small ones with the same code path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// Llama 7B.
    Full,
    /// What the simulator runs in about a second.
    Small,
}

/// The least a card must do for a result: the floor under its time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Work {
    /// Multiply-adds of matrix products, counted as two operations.
    pub flops: f64,
    /// Bytes that must pass between device memory and the chip, each once.
    pub bytes: f64,
}

/// Something to run again and again.
pub type Runner = Box<dyn FnMut() -> Result<()>>;
/// Makes the inputs on a device.
type Build = Box<dyn Fn(&Device, Size) -> Result<Runner>>;

/// One thing that is timed.
pub struct Bench {
    /// `gemm`, `attention`, …
    pub family: &'static str,
    /// Which of the family, with its shape at full size.
    pub name: String,
    /// The yardstick's shape where a plain matrix product is one: `y [m, n] = x [m, k] · W [n, k]ᵀ`.
    #[cfg_attr(not(feature = "cublas"), allow(dead_code))]
    pub gemm: Option<[usize; 3]>,
    work: Box<dyn Fn(Size) -> Work>,
    build: Build,
}

impl Bench {
    /// The floor at a size.
    pub fn work(&self, size: Size) -> Work {
        (self.work)(size)
    }

    /// Makes the inputs on `device`; each call of the result is one pass.
    ///
    /// # Errors
    /// When device memory runs out.
    pub fn build(&self, device: &Device, size: Size) -> Result<Runner> {
        (self.build)(device, size).with_context(|| format!("{} {}", self.family, self.name))
    }
}

/// Every bench, in the report's order.
pub fn benches() -> Vec<Bench> {
    let mut all = vec![];
    for m in [1, 16, 256, 4096] {
        for (n, k) in [(4096, 4096), (11_008, 4096), (4096, 11_008)] {
            for weight in [DType::BF16, DType::Nf4] {
                all.push(gemm(m, n, k, weight));
            }
        }
    }
    all.push(dequantise());
    for length in [2048, 4096] {
        for backward in [false, true] {
            all.push(attention(length, backward));
        }
    }
    for weight in [DType::BF16, DType::Nf4] {
        for fused in [true, false] {
            all.push(lora(weight, fused));
        }
    }
    all.push(cross_entropy());
    all.push(norm());
    all.push(gate());
    all.extend([DType::BF16, DType::Nf4].map(layer));
    all
}

/// Bytes of a matrix weight: bf16, or NF4 with double quantisation (4.127 bits a weight).
fn weight_bytes(elements: usize, dtype: DType) -> f64 {
    elements as f64 * if dtype == DType::Nf4 { 4.127 / 8.0 } else { 2.0 }
}

fn gemm(m: usize, n: usize, k: usize, weight: DType) -> Bench {
    let shape = move |size| match size {
        Size::Full => (m, n, k),
        // Rows of whole NF4 blocks, and as many rows as the full shape's schedule has at least.
        Size::Small => (m.min(256), (n / 8).next_multiple_of(64), (k / 8).next_multiple_of(64)),
    };
    Bench {
        family: "gemm",
        name: format!("{weight} {m}×{n}×{k}"),
        gemm: (weight == DType::BF16).then_some([m, n, k]),
        work: Box::new(move |size| {
            let (m, n, k) = shape(size);
            Work {
                flops: 2.0 * (m * n * k) as f64,
                bytes: 2.0 * (m * (n + k)) as f64 + weight_bytes(n * k, weight),
            }
        }),
        build: Box::new(move |device, size| {
            let (m, n, k) = shape(size);
            let (x, w) = (plain(device, &[m, k], 1)?, weight_on(device, n, k, weight, 2)?);
            Ok(Box::new(move || {
                Linear {}.forward(&[&x, &w], &[false, false])?;
                Ok(())
            }))
        }),
    }
}

/// The weight of a training shape, written out in bf16 before a dense product.
fn dequantise() -> Bench {
    let shape = |size| match size {
        Size::Full => (11_008, 4096),
        Size::Small => (256, 1024),
    };
    Bench {
        family: "memory bound",
        name: "nf4 dequantise 11008×4096".into(),
        gemm: None,
        work: Box::new(move |size| {
            let (n, k) = shape(size);
            Work { flops: 0.0, bytes: weight_bytes(n * k, DType::Nf4) + weight_bytes(n * k, DType::BF16) }
        }),
        build: Box::new(move |device, size| {
            let (n, k) = shape(size);
            let w = weight_on(device, n, k, DType::Nf4, 1)?;
            Ok(Box::new(move || {
                medley_kernels::updates::nf4::dequantize_tensor(&w, DType::BF16)?;
                Ok(())
            }))
        }),
    }
}

/// Causal attention of 32 heads of 128 over one sequence.
fn attention(length: usize, backward: bool) -> Bench {
    let shape = move |size| match size {
        Size::Full => (length, 32, 128),
        Size::Small => (length / 8, 2, 128),
    };
    Bench {
        family: "attention",
        name: format!("{} {length}×32×128", if backward { "forward and backward" } else { "forward" }),
        gemm: None,
        work: Box::new(move |size| {
            let (t, heads, d) = shape(size);
            // Two products over the lower triangle; five more backward (FlashAttention-2, §3.2).
            let products = if backward { 7.0 } else { 2.0 };
            let tensors = if backward { 12.0 } else { 4.0 };
            let pairs = (t * (t + 1) / 2) as f64;
            Work {
                flops: products * 2.0 * pairs * (heads * d) as f64,
                bytes: tensors * 2.0 * (t * heads * d) as f64,
            }
        }),
        build: Box::new(move |device, size| {
            let (t, heads, d) = shape(size);
            let [q, k, v, dy] = tensors(device, &[t, heads, d])?;
            let op =
                Attention { cu_seqlens: [0, t as u32].into(), scale: 1.0 / (d as f32).sqrt(), window: None };
            Ok(Box::new(move || pass(&op, &[&q, &k, &v], &[backward; 3], backward.then_some(&dy))))
        }),
    }
}

/// A LoRA layer of rank 16, forward and backward, in one op or in three.
fn lora(weight: DType, fused: bool) -> Bench {
    const RANK: usize = 16;
    let shape = |size| match size {
        Size::Full => (4096, 4096, 4096),
        Size::Small => (256, 512, 512),
    };
    Bench {
        family: "lora",
        name: format!("{weight} 4096×4096×4096 r16 {}", if fused { "fused" } else { "three products" }),
        gemm: None,
        work: Box::new(move |size| {
            let (m, n, k) = shape(size);
            Work {
                // y and dx by the weight; forward, dx and one gradient by each of A and B.
                flops: 4.0 * (m * n * k) as f64 + 6.0 * (m * RANK * (n + k)) as f64,
                bytes: 2.0 * (3 * m * (n + k)) as f64 + 2.0 * weight_bytes(n * k, weight),
            }
        }),
        build: Box::new(move |device, size| {
            let (m, n, k) = shape(size);
            let (x, w, dy) =
                (plain(device, &[m, k], 1)?, weight_on(device, n, k, weight, 2)?, plain(device, &[m, n], 3)?);
            let a = filled(&[RANK, k], DType::F32, 4)?.to_device(device)?;
            let b = filled(&[n, RANK], DType::F32, 5)?.to_device(device)?;
            if fused {
                let op = LoraLinear { scale: 2.0, dropout: None };
                let needs = [true, false, true, true];
                return Ok(Box::new(move || pass(&op, &[&x, &w, &a, &b], &needs, Some(&dy))));
            }
            Ok(Box::new(move || {
                let (y, base) = Linear {}.forward(&[&x, &w], &[true, false])?;
                let (h, down) = Linear {}.forward(&[&x, &a], &[true, true])?;
                let (z, up) = Linear {}.forward(&[&h[0], &b], &[true, true])?;
                let add = medley_kernels::ops::Binary { kind: medley_kernels::ops::BinaryKind::Add };
                let (sum, _) = add.forward(&[&y[0], &z[0]], &[false, false])?;
                drop(sum);
                let dh = Linear {}.backward(up, &[Some(dy.clone())], &[true, true])?;
                let dx = Linear {}.backward(down, &[dh[0].clone()], &[true, true])?;
                let base = Linear {}.backward(base, &[Some(dy.clone())], &[true, false])?;
                if let (Some(dx), Some(base)) = (&dx[0], &base[0]) {
                    add.forward(&[dx, base], &[false, false])?;
                }
                Ok(())
            }))
        }),
    }
}

/// The loss over 8,192 labelled tokens and 256,000 words at Gemma 2 2B's width, with the gradient of the hidden states.
fn cross_entropy() -> Bench {
    let shape = |size| match size {
        Size::Full => (8192, 2304, 256_000),
        Size::Small => (256, 512, 2048),
    };
    Bench {
        family: "cross entropy",
        name: "8192×2304×256000, gradient of hidden".into(),
        gemm: None,
        work: Box::new(move |size| {
            let (t, h, v) = shape(size);
            Work { flops: 4.0 * (t * h * v) as f64, bytes: 2.0 * (2 * t * h + v * h) as f64 }
        }),
        build: Box::new(move |device, size| {
            let (t, h, v) = shape(size);
            let (x, w) = (plain(device, &[t, h], 1)?, weight_on(device, v, h, DType::BF16, 2)?);
            let op = LinearCrossEntropy {
                rows: (0..t as u32).collect(),
                targets: (0..t).map(|i| (i * 7919 % v) as u32).collect(),
                weights: vec![1.0 / t as f32; t].into(),
                expected_upstream: 1.0,
            };
            let one = Tensor::scalar(1.0).to_device(device)?;
            Ok(Box::new(move || {
                let (_, saved) = op.forward(&[&x, &w], &[true, false])?;
                op.backward(saved, &[Some(one.clone()), None], &[true, false])?;
                Ok(())
            }))
        }),
    }
}

/// Rows of activations between the products.
fn rows(size: Size) -> (usize, usize) {
    match size {
        Size::Full => (4096, 4096),
        Size::Small => (64, 1024),
    }
}

fn norm() -> Bench {
    Bench {
        family: "memory bound",
        name: "rms_norm forward and backward 4096×4096".into(),
        gemm: None,
        work: Box::new(|size| {
            let (t, h) = rows(size);
            // Read x, write y; read x and dy, write dx.
            Work { flops: 0.0, bytes: 5.0 * 2.0 * (t * h) as f64 }
        }),
        build: Box::new(|device, size| {
            let (t, h) = rows(size);
            let [x, dy, _, _] = tensors(device, &[t, h])?;
            let w = filled(&[h], DType::F32, 3)?.to_device(device)?;
            Ok(Box::new(move || pass(&RmsNorm { eps: 1e-5 }, &[&x, &w], &[true, false], Some(&dy))))
        }),
    }
}

fn gate() -> Bench {
    let shape = |size| match size {
        Size::Full => (4096, 11_008),
        Size::Small => (64, 1024),
    };
    Bench {
        family: "memory bound",
        name: "swiglu forward and backward 4096×11008".into(),
        gemm: None,
        work: Box::new(move |size| {
            let (t, h) = shape(size);
            // Read gate and up, write y; read them and dy, write two gradients.
            Work { flops: 0.0, bytes: 8.0 * 2.0 * (t * h) as f64 }
        }),
        build: Box::new(move |device, size| {
            let (t, h) = shape(size);
            let [gate, up, dy, _] = tensors(device, &[t, h])?;
            Ok(Box::new(move || pass(&Swiglu {}, &[&gate, &up], &[true, true], Some(&dy))))
        }),
    }
}

/// A decoder layer of Llama 7B with LoRA of rank 16 on all seven products, forward and backward, over one sequence of
/// 2,048 tokens. (Rotary embedding is left out: 1 % of a layer's bytes.)
fn layer(weight: DType) -> Bench {
    const RANK: usize = 16;
    let shape = |size| match size {
        Size::Full => (2048, 4096, 11_008, 32),
        Size::Small => (256, 512, 1408, 4),
    };
    let products = |h: usize, f: usize| [(h, h), (h, h), (h, h), (h, h), (f, h), (f, h), (h, f)];
    Bench {
        family: "layer",
        name: format!("{weight} 2048 tokens, h 4096, f 11008, LoRA r16"),
        gemm: None,
        work: Box::new(move |size| {
            let (t, h, f, _) = shape(size);
            let sizes = products(h, f);
            let weights: usize = sizes.iter().map(|(n, k)| n * k).sum();
            let adapters: usize = sizes.iter().map(|(n, k)| RANK * (n + k)).sum();
            Work {
                flops: 4.0 * (t * weights) as f64
                    + 6.0 * (t * adapters) as f64
                    + 7.0 * (t * (t + 1)) as f64 * h as f64,
                bytes: 2.0 * weight_bytes(weights, weight) + 2.0 * (t * (24 * h + 12 * f)) as f64,
            }
        }),
        build: Box::new(move |device, size| {
            let (t, h, f, heads) = shape(size);
            let mut adapted = vec![];
            for (i, (n, k)) in products(h, f).into_iter().enumerate() {
                let seed = 10 * (i as u64 + 1);
                adapted.push([
                    weight_on(device, n, k, weight, seed)?,
                    filled(&[RANK, k], DType::F32, seed + 1)?.to_device(device)?,
                    filled(&[n, RANK], DType::F32, seed + 2)?.to_device(device)?,
                ]);
            }
            let norm = filled(&[h], DType::F32, 3)?.to_device(device)?;
            let [x, residual, dy, d_residual] = tensors(device, &[t, h])?;
            let layer = Layer { adapted, norm, heads, length: t };
            Ok(Box::new(move || layer.step(&x, &residual, &dy, &d_residual)))
        }),
    }
}

/// The parts of [`layer`].
struct Layer {
    /// Weight, A and B of q, k, v, o, gate, up, down.
    adapted: Vec<[Tensor; 3]>,
    norm: Tensor,
    heads: usize,
    length: usize,
}

impl Layer {
    fn step(&self, x: &Tensor, residual: &Tensor, dy: &Tensor, d_residual: &Tensor) -> Result<()> {
        const NEEDS: [bool; 4] = [true, false, true, true];
        const BOTH: [bool; 3] = [true, true, false];
        let op = LoraLinear { scale: 2.0, dropout: None };
        let norm = AddRmsNorm { eps: 1e-5 };
        let forward = |i: usize, x: &Tensor| {
            let [w, a, b] = &self.adapted[i];
            op.forward(&[x, w, a, b], &NEEDS).map(|(mut y, saved)| (y.remove(0), saved))
        };
        let width = x.shape()[1];
        let by_head = [self.length, self.heads, width / self.heads];
        let attention = Attention {
            cu_seqlens: Arc::new([0, self.length as u32]),
            scale: 1.0 / (by_head[2] as f32).sqrt(),
            window: None,
        };

        let (first, saved_first) = norm.forward(&[residual, x, &self.norm], &BOTH)?;
        let (normed, sum) = (&first[0], &first[1]);
        let ((q, sq), (k, sk), (v, sv)) = (forward(0, normed)?, forward(1, normed)?, forward(2, normed)?);
        let (q, k, v) = (q.reshape(&by_head)?, k.reshape(&by_head)?, v.reshape(&by_head)?);
        let (mixed, saved_attention) = attention.forward(&[&q, &k, &v], &[true; 3])?;
        let (o, so) = forward(3, &mixed[0].reshape(&[self.length, width])?)?;
        let (second, saved_second) = norm.forward(&[sum, &o, &self.norm], &BOTH)?;
        let ((gate, sg), (up, su)) = (forward(4, &second[0])?, forward(5, &second[0])?);
        let (active, saved_gate) = Swiglu {}.forward(&[&gate, &up], &[true, true])?;
        let (_, sd) = forward(6, &active[0])?;
        drop((first, q, k, v, mixed, o, second, gate, up, active));

        let add = medley_kernels::ops::Binary { kind: medley_kernels::ops::BinaryKind::Add };
        let sum_of =
            |a: &Tensor, b: &Tensor| add.forward(&[a, b], &[false, false]).map(|(mut y, _)| y.remove(0));
        let back = |saved, dy: &Tensor| first_gradient(op.backward(saved, &[Some(dy.clone())], &NEEDS)?);
        let d_active = back(sd, dy)?;
        let gates = Swiglu {}.backward(saved_gate, &[Some(d_active)], &[true, true])?;
        let [Some(d_gate), Some(d_up)] = &gates[..] else { anyhow::bail!("swiglu gave no gradients") };
        let d_normed = sum_of(&back(sg, d_gate)?, &back(su, d_up)?)?;
        let d_sum = norm.backward(saved_second, &[Some(d_normed), Some(d_residual.clone())], &BOTH)?;
        let d_sum = first_gradient(d_sum)?;
        let d_mixed = back(so, &d_sum)?.reshape(&by_head)?;
        let heads = attention.backward(saved_attention, &[Some(d_mixed)], &[true; 3])?;
        let [Some(dq), Some(dk), Some(dv)] = &heads[..] else { anyhow::bail!("attention gave no gradients") };
        let flat = |t: &Tensor| t.reshape(&[self.length, width]);
        let d_normed = sum_of(&back(sq, &flat(dq)?)?, &back(sk, &flat(dk)?)?)?;
        let d_normed = sum_of(&d_normed, &back(sv, &flat(dv)?)?)?;
        norm.backward(saved_first, &[Some(d_normed), Some(d_sum)], &BOTH)?;
        Ok(())
    }
}

fn first_gradient(gradients: Vec<Option<Tensor>>) -> Result<Tensor> {
    gradients.into_iter().next().flatten().context("an op gave no gradient of its first input")
}

/// One pass of an op with one output; backward too where there is an upstream gradient.
fn pass<O: Op>(op: &O, inputs: &[&Tensor], needs: &[bool], dy: Option<&Tensor>) -> Result<()> {
    let (_, saved) = op.forward(inputs, needs)?;
    if let Some(dy) = dy {
        op.backward(saved, &[Some(dy.clone())], needs)?;
    }
    Ok(())
}

/// Four bf16 tensors.
fn tensors(device: &Device, shape: &[usize]) -> Result<[Tensor; 4]> {
    Ok([
        plain(device, shape, 1)?,
        plain(device, shape, 2)?,
        plain(device, shape, 3)?,
        plain(device, shape, 4)?,
    ])
}

/// Activations: bf16.
fn plain(device: &Device, shape: &[usize], seed: u64) -> Result<Tensor> {
    Ok(filled(shape, DType::BF16, seed)?.to_device(device)?)
}

fn weight_on(device: &Device, n: usize, k: usize, dtype: DType, seed: u64) -> Result<Tensor> {
    if dtype != DType::Nf4 {
        return Ok(filled(&[n, k], dtype, seed)?.to_device(device)?);
    }
    let values = filled(&[n, k], DType::F32, seed)?;
    let matrix = medley_kernels::updates::nf4::quantize(values.as_slice()?, n, k, true)?;
    Ok(Tensor::from_nf4(matrix).to_device(device)?)
}

/// Small random numbers that repeat after 65,521 (a prime, so that rows differ): gigabytes take no time to make.
fn filled(shape: &[usize], dtype: DType, seed: u64) -> Result<Tensor> {
    let mut rng = Philox::new(seed, 23);
    let n: usize = shape.iter().product();
    let tile: Vec<f32> = (0..n.min(65_521)).map(|_| 0.1 * rng.normal_f32()).collect();
    fn repeated<T: Copy>(tile: &[T], n: usize) -> Vec<T> {
        let mut data = Vec::with_capacity(n);
        while data.len() < n {
            data.extend_from_slice(&tile[..tile.len().min(n - data.len())]);
        }
        data
    }
    Ok(match dtype {
        DType::BF16 => {
            let tile: Vec<bf16> = tile.iter().map(|x| bf16::from_f32(*x)).collect();
            Tensor::from_vec(repeated(&tile, n), shape)?
        }
        DType::F16 => {
            let tile: Vec<f16> = tile.iter().map(|x| f16::from_f32(*x)).collect();
            Tensor::from_vec(repeated(&tile, n), shape)?
        }
        _ => Tensor::from_vec(repeated(&tile, n), shape)?,
    })
}
