//! The CUDA kernels on the simulator against the CPU kernel, beyond the shapes of the op's own check.

use super::*;
use crate::check::device::device;
use crate::check::random;
use medley_tensor::device::{CudaDevice, Device, SimOptions};

struct Case<'a> {
    cu_seqlens: &'a [u32],
    hq: usize,
    hkv: usize,
    d: usize,
    window: Option<usize>,
}

impl Case<'_> {
    fn op(&self) -> Attention {
        let scale = 1.0 / (self.d as f32).sqrt();
        Attention { cu_seqlens: self.cu_seqlens.into(), scale, window: self.window }
    }

    /// q, k, v and the gradient of o, with values that `dtype` holds.
    fn inputs(&self, dtype: DType) -> [Tensor; 4] {
        let t = *self.cu_seqlens.last().unwrap() as usize;
        let heads = [self.hq, self.hkv, self.hkv, self.hq];
        let mut seed = 0;
        heads.map(|heads| {
            seed += 1;
            random(&[t, heads, self.d], seed, 1.0).to_dtype(dtype).unwrap()
        })
    }

    /// o, dq, dk, dv in f32.
    fn run(&self, inputs: &[Tensor; 4]) -> [Vec<f32>; 4] {
        let op = self.op();
        let (o, saved) = op.forward(&[&inputs[0], &inputs[1], &inputs[2]], &[true; 3]).unwrap();
        let gradients = op.backward(saved, &[Some(inputs[3].clone())], &[true; 3]).unwrap();
        let mut all = o.into_iter().chain(gradients.into_iter().map(Option::unwrap));
        std::array::from_fn(|_| all.next().unwrap().to_vec_f32().unwrap())
    }

    fn check(&self, dtype: DType) {
        let on = Device::Cuda(device());
        let inputs = self.inputs(dtype);
        let want = self.run(&inputs.each_ref().map(|x| x.to_dtype(DType::F32).unwrap()));
        let got = self.run(&inputs.each_ref().map(|x| x.to_device(&on).unwrap()));
        for ((what, got), want) in ["o", "dq", "dk", "dv"].iter().zip(&got).zip(&want) {
            close(&format!("{what} of {} heads of {} in {dtype}", self.hq, self.d), got, want, bound(dtype));
        }
    }
}

/// Bound on |error| / (1 + |value|): one rounding of P or dS and one of the result.
fn bound(dtype: DType) -> f32 {
    match dtype {
        DType::BF16 => 1.6e-2,
        DType::F16 => 2e-3,
        _ => 2e-5,
    }
}

fn close(what: &str, got: &[f32], want: &[f32], bound: f32) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        // Not `error > bound`: that would let NaN pass.
        assert!((g - w).abs() <= bound * (1.0 + w.abs()), "{what}, element {i}: got {g}, the CPU {w}");
    }
}

/// One- and many-token sequences, an empty one, tiles that end anywhere; each template and sizes between them.
#[test]
fn head_sizes_of_every_template() {
    for (d, dtype) in [(16, DType::BF16), (40, DType::F16), (64, DType::BF16), (80, DType::F16)] {
        Case { cu_seqlens: &[0, 70, 70, 71, 99], hq: 2, hkv: 1, d, window: None }.check(dtype);
    }
    for (d, dtype) in [(96, DType::BF16), (128, DType::BF16), (128, DType::F16), (200, DType::F16), (256, DType::BF16)] {
        Case { cu_seqlens: &[0, 1, 67, 85], hq: 2, hkv: 1, d, window: None }.check(dtype);
    }
}

#[test]
fn several_tiles_and_windows() {
    for window in [None, Some(1), Some(17), Some(64), Some(100)] {
        Case { cu_seqlens: &[0, 150], hq: 1, hkv: 1, d: 32, window }.check(DType::BF16);
    }
    Case { cu_seqlens: &[0, 140], hq: 1, hkv: 1, d: 160, window: Some(30) }.check(DType::F16);
}

#[test]
fn groups_of_heads() {
    for (hq, hkv) in [(4, 4), (6, 2), (3, 1)] {
        Case { cu_seqlens: &[0, 20, 41], hq, hkv, d: 16, window: None }.check(DType::F16);
    }
}

