//! Every op against the CPU, over ragged shapes drawn at random and every compute dtype.

use std::sync::Arc;

use anyhow::Result;
use medley_kernels::ops::rope::RopeTable;
use medley_kernels::ops::*;
use medley_tensor::device::Device;
use medley_tensor::rng::Philox;
use medley_tensor::{DType, Op};

use crate::compare::{Inputs, Role, Worst, bound, compare};
use Role::{Activation, Frozen, Master, Nf4};

/// The compute dtypes of a device.
pub const DTYPES: [DType; 3] = [DType::F32, DType::BF16, DType::F16];

/// Numbers that tile sizes do not divide.
struct Draw {
    rng: Philox,
    /// Sizes are drawn below about this.
    most: usize,
}

impl Draw {
    /// 1 … most, odd more often than not.
    fn size(&mut self) -> usize {
        1 + self.rng.below(self.most)
    }

    /// A multiple of 8, as hidden sizes are.
    fn wide(&mut self) -> usize {
        8 * (1 + self.rng.below(self.most.div_ceil(8)))
    }

    fn ids(&mut self, n: usize, below: usize) -> Arc<[u32]> {
        (0..n).map(|_| self.rng.below(below) as u32).collect()
    }
}

/// Compares the devices in a dtype, with inputs of a seed.
type Compare = Box<dyn Fn(DType, &Device, u64) -> Result<Worst>>;

/// One op with its inputs.
pub struct Case {
    /// The op's name.
    pub op: &'static str,
    /// The shapes, for messages.
    pub shapes: String,
    run: Compare,
}

impl Case {
    fn new<O: Op>(op: O, inputs: Inputs) -> Case {
        let shapes: Vec<String> = inputs
            .iter()
            .map(|(shape, role)| format!("{shape:?}{}", if *role == Nf4 { " nf4" } else { "" }))
            .collect();
        Case {
            op: O::NAME,
            shapes: shapes.join(" "),
            run: Box::new(move |dtype, device, seed| compare(&op, &inputs, dtype, device, seed)),
        }
    }

    /// Compares the op on `device` with the CPU.
    ///
    /// # Errors
    /// As [`compare`].
    pub fn run(&self, dtype: DType, device: &Device, seed: u64) -> Result<Worst> {
        (self.run)(dtype, device, seed)
    }
}

/// Cases of every op, sizes up to about `most`, drawn from `seed`.
///
/// # Errors
/// A rope table that cannot be made.
pub fn cases(seed: u64, most: usize) -> Result<Vec<Case>> {
    let mut draw = Draw { rng: Philox::new(seed, 1), most };
    let d = &mut draw;
    let mut cases = vec![];
    matrices(d, &mut cases);
    norms_and_gates(d, &mut cases);
    sequence(d, &mut cases)?;
    generic(d, &mut cases);
    Ok(cases)
}

fn matrices(d: &mut Draw, cases: &mut Vec<Case>) {
    for weight in [Frozen, Nf4, Master] {
        let (t, n, k) = (d.size(), d.wide(), d.wide());
        cases.push(Case::new(Linear {}, vec![(vec![t, k], Activation), (vec![n, k], weight)]));
        let (t, n, k, r) = (d.size(), d.wide(), d.wide(), 8);
        let dropout = (weight == Frozen).then_some(Dropout { p: 0.2, seed: 5, stream: 3 });
        cases.push(Case::new(
            LoraLinear { scale: 0.5, dropout },
            vec![(vec![t, k], Activation), (vec![n, k], weight), (vec![r, k], Master), (vec![n, r], Master)],
        ));
    }
    let (t, n) = (d.size(), d.wide());
    let vector = || (vec![n], Master);
    cases.push(Case::new(Dora {}, vec![(vec![t, n], Activation), vector(), vector(), vector()]));
    // A decoding step: few rows.
    let (n, k) = (d.wide(), d.wide());
    cases.push(Case::new(Linear {}, vec![(vec![1, k], Activation), (vec![n, k], Frozen), (vec![n], Master)]));
    cases.push(Case::new(Linear {}, vec![(vec![1, k], Activation), (vec![n, k], Nf4)]));
    let (b, m, n, k) = (2, d.size(), d.size(), d.size());
    cases.push(Case::new(Matmul {}, vec![(vec![b, m, k], Activation), (vec![b, k, n], Activation)]));
    let (t, h, v) = (d.size(), d.wide(), d.size());
    for weight in [Frozen, Nf4] {
        let r = t.div_ceil(2);
        let labels = LossOnly(LinearCrossEntropy {
            rows: d.ids(r, t),
            targets: d.ids(r, v),
            weights: (0..r).map(|_| d.rng.uniform_f32()).collect(),
            expected_upstream: if weight == Nf4 { 1024.0 } else { 1.0 },
        });
        cases.push(Case::new(labels, vec![(vec![t, h], Activation), (vec![v, h], weight)]));
    }
}

