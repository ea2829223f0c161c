use super::*;
use crate::check::device::device;
use crate::check::random;
use medley_tensor::device::SimOptions;
use medley_tensor::quant::Nf4Matrix;

const OP: &str = "gemm test";
const HALVES: [DType; 2] = [DType::BF16, DType::F16];
const ALL: [DType; 3] = [DType::F32, DType::BF16, DType::F16];

/// A random matrix on the device, of values that `dtype` holds, and the same on the host; `columns` lays it out by columns.
fn operand(
    device: &CudaDevice,
    [rows, cols]: [usize; 2],
    columns: bool,
    dtype: DType,
    seed: u64,
) -> (Tensor, Vec<f64>) {
    let shape = if columns { [cols, rows] } else { [rows, cols] };
    let stored = random(&shape, seed, 1.0).to_dtype(dtype).unwrap();
    let on = Device::Cuda(device.clone());
    let (gpu, host) = (stored.to_device(&on).unwrap(), stored.to_dtype(DType::F32).unwrap());
    let turn = |t: &Tensor| if columns { t.transpose(0, 1).unwrap() } else { t.clone() };
    (turn(&gpu), turn(&host).to_vec_f32().unwrap().into_iter().map(f64::from).collect())
}

/// `a · b` in f64.
fn reference(a: &[f64], b: &[f64], m: usize, n: usize, k: usize) -> Vec<f64> {
    let dot = |i: usize, j: usize| (0..k).map(|l| a[i * k + l] * b[l * n + j]).sum();
    (0..m * n).map(|at| dot(at / n, at % n)).collect()
}

/// Compares with one rounding to `dtype` and f32 sums.
fn close(what: &str, got: &Tensor, want: &[f64], dtype: DType) {
    let bound = match dtype {
        DType::BF16 => 4e-3,
        DType::F16 => 6e-4,
        _ => 1e-5,
    };
    let got = got.to_vec_f32().unwrap();
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        let error = (f64::from(*g) - w).abs() / (1.0 + w.abs());
        assert!(error <= bound, "{what}, element {i}: got {g}, expected {w}");
    }
}

fn matrix(t: &Tensor) -> Matrix {
    Matrix::of(OP, t).unwrap()
}

fn output(device: &CudaDevice, m: usize, n: usize, dtype: DType, seed: u64) -> (Tensor, Vec<f64>) {
    operand(device, [m, n], false, dtype, seed)
}

#[test]
fn every_layout_dtype_and_ragged_shape() {
    let device = &device();
    let bias = random(&[136], 9, 1.0).to_device(&Device::Cuda(device.clone())).unwrap();
    let bias_values = bias.to_vec_f32().unwrap();
    for dtype in ALL {
        for (m, n, k) in [(1, 1, 1), (5, 7, 33), (70, 36, 40), (130, 136, 72), (3, 16, 0)] {
            for (a_columns, b_columns) in [(false, false), (false, true), (true, false), (true, true)] {
                let what = format!("{dtype} [{m}, {k}] x [{k}, {n}], by columns {a_columns} {b_columns}");
                let (a, a_values) = operand(device, [m, k], a_columns, dtype, 1);
                let (b, b_values) = operand(device, [k, n], b_columns, dtype, 2);
                let sums = reference(&a_values, &b_values, m, n, k);
                for out in if dtype == DType::F32 { vec![dtype] } else { vec![dtype, DType::F32] } {
                    let (c, before) = output(device, m, n, out, 3);
                    let part = bias.narrow(0, 0, n).unwrap();
                    let options = Options { bias: Some(&part), beta: 2.0, ..Options::default() };
                    product(OP, device, 0.5, matrix(&a), matrix(&b), Target::of(&c).unwrap(), options)
                        .unwrap();
                    let want: Vec<f64> = (0..m * n)
                        .map(|i| 0.5 * sums[i] + 2.0 * before[i] + f64::from(bias_values[i % n]))
                        .collect();
                    close(&what, &c, &want, out);
                }
            }
        }
    }
}

