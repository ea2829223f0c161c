use super::*;

#[test]
fn adds_every_element() {
    let n = 2 * CHUNK + 3;
    let mut acc: Vec<f32> = (0..n).map(|i| i as f32).collect();
    let g: Vec<f32> = (0..n).map(|i| (i % 5) as f32).collect();
    accumulate(&mut acc, &g).unwrap();
    assert!(acc.iter().enumerate().all(|(i, a)| *a == (i + i % 5) as f32));
}

#[test]
fn different_lengths_are_an_error() {
    let e = accumulate(&mut [1.0; 3], &[1.0; 4]).unwrap_err().to_string();
    assert!(e.contains("4 elements, expected 3"), "{e}");
}
