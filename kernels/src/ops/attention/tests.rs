use super::*;
use crate::check::{Array, Check, random};

/// Softmax over the keys each query sees, in f64, written without blocks.
fn reference(op: &Attention, i: &[Array]) -> Array {
    let (q, k, v) = (&i[0], &i[1], &i[2]);
    let (hq, hkv, d) = (q.shape[1], k.shape[1], q.shape[2]);
    let mut out = vec![0.0; q.data.len()];
    for span in op.cu_seqlens.windows(2) {
        for t in span[0] as usize..span[1] as usize {
            let first = op.window.map_or(0, |w| (t + 1).saturating_sub(w)).max(span[0] as usize);
            for h in 0..hq {
                let row = |x: &Array, t: usize, heads: usize, h: usize| x.data[(t * heads + h) * d..][..d].to_vec();
                let g = h / (hq / hkv);
                let query = row(q, t, hq, h);
                let p: Vec<f64> = (first..=t)
                    .map(|j| {
                        let dot: f64 = query.iter().zip(row(k, j, hkv, g)).map(|(a, b)| a * b).sum();
                        (dot * f64::from(op.scale)).exp()
                    })
                    .collect();
                let sum: f64 = p.iter().sum();
                for (p, j) in p.iter().zip(first..) {
                    for (o, x) in out[(t * hq + h) * d..][..d].iter_mut().zip(row(v, j, hkv, g)) {
                        *o += p / sum * x;
                    }
                }
            }
        }
    }
    Array::new(&q.shape, out)
}

fn op(cu_seqlens: &[u32], d: usize, window: Option<usize>) -> Attention {
    Attention { cu_seqlens: cu_seqlens.into(), scale: 1.0 / (d as f32).sqrt(), window }
}

fn run(cu_seqlens: &[u32], hq: usize, hkv: usize, d: usize, window: Option<usize>) {
    let t = *cu_seqlens.last().unwrap() as usize;
    let op = op(cu_seqlens, d, window);
    Check::new(op.clone())
        .input(&[t, hq, d])
        .input(&[t, hkv, d])
        .input(&[t, hkv, d])
        .run(|i| vec![reference(&op, i)]);
}

pub(crate) fn check() {
    run(&[0, 1], 1, 1, 1, None);
    run(&[0], 2, 1, 8, None);
    run(&[0, 0, 3, 3], 1, 1, 5, None);
    for (hq, hkv) in [(1, 1), (4, 2), (3, 1)] {
        for d in [5, 16, 24] {
            run(&[0, 7, 8, 31], hq, hkv, d, None);
        }
    }
    for window in [1, 2, 7, 20, 1000] {
        run(&[0, 40, 45], 2, 1, 8, Some(window));
    }
}

#[test]
fn several_blocks_of_queries_and_keys() {
    run(&[0, 113], 1, 1, 8, None);
    run(&[0, 97], 2, 1, 16, None);
    for window in [17, 50, 96, 101] {
        run(&[0, 120], 1, 1, 4, Some(window));
    }
}

/// Long enough for every path through the blocks; the forward alone, since differences would take long.
#[test]
fn long_sequences_forward() {
    for (cu, window) in [(&[0u32, 300, 301, 540][..], None), (&[0, 517], Some(130)), (&[0, 400], Some(16))] {
        let op = op(cu, 64, window);
        let t = *cu.last().unwrap() as usize;
        let inputs = [random(&[t, 2, 64], 1, 1.0), random(&[t, 1, 64], 2, 1.0), random(&[t, 1, 64], 3, 1.0)];
        let (out, _) = op.forward(&inputs.each_ref(), &[false; 3]).unwrap();
        let want = reference(&op, &inputs.each_ref().map(Array::of));
        for (got, want) in out[0].to_vec_f32().unwrap().iter().zip(&want.data) {
            assert!((f64::from(*got) - want).abs() < 1e-5, "{got} for {want}");
        }
    }
}

#[test]
fn same_bits_on_any_thread_count() {
    let (q, kv) = (&[230, 6, 16], &[230, 2, 16]);
    let op = op(&[0, 100, 130, 230], 16, None);
    Check::new(op).input(q).input(kv).input(kv).same_on_any_thread_count();
}

/// A sequence's result does not depend on what it is packed with.
#[test]
fn packing_changes_nothing() {
    let inputs = [random(&[90, 4, 8], 1, 1.0), random(&[90, 2, 8], 2, 1.0), random(&[90, 2, 8], 3, 1.0)];
    let packed = op(&[0, 53, 90], 8, None).forward(&inputs.each_ref(), &[false; 3]).unwrap().0.remove(0);
    let alone = inputs.each_ref().map(|x| x.narrow(0, 53, 37).unwrap());
    let alone = op(&[0, 37], 8, None).forward(&alone.each_ref(), &[false; 3]).unwrap().0.remove(0);
    assert_eq!(packed.narrow(0, 53, 37).unwrap().to_vec_f32().unwrap(), alone.to_vec_f32().unwrap());
}