fn norms_and_gates(d: &mut Draw, cases: &mut Vec<Case>) {
    let (t, h) = (d.size(), d.wide());
    let cu_seqlens = [0, t as u32 / 3, t as u32].into();
    let noise = Neftune { alpha: 5.0, seed: 7, stream: 2, cu_seqlens };
    cases.push(Case::new(noise, vec![(vec![t, h], Activation)]));
    let (t, h) = (d.size(), d.wide());
    cases.push(Case::new(RmsNorm { eps: 1e-5 }, vec![(vec![t, h], Activation), (vec![h], Master)]));
    let (t, h) = (d.size(), d.size());
    cases.push(Case::new(RmsNorm { eps: 1e-5 }, vec![(vec![t, h], Activation), (vec![h], Frozen)]));
    let (t, h) = (d.size(), d.wide());
    cases.push(Case::new(
        AddRmsNorm { eps: 1e-5 },
        vec![(vec![t, h], Activation), (vec![t, h], Activation), (vec![h], Master)],
    ));
    let (t, h) = (d.size(), d.size());
    let pair = || vec![(vec![t, h], Activation), (vec![t, h], Activation)];
    cases.push(Case::new(Swiglu {}, pair()));
    for tanh in [false, true] {
        cases.push(Case::new(Geglu { tanh }, pair()));
    }
    cases.push(Case::new(Dropout { p: 0.3, seed: 9, stream: 2 }, vec![(vec![t, h], Activation)]));
    cases.push(Case::new(Softmax {}, vec![(vec![t, h], Activation)]));
}

fn sequence(d: &mut Draw, cases: &mut Vec<Case>) -> Result<()> {
    for (head, window, groups) in [(64, None, 1), (80, Some(9), 2), (128, None, 4)] {
        let (a, b, heads) = (d.size() as u32, d.size() as u32, 4);
        let t = (a + b) as usize;
        cases.push(Case::new(
            Attention { cu_seqlens: [0, a, a + b].into(), scale: 1.0 / (head as f32).sqrt(), window },
            vec![
                (vec![t, heads, head], Activation),
                (vec![t, heads / groups, head], Activation),
                (vec![t, heads / groups, head], Activation),
            ],
        ));
    }
    let (t, head) = (d.size(), 64);
    let frequencies: Vec<f32> = (0..head / 2).map(|i| 1e4f32.powf(-(i as f32) / 32.0)).collect();
    for interleaved in [false, true] {
        let table = Arc::new(RopeTable::new(&frequencies, 1.0, 512, interleaved)?);
        cases.push(Case::new(Rope { table, positions: d.ids(t, 512) }, vec![(vec![t, 3, head], Activation)]));
    }
    let (v, h, t) = (d.size(), d.wide(), d.size());
    for weight in [Master, Frozen] {
        cases.push(Case::new(Embedding { ids: d.ids(t, v), output: None }, vec![(vec![v, h], weight)]));
    }
    cases.push(Case::new(IndexSelect { indices: d.ids(t, v) }, vec![(vec![v, h], Activation)]));
    Ok(())
}

