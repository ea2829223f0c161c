use super::*;

#[test]
fn all_half_floats_survive_the_round_trip() {
    let bits: Vec<u16> = (0..=u16::MAX).collect();
    let h: Vec<f16> = bits.iter().map(|b| f16::from_bits(*b)).filter(|v| !v.is_nan()).collect();
    let b: Vec<bf16> = bits.iter().map(|b| bf16::from_bits(*b)).filter(|v| !v.is_nan()).collect();
    let (mut wide, mut h2) = (vec![0.0; h.len()], vec![f16::ZERO; h.len()]);
    f16_to_f32(&h, &mut wide).unwrap();
    f32_to_f16(&wide, &mut h2).unwrap();
    assert!(h.iter().zip(&h2).all(|(a, b)| a.to_bits() == b.to_bits()));
    let (mut wide, mut b2) = (vec![0.0; b.len()], vec![bf16::ZERO; b.len()]);
    bf16_to_f32(&b, &mut wide).unwrap();
    f32_to_bf16(&wide, &mut b2).unwrap();
    assert!(b.iter().zip(&b2).all(|(a, b)| a.to_bits() == b.to_bits()));
}

#[test]
fn ties_go_to_even_and_overflow_to_infinity() {
    let mut b = [bf16::ZERO; 3];
    f32_to_bf16(&[1.0 + 1.0 / 256.0, 1.0 + 3.0 / 256.0, f32::NAN], &mut b).unwrap();
    assert_eq!((b[0].to_f32(), b[1].to_f32()), (1.0, 1.0 + 2.0 / 128.0));
    assert!(b[2].is_nan());
    let mut h = [f16::ZERO; 3];
    f32_to_f16(&[1.0 + 1.0 / 2048.0, 1.0 + 3.0 / 2048.0, 1e6], &mut h).unwrap();
    assert_eq!(h.map(f16::to_f32), [1.0, 1.0 + 2.0 / 1024.0, f32::INFINITY]);
}

#[test]
fn different_lengths_are_an_error() {
    assert!(f32_to_bf16(&[1.0; 3], &mut [bf16::ZERO; 2]).unwrap_err().to_string().contains("expected 3"));
}