/// A sequence that has gone wrong must not reach its neighbours, forward or backward.
#[test]
fn non_finite_values_stay_in_their_sequence() {
    let t = 20;
    let clean = [random(&[t, 1, 8], 1, 1.0), random(&[t, 1, 8], 2, 1.0), random(&[t, 1, 8], 3, 1.0)];
    let mut dirty = clean.clone();
    for x in &mut dirty {
        x.as_mut_slice::<f32>().unwrap()[17 * 8..].fill(f32::NAN);
    }
    let op = op(&[0, 17, t as u32], 8, None);
    let run = |x: &[Tensor; 3]| -> Vec<Vec<f32>> {
        let (mut all, saved) = op.forward(&x.each_ref(), &[true; 3]).unwrap();
        let gradients = op.backward(saved, &[Some(random(&[t, 1, 8], 4, 1.0))], &[true; 3]).unwrap();
        all.extend(gradients.into_iter().flatten());
        all.iter().map(|x| x.to_vec_f32().unwrap()).collect()
    };
    for (clean, dirty) in run(&clean).iter().zip(run(&dirty)) {
        assert_eq!(clean[..17 * 8], dirty[..17 * 8]);
        assert!(dirty[17 * 8..].iter().all(|x| x.is_nan()));
    }
}

/// Chunks of queries against a preallocated, strided cache give the rows of the whole.
#[test]
fn a_cache_gives_the_same_as_the_whole_sequence() {
    let (t, hq, hkv, d, room) = (75, 6, 2, 20, 100);
    let whole = [random(&[t, hq, d], 1, 1.0), random(&[t, hkv, d], 2, 1.0), random(&[t, hkv, d], 3, 1.0)];
    for window in [None, Some(9)] {
        let op = op(&[0, t as u32], d, window);
        let want = op.forward(&whole.each_ref(), &[false; 3]).unwrap().0.remove(0);
        // The cache is laid out [head, token, D], the layout of the tensors is [token, head, D].
        let cache = whole[1..].iter().map(|x| {
            let x = x.to_vec_f32().unwrap();
            let mut out = vec![f32::NAN; hkv * room * d];
            for (at, value) in x.iter().enumerate() {
                let (token, head, i) = (at / (hkv * d), at / d % hkv, at % d);
                out[(head * room + token) * d + i] = *value;
            }
            out
        });
        let cache: Vec<Vec<f32>> = cache.collect();
        let mut done = 0;
        for chunk in [1, 2, 40, 5, 6, 21] {
            let kv = KeyValues {
                k: &cache[0],
                v: &cache[1],
                len: done + chunk,
                heads: hkv,
                token_stride: d,
                head_stride: room * d,
            };
            let q = whole[0].narrow(0, done, chunk).unwrap();
            let got = attention_with_cache(&q, &kv, op.scale, window, done).unwrap();
            let want = want.narrow(0, done, chunk).unwrap().to_vec_f32().unwrap();
            for (got, want) in got.to_vec_f32().unwrap().iter().zip(want) {
                assert!((got - want).abs() < 1e-5, "{got} for {want}");
            }
            done += chunk;
        }
        assert_eq!(done, t);
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let error = |cu: &[u32], q: &[usize], k: &[usize], v: &[usize], window| {
        let inputs = [random(q, 1, 1.0), random(k, 2, 1.0), random(v, 3, 1.0)];
        op(cu, 4, window).forward(&inputs.each_ref(), &[false; 3]).map(|_| ()).unwrap_err().to_string()
    };
    let (q, k) = (&[5, 4, 8], &[5, 2, 8]);
    assert!(error(&[0, 4], q, k, k, None).contains("number of tokens, 5"));
    assert!(error(&[0, 4, 2, 5], q, k, k, None).contains("[0, 4, 2, 5]"));
    assert!(error(&[], q, k, k, None).contains("cu_seqlens"));
    assert!(error(&[0, 5], q, &[5, 3, 8], &[5, 3, 8], None).contains("multiple of 3"));
    assert!(error(&[0, 5], q, &[4, 2, 8], k, None).contains("[4, 2, 8]"));
    assert!(error(&[0, 5], q, k, &[5, 4, 8], None).contains("[5, 4, 8]"));
    assert!(error(&[0, 5], &[5, 32], k, k, None).contains("[5, 32]"));
    assert!(error(&[0, 5], q, k, k, Some(0)).contains("window"));

    let q = random(&[2, 2, 8], 1, 1.0);
    let data = vec![0.0; 64];
    let kv = KeyValues { k: &data, v: &data, len: 8, heads: 1, token_stride: 8, head_stride: 8 };
    let error = |kv: &KeyValues, at| attention_with_cache(&q, kv, 1.0, None, at).unwrap_err().to_string();
    assert!(error(&kv, 7).contains("cache of 8 tokens"));
    assert!(error(&KeyValues { v: &data[1..], ..kv }, 0).contains("v of the cache has 63"));
    assert!(error(&KeyValues { heads: 3, ..kv }, 0).contains("multiple of 3"));
}
