use super::*;
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