#[test]
fn splits_and_tiles_agree() {
    let device = &device();
    let (m, n, k) = (67, 140, 200);
    for dtype in ALL {
        for b_columns in [true, false] {
            let (a, a_values) = operand(device, [m, k], false, dtype, 1);
            let (b, b_values) = operand(device, [k, n], b_columns, dtype, 2);
            let want = reference(&a_values, &b_values, m, n, k);
            for plan in
                [(Tile::Large, 1), (Tile::Small, 1), (Tile::Large, 3), (Tile::Small, 4), (Tile::Large, 100)]
            {
                let (c, _) = output(device, m, n, dtype, 3);
                let options = Options { plan: Some(plan), ..Options::default() };
                product(OP, device, 1.0, matrix(&a), matrix(&b), Target::of(&c).unwrap(), options).unwrap();
                close(&format!("{dtype} {plan:?}"), &c, &want, dtype);
            }
        }
    }
}

#[test]
fn a_second_pair_continues_the_contraction() {
    let device = &device();
    let (m, n, k) = (70, 132, 72);
    for dtype in HALVES {
        for (columns, k2, tile) in [
            (true, 5, Tile::Large),
            (false, 40, Tile::Large),
            (true, 40, Tile::Small),
            (false, 8, Tile::Small),
        ] {
            let (a, a_values) = operand(device, [m, k], false, dtype, 1);
            let (b, b_values) = operand(device, [k, n], columns, dtype, 2);
            let (a2, a2_values) = operand(device, [m, k2], false, dtype, 4);
            let (b2, b2_values) = operand(device, [k2, n], columns, dtype, 5);
            let mut want = reference(&a_values, &b_values, m, n, k);
            let more = reference(&a2_values, &b2_values, m, n, k2);
            want.iter_mut().zip(more).for_each(|(w, m)| *w += m);
            for splits in [1, 2] {
                let (c, _) = output(device, m, n, DType::F32, 3);
                let second = Some((matrix(&a2), matrix(&b2)));
                let options = Options { second, plan: Some((tile, splits)), ..Options::default() };
                product(OP, device, 1.0, matrix(&a), matrix(&b), Target::of(&c).unwrap(), options).unwrap();
                close(&format!("{dtype} K2 {k2} {tile:?} splits {splits}"), &c, &want, DType::F32);
            }
        }
    }
}

#[test]
fn the_low_rank_path_in_the_same_pass() {
    let device = &device();
    let (m, n, k) = (70, 136, 104);
    for dtype in HALVES {
        for (columns, rank) in [(true, 1), (true, 16), (false, 5), (false, 33), (true, 64)] {
            let what = format!("{dtype} rank {rank}, by columns {columns}");
            let (a, a_values) = operand(device, [m, k], false, dtype, 1);
            let (b, b_values) = operand(device, [k, n], columns, dtype, 2);
            let (low, low_values) = operand(device, [k, rank], columns, dtype, 4);
            let (up, up_values) = operand(device, [rank, n], columns, dtype, 5);
            let (c, _) = output(device, m, n, DType::F32, 3);
            let (h, _) = output(device, m, rank, dtype, 6);
            let path =
                LowRank { low: matrix(&low), up: matrix(&up), h: h.device_ptr().unwrap(), scale: 0.25 };
            let options = Options { low: Some(path), ..Options::default() };
            product(OP, device, 1.0, matrix(&a), matrix(&b), Target::of(&c).unwrap(), options).unwrap();
            let mut h_values = reference(&a_values, &low_values, m, rank, k);
            h_values.iter_mut().for_each(|h| *h *= 0.25);
            close(&format!("{what}: h"), &h, &h_values, dtype);
            // The kernel multiplies the rounded h.
            let rounded: Vec<f64> = h.to_vec_f32().unwrap().into_iter().map(f64::from).collect();
            let mut want = reference(&a_values, &b_values, m, n, k);
            let more = reference(&rounded, &up_values, m, n, rank);
            want.iter_mut().zip(more).for_each(|(w, m)| *w += m);
            close(&what, &c, &want, DType::F32);
        }
    }
}

