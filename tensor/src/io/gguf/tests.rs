use super::*;
use crate::io::Safetensors;
use proptest::prelude::*;
use std::path::PathBuf;

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/gguf").join(name)
}

fn open(bytes: &[u8]) -> Result<Gguf> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    std::fs::write(&path, bytes).unwrap();
    Gguf::open(&path)
}

fn error(bytes: &[u8]) -> String {
    let message = open(bytes).unwrap_err().to_string();
    assert!(message.contains("m.gguf"), "the file is named: {message}");
    message
}

fn text(value: &str) -> Vec<u8> {
    [&(value.len() as u64).to_le_bytes(), value.as_bytes()].concat()
}

fn pair(key: &str, kind: u32, value: &[u8]) -> Vec<u8> {
    [&text(key), kind.to_le_bytes().as_slice(), value].concat()
}

fn tensor(name: &str, dims: &[u64], kind: u32, offset: u64) -> Vec<u8> {
    let mut bytes = [text(name), (dims.len() as u32).to_le_bytes().to_vec()].concat();
    dims.iter().for_each(|d| bytes.extend(d.to_le_bytes()));
    bytes.extend(kind.to_le_bytes());
    bytes.extend(offset.to_le_bytes());
    bytes
}

/// A file of these parts and `data` zero bytes after the padding.
fn file(pairs: &[Vec<u8>], tensors: &[Vec<u8>], data: usize) -> Vec<u8> {
    let mut bytes = b"GGUF".to_vec();
    bytes.extend(3u32.to_le_bytes());
    bytes.extend((tensors.len() as u64).to_le_bytes());
    bytes.extend((pairs.len() as u64).to_le_bytes());
    bytes.extend(pairs.concat());
    bytes.extend(tensors.concat());
    bytes.resize(bytes.len().next_multiple_of(32) + data, 0);
    bytes
}

fn good() -> Vec<u8> {
    let array = [&6u32.to_le_bytes(), 2u64.to_le_bytes().as_slice(), &[0; 8]].concat();
    file(
        &[
            pair("arch", 8, &text("llama")),
            pair("n", 4, &7u32.to_le_bytes()),
            pair("scores", 9, &array),
            pair("eps", 6, &1e-5f32.to_le_bytes()),
        ],
        &[tensor("a", &[32, 2], 2, 0), tensor("b", &[3], 0, 64)],
        76,
    )
}

#[test]
fn a_file_of_the_reference_writer_opens_and_decodes_to_its_values() {
    let file = Gguf::open(fixture("tiny.gguf")).unwrap();
    assert_eq!(file.string("general.architecture").unwrap(), Some("llama"));
    assert_eq!(file.uint("llama.block_count").unwrap(), Some(2));
    assert_eq!(file.float("llama.attention.layer_norm_rms_epsilon").unwrap(), Some(1e-5));
    assert_eq!(file.bool("tokenizer.ggml.add_bos_token").unwrap(), Some(false));
    assert_eq!(file.strings("tokenizer.ggml.merges").unwrap().unwrap(), ["Ġ t", "h e", "Ġt he"]);
    assert_eq!(file.ints("tokenizer.ggml.token_type").unwrap().unwrap()[..4], [3, 3, 3, 1]);
    assert_eq!(file.uint("llama.absent").unwrap(), None);

    let golden = Safetensors::open(fixture("tiny.safetensors")).unwrap();
    assert_eq!(file.names().collect::<Vec<_>>(), golden.names().collect::<Vec<_>>());
    for name in file.names() {
        let (info, expected) = (file.info(name).unwrap(), golden.info(name).unwrap());
        assert_eq!(info.shape, expected.shape, "{name}");
        let cols = *info.shape.last().unwrap();
        let mut row = vec![0.0f32; cols];
        for (r, bytes) in expected.data().chunks_exact(cols * 4).enumerate() {
            file.dequantize_row(name, r, &mut row).unwrap();
            let got: Vec<u8> = row.iter().flat_map(|v| v.to_le_bytes()).collect();
            assert_eq!(got, bytes, "{name} row {r}");
        }
    }
}

#[test]
fn typed_access_names_the_key() {
    let file = open(&good()).unwrap();
    assert_eq!(file.uint("n").unwrap(), Some(7));
    assert_eq!(file.floats("scores").unwrap(), Some([0.0, 0.0].as_slice()));
    let message = file.uint("arch").unwrap_err().to_string();
    assert!(
        message.contains("`arch`") && message.contains("integer") && message.contains("llama"),
        "{message}"
    );
    let message = file.string("scores").unwrap_err().to_string();
    assert!(message.contains("`scores`") && message.contains("an array"), "{message}");
    let message = file.required::<u64>("k", None).unwrap_err().to_string();
    assert!(message.contains("`k`: is missing"), "{message}");
    let message = file.dequantize_row("a", 2, &mut [0.0; 32]).unwrap_err().to_string();
    assert!(message.contains("`a`") && message.contains("row 2"), "{message}");
    assert!(file.dequantize_row("a", 0, &mut [0.0; 31]).is_err());
    assert!(file.dequantize_row("a", usize::MAX, &mut [0.0; 32]).is_err());
    assert!(file.dequantize_row("z", 0, &mut [0.0; 32]).unwrap_err().to_string().contains("`z`"));
    file.dequantize_row("a", 1, &mut [0.0; 32]).unwrap();
}

