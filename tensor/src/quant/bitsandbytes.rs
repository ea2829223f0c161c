//! NF4 matrices in safetensors files, named as bitsandbytes and transformers name them.
//!
//! For a weight `P` of shape [out, in] with n = out·in:
//!
//! | key | dtype | shape |
//! |---|---|---|
//! | `P` | U8 | [⌈n/2⌉, 1]: two codes a byte (another dtype of the same bytes is accepted) |
//! | `P.absmax` | F32, or U8 when double quantised | [⌈n/64⌉] |
//! | `P.quant_map` | F32 | [16]: the NF4 code book |
//! | `P.nested_absmax` | F32 | [⌈⌈n/64⌉/256⌉], double quantised only |
//! | `P.nested_quant_map` | F32 | [256], double quantised only |
//! | `P.quant_state.bitsandbytes__nf4` | U8 | JSON: block sizes, dtype, shape, `nested_offset` |
//!
//! (bitsandbytes `functional.py` `QuantState.as_dict`, `utils.py` `pack_dict_to_tensor`.)

use super::nf4::{BLOCK, NESTED_BLOCK, NF4_CODE};
use super::{Absmax, AbsmaxRef, Nf4Matrix, Segment};
use crate::io::{Error, Result, SafetensorsWriter, StoredDType, TensorInfo, TensorSpec, WeightFiles};
use serde::Deserialize;
use std::sync::Arc;

const STATE: &str = "quant_state.bitsandbytes__nf4";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct QuantState {
    quant_type: String,
    blocksize: usize,
    #[serde(rename = "dtype")]
    _dtype: String,
    shape: Vec<usize>,
    nested_blocksize: Option<usize>,
    #[serde(rename = "nested_dtype")]
    _nested_dtype: Option<String>,
    nested_offset: Option<f32>,
}

/// True when the weight `name` is stored as bitsandbytes 4-bit blocks (NF4, or FP4, which
/// [`load`] then refuses by name).
pub fn is_quantised(files: &WeightFiles, name: &str) -> bool {
    ["nf4", "fp4"].iter().any(|kind| files.get(&format!("{name}.quant_state.bitsandbytes__{kind}")).is_some())
}

/// The NF4 weight `name`, shape [out, in], left where it lies in the mapped file.
///
/// # Errors
/// [`Error::Tensor`] naming the part that is missing, of another dtype or length, or of a block size
/// or code book that is not NF4's with blocks of 64.
pub fn load(files: &WeightFiles, name: &str) -> Result<Nf4Matrix> {
    if files.get(&format!("{name}.quant_state.bitsandbytes__fp4")).is_some() {
        let message = "is FP4; only NF4 is read: quantise the model with bnb_4bit_quant_type=nf4";
        return Err(Error::tensor(files.path(), name, message));
    }
    let state_key = format!("{name}.{STATE}");
    let fail = |key: &str, message: String| Error::tensor(files.path(), key, message);
    let state: QuantState = serde_json::from_slice(files.info(&state_key)?.data())
        .map_err(|e| fail(&state_key, format!("not the JSON bitsandbytes writes: {e}")))?;
    if state.quant_type != "nf4" || state.blocksize != BLOCK {
        let message = format!(
            "{} in blocks of {}, only nf4 in blocks of 64 is read",
            state.quant_type, state.blocksize
        );
        return Err(fail(&state_key, message));
    }
    let [rows, cols] = state.shape[..] else {
        return Err(fail(&state_key, format!("shape {:?}, expected [out, in]", state.shape)));
    };
    let code_key = format!("{name}.quant_map");
    let code_book = floats(files, &code_key)?;
    if code_book.as_slice() != NF4_CODE {
        return Err(fail(&code_key, "is not the NF4 code book".to_owned()));
    }
    let codes = bytes(files, name)?;
    let absmax_key = format!("{name}.absmax");
    let absmax = match state.nested_offset {
        None => Absmax::F32(floats(files, &absmax_key)?),
        Some(offset) => {
            if state.nested_blocksize != Some(NESTED_BLOCK) {
                let message = format!("nested_blocksize is {:?}, only 256 is read", state.nested_blocksize);
                return Err(fail(&state_key, message));
            }
            let info = files.info(&absmax_key)?;
            if info.dtype != StoredDType::U8 {
                return Err(fail(
                    &absmax_key,
                    format!("dtype {}, expected U8: nested_offset is given", info.dtype),
                ));
            }
            let map_key = format!("{name}.nested_quant_map");
            let map = floats(files, &map_key)?;
            let map: [f32; 256] = map
                .as_slice()
                .try_into()
                .map_err(|_| fail(&map_key, format!("{} values, expected 256", map.as_slice().len())))?;
            let nested = floats(files, &format!("{name}.nested_absmax"))?;
            Absmax::Double { codes: bytes(files, &absmax_key)?, map: Box::new(map), nested, offset }
        }
    };
    Nf4Matrix::from_parts(codes, absmax, rows, cols).map_err(|e| fail(name, e.to_string()))
}

