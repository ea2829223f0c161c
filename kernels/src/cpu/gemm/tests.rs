use half::{bf16, f16};
use medley_tensor::quant::{AbsmaxRef, Nf4Ref};

use super::*;

/// A small generator of test values.
struct Values(u64);

impl Values {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        self.0 >> 33
    }
    fn below(&mut self, n: usize) -> usize {
        self.next() as usize % n
    }
    fn f32(&mut self) -> f32 {
        self.next() as f32 / (1u64 << 30) as f32 - 1.0
    }
    fn vec(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| self.f32()).collect()
    }
}

/// An operand that owns its data in one of the storage types.
enum Owned {
    F32(Vec<f32>),
    Bf16(Vec<bf16>),
    F16(Vec<f16>),
    Nf4 {
        codes: Vec<u8>,
        absmax: Vec<f32>,
        rows: usize,
        cols: usize,
    },
    Nf4Double {
        codes: Vec<u8>,
        absmax: Vec<u8>,
        map: Box<[f32; 256]>,
        nested: Vec<f32>,
        rows: usize,
        cols: usize,
    },
}

impl Owned {
    const KINDS: usize = 5;

    fn new(kind: usize, rows: usize, cols: usize, values: &mut Values) -> Owned {
        let len = rows * cols;
        let blocks = len.div_ceil(64);
        let mut codes = |count: usize| (0..count).map(|_| values.next() as u8).collect::<Vec<u8>>();
        match kind {
            0 => Owned::F32(values.vec(len)),
            1 => Owned::Bf16(values.vec(len).into_iter().map(bf16::from_f32).collect()),
            2 => Owned::F16(values.vec(len).into_iter().map(f16::from_f32).collect()),
            3 => Owned::Nf4 { codes: codes(len.div_ceil(2)), absmax: values.vec(blocks), rows, cols },
            _ => Owned::Nf4Double {
                codes: codes(len.div_ceil(2)),
                absmax: codes(blocks),
                map: Box::new(std::array::from_fn(|i| i as f32 / 255.0)),
                nested: values.vec(blocks.div_ceil(256)),
                rows,
                cols,
            },
        }
    }

    fn data(&self) -> MatData<'_> {
        match self {
            Owned::F32(data) => MatData::F32(data),
            Owned::Bf16(data) => MatData::Bf16(data),
            Owned::F16(data) => MatData::F16(data),
            Owned::Nf4 { codes, absmax, rows, cols } => {
                MatData::Nf4(Nf4Ref { codes, absmax: AbsmaxRef::F32(absmax), rows: *rows, cols: *cols })
            }
            Owned::Nf4Double { codes, absmax, map, nested, rows, cols } => MatData::Nf4(Nf4Ref {
                codes,
                absmax: AbsmaxRef::Double { codes: absmax, map, nested, offset: 0.25 },
                rows: *rows,
                cols: *cols,
            }),
        }
    }

    /// The matrix `rows` × `cols`, stored as it is or as its transpose.
    fn view(&self, rows: usize, cols: usize, transposed: bool) -> MatRef<'_> {
        if transposed {
            MatRef::row_major(self.data(), cols, rows).unwrap().t()
        } else {
            MatRef::row_major(self.data(), rows, cols).unwrap()
        }
    }
}

/// The operand in f64, row-major.
fn dense(matrix: &MatRef) -> Vec<f64> {
    let at = |i, j| f64::from(matrix.data.get(i * matrix.row_stride + j * matrix.col_stride));
    (0..matrix.rows).flat_map(|i| (0..matrix.cols).map(move |j| at(i, j))).collect()
}

