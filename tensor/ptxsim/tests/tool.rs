//! The `ptxsim` tool, run as its users run it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use ptxsim::npy::{Array, Dtype};

/// y = a·x + y over n elements.
const SAXPY: &str = "\
.version 8.0
.target sm_80
.address_size 64
.visible .entry saxpy(.param .f32 a, .param .u64 x, .param .u64 y, .param .u32 n)
{
.reg .pred %p; .reg .b32 %r<8>; .reg .f32 %f<4>; .reg .b64 %d<6>;
mov.u32 %r0, %ctaid.x;
mov.u32 %r1, %ntid.x;
mov.u32 %r2, %tid.x;
mad.lo.s32 %r3, %r0, %r1, %r2;
ld.param.u32 %r4, [n];
setp.ge.u32 %p, %r3, %r4;
@%p ret;
ld.param.u64 %d0, [x];
ld.param.u64 %d1, [y];
mul.wide.u32 %d2, %r3, 4;
add.s64 %d3, %d0, %d2;
add.s64 %d4, %d1, %d2;
ld.global.f32 %f0, [%d3];
ld.global.f32 %f1, [%d4];
ld.param.f32 %f2, [a];
fma.rn.f32 %f3, %f0, %f2, %f1;
st.global.f32 [%d4], %f3;
ret;
}
.visible .entry idle() { ret; }
";

/// Each thread reads a word of shared memory that nothing has written and stores `STORED`.
const UNWRITTEN: &str = "\
.version 8.0
.target sm_80
.address_size 64
.visible .entry unwritten(.param .u64 o)
{
.reg .b32 %r<4>; .reg .b64 %d<3>;
.shared .align 4 .b8 s[128];
mov.u32 %r0, %tid.x;
mov.u32 %r1, s;
mad.lo.u32 %r2, %r0, 4, %r1;
ld.shared.u32 %r3, [%r2];
ld.param.u64 %d0, [o];
mul.wide.u32 %d1, %r0, 4;
add.s64 %d2, %d0, %d1;
st.global.u32 [%d2], STORED;
ret;
}
";

struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Place {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::create_dir_all(&folder).expect("a folder");
        Place(folder)
    }
    fn file(&self, name: &str, text: &str) {
        std::fs::write(self.0.join(name), text).expect("written");
    }
    fn floats(&self, name: &str, values: impl Iterator<Item = f32>) {
        let bytes: Vec<u8> = values.flat_map(f32::to_le_bytes).collect();
        let array = Array { dtype: Dtype::F32, shape: vec![bytes.len() / 4], bytes };
        array.write(&self.0.join(name)).expect("written");
    }
    fn read(&self, name: &str) -> Array {
        Array::read(&self.0.join(name)).expect("written by the tool")
    }
    fn run(&self, line: &str) -> Output {
        let words = line.split_whitespace();
        Command::new(env!("CARGO_BIN_EXE_ptxsim"))
            .args(words)
            .current_dir(&self.0)
            .output()
            .expect("the tool starts")
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_kernel_runs_on_arrays_and_is_reported() {
    let place = Place::new("saxpy");
    place.file("k.ptx", SAXPY);
    place.floats("x.npy", (0..1000).map(|i| i as f32));
    place.floats("y.npy", (0..1000).map(|_| 1.0));
    let arguments = "--arg f32:2 --arg in:x.npy --arg inout:y.npy:z.npy --arg u32:1000";
    let out = place.run(&format!("k.ptx --entry saxpy --grid 4 --block 256 {arguments} --report json"));
    assert_eq!(out.status.code(), Some(0), "{}", text(&out.stderr));
    let report: serde_json::Value = serde_json::from_slice(&out.stdout).expect("JSON");
    assert_eq!(report["findings"].as_array().map(Vec::len), Some(0));
    // 1000 threads read and 1000 write 4 bytes: 125 sectors each of x and y, and 125 written.
    assert_eq!(report["counts"]["load_sectors"], 250);
    assert_eq!(report["counts"]["store_sectors"], 125);
    assert_eq!(report["counts"]["blocks"], 4);
    assert_eq!(report["predictions"].as_array().map(Vec::len), Some(5));
    let z = place.read("z.npy");
    for (i, value) in z.bytes.chunks_exact(4).enumerate() {
        let value = f32::from_le_bytes([value[0], value[1], value[2], value[3]]);
        assert_eq!(value, 2.0 * i as f32 + 1.0);
    }
}

#[test]
fn a_mistake_is_found_with_its_line_and_nothing_is_written() {
    let place = Place::new("mistake");
    place.file("k.ptx", SAXPY);
    place.floats("x.npy", (0..1000).map(|i| i as f32));
    let arguments = "--arg f32:2 --arg in:x.npy --arg zeros:f32:1000:z.npy --arg u32:1001";
    let out = place.run(&format!("k.ptx --entry saxpy --grid 4 --block 256 {arguments}"));
    assert_eq!(out.status.code(), Some(1));
    let report = text(&out.stdout);
    assert!(report.contains("FOUND        out-of-bounds access"), "{report}");
    assert!(report.contains("block (3,0,0) thread (232,0,0)"), "{report}");
    assert!(report.contains("   19 | ld.global.f32 %f0, [%d3];"), "{report}");
    assert!(!place.0.join("z.npy").exists());
}

#[test]
fn wrong_calls_say_what_to_do() {
    let place = Place::new("wrong");
    place.file("k.ptx", SAXPY);
    place.file("bad.ptx", "not PTX");
    place.floats("x.npy", (0..4).map(|i| i as f32));
    for (line, needle) in [
        ("k.ptx --block 32", "--entry NAME"),
        ("k.ptx --entry nothing --block 32", "saxpy"),
        ("k.ptx --entry saxpy --block 32", "takes 4 arguments, 0 are given"),
        ("k.ptx --entry idle", "--block X"),
        ("k.ptx --entry idle --block 2000", "1024"),
        (
            "k.ptx --entry saxpy --block 32 --arg f32:2 --arg in:x.npy --arg u32:1 --arg u32:4",
            "has 4 bytes, the parameter has 8",
        ),
        ("k.ptx --entry saxpy --block 32 --arg f32:2 --arg in:none.npy --arg null --arg u32:4", "none.npy"),
        ("bad.ptx --list", "line 1"),
        ("missing.ptx --list", "missing.ptx"),
    ] {
        let out = place.run(line);
        assert_eq!(out.status.code(), Some(2), "{line}");
        assert!(text(&out.stderr).contains(needle), "{line}: {}", text(&out.stderr));
    }
    let out = place.run("k.ptx --list");
    assert!(
        out.status.success() && text(&out.stdout).contains("2: y, 8 bytes at 16"),
        "{}",
        text(&out.stdout)
    );
}

#[test]
fn unwritten_shared_memory_matters_only_if_it_shows() {
    let place = Place::new("unwritten");
    let run = |stored: &str| {
        place.file("k.ptx", &UNWRITTEN.replace("STORED", stored));
        place.run("k.ptx --block 32 --arg out:u32:32:o.npy")
    };
    let ignored = run("%r0");
    assert_eq!(ignored.status.code(), Some(0), "{}", text(&ignored.stdout));
    assert!(text(&ignored.stdout).contains("harmless"), "{}", text(&ignored.stdout));
    assert_eq!(place.read("o.npy").bytes[4..8], [1, 0, 0, 0]);
    let shown = run("%r3");
    assert_eq!(shown.status.code(), Some(1));
    assert!(text(&shown.stdout).contains("FOUND        read of uninitialised memory"));
}