fn bytes(files: &WeightFiles, key: &str) -> Result<Segment<u8>> {
    segment(files.info(key)?, key)
}

fn segment<T: bytemuck::Pod>(info: &TensorInfo, key: &str) -> Result<Segment<T>> {
    let mapped = Segment::mapped(Arc::clone(&info.file), info.bytes.clone());
    mapped.map_err(|e| Error::tensor(info.file.path(), key, e.to_string()))
}

fn floats(files: &WeightFiles, key: &str) -> Result<Segment<f32>> {
    let info = files.info(key)?;
    if info.dtype != StoredDType::F32 {
        let message = format!("dtype {}, expected F32", info.dtype);
        return Err(Error::tensor(info.file.path(), key, message));
    }
    segment(info, key)
}

/// What [`write`] will write for a matrix of these dimensions, for announcing to a writer.
/// `dtype` is the dtype the weight had (`bfloat16`, `float16`, `float32`), kept for other readers.
pub fn specs(name: &str, matrix: &Nf4Matrix, dtype: &str) -> Vec<TensorSpec> {
    parts(name, matrix, dtype)
        .into_iter()
        .map(|part| TensorSpec { name: part.name, dtype: part.dtype, shape: part.shape })
        .collect()
}

/// Writes a matrix under the names bitsandbytes uses; `dtype` as for [`specs`].
///
/// # Errors
/// Those of [`SafetensorsWriter::append`].
pub fn write(writer: &mut SafetensorsWriter, name: &str, matrix: &Nf4Matrix, dtype: &str) -> Result<()> {
    for part in parts(name, matrix, dtype) {
        writer.append(&part.name, &part.bytes)?;
    }
    Ok(())
}

struct Part<'a> {
    name: String,
    dtype: StoredDType,
    shape: Vec<usize>,
    bytes: std::borrow::Cow<'a, [u8]>,
}