#[test]
fn nf4_schedules_agree_to_the_bit() {
    let device = &device();
    let on = Device::Cuda(device.clone());
    let (rows, cols) = (140, 192);
    for double in [false, true] {
        let weight = random(&[rows, cols], 7, 1.0);
        let weight = Nf4Matrix::quantize(weight.as_slice().unwrap(), rows, cols, double).unwrap();
        let weight = Tensor::from_nf4(weight);
        let values: Vec<f64> = weight.to_vec_f32().unwrap().into_iter().map(f64::from).collect();
        let gpu = weight.to_device(&on).unwrap();
        let nf4 = gpu.nf4_on_device().unwrap();
        for dtype in HALVES {
            for (m, transposed) in [(37, true), (3, true), (70, false), (5, false)] {
                let (k, n) = if transposed { (cols, rows) } else { (rows, cols) };
                let (x, x_values) = operand(device, [m, k], false, dtype, 1);
                let run = |schedule, plan| {
                    let (c, _) = output(device, m, n, DType::F32, 3);
                    let options = Options { plan, ..Options::default() };
                    nf4_product(
                        OP,
                        device,
                        1.0,
                        matrix(&x),
                        nf4,
                        transposed,
                        Target::of(&c).unwrap(),
                        options,
                        schedule,
                    )
                    .unwrap();
                    c
                };
                let what = format!("double {double} {dtype} M {m} transposed {transposed}");
                let w: Vec<f64> =
                    (0..k * n).map(|i| values[if transposed { (i % n) * cols + i / n } else { i }]).collect();
                let want = reference(&x_values, &w, m, n, k);
                let fused = run(Some(Nf4Schedule::Fused), Some((Tile::Large, 1)));
                // The weight is rounded to the dtype: its half unit in the last place, summed over k.
                let unit = if dtype == DType::BF16 { 1.0 / 256.0 } else { 1.0 / 2048.0 };
                for (g, w) in fused.to_vec_f32().unwrap().iter().zip(&want) {
                    assert!((f64::from(*g) - w).abs() < unit * (k as f64).sqrt() * 4.0, "{what}: {g} {w}");
                }
                let dense = run(Some(Nf4Schedule::Dequantize), Some((Tile::Large, 1)));
                assert_eq!(fused.to_vec_f32().unwrap(), dense.to_vec_f32().unwrap(), "{what}");
                let split = run(Some(Nf4Schedule::Fused), Some((Tile::Large, 2)));
                close(&format!("{what}, split"), &split, &to_f64(&fused), DType::F32);
            }
        }
    }
}

#[test]
fn a_schedule_can_be_asked_for() {
    let on = Device::Cuda(device());
    let weight = random(&[24, 64], 7, 1.0).to_device(&on).unwrap();
    let weight = crate::updates::nf4::quantize_tensor(&weight, true).unwrap();
    let x = random(&[2, 3, 64], 1, 1.0).to_dtype(DType::F16).unwrap().to_device(&on).unwrap();
    let fused = linear_nf4(&x, &weight, Nf4Schedule::Fused).unwrap();
    let dense = linear_nf4(&x, &weight, Nf4Schedule::Dequantize).unwrap();
    assert_eq!((fused.shape(), fused.dtype()), (&[2, 3, 24][..], DType::F16));
    close("fused", &fused, &to_f64(&dense), DType::F16);
    let wide = random(&[2, 64], 1, 1.0).to_device(&on).unwrap();
    assert!(linear_nf4(&wide, &weight, Nf4Schedule::Fused).unwrap_err().to_string().contains("f32"));
    assert!(linear_nf4(&x, &x, Nf4Schedule::Fused).is_err());
}

fn to_f64(t: &Tensor) -> Vec<f64> {
    t.to_vec_f32().unwrap().into_iter().map(f64::from).collect()
}

