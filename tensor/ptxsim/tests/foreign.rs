//! Kernels written by others, in other idioms, against results computed by NumPy.
//!
//! A wrong reading of a fragment layout could hide in both our kernels and the simulator; it cannot hide
//! from code compiled by Triton, from `nvcuda::wmma`, cooperative groups and CUB. Every fixture in
//! `tests/foreign/` runs with all checks on. The scripts there rebuild them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ptxsim::npy::{Array, Dtype};
use ptxsim::semantics::half2::{bf16_to_f32, f16_to_f32, f32_to_bf16, f32_to_f16};
use ptxsim::{Gpu, GpuConfig, Launch, Module};
use serde::Deserialize;

#[derive(Deserialize)]
struct Manifest {
    entry: String,
    grid: [u32; 3],
    block: [u32; 3],
    shared: u32,
    args: Vec<BTreeMap<String, serde_json::Value>>,
}

/// The scripts' formula for inputs.
fn raw(i: u64, salt: u64) -> i64 {
    let x = (i * 2_654_435_761 + salt * 40503 + 12345) & 0xffff_ffff;
    let x = ((x ^ (x >> 15)) * 2_246_822_519) & 0xffff_ffff;
    (x >> 16) as i64
}

fn input(dtype: Dtype, count: u64, salt: u64) -> Vec<u8> {
    let mut out = Vec::new();
    for i in 0..count {
        let r = raw(i, salt);
        let float = (r % 2048 - 1024) as f32 / 1024.0;
        let unsigned = matches!(dtype, Dtype::U8 | Dtype::U16 | Dtype::U32 | Dtype::U64);
        let integer = if unsigned { r % 200 } else { r % 200 - 100 };
        match dtype {
            Dtype::F16 => out.extend(f32_to_f16(float).to_le_bytes()),
            Dtype::Bf16 => out.extend(f32_to_bf16(float).to_le_bytes()),
            Dtype::F32 => out.extend(float.to_le_bytes()),
            Dtype::F64 => out.extend(f64::from(float).to_le_bytes()),
            _ => out.extend(&integer.to_le_bytes()[..dtype.bytes()]),
        }
    }
    out
}

fn numbers(dtype: Dtype, bytes: &[u8]) -> Vec<f64> {
    bytes
        .chunks_exact(dtype.bytes())
        .map(|b| {
            let mut wide = [0; 8];
            wide[..b.len()].copy_from_slice(b);
            let bits = u64::from_le_bytes(wide);
            let shift = 64 - 8 * dtype.bytes();
            match dtype {
                Dtype::F16 => f64::from(f16_to_f32(bits as u16)),
                Dtype::Bf16 => f64::from(bf16_to_f32(bits as u16)),
                Dtype::F32 => f64::from(f32::from_bits(bits as u32)),
                Dtype::F64 => f64::from_bits(bits),
                Dtype::U8 | Dtype::U16 | Dtype::U32 | Dtype::U64 | Dtype::Bool => bits as f64,
                _ => ((bits << shift) as i64 >> shift) as f64,
            }
        })
        .collect()
}

struct Output {
    address: u64,
    dtype: Dtype,
    expected: Array,
    atol: f64,
    rtol: f64,
    /// Elements whose order is open.
    sorted: usize,
}