fn generic(d: &mut Draw, cases: &mut Vec<Case>) {
    let (a, b, c) = (d.size(), d.size(), 3);
    let x = || (vec![a, b, c], Activation);
    cases.push(Case::new(Reshape { shape: vec![b, a * c] }, vec![x()]));
    cases.push(Case::new(Permute { order: vec![2, 0, 1] }, vec![x()]));
    cases.push(Case::new(Slice { dim: 1, start: b / 3, len: b - b / 3 }, vec![x()]));
    cases.push(Case::new(Concat { dim: 1 }, vec![x(), (vec![a, 2, c], Activation)]));
    cases.push(Case::new(Affine { mul: -1.5, add: 0.25 }, vec![x()]));
    for (kind, dims) in
        [(ReduceKind::Sum, vec![1]), (ReduceKind::Mean, vec![0, 2]), (ReduceKind::Max, vec![2])]
    {
        cases.push(Case::new(Reduce { kind, dims, keepdim: false }, vec![x()]));
    }
    for kind in [BinaryKind::Add, BinaryKind::Sub, BinaryKind::Mul, BinaryKind::Div] {
        cases.push(Case::new(Binary { kind }, vec![x(), (vec![b, 1], Activation)]));
    }
    for &kind in UnaryKind::ALL {
        cases.push(Case::new(Unary { kind }, vec![x()]));
    }
}

/// The loss of [`LinearCrossEntropy`] without its second output, which has no gradient.
struct LossOnly(LinearCrossEntropy);

impl Op for LossOnly {
    const NAME: &'static str = LinearCrossEntropy::NAME;
    const ARITY: std::ops::RangeInclusive<usize> = LinearCrossEntropy::ARITY;
    const OUTPUTS: usize = 1;
    const COST: medley_tensor::Cost = LinearCrossEntropy::COST;
    type Saved = <LinearCrossEntropy as Op>::Saved;

    fn forward(
        &self,
        inputs: &[&medley_tensor::Tensor],
        needs: &[bool],
    ) -> medley_tensor::Result<(Vec<medley_tensor::Tensor>, Self::Saved)> {
        let (mut outputs, saved) = self.0.forward(inputs, needs)?;
        outputs.truncate(1);
        Ok((outputs, saved))
    }

    fn backward(
        &self,
        saved: Self::Saved,
        grads: &[Option<medley_tensor::Tensor>],
        needs: &[bool],
    ) -> medley_tensor::Result<Vec<Option<medley_tensor::Tensor>>> {
        self.0.backward(saved, &[grads[0].clone(), None], needs)
    }
}

/// What the comparison of one op in one dtype came to.
#[derive(Debug, Clone)]
pub struct Verdict {
    /// The op.
    pub op: &'static str,
    /// Compute dtype on the device.
    pub dtype: DType,
    /// Cases run.
    pub cases: usize,
    /// The worst of them, with its shapes.
    pub worst: f64,
    /// What went wrong: an error, or a difference above the bound.
    pub fault: Option<String>,
}

/// Runs all `cases` in every dtype; a verdict an op and dtype, in the cases' order.
pub fn verify(cases: &[Case], device: &Device) -> Vec<Verdict> {
    let mut verdicts: Vec<Verdict> = vec![];
    for (seed, case) in cases.iter().enumerate() {
        for dtype in DTYPES {
            let known = verdicts.iter().position(|v| v.op == case.op && v.dtype == dtype);
            let at = known.unwrap_or_else(|| {
                verdicts.push(Verdict { op: case.op, dtype, cases: 0, worst: 0.0, fault: None });
                verdicts.len() - 1
            });
            let verdict = &mut verdicts[at];
            verdict.cases += 1;
            match case.run(dtype, device, 1000 * seed as u64) {
                Ok(worst) => {
                    verdict.worst = verdict.worst.max(worst.error);
                    if worst.error > bound(dtype) {
                        let message =
                            format!("{} of {}: off by {:.1e}", worst.place, case.shapes, worst.error);
                        verdict.fault.get_or_insert(message);
                    }
                }
                Err(error) => {
                    verdict.fault.get_or_insert(format!("{}: {error:#}", case.shapes));
                }
            }
        }
    }
    verdicts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_op_has_a_case() {
        let cases = cases(1, 20).unwrap();
        for name in NAMES {
            assert!(cases.iter().any(|case| case.op == *name), "{name} has no case in gpu-verify");
        }
    }

    /// On the CPU itself there is nothing to differ; a case that is wrong in itself shows here.
    #[test]
    fn the_cases_run() {
        for verdict in verify(&cases(2, 20).unwrap(), &Device::Cpu) {
            if verdict.dtype == DType::F32 {
                assert_eq!((verdict.fault, verdict.worst), (None, 0.0), "{}", verdict.op);
            }
        }
    }
}
