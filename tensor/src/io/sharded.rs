//! The weights of a Hugging Face folder: `model.safetensors`, or shards behind
//! `model.safetensors.index.json`.

use super::safetensors::UniqueMap;
use super::{Error, Result, Safetensors, TensorInfo};
use crate::Tensor;
use crate::quant::bitsandbytes;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// All tensors of a model, from one file or many; every file is mapped.
#[derive(Debug, Clone)]
pub struct WeightFiles {
    path: PathBuf,
    shards: Vec<PathBuf>,
    tensors: BTreeMap<String, TensorInfo>,
}

/// `model.safetensors.index.json`. The index is another program's file: keys beside `weight_map`
/// (sizes, notes) carry nothing that is needed here and are left alone.
#[derive(Deserialize)]
struct Index {
    weight_map: UniqueMap<String>,
}

impl WeightFiles {
    /// Opens `model.safetensors` or, where that is absent, every shard of the index.
    ///
    /// # Errors
    /// [`Error::NoWeights`] when neither exists; what [`Safetensors::open`] reports for a file; a
    /// missing shard and a tensor absent from its shard by name.
    pub fn open_folder(folder: impl AsRef<Path>) -> Result<Self> {
        let folder = folder.as_ref();
        let single = folder.join(SINGLE);
        if single.exists() {
            return Self::open_file(single);
        }
        let index = folder.join(INDEX);
        if index.exists() {
            return open_index(folder, &index);
        }
        Err(Error::NoWeights { path: folder.to_path_buf(), message: advice(folder) })
    }

    /// Opens one safetensors file of any name, for example an adapter's.
    ///
    /// # Errors
    /// As [`Safetensors::open`].
    pub fn open_file(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref().to_path_buf();
        let tensors = Safetensors::open(&path)?.into_tensors();
        Ok(WeightFiles { shards: vec![path.clone()], path, tensors })
    }

    /// The file or index the weights were found by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The safetensors files, sorted by name.
    pub fn shards(&self) -> &[PathBuf] {
        &self.shards
    }

    /// Names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// A tensor, if there is one of that name.
    pub fn get(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(name)
    }

    /// A tensor that must be there.
    ///
    /// # Errors
    /// [`Error::Tensor`] naming the file (or index) and the tensor.
    pub fn info(&self, name: &str) -> Result<&TensorInfo> {
        self.get(name).ok_or_else(|| {
            Error::tensor(
                &self.path,
                name,
                format!("not there; the weights hold {} other tensors", self.tensors.len()),
            )
        })
    }

    /// The tensor `name`, used in place; an NF4 weight of bitsandbytes becomes an NF4 tensor.
    ///
    /// # Errors
    /// [`Error::Tensor`] when it is absent, of a dtype that nothing computes with, or 4-bit in a form
    /// that is not read.
    pub fn tensor(&self, name: &str) -> crate::Result<Tensor> {
        if bitsandbytes::is_quantised(self, name) {
            return Ok(Tensor::from_nf4(bitsandbytes::load(self, name)?));
        }
        self.info(name)?.to_tensor(name)
    }

    /// Bytes of all tensors together.
    pub fn total_bytes(&self) -> usize {
        self.tensors.values().map(|info| info.bytes.len()).sum()
    }
}

fn open_index(folder: &Path, path: &Path) -> Result<WeightFiles> {
    let malformed = |message: String| Error::malformed(path, "safetensors index", message);
    let text = std::fs::read(path).map_err(|e| Error::os(path, "read", e))?;
    let index: Index = serde_json::from_slice(&text).map_err(|e| malformed(e.to_string()))?;
    let mut open: BTreeMap<String, Safetensors> = BTreeMap::new();
    let mut tensors = BTreeMap::new();
    for (name, shard) in index.weight_map.0 {
        if !open.contains_key(&shard) {
            if Path::new(&shard).file_name() != Some(shard.as_ref()) {
                return Err(malformed(format!(
                    "tensor `{name}` lies in `{shard}`, which is not a plain file name"
                )));
            }
            let shard_path = folder.join(&shard);
            if !shard_path.exists() {
                return Err(malformed(format!(
                    "shard `{shard}` (tensor `{name}`) is not in the folder; download it again"
                )));
            }
            open.insert(shard.clone(), Safetensors::open(shard_path)?);
        }
        let info = match open.get(&shard) {
            Some(file) => file.info(&name)?.clone(),
            None => return Err(malformed(format!("shard `{shard}` was not opened"))),
        };
        tensors.insert(name, info);
    }
    let shards = open.values().map(|file| file.path().to_path_buf()).collect();
    Ok(WeightFiles { path: path.to_path_buf(), shards, tensors })
}