#[test]
fn single_precision() {
    for (d, window) in [(64, None), (48, Some(5)), (256, None), (3, None)] {
        Case { cu_seqlens: &[0, 33, 34], hq: 2, hkv: 1, d, window }.check(DType::F32);
    }
}

/// Views cut from one projection are read where they lie; a view that starts between 16-byte boundaries is copied.
#[test]
fn views_of_a_fused_projection() {
    let (on, d) = (Device::Cuda(device()), 16);
    let case = Case { cu_seqlens: &[0, 21], hq: 2, hkv: 1, d, window: None };
    for gap in [0, 1] {
        let fused = random(&[21, 4, d + gap], 1, 1.0).to_dtype(DType::BF16).unwrap();
        let cut = |x: &Tensor| {
            let part = |from, n| x.narrow(1, from, n).unwrap().narrow(2, gap, d).unwrap();
            [part(0, 2), part(2, 1), part(3, 1), part(1, 2)]
        };
        let want = case.run(&cut(&fused.to_dtype(DType::F32).unwrap()));
        let got = case.run(&cut(&fused.to_device(&on).unwrap()));
        for (got, want) in got.iter().zip(&want) {
            close("a view", got, want, bound(DType::BF16));
        }
    }
}

#[test]
fn same_bits_every_time() {
    let on = Device::Cuda(device());
    let case = Case { cu_seqlens: &[0, 66, 80], hq: 4, hkv: 2, d: 16, window: None };
    let inputs = case.inputs(DType::BF16).map(|x| x.to_device(&on).unwrap());
    let bits = |x: [Vec<f32>; 4]| x.map(|x| x.into_iter().map(f32::to_bits).collect::<Vec<_>>());
    assert_eq!(bits(case.run(&inputs)), bits(case.run(&inputs)));
}

/// On aligned shapes the main loops have no bank conflict and move no sector that nobody asked for.
#[test]
fn main_loops_waste_nothing() {
    let options = SimOptions { counts: true, threads: 1, ..SimOptions::default() };
    let device = CudaDevice::sim(options).unwrap();
    let on = Device::Cuda(device.clone());
    for d in [64, 128, 256] {
        let case = Case { cu_seqlens: &[0, 128], hq: 2, hkv: 1, d, window: None };
        case.run(&case.inputs(DType::BF16).map(|x| x.to_device(&on).unwrap()));
    }
    let q = random(&[1, 8, 128], 1, 1.0).to_dtype(DType::BF16).unwrap().to_device(&on).unwrap();
    let kv = random(&[256, 2, 128], 2, 1.0).to_dtype(DType::BF16).unwrap().to_device(&on).unwrap();
    let cache = DeviceKeyValues { k: &kv, v: &kv, len: 256 };
    attention_with_device_caches(&q, &[1], &[cache], 1.0, None).unwrap();
    let mut seen = 0;
    for (name, _, counts) in device.simulator().unwrap().reports() {
        let Some(found) = counts.main_loop().filter(|l| l.tensor_instructions() > 0) else { continue };
        println!(
            "{name}: mma {} others {} wavefronts {}/{} sectors {}/{}; kernel sectors {}/{} wavefronts {}/{} {:?}",
            found.tensor_instructions(),
            found.other_instructions(),
            found.wavefronts,
            found.wavefronts_ideal,
            found.sectors,
            found.sectors_needed,
            counts.sectors(),
            counts.sectors_needed(),
            counts.wavefronts(),
            counts.wavefronts_ideal(),
            counts.worst_lines(3)
        );
        assert_eq!(found.wavefronts, found.wavefronts_ideal, "{name}: bank conflicts");
        assert_eq!(found.sectors, found.sectors_needed, "{name}: sectors");
        seen += 1;
    }
    assert_eq!(seen, 10, "three templates of three passes, and decoding");
}

