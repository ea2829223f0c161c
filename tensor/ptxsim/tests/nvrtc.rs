//! Kernels that NVRTC compiled (`fixtures/basic.cu`) give the results their source says.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod device;

use device::{Device, bytes_of};

fn pseudo(n: usize, seed: u32) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1664525).wrapping_add(1013904223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

#[test]
fn saxpy_with_a_ragged_end() {
    let mut d = Device::basic();
    let (x, y) = (pseudo(1000, 1), pseudo(1000, 2));
    let (px, py) = (d.upload(&x), d.upload(&y));
    d.run("saxpy", [3, 1, 1], [64, 1, 1], 0, &[px.into(), py.into(), 2.5f32.into(), 1000i32.into()]).unwrap();
    let got: Vec<f32> = d.download(py, 1000);
    for i in 0..1000 {
        assert_eq!(got[i], 2.5f32.mul_add(x[i], y[i]), "element {i}");
    }
}

#[test]
fn row_sums_by_shuffles_and_shared_memory() {
    let mut d = Device::basic();
    // Small integers: sums are exact in any order.
    let x: Vec<f32> = (0..5 * 300).map(|i| (i * 7 % 13) as f32).collect();
    let (px, out) = (d.upload(&x), d.alloc(20));
    d.run("row_sum", [5, 1, 1], [128, 1, 1], 0, &[px.into(), out.into(), 300i32.into()]).unwrap();
    let want: Vec<f32> = x.chunks(300).map(|r| r.iter().sum()).collect();
    assert_eq!(d.download::<f32>(out, 5), want);
}

#[test]
fn tiled_gemm_of_ragged_shape() {
    let mut d = Device::basic();
    let (m, n, k) = (37, 29, 41);
    let (a, b) = (pseudo(m * k, 3), pseudo(k * n, 4));
    let (pa, pb, pc) = (d.upload(&a), d.upload(&b), d.alloc(4 * (m * n) as u64));
    let args = [pa.into(), pb.into(), pc.into(), (m as i32).into(), (n as i32).into(), (k as i32).into()];
    d.run("tiled_gemm", [2, 3, 1], [16, 16, 1], 0, &args).unwrap();
    let c: Vec<f32> = d.download(pc, m * n);
    for i in 0..m {
        for j in 0..n {
            let mut want = 0.0f32;
            for x in 0..k {
                want = a[i * k + x].mul_add(b[x * n + j], want);
            }
            assert_eq!(c[i * n + j], want, "({i},{j})");
        }
    }
}

#[test]
fn nested_divergence_reconverges() {
    let mut d = Device::basic();
    let x: Vec<u32> = (1..=100).collect();
    let (px, out) = (d.upload(&x), d.alloc(400));
    d.run("collatz", [4, 1, 1], [32, 1, 1], 0, &[px.into(), out.into(), 100i32.into()]).unwrap();
    let want: Vec<u32> = x
        .iter()
        .map(|&v| {
            let (mut v, mut s) = (v, 0);
            while v != 1 {
                v = if v % 2 == 1 { 3 * v + 1 } else { v / 2 };
                s += 1;
            }
            s
        })
        .collect();
    assert_eq!(d.download::<u32>(out, 100), want);
}

#[test]
fn a_spin_lock_does_not_livelock() {
    let mut d = Device::basic();
    let (lock, counter) = (d.upload(&[0i32]), d.upload(&[0i32]));
    d.run("locked_increment", [3, 1, 1], [64, 1, 1], 0, &[lock.into(), counter.into()]).unwrap();
    assert_eq!(d.download::<i32>(counter, 1), [192]);
}

#[test]
fn device_functions_and_recursion() {
    let mut d = Device::basic();
    let c = [0.5f32, -1.0, 2.0];
    let (pc, y, f) = (d.upload(&c), d.alloc(4 * 48), d.alloc(4 * 48));
    d.run("calls", [1, 1, 1], [48, 1, 1], 0, &[pc.into(), 3i32.into(), y.into(), f.into()]).unwrap();
    let fib = [0, 1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89];
    let got: Vec<f32> = d.download(y, 48);
    for (i, &y) in got.iter().enumerate() {
        let x = 0.25 * i as f32;
        let want = c.iter().fold(0.0f32, |r, &v| r.mul_add(x, v));
        assert_eq!(y, want, "lane {i}");
    }
    let got: Vec<i32> = d.download(f, 48);
    assert_eq!(got, (0..48).map(|i| fib[i % 12]).collect::<Vec<_>>());
}

#[test]
fn structs_local_arrays_constants_and_module_variables() {
    let mut d = Device::basic();
    let out = d.alloc(8 * 32);
    let mut pair = bytes_of(&[5i32, 0]);
    pair.extend(bytes_of(&[1000i64]));
    d.run("spaces", [1, 1, 1], [32, 1, 1], 0, &[pair.into(), out.into(), 2i32.into()]).unwrap();
    let got: Vec<i64> = d.download(out, 32);
    for i in 0..32i64 {
        let hits = if i == 0 { 35 } else { 0 };
        assert_eq!(got[i as usize], (i + 2) % 8 * 5 + 1000 + (1 << (i % 4)) + hits, "thread {i}");
    }
    let hits = d.loaded.symbol("hits").unwrap();
    assert_eq!(d.download::<i32>(hits, 1), [35]);
}

#[test]
fn atomics_in_shared_and_global_memory() {
    let mut d = Device::basic();
    let x: Vec<u8> = (0..3000u32).map(|i| ((i * i) >> 3) as u8).collect();
    let (px, bins) = (d.upload(&x), d.upload(&[0u32; 256]));
    d.run("histogram", [4, 1, 1], [96, 1, 1], 0, &[px.into(), bins.into(), 3000i32.into()]).unwrap();
    let mut want = [0u32; 256];
    x.iter().for_each(|&b| want[b as usize] += 1);
    assert_eq!(d.download::<u32>(bins, 256), want);
}

#[test]
fn sixteen_bit_loads_and_stores() {
    let mut d = Device::basic();
    let x: Vec<u16> = (0..77).map(|i| 0x3f80 + i).collect();
    let (px, py) = (d.upload(&x), d.alloc(154));
    d.run("bf16_scale", [3, 1, 1], [32, 1, 1], 0, &[px.into(), py.into(), 2.0f32.into(), 77i32.into()])
        .unwrap();
    assert_eq!(d.download::<u16>(py, 77), (0..77).map(|i| 0x4000 + i).collect::<Vec<u16>>());
}

#[test]
fn the_last_block_sums_up() {
    let mut d = Device::basic();
    let x: Vec<f32> = (0..5000).map(|i| (i % 17) as f32).collect();
    let (px, partial) = (d.upload(&x), d.alloc(4 * 7));
    let (done, out) = (d.upload(&[0u32]), d.alloc(4));
    let args = [px.into(), partial.into(), done.into(), out.into(), 5000i32.into()];
    d.run("grid_sum", [7, 1, 1], [128, 1, 1], 0, &args).unwrap();
    assert_eq!(d.download::<f32>(out, 1), [x.iter().sum::<f32>()]);
}

#[test]
fn blocks_that_wait_for_each_other_get_on_with_any_number_of_threads() {
    for threads in [1, 2, 3] {
        let mut d = Device::with(|c| c.threads = threads);
        let (arrived, out) = (d.upload(&[0u32]), d.alloc(4 * 9 * 32));
        d.run("grid_barrier", [9, 1, 1], [32, 1, 1], 0, &[arrived.into(), out.into()]).unwrap();
        assert_eq!(d.download::<u32>(out, 288), [9; 288]);
    }
}
