use super::*;
use medley_kernels::ops::RmsNorm;
use medley_tensor::Tensor;

fn tensor(data: &[f32], shape: &[usize]) -> Tensor {
    Tensor::from_vec(data.to_vec(), shape).unwrap()
}

fn ones(shape: &[usize]) -> Tensor {
    Tensor::from_vec(vec![1.0f32; shape.iter().product()], shape).unwrap()
}

const X: [f32; 6] = [0.5, -1.0, 2.0, 1.5, 0.25, -0.75];

fn norm(x: &Var, w: &Var) -> Var {
    let [y] = x.rms_norm(RmsNorm { eps: 1e-5 }, &[w]).unwrap();
    y
}

#[test]
fn gradients_accumulate_over_uses_and_passes() {
    let w = Param::new("w", tensor(&[1.0, 2.0, 0.5], &[3])).unwrap();
    let once = {
        norm(&Var::from(tensor(&X, &[2, 3])), &w.var()).backward_with(ones(&[2, 3])).unwrap();
        w.grad().unwrap().to_vec_f32().unwrap()
    };
    w.zero_grad();
    assert!(w.grad().is_none());
    for _ in 0..2 {
        norm(&Var::from(tensor(&X, &[2, 3])), &w.var()).backward_with(ones(&[2, 3])).unwrap();
    }
    let twice = w.grad().unwrap().to_vec_f32().unwrap();
    assert!(once.iter().zip(&twice).all(|(a, b)| 2.0 * a == *b && *a != 0.0), "{once:?} {twice:?}");
}

#[test]
fn a_variable_used_twice_gets_both_gradients() {
    let w = Var::from(tensor(&[1.0, 2.0, 0.5], &[3]));
    let x = Var::leaf(tensor(&X, &[2, 3]));
    let once = norm(&x, &w).backward_with(ones(&[2, 3])).unwrap().get(&x).unwrap().to_vec_f32().unwrap();
    let (a, b) = (norm(&x, &w), norm(&x, &w));
    let both = backward::backward_from(&[(a, ones(&[2, 3])), (b, ones(&[2, 3]))])
        .unwrap()
        .get(&x)
        .unwrap()
        .to_vec_f32();
    assert!(once.iter().zip(&both.unwrap()).all(|(a, b)| 2.0 * a == *b));
}

#[test]
fn checkpointing_gives_the_same_gradients() {
    let run = |with: bool| {
        let w = Param::new("w", tensor(&[1.0, 2.0, 0.5], &[3])).unwrap();
        let x = Var::leaf(tensor(&X, &[2, 3]));
        let segment = {
            let w = w.clone();
            move |v: &[Var]| Ok(vec![norm(&norm(&v[0], &w.var()), &w.var())])
        };
        let y = if with {
            checkpoint(&[&x], segment).unwrap()
        } else {
            segment(std::slice::from_ref(&x)).unwrap()
        };
        let y = norm(&y[0], &w.var());
        let g = y.backward_with(tensor(&[1., 2., 3., 4., 5., 6.], &[2, 3])).unwrap();
        (
            y.value().to_vec_f32().unwrap(),
            g.get(&x).unwrap().to_vec_f32().unwrap(),
            w.grad().unwrap().to_vec_f32().unwrap(),
        )
    };
    assert_eq!(run(true), run(false));
}

#[test]
fn a_checkpoint_of_constants_still_trains_its_parameters() {
    let w = Param::new("w", tensor(&[1.0, 2.0, 0.5], &[3])).unwrap();
    let inner = w.clone();
    let y =
        checkpoint(&[&Var::from(tensor(&X, &[2, 3]))], move |v| Ok(vec![norm(&v[0], &inner.var())])).unwrap();
    y[0].backward_with(ones(&[2, 3])).unwrap();
    assert!(w.grad().is_some());
}

#[test]
fn nothing_is_recorded_under_no_grad() {
    let w = Param::new("w", tensor(&[1.0, 2.0, 0.5], &[3])).unwrap();
    let y = no_grad(|| norm(&Var::from(tensor(&X, &[2, 3])), &w.var()));
    assert!(!y.requires_grad());
    assert!(is_recording());
    assert!(y.backward_with(ones(&[2, 3])).is_err());
}

#[test]
fn a_graph_serves_once_and_says_so() {
    let x = Var::leaf(tensor(&X, &[2, 3]));
    let y = norm(&x, &Var::from(tensor(&[1.0, 2.0, 0.5], &[3])));
    y.backward_with(ones(&[2, 3])).unwrap();
    let text = y.backward_with(ones(&[2, 3])).err().unwrap().to_string();
    assert!(text.contains("already used"), "{text}");
    assert!(y.backward().is_err(), "not a scalar");
}

#[test]
fn updates_happen_in_place() {
    let w = Param::new("w", tensor(&[1.0, 2.0, 0.5], &[3])).unwrap();
    let before = w.value().as_slice::<f32>().unwrap().as_ptr();
    norm(&Var::from(tensor(&X, &[2, 3])), &w.var()).backward_with(ones(&[2, 3])).unwrap();
    w.update(|v, g| {
        v.as_mut_slice::<f32>()?.iter_mut().zip(g.as_slice::<f32>()?).for_each(|(v, g)| *v -= g);
        Ok(())
    })
    .unwrap();
    assert_eq!(before, w.value().as_slice::<f32>().unwrap().as_ptr());
    assert_ne!(w.value().to_vec_f32().unwrap(), [1.0, 2.0, 0.5]);
    assert!(w.set(tensor(&[1.0], &[1])).is_err());
}