fn run(ptx: &Path) {
    let name = ptx.file_stem().and_then(|s| s.to_str()).expect("a name").to_owned();
    let folder = ptx.parent().expect("a folder");
    let text = std::fs::read_to_string(folder.join(format!("{name}.json"))).expect("a manifest");
    let manifest: Manifest = serde_json::from_str(&text).expect("valid");
    let module = Module::parse(&std::fs::read_to_string(ptx).expect("readable"))
        .unwrap_or_else(|e| panic!("{name}: {e}"));
    let mut gpu = Gpu::new(GpuConfig { counts: true, threads: 2, ..GpuConfig::default() }).expect("a device");
    let loaded = gpu.load(&module).unwrap_or_else(|e| panic!("{name}: {e}"));
    let entry = module.entry(&manifest.entry).expect("the entry");
    assert_eq!(entry.params.len(), manifest.args.len(), "{name}");
    let mut block = vec![0; entry.param_bytes()];
    let mut outputs = Vec::new();
    for (arg, param) in manifest.args.iter().zip(&entry.params) {
        let number = |key: &str| arg.get(key).and_then(serde_json::Value::as_f64);
        let dtype = |key: &str| arg.get(key).and_then(|v| v.as_str()).and_then(Dtype::named);
        let count = number("count").unwrap_or(0.0) as u64;
        let value = if let Some(dtype) = dtype("in") {
            let data = input(dtype, count, number("salt").expect("a salt") as u64);
            let address = gpu.alloc(data.len() as u64).expect("memory");
            gpu.write(address, &data).expect("in bounds");
            address.to_le_bytes().to_vec()
        } else if let Some(dtype) = dtype("out") {
            let bytes = count * dtype.bytes() as u64;
            let address = gpu.alloc(bytes).expect("memory");
            match arg.get("start") {
                Some(serde_json::Value::String(_)) => gpu.fill(address, bytes, 0).expect("in bounds"),
                Some(salt) => {
                    let data = input(dtype, count, salt.as_u64().expect("a salt"));
                    gpu.write(address, &data).expect("in bounds");
                }
                None => {}
            }
            let file = folder.join(arg["expected"].as_str().expect("a file"));
            outputs.push(Output {
                address,
                dtype,
                expected: Array::read(&file).expect("expected values"),
                atol: number("atol").expect("atol"),
                rtol: number("rtol").expect("rtol"),
                sorted: number("sorted").unwrap_or(0.0) as usize,
            });
            address.to_le_bytes().to_vec()
        } else if let Some(x) = number("i32") {
            (x as i32).to_le_bytes().to_vec()
        } else if let Some(x) = number("f32") {
            (x as f32).to_le_bytes().to_vec()
        } else {
            assert!(arg.contains_key("null"), "{name}: {arg:?}");
            vec![0; 8]
        };
        assert_eq!(value.len(), param.bytes as usize, "{name}: {arg:?}");
        block[param.offset as usize..][..value.len()].copy_from_slice(&value);
    }
    let launch = Launch { grid: manifest.grid, block: manifest.block, shared_bytes: manifest.shared };
    let counts = gpu
        .launch(&loaded, &manifest.entry, launch, &block)
        .unwrap_or_else(|fault| panic!("{name}: {fault}"));
    assert!(counts.warp_instructions() > 0);
    for (i, output) in outputs.iter().enumerate() {
        let mut bytes = vec![0; output.expected.bytes.len()];
        gpu.read(output.address, &mut bytes).expect("in bounds");
        let mut got = numbers(output.dtype, &bytes);
        let want = numbers(output.dtype, &output.expected.bytes);
        got[..output.sorted].sort_by(f64::total_cmp);
        for (e, (g, w)) in got.iter().zip(&want).enumerate() {
            let close = (g - w).abs() <= output.atol + output.rtol * w.abs();
            assert!(close, "{name}: output {i}, element {e}: {g}, NumPy has {w}");
        }
    }
}

fn fixtures(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/foreign").join(folder);
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .expect("the folder")
        .map(|file| file.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|e| e == "ptx"))
        .collect();
    files.sort();
    files
}

#[test]
fn triton_kernels_agree_with_numpy() {
    let files = fixtures("triton");
    assert!(files.len() >= 9, "fixtures are missing");
    files.iter().for_each(|file| run(file));
}

#[test]
fn cuda_kernels_agree_with_numpy() {
    let files = fixtures("cuda");
    assert!(files.len() >= 12, "fixtures are missing");
    files.iter().for_each(|file| run(file));
}