fn parts<'a>(name: &str, matrix: &'a Nf4Matrix, dtype: &str) -> Vec<Part<'a>> {
    use std::borrow::Cow;
    let view = matrix.as_ref();
    let mut parts = Vec::new();
    let mut push = |suffix: &str, dtype: StoredDType, shape: &[usize], bytes: Cow<'a, [u8]>| {
        parts.push(Part { name: format!("{name}{suffix}"), dtype, shape: shape.to_vec(), bytes });
    };
    let float_bytes = |values: &[f32]| Cow::Owned(values.iter().flat_map(|v| v.to_le_bytes()).collect());
    push("", StoredDType::U8, &[view.codes.len(), 1], Cow::Borrowed(view.codes));
    push(".quant_map", StoredDType::F32, &[NF4_CODE.len()], float_bytes(&NF4_CODE));
    let mut state = format!(
        r#"{{"quant_type": "nf4", "blocksize": {BLOCK}, "dtype": "{dtype}", "shape": [{}, {}]"#,
        view.rows, view.cols
    );
    match view.absmax {
        AbsmaxRef::F32(absmax) => push(".absmax", StoredDType::F32, &[absmax.len()], float_bytes(absmax)),
        AbsmaxRef::Double { codes, map, nested, offset } => {
            push(".absmax", StoredDType::U8, &[codes.len()], Cow::Borrowed(codes));
            push(".nested_absmax", StoredDType::F32, &[nested.len()], float_bytes(nested));
            push(".nested_quant_map", StoredDType::F32, &[map.len()], float_bytes(map));
            // As Python prints it: the double nearest to the f32, in full.
            state.push_str(&format!(
                r#", "nested_blocksize": {NESTED_BLOCK}, "nested_dtype": "float32", "nested_offset": {:?}"#,
                f64::from(offset)
            ));
        }
    }
    state.push('}');
    push(&format!(".{STATE}"), StoredDType::U8, &[state.len()], Cow::Owned(state.into_bytes()));
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::{Path, PathBuf};

    fn fixture(folder: &str) -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/formats").join(folder)
    }

    fn projections(files: &WeightFiles) -> Vec<String> {
        let names: Vec<_> = files.names().filter(|n| is_quantised(files, n)).map(str::to_owned).collect();
        assert_eq!(names.len(), 14);
        names
    }

    #[test]
    fn matrices_of_bitsandbytes_load_in_place_and_equal_ours() {
        let base = WeightFiles::open_folder(fixture("base")).unwrap();
        for (folder, double) in [("nf4_nodq", false), ("nf4_dq", true)] {
            let files = WeightFiles::open_folder(fixture(folder)).unwrap();
            for name in projections(&files) {
                let theirs = load(&files, &name).unwrap();
                assert_eq!(theirs.is_double_quantised(), double);
                let (rows, cols) = (theirs.rows(), theirs.cols());
                let values: Vec<f32> = base
                    .info(&name)
                    .unwrap()
                    .data()
                    .chunks_exact(2)
                    .map(|b| half::bf16::from_le_bytes([b[0], b[1]]).to_f32())
                    .collect();
                let ours = Nf4Matrix::quantize(&values, rows, cols, double).unwrap();
                let (mut a, mut b) = (vec![0.0; rows * cols], vec![0.0; rows * cols]);
                theirs.dequantize_into(&mut a).unwrap();
                ours.dequantize_into(&mut b).unwrap();
                assert_eq!(a, b, "{folder} {name}");
            }
        }
    }

    #[test]
    fn written_files_equal_those_of_bitsandbytes_tensor_by_tensor() {
        for folder in ["nf4_nodq", "nf4_dq"] {
            let theirs = WeightFiles::open_folder(fixture(folder)).unwrap();
            let matrices: Vec<_> =
                projections(&theirs).into_iter().map(|n| (load(&theirs, &n).unwrap(), n)).collect();
            let out = tempfile::tempdir().unwrap();
            let path = out.path().join("m.safetensors");
            let announced: Vec<_> = matrices.iter().flat_map(|(m, n)| specs(n, m, "bfloat16")).collect();
            let mut writer = SafetensorsWriter::create(&path, &announced).unwrap();
            for (matrix, name) in &matrices {
                write(&mut writer, name, matrix, "bfloat16").unwrap();
            }
            writer.finish().unwrap();
            let ours = WeightFiles::open_file(&path).unwrap();
            assert_eq!(ours.names().count(), 14 * if folder == "nf4_dq" { 6 } else { 4 });
            for name in ours.names() {
                let (a, b) = (ours.info(name).unwrap(), theirs.info(name).unwrap());
                assert_eq!((a.dtype, &a.shape, a.data()), (b.dtype, &b.shape, b.data()), "{name}");
            }
        }
    }

    /// A file with one quantised weight of which one part was replaced.
    fn with(path: &Path, part: &str, dtype: StoredDType, bytes: &[u8]) -> WeightFiles {
        let matrix = Nf4Matrix::quantize(&[0.5; 128], 2, 64, true).unwrap();
        let mut announced = specs("w", &matrix, "float32");
        for spec in announced.iter_mut().filter(|s| s.name == part) {
            (spec.dtype, spec.shape) = (dtype, vec![bytes.len() / dtype.size()]);
        }
        let mut writer = SafetensorsWriter::create(path, &announced).unwrap();
        for original in parts("w", &matrix, "float32") {
            let bytes = if original.name == part { bytes } else { &original.bytes };
            writer.append(&original.name, bytes).unwrap();
        }
        writer.finish().unwrap();
        WeightFiles::open_file(path).unwrap()
    }

    #[test]
    fn parts_that_do_not_belong_are_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.safetensors");
        assert!(load(&with(&path, "-", StoredDType::U8, &[]), "w").is_ok());
        let state = |text: &str| {
            let files = with(&path, &format!("w.{STATE}"), StoredDType::U8, text.as_bytes());
            load(&files, "w").unwrap_err().to_string()
        };
        assert!(state("{").contains("not the JSON"));
        let good = r#"{"quant_type":"nf4","blocksize":64,"dtype":"float32","shape":[2,64],"nested_blocksize":256,"nested_dtype":"float32","nested_offset":0.5}"#;
        assert!(state(&good.replace("64,\"d", "128,\"d")).contains("blocks of 128"));
        assert!(state(&good.replace("[2,64]", "[128]")).contains("[128]"));
        assert!(state(&good.replace("256", "128")).contains("128"));
        assert!(state(&good.replace("[2,64]", "[3,64]")).contains("codes holds 64"));
        assert!(state(&good.replace("quant_type", "quant_kind")).contains("quant_kind"));
        let refused = |part: &str, dtype, bytes: &[u8]| {
            load(&with(&path, part, dtype, bytes), "w").unwrap_err().to_string()
        };
        assert!(refused("w.quant_map", StoredDType::F32, &[0; 64]).contains("code book"));
        assert!(refused("w.nested_quant_map", StoredDType::F32, &[0; 64]).contains("expected 256"));
        assert!(refused("w.nested_absmax", StoredDType::F16, &[0; 2]).contains("`w.nested_absmax`"));
        assert!(refused("w.absmax", StoredDType::F32, &[0; 8]).contains("expected U8"));
        assert!(load(&WeightFiles::open_file(&path).unwrap(), "v").unwrap_err().to_string().contains("`v."));
    }
}
