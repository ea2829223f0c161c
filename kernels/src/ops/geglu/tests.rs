use super::*;
use crate::check::{Array, Check, random};
use crate::cpu::activation::exact;

fn reference(tanh: bool, i: &[Array]) -> Vec<Array> {
    let gelu = if tanh { exact::gelu_tanh } else { exact::gelu_erf };
    let data = i[0].data.iter().zip(&i[1].data).map(|(g, u)| gelu(*g) * u);
    vec![Array::new(&i[0].shape, data.collect())]
}

pub(crate) fn check() {
    for tanh in [true, false] {
        for shape in [&[1][..], &[3, 5], &[2, 3, 37], &[0, 4], &[300]] {
            Check::new(Geglu { tanh }).input(shape).input(shape).run(|i| reference(tanh, i));
        }
        Check::new(Geglu { tanh })
            .tensor(random(&[7, 5], 1, 3.0).transpose(0, 1).unwrap(), true)
            .input(&[5, 7])
            .run(|i| reference(tanh, i));
    }
}

#[test]
fn same_bits_on_any_thread_count() {
    for tanh in [true, false] {
        Check::new(Geglu { tanh }).input(&[70, 701]).input(&[70, 701]).same_on_any_thread_count();
    }
}

#[test]
fn different_shapes_are_an_error() {
    let (g, u) = (random(&[2, 3], 1, 1.0), random(&[2], 2, 1.0));
    let e = Geglu { tanh: true }.forward(&[&g, &u], &[false; 2]).err().unwrap().to_string();
    assert!(e.contains("geglu") && e.contains("[2, 3]") && e.contains("[2]"), "{e}");
}