/// Compares with the product in f64. The bound is that of a sum of k + 3 terms in f32 (Higham, Accuracy and
/// Stability of Numerical Algorithms, 2nd ed., section 3.1): |error| ≤ γ · Σ |terms|.
fn check(alpha: f32, a: &MatRef, b: &MatRef, beta: f32, old: &[f32], new: &[f32], ldc: usize, label: &str) {
    let (n, depth) = (b.cols, a.cols);
    let gamma = (depth + 3) as f64 * f64::from(f32::EPSILON);
    let (a, b) = (dense(a), dense(b));
    for (i, old_row) in old.chunks(ldc.max(1)).enumerate().filter(|_| n > 0) {
        let (mut sum, mut size) = (vec![0.0f64; n], vec![0.0f64; n]);
        for k in 0..depth {
            let factor = f64::from(alpha) * a[i * depth + k];
            for ((sum, size), b) in sum.iter_mut().zip(&mut size).zip(&b[k * n..(k + 1) * n]) {
                *sum += factor * b;
                *size += (factor * b).abs();
            }
        }
        for j in 0..n {
            if beta != 0.0 {
                let term = f64::from(beta) * f64::from(old_row[j]);
                sum[j] += term;
                size[j] += term.abs();
            }
            let (got, want) = (f64::from(new[i * ldc + j]), sum[j]);
            assert!(
                (got - want).abs() <= gamma * size[j] + 1e-37,
                "{label}: C[{i},{j}] is {got}, not {want}"
            );
        }
    }
    for (i, (old, new)) in old.iter().zip(new).enumerate() {
        assert!(i % ldc < n || old.to_bits() == new.to_bits(), "{label}: wrote between rows at {i}");
    }
}

fn run_case(
    m: usize,
    n: usize,
    k: usize,
    kinds: (usize, usize),
    transposed: (bool, bool),
    scale: (f32, f32),
    seed: u64,
) {
    let mut values = Values(seed);
    let shape = |rows, cols, t| if t { (cols, rows) } else { (rows, cols) };
    let (ar, ac) = shape(m, k, transposed.0);
    let (br, bc) = shape(k, n, transposed.1);
    let a = Owned::new(kinds.0, ar, ac, &mut values);
    let b = Owned::new(kinds.1, br, bc, &mut values);
    let (a, b) = (a.view(m, k, transposed.0), b.view(k, n, transposed.1));
    let ldc = n + values.below(3);
    let old = if scale.1 == 0.0 { vec![f32::NAN; m * ldc] } else { values.vec(m * ldc) };
    for isa in Isa::available() {
        let mut new = old.clone();
        gemm_on(isa, scale.0, a, b, scale.1, &mut MatMut::new(&mut new, m, n, ldc).unwrap()).unwrap();
        let label = format!("{isa:?} {m}x{n}x{k} kinds {kinds:?} transposed {transposed:?} scale {scale:?}");
        check(scale.0, &a, &b, scale.1, &old, &new, ldc, &label);
    }
}

#[test]
fn random_shapes_types_and_transposes_agree_with_f64() {
    let mut values = Values(1);
    let scales = [(1.0, 0.0), (1.0, 1.0), (-0.7, 0.3), (2.0, 0.0)];
    for case in 0..300 {
        let mut size = |small: bool| if small { values.below(9) } else { 1 + values.below(200) };
        let (m, n, k) = (size(case % 3 == 0), size(case % 7 == 0), size(case % 11 == 0));
        let kinds = (values.below(Owned::KINDS), values.below(Owned::KINDS));
        let transposed = (values.below(2) == 1, values.below(2) == 1);
        run_case(m, n, k, kinds, transposed, scales[values.below(4)], case);
    }
}

#[test]
fn several_blocks_of_every_loop_agree_with_f64() {
    for (kind, transposed) in [(0, false), (0, true), (1, true), (2, false), (3, true), (4, true), (3, false)]
    {
        run_case(301, 2090, 7, (0, kind), (false, transposed), (1.0, 0.0), 5);
        run_case(150, 130, 1001, (0, kind), (transposed, transposed), (0.5, 1.0), 6);
        run_case(5, 333, 777, (0, kind), (false, transposed), (1.0, 1.0), 7);
    }
}

#[test]
fn both_strides_may_be_general() {
    let mut values = Values(3);
    let (m, n, k) = (37, 41, 29);
    let a = values.vec(3 * m * 2 * k);
    let b = values.vec(2 * k * 3 * n);
    let a = MatRef::new(MatData::F32(&a), m, k, 3 * 2 * k, 2).unwrap();
    let b = MatRef::new(MatData::F32(&b), k, n, 2 * 3 * n, 3).unwrap();
    let mut c = vec![0.0; m * n];
    gemm(1.0, a, b, 0.0, &mut MatMut::row_major(&mut c, m, n).unwrap()).unwrap();
    check(1.0, &a, &b, 0.0, &vec![0.0; m * n], &c, n, "general strides");
}

