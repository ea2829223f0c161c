use super::*;
use half::bf16;
use safetensors::SafeTensors;
use std::path::PathBuf;

fn fixture(folder: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/fixtures/formats")
        .join(folder)
        .join("model.safetensors");
    std::fs::read(path).unwrap()
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

/// Name, f32 weights and shape of every matrix that bitsandbytes quantised.
fn quantised_weights() -> Vec<(String, Vec<f32>, usize, usize)> {
    let (base, quantised) = (fixture("base"), fixture("nf4_nodq"));
    let base = SafeTensors::deserialize(&base).unwrap();
    let quantised = SafeTensors::deserialize(&quantised).unwrap();
    let mut weights = Vec::new();
    for (name, view) in base.tensors() {
        if quantised.tensor(&format!("{name}.absmax")).is_ok() {
            let values =
                view.data().chunks_exact(2).map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f32()).collect();
            weights.push((name, values, view.shape()[0], view.shape()[1]));
        }
    }
    assert_eq!(weights.len(), 14, "two layers of seven projections");
    weights
}

#[test]
fn single_quantisation_equals_bitsandbytes_bit_for_bit() {
    let file = fixture("nf4_nodq");
    let file = SafeTensors::deserialize(&file).unwrap();
    for (name, values, rows, cols) in quantised_weights() {
        let ours = Nf4Matrix::quantize(&values, rows, cols, false).unwrap();
        let AbsmaxRef::F32(absmax) = ours.as_ref().absmax else { panic!("not double quantised") };
        assert_eq!(ours.as_ref().codes, file.tensor(&name).unwrap().data(), "{name}");
        let theirs = floats(file.tensor(&format!("{name}.absmax")).unwrap().data());
        assert_eq!(bits(absmax), bits(&theirs), "{name}");
        let code_book = floats(file.tensor(&format!("{name}.quant_map")).unwrap().data());
        assert_eq!(bits(&NF4_CODE), bits(&code_book));
    }
}

#[test]
fn double_quantisation_equals_bitsandbytes_bit_for_bit() {
    let file = fixture("nf4_dq");
    let file = SafeTensors::deserialize(&file).unwrap();
    for (name, values, rows, cols) in quantised_weights() {
        let ours = Nf4Matrix::quantize(&values, rows, cols, true).unwrap();
        let AbsmaxRef::Double { codes, map, nested, offset } = ours.as_ref().absmax else { panic!("double") };
        let part = |suffix: &str| file.tensor(&format!("{name}.{suffix}")).unwrap().data().to_vec();
        assert_eq!(ours.as_ref().codes, file.tensor(&name).unwrap().data(), "{name}");
        assert_eq!(codes, part("absmax"), "{name}");
        assert_eq!(bits(map), bits(&floats(&part("nested_quant_map"))), "{name}");
        assert_eq!(bits(nested), bits(&floats(&part("nested_absmax"))), "{name}");
        let state: serde_json::Value =
            serde_json::from_slice(&part("quant_state.bitsandbytes__nf4")).unwrap();
        let theirs = state["nested_offset"].as_f64().unwrap() as f32;
        assert_eq!(offset.to_bits(), theirs.to_bits(), "{name}");
    }
}

#[test]
fn dequantised_values_are_code_times_absmax() {
    let (name, values, rows, cols) = quantised_weights().swap_remove(0);
    for double in [false, true] {
        let matrix = Nf4Matrix::quantize(&values, rows, cols, double).unwrap();
        let mut out = vec![f32::NAN; rows * cols];
        matrix.dequantize_into(&mut out).unwrap();
        let view = matrix.as_ref();
        for (i, &got) in out.iter().enumerate() {
            let byte = view.codes[i / 2];
            let nibble = if i % 2 == 0 { byte >> 4 } else { byte & 15 };
            let expected = NF4_CODE[nibble as usize] * view.absmax.get(i / BLOCK);
            assert_eq!(got.to_bits(), expected.to_bits(), "{name} element {i}");
        }
        // Half the widest gap between codes is 0.152; double quantisation moves absmax a little.
        for (b, block) in values.chunks(BLOCK).enumerate() {
            let absmax = view.absmax.get(b);
            for (i, v) in block.iter().enumerate() {
                let error = (v - out[b * BLOCK + i]).abs();
                assert!(error <= 0.2 * absmax, "{name} block {b}: {error} against {absmax}");
            }
        }
    }
}

