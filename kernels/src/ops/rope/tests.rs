use super::*;
use crate::check::{Array, Check, random};

fn inv_freq(n: usize) -> Vec<f32> {
    (0..n).map(|i| 10_000f32.powf(-(i as f32) / n as f32)).collect()
}

fn rope(rot_dim: usize, factor: f32, interleaved: bool, positions: &[u32]) -> Rope {
    let table = RopeTable::new(&inv_freq(rot_dim / 2), factor, 64, interleaved).unwrap();
    Rope { table: Arc::new(table), positions: positions.into() }
}

/// The definition with complex numbers' rule, from the frequencies.
fn reference(x: &Array, rot_dim: usize, factor: f64, interleaved: bool, positions: &[u32]) -> Array {
    let [_, heads, d] = x.shape[..] else { unreachable!() };
    let half = rot_dim / 2;
    let freq = inv_freq(half);
    let mut out = x.clone();
    for (t, p) in positions.iter().enumerate() {
        for h in 0..heads {
            let at = (t * heads + h) * d;
            for (i, f) in freq.iter().enumerate() {
                let (a, b) = if interleaved { (2 * i, 2 * i + 1) } else { (i, i + half) };
                let angle = f64::from(*p) * f64::from(*f);
                let (re, im) = (x.data[at + a], x.data[at + b]);
                out.data[at + a] = factor * (re * angle.cos() - im * angle.sin());
                out.data[at + b] = factor * (im * angle.cos() + re * angle.sin());
            }
        }
    }
    out
}

pub(crate) fn check() {
    for (t, heads, d, rot) in [(1, 1, 2, 2), (5, 3, 8, 8), (4, 2, 10, 6), (0, 2, 4, 4), (3, 1, 5, 0), (70, 3, 6, 6), (3, 5, 32, 32), (2, 3, 48, 16)] {
        for (interleaved, factor) in [(false, 1.0), (true, 1.0), (false, 1.25)] {
            let positions: Vec<u32> = (0..t).map(|i| (i * 13 % 64) as u32).collect();
            Check::new(rope(rot, factor, interleaved, &positions))
                .input(&[t, heads, d])
                .run(|i| vec![reference(&i[0], rot, f64::from(factor), interleaved, &positions)]);
        }
    }
    // Heads cut from a fused projection, and a transposed view.
    let positions = [0, 3, 1];
    for x in [
        random(&[3, 6, 4], 1, 1.0).narrow(1, 2, 3).unwrap(),
        random(&[4, 3, 3], 1, 1.0).permute(&[1, 2, 0]).unwrap(),
    ] {
        Check::new(rope(4, 1.0, false, &positions))
            .tensor(x, true)
            .run(|i| vec![reference(&i[0], 4, 1.0, false, &positions)]);
    }
}

#[test]
fn same_bits_on_any_thread_count() {
    let positions: Vec<u32> = (0..300).map(|i| i % 64).collect();
    Check::new(rope(32, 1.0, false, &positions)).input(&[300, 8, 32]).same_on_any_thread_count();
}

/// At position 4095 the rounding of the f32 angle shows: the exact product has another cosine.
#[test]
fn angles_round_as_hugging_face_does() {
    let f = 10_000f32.powf(-2.0 / 128.0);
    let table = RopeTable::new(&[f], 1.0, 4096, false).unwrap();
    let (c, s) = table.at(4095);
    let angle = f64::from(4095f32 * f);
    assert_eq!((c[0], s[0]), (angle.cos() as f32, angle.sin() as f32));
    let exact = 4095.0 * f64::from(f);
    assert_ne!(c[0], exact.cos() as f32, "the case does not tell the two apart");
}

#[test]
fn positions_and_shapes_out_of_bounds_are_errors() {
    let message = |op: &Rope, shape: &[usize]| {
        op.forward(&[&random(shape, 1, 1.0)], &[false]).err().unwrap().to_string()
    };
    let e = message(&rope(4, 1.0, false, &[0, 64]), &[2, 1, 4]);
    assert!(e.contains("position 64 of token 1") && e.contains("64 positions"), "{e}");
    let e = message(&rope(4, 1.0, false, &[0, 1]), &[3, 1, 4]);
    assert!(e.contains("2 tokens") && e.contains("[3, 1, 4]"), "{e}");
    let e = message(&rope(6, 1.0, false, &[0]), &[1, 1, 4]);
    assert!(e.contains("rot_dim 6") && e.contains("[1, 1, 4]"), "{e}");
    assert!(message(&rope(4, 1.0, false, &[0]), &[1, 4]).contains("[T, H, D]"));
    assert!(RopeTable::new(&[f32::NAN], 1.0, 4, false).is_err());
    assert!(RopeTable::new(&[1.0], 1.0, (1 << 24) + 1, false).is_err());
}