/// What to do about a folder without safetensors, from what it holds instead.
fn advice(folder: &Path) -> String {
    let names: Vec<String> = match std::fs::read_dir(folder) {
        Ok(entries) => entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect(),
        Err(error) => return format!("the folder cannot be read: {error}"),
    };
    let find = |suffix: &str| names.iter().find(|n| n.ends_with(suffix));
    let expected = format!("expected {SINGLE} or {INDEX}");
    if let Some(name) = find(".gguf") {
        format!(
            "{expected}; `{name}` can be turned into one with `medley convert --input {name} --output DIR`"
        )
    } else if let Some(name) = find(".bin").or_else(|| find(".pt")).or_else(|| find(".pth")) {
        format!(
            "{expected}; `{name}` is a pickle, which is not read: save the model with safe_serialization=True"
        )
    } else {
        expected
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DType;
    use crate::io::{SafetensorsWriter, StoredDType, TensorSpec};

    fn write(folder: &Path, file: &str, tensors: &[(&str, f32)]) {
        let specs: Vec<_> =
            tensors.iter().map(|(name, _)| TensorSpec::new(*name, StoredDType::F32, &[1])).collect();
        let mut writer = SafetensorsWriter::create(folder.join(file), &specs).unwrap();
        for (name, value) in tensors {
            writer.append(name, &value.to_le_bytes()).unwrap();
        }
        writer.finish().unwrap();
    }

    fn index(folder: &Path, map: &str) {
        std::fs::write(
            folder.join(INDEX),
            format!(r#"{{"metadata":{{"total_size":8}},"weight_map":{map}}}"#),
        )
        .unwrap();
    }

    #[test]
    fn shards_are_found_through_the_index() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "m-1.safetensors", &[("a", 1.0), ("b", 2.0)]);
        write(folder.path(), "m-2.safetensors", &[("c", 3.0)]);
        index(folder.path(), r#"{"a":"m-1.safetensors","b":"m-1.safetensors","c":"m-2.safetensors"}"#);
        let weights = WeightFiles::open_folder(folder.path()).unwrap();
        assert_eq!(weights.names().collect::<Vec<_>>(), ["a", "b", "c"]);
        assert_eq!(weights.info("c").unwrap().data(), 3f32.to_le_bytes());
        assert_eq!(weights.shards().len(), 2);
        assert_eq!(weights.total_bytes(), 12);
        let error = weights.info("d").unwrap_err().to_string();
        assert!(error.contains("index.json") && error.contains("`d`"), "{error}");
    }

    #[test]
    fn tensors_are_used_in_place_whatever_their_storage() {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/formats");
        let weights = WeightFiles::open_folder(fixtures.join("nf4_dq")).unwrap();
        let norm = weights.tensor("model.norm.weight").unwrap();
        assert_eq!((norm.shape(), norm.dtype(), norm.is_mapped()), ([128].as_slice(), DType::BF16, true));
        let down = weights.tensor("model.layers.0.mlp.down_proj.weight").unwrap();
        assert_eq!((down.shape(), down.dtype()), ([128, 352].as_slice(), DType::Nf4));

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.safetensors");
        let mut writer =
            SafetensorsWriter::create(&path, &[TensorSpec::new("ids", StoredDType::I64, &[1])]).unwrap();
        writer.append("ids", &[0; 8]).unwrap();
        writer.finish().unwrap();
        let error = WeightFiles::open_file(&path).unwrap().tensor("ids").unwrap_err().to_string();
        assert!(error.contains("m.safetensors") && error.contains("`ids`: dtype I64"), "{error}");
    }

    #[test]
    fn a_missing_shard_and_a_missing_tensor_are_named() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "m-1.safetensors", &[("a", 1.0)]);
        index(folder.path(), r#"{"a":"m-1.safetensors","c":"m-2.safetensors"}"#);
        let error = WeightFiles::open_folder(folder.path()).unwrap_err().to_string();
        assert!(error.contains("m-2.safetensors") && error.contains("`c`"), "{error}");
        index(folder.path(), r#"{"a":"m-1.safetensors","z":"m-1.safetensors"}"#);
        let error = WeightFiles::open_folder(folder.path()).unwrap_err().to_string();
        assert!(error.contains("m-1.safetensors") && error.contains("`z`"), "{error}");
    }

    #[test]
    fn a_wicked_index_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "m-1.safetensors", &[("a", 1.0)]);
        for map in [r#"{"a":"../m-1.safetensors"}"#, r#"{"a":"/etc/passwd"}"#, r#"{"a":".."}"#, r#"{"a":""}"#]
        {
            index(folder.path(), map);
            let error = WeightFiles::open_folder(folder.path()).unwrap_err().to_string();
            assert!(error.contains("not a plain file name"), "{map}: {error}");
        }
        index(folder.path(), r#"{"a":"m-1.safetensors","a":"m-1.safetensors"}"#);
        let error = WeightFiles::open_folder(folder.path()).unwrap_err().to_string();
        assert!(error.contains("`a` appears twice"), "{error}");
        std::fs::write(folder.path().join(INDEX), "{}").unwrap();
        let error = WeightFiles::open_folder(folder.path()).unwrap_err().to_string();
        assert!(error.contains("weight_map"), "{error}");
    }

    #[test]
    fn a_folder_without_weights_says_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let error = WeightFiles::open_folder(folder.path()).unwrap_err().to_string();
        assert!(error.contains("model.safetensors.index.json"), "{error}");
        std::fs::write(folder.path().join("pytorch_model.bin"), "").unwrap();
        let error = WeightFiles::open_folder(folder.path()).unwrap_err().to_string();
        assert!(error.contains("safe_serialization"), "{error}");
        std::fs::write(folder.path().join("m.gguf"), "").unwrap();
        let error = WeightFiles::open_folder(folder.path()).unwrap_err().to_string();
        assert!(error.contains("medley convert --input m.gguf"), "{error}");
    }
}