#[test]
fn rows_that_are_no_multiple_of_a_block_or_even_odd_long_decode_like_the_whole() {
    let (rows, cols) = (7, 37); // 259 values: four full blocks and a ragged one of three
    let values: Vec<f32> = (0..rows * cols).map(|i| ((i * 37 % 101) as f32 - 50.0) / 17.0).collect();
    let matrix = Nf4Matrix::quantize(&values, rows, cols, true).unwrap();
    assert_eq!(matrix.as_ref().codes.len(), 130);
    assert_eq!(matrix.as_ref().codes[129] & 15, 7, "the padding nibble is the code of zero");
    let mut whole = vec![0.0; rows * cols];
    matrix.dequantize_into(&mut whole).unwrap();
    let mut row = vec![0.0; cols];
    for r in 0..rows {
        matrix.dequantize_row(r, &mut row).unwrap();
        assert_eq!(row, whole[r * cols..(r + 1) * cols], "row {r}");
    }
}

#[test]
fn zeros_stay_zero_in_both_forms() {
    let matrix = Nf4Matrix::quantize(&[0.0; 128], 2, 64, false).unwrap();
    let mut out = [1.0; 128];
    matrix.dequantize_into(&mut out).unwrap();
    assert_eq!(out, [0.0; 128]);
    // Beside a large block the double quantised absmax of a zero block is not exactly zero: its
    // codes must still be the code of zero.
    let mut values = [0.0f32; 128];
    values[64..].fill(3.0);
    let matrix = Nf4Matrix::quantize(&values, 2, 64, true).unwrap();
    matrix.dequantize_into(&mut out).unwrap();
    assert_eq!(out[..64], [0.0; 64]);
    assert!((out[64] - 3.0).abs() < 0.05, "{}", out[64]);
}

#[test]
fn bytes_count_codes_and_scales() {
    let values = vec![0.5f32; 256 * 256];
    let single = Nf4Matrix::quantize(&values, 256, 256, false).unwrap();
    assert_eq!(single.bytes(), 32_768 + 1024 * 4);
    let double = Nf4Matrix::quantize(&values, 256, 256, true).unwrap();
    assert_eq!(double.bytes(), 32_768 + 1024 + 4 * 4 + 1024 + 4);
}

#[test]
fn bad_input_is_refused_with_its_place() {
    let error = Nf4Matrix::quantize(&[1.0; 10], 2, 6, false).unwrap_err().to_string();
    assert_eq!(error, "nf4 [2, 6]: data holds 10 elements, expected 12");
    let mut values = vec![1.0f32; 130];
    values[77] = f32::NAN;
    let error = Nf4Matrix::quantize(&values, 13, 10, true).unwrap_err().to_string();
    assert!(error.contains("element 77") && error.contains("NaN"), "{error}");
    values[77] = f32::NEG_INFINITY;
    assert!(matches!(Nf4Matrix::quantize(&values, 13, 10, true), Err(Error::NotFinite { index: 77, .. })));
    let error = Nf4Matrix::from_parts(vec![0u8; 5].into(), Absmax::F32(vec![1.0].into()), 3, 4).unwrap_err();
    assert_eq!(error.to_string(), "nf4 [3, 4]: codes holds 5 elements, expected 6");
    assert!(matches!(
        Nf4Matrix::from_parts(vec![].into(), Absmax::F32(vec![].into()), usize::MAX, 2),
        Err(Error::Overflow { .. })
    ));
    let matrix = Nf4Matrix::quantize(&[1.0; 12], 3, 4, false).unwrap();
    assert!(matches!(matrix.dequantize_row(3, &mut [0.0; 4]), Err(Error::Row { row: 3, .. })));
    assert!(matches!(matrix.dequantize_row(0, &mut [0.0; 3]), Err(Error::Length { .. })));
}