#[test]
fn integers_of_every_width_keep_their_sign() {
    let array = |kind: u32, bytes: &[u8], count: u64| {
        let value = [&kind.to_le_bytes(), count.to_le_bytes().as_slice(), bytes].concat();
        open(&file(&[pair("k", 9, &value)], &[], 0))
    };
    let ints =
        |kind, bytes: &[u8], count| array(kind, bytes, count).unwrap().ints("k").unwrap().unwrap().to_vec();
    assert_eq!(ints(0, &[255, 1], 2), [255, 1]);
    assert_eq!(ints(1, &[255, 1], 2), [-1, 1]);
    assert_eq!(ints(3, &[0xFE, 0xFF], 1), [-2]);
    assert_eq!(ints(2, &[0xFE, 0xFF], 1), [65_534]);
    assert_eq!(ints(5, &(-3i32).to_le_bytes(), 1), [-3]);
    assert_eq!(ints(4, &u32::MAX.to_le_bytes(), 1), [i64::from(u32::MAX)]);
    assert_eq!(ints(11, &i64::MIN.to_le_bytes(), 1), [i64::MIN]);
    assert!(array(10, &u64::MAX.to_le_bytes(), 1).unwrap_err().to_string().contains("`k`"));
    assert!(array(9, &[0; 12], 1).unwrap_err().to_string().contains("`k`"), "nested arrays");
}

#[test]
fn every_kind_of_damage_is_named() {
    let good = good();
    assert!(open(&good).is_ok());
    assert!(error(b"GGU").contains("magic"));
    assert!(error(b"GGML\x03\0\0\0").contains("does not start"));
    let mut bad = good.clone();
    bad[4] = 1;
    assert!(error(&bad).contains("version 1"));
    bad[4..8].copy_from_slice(&3u32.to_be_bytes());
    assert!(error(&bad).contains("big-endian"));
    let mut bad = good.clone();
    bad[8..16].copy_from_slice(&u64::MAX.to_le_bytes());
    assert!(error(&bad).contains("claims 18446744073709551615 tensors"));
    assert!(error(&good[..good.len() - 1]).contains("`b`"));
    for length in 0..good.len() {
        assert!(open(&good[..length]).is_err(), "{length} bytes of {}", good.len());
    }
    let huge_string = file(&[pair("k", 8, &u64::MAX.to_le_bytes())], &[], 0);
    assert!(error(&huge_string).contains("k needs 18446744073709551615 bytes"));
    let huge_array = [&8u32.to_le_bytes(), (1u64 << 61).to_le_bytes().as_slice()].concat();
    assert!(error(&file(&[pair("k", 9, &huge_array)], &[], 0)).contains("elements of `k`"));
    let twice = [pair("k", 0, &[1]), pair("k", 0, &[2])];
    assert!(error(&file(&twice, &[], 0)).contains("`k`: appears twice"));
    assert!(error(&file(&[pair("k", 99, &[1])], &[], 0)).contains("type 99"));
    let alignment = pair("general.alignment", 4, &3u32.to_le_bytes());
    assert!(error(&file(&[alignment], &[], 0)).contains("power of two"));
}

#[test]
fn wrong_tensors_are_named() {
    let one = |dims: &[u64], kind, offset| error(&file(&[], &[tensor("t", dims, kind, offset)], 64));
    let message = one(&[256], 10, 0);
    assert!(message.contains("`t`") && message.contains("type 10") && message.contains("Q4_K"), "{message}");
    assert!(one(&[33], 2, 0).contains("whole blocks of Q4_0"));
    assert!(one(&[1 << 40, 1 << 40], 0, 0).contains("whole blocks"));
    assert!(one(&[1; 5], 0, 0).contains("5 dimensions"));
    assert!(one(&[4], 0, 4).contains("alignment"));
    assert!(one(&[4], 0, 64).contains("truncated"));
    assert!(one(&[4], 0, u64::MAX - 31).contains("truncated"));
    let overlap = [tensor("t", &[16], 0, 0), tensor("u", &[4], 0, 32)];
    let message = error(&file(&[], &overlap, 64));
    assert!(message.contains("`u`") && message.contains("`t`"), "{message}");
    let twice = [tensor("t", &[4], 0, 0), tensor("t", &[4], 0, 32)];
    assert!(error(&file(&[], &twice, 64)).contains("`t`: appears twice"));
}

/// Whatever opens must be safe to use: every row of every tensor decodes.
fn check(bytes: &[u8]) {
    let Ok(file) = open(bytes) else { return };
    for name in file.names() {
        let info = file.info(name).unwrap();
        let cols = info.shape.last().copied().unwrap_or(1);
        // A tensor without elements may claim any shape; there is nothing to decode.
        if !info.bytes.is_empty() {
            let mut row = vec![0.0; cols];
            let rows: usize = info.shape.iter().product::<usize>() / cols;
            (0..rows).for_each(|r| file.dequantize_row(name, r, &mut row).unwrap());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        check(&bytes);
        check(&[b"GGUF\x03\0\0\0".as_slice(), &bytes].concat());
    }

    #[test]
    fn mutated_files_never_panic(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
        truncate in any::<bool>(),
    ) {
        let mut bytes = good();
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
    fn random_tensors_never_panic(
        dims in proptest::collection::vec(prop_oneof![0u64..70, any::<u64>()], 0..5),
        kind in 0u32..32,
        offset in prop_oneof![(0u64..4).prop_map(|n| n * 32), any::<u64>()],
    ) {
        check(&file(&[], &[tensor("t", &dims, kind, offset)], 256));
    }
}
