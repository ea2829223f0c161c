use super::*;
use crate::check::{Array, Check, random};

fn ids(n: usize, v: usize) -> Arc<[u32]> {
    let mut rng = medley_tensor::rng::Philox::new(3, 3);
    (0..n).map(|_| rng.below(v) as u32).collect()
}

fn reference(w: &Array, ids: &[u32]) -> Array {
    let h = w.shape[1];
    let data = ids.iter().flat_map(|id| w.data[*id as usize * h..][..h].to_vec()).collect();
    Array::new(&[ids.len(), h], data)
}

pub(crate) fn check() {
    for (t, v, h) in [(1, 1, 1), (7, 3, 5), (0, 4, 2), (40, 11, 9), (3, 2, 0)] {
        let op = Embedding { ids: ids(t, v), output: None };
        let ids = op.ids.clone();
        Check::new(op).input(&[v, h]).run(|i| vec![reference(&i[0], &ids)]);
    }
    // Views: a transposed weight, and rows of a larger one.
    let op = Embedding { ids: ids(9, 4), output: None };
    for w in [
        random(&[6, 4], 1, 1.0).transpose(0, 1).unwrap(),
        random(&[9, 6], 1, 1.0).narrow(0, 3, 4).unwrap(),
    ] {
        Check::new(op.clone()).tensor(w, true).run(|i| vec![reference(&i[0], &op.ids)]);
    }
    for dtype in [DType::F16, DType::BF16, DType::Nf4] {
        let op = Embedding { ids: ids(9, 5), output: None };
        let ids = op.ids.clone();
        Check::new(op).frozen(&[5, 37], dtype).run(|i| vec![reference(&i[0], &ids)]);
    }
}

#[test]
fn same_bits_on_any_thread_count() {
    Check::new(Embedding { ids: ids(3000, 50), output: None }).input(&[50, 700]).same_on_any_thread_count();
}

#[test]
fn an_id_outside_the_vocabulary_is_named() {
    let w = random(&[5, 2], 1, 1.0);
    let e = Embedding { ids: [1, 4, 5].into(), output: None }.forward(&[&w], &[false]).err().unwrap().to_string();
    assert!(e.contains("id 5 at position 2") && e.contains("5 rows") && e.contains("[5, 2]"), "{e}");
}

#[test]
fn wrong_weights_are_errors() {
    let op = Embedding { ids: [0].into(), output: None };
    let flat = op.forward(&[&random(&[5], 1, 1.0)], &[false]).err().unwrap().to_string();
    assert!(flat.contains("[V, H]") && flat.contains("[5]"), "{flat}");
    let ints = Tensor::from_vec(vec![1u32; 4], &[2, 2]).unwrap();
    assert!(op.forward(&[&ints], &[false]).is_err());
    let nf4 = medley_tensor::quant::Nf4Matrix::quantize(&[1.0; 8], 4, 2, false).unwrap();
    let turned = Tensor::from_nf4(nf4).transpose(0, 1).unwrap();
    assert!(op.forward(&[&turned], &[false]).is_err());
}

/// Every table in every output dtype: a gather rounds once, so the CPU's rows rounded are what comes out.
#[test]
fn rows_of_any_table_in_any_compute_dtype() {
    let device = crate::check::device::device();
    let on = medley_tensor::device::Device::Cuda(device);
    // Rows of 8 columns and more than a block's worth, ragged rows, one column.
    for (v, h) in [(7, 8), (5, 2056), (6, 37), (3, 1)] {
        let ids = ids(9, v);
        for table in [DType::F32, DType::BF16, DType::F16] {
            let w = random(&[v, h], 4, 1.0).to_dtype(table).unwrap();
            let plain = Embedding { ids: ids.clone(), output: None };
            let (want, _) = plain.forward(&[&w], &[true]).unwrap();
            for output in [DType::F32, DType::BF16, DType::F16] {
                let op = Embedding { ids: ids.clone(), output: Some(output) };
                let (got, _) = op.forward(&[&w.to_device(&on).unwrap()], &[true]).unwrap();
                assert_eq!(got[0].dtype(), output);
                let want = want[0].to_dtype(output).unwrap();
                assert_eq!(got[0].to_vec_f32().unwrap(), want.to_vec_f32().unwrap(), "[{v}, {h}] {table} {output}");
            }
        }
    }
    let on_cpu = Embedding { ids: ids(2, 3), output: Some(DType::BF16) };
    assert!(on_cpu.forward(&[&random(&[3, 2], 1, 1.0)], &[false]).is_err());
}

/// The f32 gradient of the table is the CPU's bit for bit: both sum a row's tokens in their order.
#[test]
fn the_tables_gradient_has_the_cpus_bits() {
    let on = medley_tensor::device::Device::Cuda(crate::check::device::device());
    for (t, v, h) in [(60, 5, 16), (33, 40, 2056), (20, 7, 3)] {
        let op = Embedding { ids: ids(t, v), output: None };
        let dy = random(&[t, h], 6, 1.0);
        let gradient = |dy: Tensor| {
            let got = op.backward([v, h], &[Some(dy)], &[true]).unwrap();
            got[0].as_ref().unwrap().to_vec_f32().unwrap()
        };
        assert_eq!(gradient(dy.to_device(&on).unwrap()), gradient(dy), "{t} tokens, [{v}, {h}]");
    }
}