#[test]
fn a_few_rows_take_the_gemv() {
    let device = &device();
    let on = Device::Cuda(device.clone());
    let (n, k) = (13, 320);
    let weight = Nf4Matrix::quantize(random(&[n, k], 7, 1.0).as_slice().unwrap(), n, k, true).unwrap();
    let nf4 = Tensor::from_nf4(weight).to_device(&on).unwrap();
    for dtype in ALL {
        for m in [1, 2] {
            let what = format!("{dtype} M {m}");
            let (x, x_values) = operand(device, [m, k], false, dtype, 1);
            let (w, w_values) = operand(device, [k, n], true, dtype, 2);
            let (y, before) = output(device, m, n, dtype, 3);
            let options = Options { beta: 1.0, ..Options::default() };
            let launches = || device.simulator().unwrap().launches();
            let first = launches();
            product(OP, device, 2.0, matrix(&x), matrix(&w), Target::of(&y).unwrap(), options).unwrap();
            assert_eq!(launches(), first + 1, "{what}");
            let sums = reference(&x_values, &w_values, m, n, k);
            let want: Vec<f64> = sums.iter().zip(&before).map(|(s, b)| 2.0 * s + b).collect();
            close(&what, &y, &want, dtype);

            // NF4: as if the weight had been written out in f32.
            let dense = dequantize(OP, device, nf4.nf4_on_device().unwrap(), DType::F32).unwrap();
            let w_values = to_f64(&dense.transpose(0, 1).unwrap().contiguous().unwrap());
            let nf4 = nf4.nf4_on_device().unwrap();
            let none = Options::default();
            nf4_product(OP, device, 1.0, matrix(&x), nf4, true, Target::of(&y).unwrap(), none, None).unwrap();
            close(&format!("{what} nf4"), &y, &reference(&x_values, &w_values, m, n, k), dtype);
        }
    }
}

