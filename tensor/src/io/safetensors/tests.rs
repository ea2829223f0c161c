use super::*;
use proptest::prelude::*;
use std::path::PathBuf;

/// A file in a folder that lives as long as the test.
fn open(bytes: &[u8]) -> Result<Safetensors> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.safetensors");
    std::fs::write(&path, bytes).unwrap();
    Safetensors::open(&path)
}

fn file(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

fn error(bytes: &[u8]) -> String {
    let message = open(bytes).unwrap_err().to_string();
    assert!(message.contains("m.safetensors"), "the file is named: {message}");
    message
}

const GOOD: &str = r#"{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"BF16","shape":[],"data_offsets":[8,10]}}"#;

#[test]
fn a_file_written_by_transformers_opens() {
    let path =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/formats/base/model.safetensors");
    let file = Safetensors::open(&path).unwrap();
    assert_eq!(file.names().count(), 21);
    let info = file.info("model.layers.0.mlp.down_proj.weight").unwrap();
    assert_eq!((info.dtype, info.shape.as_slice()), (StoredDType::BF16, [128, 352].as_slice()));
    let bytes = std::fs::read(&path).unwrap();
    let reference = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    for (name, view) in reference.tensors() {
        assert_eq!(file.info(&name).unwrap().data(), view.data(), "{name}");
    }
    assert!(file.info("nobody").unwrap_err().to_string().contains("`nobody`"));
}

#[test]
fn scalars_padding_and_metadata_are_read() {
    let file = open(&file(&format!("{GOOD}   "), &[1, 0, 0, 0, 2, 0, 0, 0, 9, 9])).unwrap();
    assert_eq!(file.metadata()["format"], "pt");
    assert_eq!(file.info("a").unwrap().data(), [1, 0, 0, 0, 2, 0, 0, 0]);
    let scalar = file.info("b").unwrap();
    assert_eq!((scalar.numel(), scalar.data()), (1, [9u8, 9].as_slice()));
    assert!(open(&super::tests::file("{}", &[])).unwrap().names().next().is_none());
}

#[test]
fn every_kind_of_damage_is_named() {
    let good = file(GOOD, &[0; 10]);
    assert!(open(&good).is_ok());
    assert!(error(&good[..5]).contains("at least 8"));
    assert!(error(&good[..40]).contains("truncated"));
    assert!(error(&good[..good.len() - 1]).contains("`b`"));
    assert!(error(&[good.as_slice(), &[0]].concat()).contains("last 1 bytes"));
    assert!(error(&u64::MAX.to_le_bytes()).contains("18446744073709551615"));
    assert!(error(&file("[1]", &[])).contains("header"));
    assert!(error(&file("{\"a\":", &[])).contains("header"));
    assert!(error(&file("", &[])).contains("header"));
    let one = |entry: &str, data: usize| error(&file(&format!(r#"{{"a":{entry}}}"#), &vec![0; data]));
    let message = one(r#"{"dtype":"Q4","shape":[1],"data_offsets":[0,1]}"#, 1);
    assert!(message.contains("`a`") && message.contains("`Q4`") && message.contains("BF16"), "{message}");
    let message = one(r#"{"dtype":"F32","shape":[3],"data_offsets":[0,8]}"#, 8);
    assert!(message.contains("`a`") && message.contains("takes 12 bytes"), "{message}");
    let message = one(r#"{"dtype":"F32","shape":[2],"data_offsets":[8,0]}"#, 8);
    assert!(message.contains("[8, 0]"), "{message}");
    let message = one(r#"{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,8]}"#, 8);
    assert!(message.contains("more than 2^64"), "{message}");
    let message = one(r#"{"dtype":"F32","shape":[-1],"data_offsets":[0,8]}"#, 8);
    assert!(message.contains("tensor `a`"), "{message}");
    let message = one(r#"{"dtype":"F32","shape":[2],"data_offsets":[0,8],"stride":[1]}"#, 8);
    assert!(message.contains("stride"), "{message}");
    let message = one(r#"{"dtype":"F32","shape":[2],"data_offsets":[4,12]}"#, 12);
    assert!(message.contains("`a`") && message.contains("4 bytes before"), "{message}");
}

#[test]
fn duplicates_and_overlaps_are_named() {
    let entry = r#"{"dtype":"U8","shape":[2],"data_offsets":[0,2]}"#;
    let message = error(&file(&format!(r#"{{"a":{entry},"a":{entry}}}"#), &[0; 2]));
    assert!(message.contains("`a` appears twice"), "{message}");
    let message = error(&file(
        &format!(r#"{{"a":{entry},"b":{{"dtype":"U8","shape":[2],"data_offsets":[1,3]}}}}"#),
        &[0; 3],
    ));
    assert!(message.contains("`b`") && message.contains("`a`"), "{message}");
    let message = error(&file(r#"{"__metadata__":{},"__metadata__":{}}"#, &[]));
    assert!(message.contains("`__metadata__` appears twice"), "{message}");
    let message = error(&file(r#"{"__metadata__":{"k":"1","k":"2"}}"#, &[]));
    assert!(message.contains("`k` appears twice"), "{message}");
}

/// Whatever opens must be safe to use: every tensor inside the file and as long as its shape says.
fn check(bytes: &[u8]) -> bool {
    let Ok(file) = open(bytes) else { return false };
    let names: Vec<String> = file.names().map(str::to_owned).collect();
    for name in names {
        let info = file.info(&name).unwrap();
        assert_eq!(info.data().len(), info.numel() * info.dtype.size());
    }
    true
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        check(&bytes);
    }

    #[test]
    fn mutated_files_never_panic(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
        truncate in any::<bool>(),
    ) {
        let mut bytes = file(GOOD, &[0; 10]);
        for (index, value) in changes {
            let at = index.index(bytes.len());
            bytes[at] = value;
        }
        if truncate {
            bytes.truncate(cut.index(bytes.len()));
        }
        check(&bytes);
    }

    #[test]
    fn random_entries_never_panic(
        begin in prop_oneof![0u64..20, any::<u64>()],
        end in prop_oneof![0u64..20, any::<u64>()],
        shape in proptest::collection::vec(prop_oneof![0u64..5, any::<u64>()], 0..4),
    ) {
        let header = format!(r#"{{"a":{{"dtype":"U8","shape":{shape:?},"data_offsets":[{begin},{end}]}}}}"#);
        let fits = shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d)) == Some(12) && (begin, end) == (0, 12);
        prop_assert_eq!(check(&file(&header, &[0; 12])), fits);
    }
}