/// Newest queries over caches: in few and many parts, of several sequences, a prompt in one piece.
#[test]
fn caches_give_the_rows_of_the_whole() {
    let on = Device::Cuda(device());
    let lens = [300, 7, 33];
    let cu_seqlens: Vec<u32> = [0, 300, 307, 340].into();
    for (d, dtype, new, window) in [
        (64, DType::BF16, [1, 1, 1], None),
        (128, DType::F16, [8, 3, 0], None),
        (16, DType::F16, [1, 7, 5], Some(40)),
        (16, DType::BF16, [70, 2, 33], None),
        (20, DType::F16, [2, 1, 1], None),
        (32, DType::F32, [2, 1, 20], Some(9)),
    ] {
        let (hq, hkv) = (6, 2);
        let case = Case { cu_seqlens: &cu_seqlens, hq, hkv, d, window };
        let inputs = case.inputs(dtype);
        let whole = inputs.each_ref().map(|x| x.to_dtype(DType::F32).unwrap());
        let want = case.op().forward(&[&whole[0], &whole[1], &whole[2]], &[false; 3]).unwrap().0.remove(0);
        let (mut caches, mut queries, mut rows, mut ends) = (vec![], vec![], vec![], vec![]);
        for (i, len) in lens.into_iter().enumerate() {
            let start = cu_seqlens[i] as usize;
            // Room behind the tokens, never read.
            let cache = |x: &Tensor| {
                let x = x.narrow(0, start, len).unwrap().to_dtype(DType::F32).unwrap();
                let mut values = x.to_vec_f32().unwrap();
                values.resize((len + 5) * hkv * d, f32::NAN);
                let room = Tensor::from_vec(values, &[len + 5, hkv, d]).unwrap();
                room.to_dtype(dtype).unwrap().to_device(&on).unwrap()
            };
            caches.push((cache(&inputs[1]), cache(&inputs[2]), len));
            let newest = |x: &Tensor| x.narrow(0, start + len - new[i], new[i]).unwrap().to_vec_f32().unwrap();
            queries.extend(newest(&whole[0]));
            rows.extend(newest(&want));
            ends.push(ends.last().copied().unwrap_or(0) + new[i]);
        }
        let q = Tensor::from_vec(queries, &[ends[2], hq, d]).unwrap().to_dtype(dtype).unwrap();
        let q = q.to_device(&on).unwrap();
        let caches: Vec<_> = caches.iter().map(|(k, v, len)| DeviceKeyValues { k, v, len: *len }).collect();
        let got = attention_with_device_caches(&q, &ends, &caches, case.op().scale, window).unwrap();
        close(&format!("{new:?} of {d} in {dtype}"), &got.to_vec_f32().unwrap(), &rows, bound(dtype));
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let on = Device::Cuda(device());
    let tensor = |shape: &[usize], dtype| random(shape, 1, 1.0).to_dtype(dtype).unwrap().to_device(&on).unwrap();
    let run = |q: &Tensor, k: &Tensor, scale| {
        let op = Attention { cu_seqlens: [0, 4].into(), scale, window: None };
        op.forward(&[q, k, k], &[false; 3]).map(|_| ()).unwrap_err().to_string()
    };
    let (q, k) = (tensor(&[4, 2, 264], DType::BF16), tensor(&[4, 1, 264], DType::BF16));
    assert!(run(&q, &k, 1.0).contains("up to 256"));
    let (q, k) = (tensor(&[4, 2, 8], DType::BF16), tensor(&[4, 1, 8], DType::F16));
    assert!(run(&q, &k, 1.0).contains("bf16"));
    assert!(run(&q, &q, -1.0).contains("positive"));
    let host = random(&[4, 2, 8], 1, 1.0);
    assert!(run(&tensor(&[4, 2, 8], DType::F32), &host, 1.0).contains("attention"));

    let cached = |q: &Tensor, k: &Tensor, len, ends: &[usize]| {
        attention_with_device_caches(q, ends, &[DeviceKeyValues { k, v: k, len }], 1.0, None).unwrap_err().to_string()
    };
    let cache = tensor(&[3, 2, 8], DType::BF16);
    assert!(cached(&q, &cache, 3, &[4]).contains("add the new keys first"));
    assert!(cached(&q, &cache, 5, &[4]).contains("5 or more"));
    assert!(cached(&q, &cache, 3, &[3]).contains("rise to 4"));
    assert!(cached(&q, &k, 4, &[4]).contains("bf16"));
    assert!(cached(&host, &cache, 3, &[4]).contains("CPU"));
}
