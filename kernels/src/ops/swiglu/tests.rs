use super::*;
use crate::check::{Array, Check, random};
use crate::cpu::activation::exact::sigmoid;

fn reference(i: &[Array]) -> Vec<Array> {
    let data = i[0].data.iter().zip(&i[1].data).map(|(g, u)| g * sigmoid(*g) * u);
    vec![Array::new(&i[0].shape, data.collect())]
}

pub(crate) fn check() {
    for shape in [&[1][..], &[3, 5], &[2, 3, 37], &[0, 4], &[300]] {
        Check::new(Swiglu {}).input(shape).input(shape).run(reference);
    }
    // Gate and up as halves of one fused projection.
    for half in [7, 16] {
    let fused = random(&[5, 2 * half], 1, 3.0);
    Check::new(Swiglu {})
        .tensor(fused.narrow(1, 0, half).unwrap(), true)
        .tensor(fused.narrow(1, half, half).unwrap(), true)
        .run(reference);
    }
}

#[test]
fn same_bits_on_any_thread_count() {
    Check::new(Swiglu {}).input(&[70, 701]).input(&[70, 701]).same_on_any_thread_count();
}

#[test]
fn only_wanted_gradients_are_returned() {
    let (g, u) = (random(&[4], 1, 1.0), random(&[4], 2, 1.0));
    let (_, saved) = Swiglu {}.forward(&[&g, &u], &[false, true]).unwrap();
    let grads = Swiglu {}.backward(saved, &[Some(u.clone())], &[false, true]).unwrap();
    assert!(grads[0].is_none() && grads[1].is_some());
}

#[test]
fn different_shapes_are_an_error() {
    let (g, u) = (random(&[2, 3], 1, 1.0), random(&[3], 2, 1.0));
    let e = Swiglu {}.forward(&[&g, &u], &[false; 2]).err().unwrap().to_string();
    assert!(e.contains("[2, 3]") && e.contains("[3]"), "{e}");
}
