use super::*;
use medley_tensor::device::Device;
use medley_tensor::rng::Philox;

fn data(n: usize) -> Vec<f32> {
    let mut rng = Philox::new(4, 4);
    (0..n).map(|_| rng.normal_f32()).collect()
}

#[test]
fn same_bits_as_the_serial_code() {
    // Below a chunk, a ragged last block, an odd last element.
    for (rows, cols) in [(3, 50), (0, 7), (101, 700), (333, 333)] {
        let x = data(rows * cols);
        for double in [false, true] {
            let (a, b) = (
                quantize(&x, rows, cols, double).unwrap(),
                Nf4Matrix::quantize(&x, rows, cols, double).unwrap(),
            );
            assert_eq!((a.rows(), a.cols(), a.is_double_quantised()), (rows, cols, double));
            assert_eq!(a.as_ref().codes, b.as_ref().codes);
            let (mut ya, mut yb) = (vec![0.0; x.len()], vec![0.0; x.len()]);
            dequantize(&a, &mut ya).unwrap();
            b.dequantize_into(&mut yb).unwrap();
            assert!(ya == yb, "[{rows}, {cols}] double {double}");
        }
    }
}

#[test]
fn the_index_of_a_bad_weight_is_that_of_the_matrix() {
    let mut x = data(2 * CHUNK);
    x[CHUNK + 9] = f32::INFINITY;
    let e = quantize(&x, 2, CHUNK, true).unwrap_err().to_string();
    assert!(e.contains(&format!("[2, {CHUNK}]")) && e.contains(&format!("element {}", CHUNK + 9)), "{e}");
}

#[test]
fn wrong_lengths_are_errors() {
    assert!(quantize(&data(2 * CHUNK), 3, CHUNK, true).is_err());
    let m = quantize(&data(6), 2, 3, false).unwrap();
    assert!(dequantize(&m, &mut [0.0; 5]).is_err());
}

/// Both devices give the same bits: ragged last blocks, an odd last element, a block of zeros, several nested blocks.
#[test]
fn same_bits_on_a_gpu() {
    let on = Device::Cuda(crate::check::device::device());
    for (rows, cols) in [(1, 1), (3, 50), (7, 9), (2, 64), (40, 500)] {
        for dtype in [DType::F32, DType::BF16] {
            let mut x = data(rows * cols);
            if x.len() > 200 {
                x[64..128].fill(0.0);
            }
            let x = Tensor::from_vec(x, &[rows, cols]).unwrap().to_dtype(dtype).unwrap();
            for double in [false, true] {
                let what = format!("[{rows}, {cols}] {dtype} double {double}");
                let host = quantize_tensor(&x, double).unwrap();
                let gpu = quantize_tensor(&x.to_device(&on).unwrap(), double).unwrap();
                let (a, b) = (host.nf4().unwrap().clone(), gpu.to_device(&Device::Cpu).unwrap());
                let b = b.nf4().unwrap();
                let (a, b) = (a.as_ref(), b.as_ref());
                assert_eq!(a.codes, b.codes, "{what}");
                assert_eq!(format!("{:?}", a.absmax), format!("{:?}", b.absmax), "{what}");
                for to in [DType::F32, DType::BF16, DType::F16] {
                    let (h, g) =
                        (dequantize_tensor(&host, to).unwrap(), dequantize_tensor(&gpu, to).unwrap());
                    assert_eq!(h.to_vec_f32().unwrap(), g.to_vec_f32().unwrap(), "{what} to {to}");
                }
            }
        }
    }
}

#[test]
fn a_bad_weight_on_a_gpu_is_named() {
    let on = Device::Cuda(crate::check::device::device());
    let mut x = data(300);
    (x[77], x[200]) = (f32::NAN, f32::INFINITY);
    let x = Tensor::from_vec(x, &[3, 100]).unwrap().to_device(&on).unwrap();
    let e = quantize_tensor(&x, true).unwrap_err().to_string();
    assert!(e.contains("[3, 100]") && e.contains("element 77"), "{e}");
    assert!(dequantize_tensor(&x, DType::F32).is_err());
}