#[test]
fn threads_and_other_rows_do_not_change_a_bit() {
    let mut values = Values(11);
    let (m, n, k) = (203, 517, 900);
    for kind in 0..Owned::KINDS {
        let a = values.vec(m * k);
        let b = Owned::new(kind, n, k, &mut values);
        let b = b.view(k, n, true);
        let product = |rows: std::ops::Range<usize>, threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let a =
                    MatRef::row_major(MatData::F32(&a[rows.start * k..rows.end * k]), rows.len(), k).unwrap();
                let mut c = vec![0.0f32; rows.len() * n];
                gemm(1.0, a, b, 0.0, &mut MatMut::row_major(&mut c, rows.len(), n).unwrap()).unwrap();
                c.into_iter().map(f32::to_bits).collect::<Vec<u32>>()
            })
        };
        let whole = product(0..m, 1);
        for threads in [2, 3, 7] {
            assert!(whole == product(0..m, threads), "{threads} threads, kind {kind}");
        }
        for rows in [0..1, 5..7, 17..22, 100..108, 3..33, 60..203] {
            let part = product(rows.clone(), 2);
            assert!(whole[rows.start * n..rows.end * n] == part, "rows {rows:?}, kind {kind}");
        }
    }
}

#[test]
fn nan_in_an_operand_reaches_its_row_and_no_other() {
    let (m, n, k) = (20, 33, 50);
    let mut a = vec![1.0f32; m * k];
    a[7 * k + 49] = f32::NAN;
    let b = vec![1.0f32; k * n];
    for isa in Isa::available() {
        let mut c = vec![f32::NAN; m * n];
        let a = MatRef::row_major(MatData::F32(&a), m, k).unwrap();
        let b = MatRef::row_major(MatData::F32(&b), k, n).unwrap();
        gemm_on(isa, 1.0, a, b, 0.0, &mut MatMut::row_major(&mut c, m, n).unwrap()).unwrap();
        for (i, row) in c.chunks(n).enumerate() {
            assert!(row.iter().all(|v| if i == 7 { v.is_nan() } else { *v == 50.0 }), "row {i}: {row:?}");
        }
    }
}

#[test]
fn an_empty_depth_scales_the_result() {
    let mut c = vec![3.0f32; 6];
    let a = MatRef::row_major(MatData::F32(&[]), 2, 0).unwrap();
    let b = MatRef::row_major(MatData::F32(&[]), 0, 3).unwrap();
    gemm(1.0, a, b, 0.5, &mut MatMut::row_major(&mut c, 2, 3).unwrap()).unwrap();
    assert_eq!(c, vec![1.5; 6]);
    gemm(1.0, a, b, 0.0, &mut MatMut::row_major(&mut c, 2, 3).unwrap()).unwrap();
    assert_eq!(c, vec![0.0; 6]);
}

#[test]
fn wrong_operands_are_refused_by_name() {
    let data = vec![0.0f32; 12];
    let f32s = MatData::F32(&data);
    assert!(MatRef::row_major(f32s, 3, 4).is_ok());
    assert!(matches!(MatRef::row_major(f32s, 3, 5), Err(GemmError::OutOfBounds { len: 12, .. })));
    assert!(matches!(MatRef::new(f32s, 2, 2, usize::MAX, 1), Err(GemmError::OutOfBounds { .. })));
    assert!(matches!(MatRef::new(f32s, 3, 2, usize::MAX, 1), Err(GemmError::OutOfBounds { .. })));
    let mut out = vec![0.0f32; 12];
    assert!(matches!(MatMut::new(&mut out, 3, 4, 3), Err(GemmError::Overlap { .. })));
    let nf4 = |codes, absmax| {
        let nf4 = Nf4Ref { codes, absmax: AbsmaxRef::F32(absmax), rows: 9, cols: 9 };
        MatRef::row_major(MatData::Nf4(nf4), 9, 9).err()
    };
    assert_eq!(nf4(&[0; 41], &[1.0, 1.0]), None);
    assert!(matches!(nf4(&[0; 40], &[1.0, 1.0]), Some(GemmError::Nf4 { part: "codes", need: 41, .. })));
    assert!(matches!(nf4(&[0; 41], &[1.0]), Some(GemmError::Nf4 { part: "absmax", need: 2, .. })));
    let a = MatRef::row_major(f32s, 3, 4).unwrap();
    let error = gemm(1.0, a, a, 0.0, &mut MatMut::row_major(&mut out, 3, 4).unwrap()).unwrap_err();
    assert!(error.to_string().contains("A is 3x4, B is 3x4"), "{error}");
}