#[test]
fn batches_read_any_aligned_or_odd_start() {
    let device = &device();
    let (m, n, k) = (9, 12, 24);
    for dtype in ALL {
        for skew in [0, 3] {
            // Three matrices of a in rows of 8·7 elements, b shared by the first two.
            let (pool, values) = operand(device, [1, 4096], false, dtype, 1);
            let (a_starts, b_starts) = ([skew, skew + 640, skew + 1280], [2048 + skew, 2048 + skew, 3072]);
            let view = |rows, cols, ld| Matrix { rows, cols, row_stride: ld, col_stride: 1, ..matrix(&pool) };
            let (c, _) = output(device, 3 * m, n, dtype, 3);
            let options = Options { batch: Some((&a_starts, &b_starts, m * n)), ..Options::default() };
            product(OP, device, 1.0, view(m, k, 56), view(k, n, 16), Target::of(&c).unwrap(), options)
                .unwrap();
            let part = |start: usize, rows: usize, cols: usize, ld: usize| -> Vec<f64> {
                (0..rows * cols).map(|i| values[start + i / cols * ld + i % cols]).collect()
            };
            let want: Vec<f64> = (0..3)
                .flat_map(|i| reference(&part(a_starts[i], m, k, 56), &part(b_starts[i], k, n, 16), m, n, k))
                .collect();
            close(&format!("{dtype} from {skew}"), &c, &want, dtype);
        }
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let device = &device();
    let (a, _) = operand(device, [4, 8], false, DType::F32, 1);
    let (b, _) = operand(device, [6, 8], false, DType::F32, 2);
    let (half, _) = operand(device, [8, 6], false, DType::F16, 2);
    let (c, _) = output(device, 4, 6, DType::F32, 3);
    let error = |b: &Tensor, c: &Tensor| {
        let target = Target::of(c).unwrap();
        product(OP, device, 1.0, matrix(&a), matrix(b), target, Options::default()).unwrap_err().to_string()
    };
    assert!(error(&b, &c).contains("[6, 8]"));
    assert!(error(&half, &c).contains("f16"));
    let (ok, _) = operand(device, [8, 6], false, DType::F32, 2);
    let (bf16, _) = output(device, 4, 6, DType::BF16, 3);
    assert!(error(&ok, &bf16).contains("bf16"));
}

/// What the headers claim of the main loops, on aligned shapes.
#[test]
fn main_loops_have_no_conflicts_and_read_whole_sectors() {
    let options = SimOptions { counts: true, threads: 1, ..SimOptions::default() };
    let device = &CudaDevice::sim(options).unwrap();
    let on = Device::Cuda(device.clone());
    // On sm_80 an mma.m16n8k16 keeps its tensor core for eight issue slots.
    const SLOTS: u64 = 8;
    let check = |least_share: f64| {
        for (kernel, _, counts) in device.simulator().unwrap().reports() {
            let main = counts.main_loop().unwrap();
            assert_eq!(main.wavefronts, main.wavefronts_ideal, "{kernel}: bank conflicts");
            assert_eq!(counts.sectors(), counts.sectors_needed(), "{kernel}: sectors");
            let tensor = main.tensor_instructions() * SLOTS;
            let share = tensor as f64 / (tensor + main.other_instructions()) as f64;
            println!("{kernel}: tensor {share:.3}, {:?}", main.classes);
            assert!(share >= least_share, "{kernel}: the tensor cores have {share:.2} of the slots");
        }
        device.simulator().unwrap().reset_reports();
    };
    for dtype in HALVES {
        for (a_columns, b_columns) in [(false, true), (false, false), (true, false)] {
            let (a, _) = operand(device, [128, 512], a_columns, dtype, 1);
            let (b, _) = operand(device, [512, 128], b_columns, dtype, 2);
            let (c, _) = output(device, 128, 128, dtype, 3);
            let options = Options { plan: Some((Tile::Large, 1)), ..Options::default() };
            product(OP, device, 1.0, matrix(&a), matrix(&b), Target::of(&c).unwrap(), options).unwrap();
        }
    }
    check(0.85);
    for columns in [true, false] {
        let (a, _) = operand(device, [64, 256], false, DType::BF16, 1);
        let (b, _) = operand(device, [256, 128], columns, DType::BF16, 2);
        let (low, _) = operand(device, [256, 32], columns, DType::BF16, 2);
        let (up, _) = operand(device, [32, 128], columns, DType::BF16, 2);
        let (c, _) = output(device, 64, 128, DType::BF16, 3);
        let (h, _) = output(device, 64, 32, DType::BF16, 3);
        let path = LowRank { low: matrix(&low), up: matrix(&up), h: h.device_ptr().unwrap(), scale: 1.0 };
        let options = Options { low: Some(path), ..Options::default() };
        product(OP, device, 1.0, matrix(&a), matrix(&b), Target::of(&c).unwrap(), options).unwrap();
    }
    check(0.7);
    let weight =
        Nf4Matrix::quantize(random(&[256, 256], 7, 1.0).as_slice().unwrap(), 256, 256, false).unwrap();
    let weight = Tensor::from_nf4(weight).to_device(&on).unwrap();
    for transposed in [true, false] {
        let (x, _) = operand(device, [32, 256], false, DType::BF16, 1);
        let (c, _) = output(device, 32, 256, DType::BF16, 3);
        let (nf4, fused) = (weight.nf4_on_device().unwrap(), Some(Nf4Schedule::Fused));
        let target = Target::of(&c).unwrap();
        nf4_product(OP, device, 1.0, matrix(&x), nf4, transposed, target, Options::default(), fused).unwrap();
    }
    for (kernel, _, counts) in device.simulator().unwrap().reports() {
        if let Some(main) = counts.main_loop() {
            println!("{kernel}: {:?} sectors {} {}", main.classes, counts.sectors(), counts.sectors_needed());
            assert_eq!(main.wavefronts, main.wavefronts_ideal, "{kernel}: bank conflicts");
        }
    }
}
