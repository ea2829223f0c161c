//! One line an instruction form: what a single thread computes into %r1 (or %d1, %f1), by PTX's document.

mod device;

use device::{Device, kernel_text};
use ptxsim::Module;

/// Runs `body` on one thread and gives the 64 bits its `st.global` left at p0.
fn value(body: &str) -> u64 {
    let mut d = Device::kernel(body, |c| c.threads = 1);
    let out = d.upload(&[0u64; 4]);
    let input = d.upload(&(0..32u64).map(|i| i * 0x0101_0101_0101_0101).collect::<Vec<_>>());
    let one = [1, 1, 1];
    d.run("k", one, one, 256, &[out.into(), input.into(), 0u64.into()])
        .unwrap_or_else(|f| panic!("{body}\n{f}"));
    d.download::<u64>(out, 1)[0]
}

fn r(code: &str) -> u32 {
    value(&format!("{code}\nst.global.u32 [%a0], %r1;")) as u32
}

fn d(code: &str) -> u64 {
    value(&format!("{code}\nst.global.u64 [%a0], %d1;"))
}

fn f(code: &str) -> f32 {
    f32::from_bits(value(&format!("{code}\nst.global.f32 [%a0], %f1;")) as u32)
}

fn p(code: &str) -> bool {
    r(&format!("{code}\nselp.u32 %r1, 1, 0, %p1;")) == 1
}

fn h(code: &str) -> u16 {
    value(&format!("{code}\nst.global.b16 [%a0], %h1;")) as u16
}

#[test]
fn integer_arithmetic() {
    let minus = |n: i32| n as u32;
    for (code, want) in [
        ("add.s32 %r1, 2000000000, 2000000000;", 4_000_000_000),
        ("add.sat.s32 %r1, 2000000000, 2000000000;", i32::MAX as u32),
        ("sub.sat.s32 %r1, -2000000000, 2000000000;", i32::MIN as u32),
        ("sub.u32 %r1, 3, 5;", minus(-2)),
        ("mul.lo.u32 %r1, 65537, 65537;", 131_073),
        ("mul.hi.u32 %r1, -1, -1;", 0xffff_fffe),
        ("mul.hi.s32 %r1, -1, -1;", 0),
        ("mad.lo.s32 %r1, 7, -3, 100;", 79),
        ("mad.hi.u32 %r1, 0x80000000, 6, 1;", 4),
        ("mad.hi.sat.s32 %r1, 0x7fffffff, 0x7fffffff, 0x7fffffff;", i32::MAX as u32),
        ("mul24.lo.s32 %r1, -3, 5;", minus(-15)),
        ("mad24.lo.u32 %r1, 3, 5, 7;", 22),
        ("div.s32 %r1, -7, 2;", minus(-3)),
        ("rem.s32 %r1, -7, 2;", minus(-1)),
        ("div.u32 %r1, 7, 0;", u32::MAX),
        ("min.s32 %r1, -1, 1;", minus(-1)),
        ("min.u32 %r1, -1, 1;", 1),
        ("max.s32 %r1, -5, -9;", minus(-5)),
        ("abs.s32 %r1, -5;", 5),
        ("neg.s32 %r1, 5;", minus(-5)),
        ("sad.s32 %r1, -3, 4, 10;", 17),
        ("dp4a.s32.s32 %r1, 0x01ff0203, 0x01010101, 100;", 105),
        ("dp4a.u32.u32 %r1, 0x01ff0203, 0x01010101, 100;", 361),
        ("dp2a.lo.s32.s32 %r1, 0x00020003, 0x00000504, 1;", 23),
        ("mov.u16 %h1, 0xffff;\nmul.wide.u16 %r1, %h1, %h1;", 0xfffe_0001),
        ("mov.u16 %h1, 0xffff;\nmul.wide.s16 %r1, %h1, %h1;", 1),
        ("mov.u16 %h1, 40000;\nadd.u16 %h2, %h1, %h1;\ncvt.u32.u16 %r1, %h2;", 14464),
    ] {
        assert_eq!(r(code), want, "{code}");
    }
    for (code, want) in [
        ("mul.wide.s32 %d1, -2, 3;", -6i64 as u64),
        ("mul.wide.u32 %d1, -1, 2;", 0x1_ffff_fffe),
        ("mad.wide.s32 %d1, -2, 3, 1;", -5i64 as u64),
        ("mul.lo.s64 %d1, -3, 7;", -21i64 as u64),
        ("mul.hi.u64 %d1, 0xffffffffffffffff, 16;", 15),
        ("rem.u64 %d1, 100000000007, 10;", 7),
        ("min.s64 %d1, -1, 1;", u64::MAX),
    ] {
        assert_eq!(d(code), want, "{code}");
    }
}

#[test]
fn carries_chain() {
    let add = "add.cc.u32 %r2, 0xffffffff, 2;\naddc.cc.u32 %r3, 0xffffffff, 0;\naddc.u32 %r1, 5, 0;";
    assert_eq!(r(add), 6);
    assert_eq!(r("sub.cc.u32 %r2, 1, 2;\nsubc.u32 %r1, 10, 3;"), 6);
    let mad = "mad.lo.cc.u32 %r2, 0x10000, 0x10000, 0;\nmadc.hi.u32 %r1, 0x10000, 0x10000, 5;";
    assert_eq!(r(mad), 6);
    assert_eq!(d("add.cc.u64 %d2, -1, 1;\naddc.u64 %d1, 1, 1;"), 3);
}

#[test]
fn bits_and_shifts() {
    for (code, want) in [
        ("and.b32 %r1, 12, 10;", 8),
        ("or.b32 %r1, 12, 10;", 14),
        ("xor.b32 %r1, 12, 10;", 6),
        ("not.b32 %r1, 0;", u32::MAX),
        ("cnot.b32 %r1, 0;", 1),
        ("shl.b32 %r1, 1, 31;", 1 << 31),
        ("shl.b32 %r1, 1, 32;", 0),
        ("shr.u32 %r1, 0x80000000, 40;", 0),
        ("shr.s32 %r1, 0x80000000, 40;", u32::MAX),
        ("shf.l.wrap.b32 %r1, 0x80000000, 1, 33;", 3),
        ("shf.r.clamp.b32 %r1, 1, 7, 32;", 7),
        ("lop3.b32 %r1, 0xf0, 0xcc, 0xaa, 0x96;", 0xf0 ^ 0xcc ^ 0xaa),
        ("lop3.b32 %r1, 0xf0, 0xcc, 0xaa, 0xe8;", 0xe8),
        ("prmt.b32 %r1, 0x33221100, 0x77665544, 0x7520;", 0x7755_2200),
        ("prmt.b32 %r1, 0x80, 0, 0x0008;", 0x8080_80ff),
        ("bfe.u32 %r1, 0xabcd, 4, 8;", 0xbc),
        ("bfe.s32 %r1, 0x80, 4, 4;", 0xffff_fff8),
        ("bfi.b32 %r1, 0xf, 0, 8, 4;", 0xf00),
        ("bfind.u32 %r1, 0x100;", 8),
        ("bfind.shiftamt.u32 %r1, 0x100;", 23),
        ("brev.b32 %r1, 1;", 1 << 31),
        ("clz.b32 %r1, 1;", 31),
        ("popc.b32 %r1, 0xff0f;", 12),
        ("popc.b64 %r1, 0xff00000000000001;", 9),
        ("fns.b32 %r1, 0xf0, 0, 2;", 5),
        ("bmsk.clamp.b32 %r1, 4, 8;", 0xff0),
        (
            "setp.eq.u32 %p1, 1, 1;\nsetp.eq.u32 %p2, 1, 2;\nxor.pred %p3, %p1, %p2;\nselp.u32 %r1, 5, 6, %p3;",
            5,
        ),
    ] {
        assert_eq!(r(code), want, "{code}");
    }
    assert_eq!(d("shl.b64 %d1, 1, 63;"), 1 << 63);
    assert_eq!(d("bfe.u64 %d1, 0xabcd000000000000, 48, 8;"), 0xcd);
}

#[test]
fn comparisons_and_selections() {
    for (code, want) in [
        ("setp.lt.s32 %p1, -1, 1;", true),
        ("setp.lo.u32 %p1, -1, 1;", false),
        ("setp.ge.f32 %p1, 0f7FC00000, 0f00000000;", false),
        ("setp.ltu.f32 %p1, 0f7FC00000, 0f00000000;", true),
        ("setp.num.f32 %p1, 0f3F800000, 0f00000000;", true),
        ("setp.eq.u32 %p2, 1, 1;\nsetp.gt.and.u32 %p1, 2, 1, %p2;", true),
        ("setp.eq.u32 %p2, 1, 1;\nsetp.gt.and.u32 %p1, 2, 1, !%p2;", false),
        ("setp.lt.u32 %p2|%p1, 1, 2;", false),
        ("setp.lt.f64 %p1, 0d3FF0000000000000, 0d4000000000000000;", true),
        ("mov.b16 %h1, 0x3c00;\nmov.b16 %h2, 0x4000;\nsetp.lt.f16 %p1, %h1, %h2;", true),
        ("testp.infinite.f32 %p1, 0f7F800000;", true),
        ("testp.subnormal.f32 %p1, 0f00000001;", true),
    ] {
        assert_eq!(p(code), want, "{code}");
    }
    assert_eq!(r("set.lt.u32.f32 %r1, 0f00000000, 0f3F800000;"), u32::MAX);
    assert_eq!(f("set.lt.f32.s32 %f1, -1, 0;"), 1.0);
    assert_eq!(r("slct.u32.s32 %r1, 5, 6, -1;"), 6);
    assert_eq!(r("slct.u32.f32 %r1, 5, 6, 0f00000000;"), 5);
}

#[test]
fn floats() {
    for (code, want) in [
        ("add.f32 %f1, 0f3F800000, 0f40000000;", 3.0),
        ("sub.rn.f32 %f1, 0f3F800000, 0f40000000;", -1.0),
        ("mul.sat.f32 %f1, 0f40000000, 0f40000000;", 1.0),
        ("fma.rn.f32 %f1, 0f40000000, 0f40400000, 0f3F800000;", 7.0),
        ("add.rz.f32 %f1, 0f3F800000, 0f33000000;", 1.0),
        ("add.rp.f32 %f1, 0f3F800000, 0f33000000;", 1.0 + f32::EPSILON),
        ("add.ftz.f32 %f1, 0f00000001, 0f00000000;", 0.0),
        ("div.rn.f32 %f1, 0f3F800000, 0f40400000;", 1.0 / 3.0),
        ("div.approx.f32 %f1, 0f40800000, 0f40000000;", 2.0),
        ("div.full.f32 %f1, 0f40800000, 0f40000000;", 2.0),
        ("rcp.approx.ftz.f32 %f1, 0f40800000;", 0.25),
        ("rcp.rn.f32 %f1, 0f40400000;", 1.0 / 3.0),
        ("sqrt.rn.f32 %f1, 0f41100000;", 3.0),
        ("sqrt.approx.f32 %f1, 0f41100000;", 3.0),
        ("rsqrt.approx.f32 %f1, 0f40800000;", 0.5),
        ("ex2.approx.f32 %f1, 0f40400000;", 8.0),
        ("lg2.approx.f32 %f1, 0f41000000;", 3.0),
        ("sin.approx.f32 %f1, 0f00000000;", 0.0),
        ("cos.approx.f32 %f1, 0f00000000;", 1.0),
        ("tanh.approx.f32 %f1, 0f42C80000;", 1.0),
        ("min.f32 %f1, 0f7FC00000, 0f3F800000;", 1.0),
        ("max.f32 %f1, 0fBF800000, 0f80000000;", -0.0),
        ("abs.f32 %f1, 0fC0000000;", 2.0),
        ("neg.f32 %f1, 0f40000000;", -2.0),
        ("copysign.f32 %f1, 0f80000000, 0f40000000;", -2.0),
        ("mov.f32 %f1, 1.5;", 1.5),
    ] {
        assert_eq!(f(code), want, "{code}");
    }
    assert!(f("min.NaN.f32 %f1, 0f7FC00000, 0f3F800000;").is_nan());
    let double = |code: &str| f64::from_bits(d(&format!("{code}\nmov.b64 %d1, %g1;")));
    assert_eq!(double("fma.rn.f64 %g1, 0d4000000000000000, 0d4008000000000000, 0d3FF0000000000000;"), 7.0);
    assert_eq!(double("div.rn.f64 %g1, 0d3FF0000000000000, 0d4008000000000000;"), 1.0 / 3.0);
    assert_eq!(double("sqrt.rn.f64 %g1, 0d4022000000000000;"), 3.0);
    assert_eq!(double("mov.f64 %g1, 0f3FC00000;"), 1.5);
}

#[test]
fn sixteen_bit_floats() {
    let two = "mov.b16 %h2, 0x4000;\nmov.b16 %h3, 0x3c00;\n"; // 2 and 1 in f16
    assert_eq!(h(&format!("{two}add.f16 %h1, %h2, %h3;")), 0x4200);
    assert_eq!(h(&format!("{two}fma.rn.f16 %h1, %h2, %h2, %h3;")), 0x4500);
    assert_eq!(h(&format!("{two}max.NaN.f16 %h1, %h2, %h3;")), 0x4000);
    assert_eq!(h(&format!("{two}neg.f16 %h1, %h2;")), 0xc000);
    assert_eq!(r("mul.rn.bf16x2 %r1, 0x40003f80, 0x40404040;"), 0x40c0_4040);
    assert_eq!(r("fma.rn.relu.bf16x2 %r1, 0x3f80bf80, 0x3f803f80, 0x00000000;"), 0x3f80_0000);
    assert_eq!(r("add.f16x2 %r1, 0x3c004000, 0x3c003c00;"), 0x4000_4200);
    assert_eq!(r("min.f16x2 %r1, 0x3c004000, 0x40003c00;"), 0x3c00_3c00);
    assert_eq!(r("abs.bf16x2 %r1, 0xbf803f80;"), 0x3f80_3f80);
    assert_eq!(r("ex2.approx.f16x2 %r1, 0x3c000000;"), 0x4000_3c00);
}

#[test]
fn conversions() {
    for (code, want) in [
        ("cvt.rni.s32.f32 %r1, 0f40200000;", 2),
        ("cvt.rzi.s32.f32 %r1, 0fC0200000;", -2i32 as u32),
        ("cvt.rzi.u32.f32 %r1, 0fC0200000;", 0),
        ("cvt.rmi.s32.f32 %r1, 0fC0200000;", -3i32 as u32),
        ("cvt.rpi.s32.f32 %r1, 0f40200000;", 3),
        ("cvt.rn.bf16x2.f32 %r1, 0f3F800000, 0f40000000;", 0x3f80_4000),
        ("cvt.rn.f16x2.f32 %r1, 0f3F800000, 0f40000000;", 0x3c00_4000),
        ("cvt.rna.tf32.f32 %r1, 0f3F801000;", 0x3f80_2000),
        ("mov.b32 %r2, 0x1ff;\ncvt.u32.u8 %r1, %r2;", 0xff),
        ("mov.b32 %r2, 0x1ff;\ncvt.s32.s8 %r1, %r2;", u32::MAX),
        ("cvt.sat.u8.s32 %r1, 300;", 255),
        ("cvt.sat.s8.s32 %r1, -300;", -128i32 as u32),
        ("mov.u64 %d2, 0x123456789;\ncvt.u32.u64 %r1, %d2;", 0x2345_6789),
        ("cvt.pack.sat.s16.s32 %r1, 70000, -5;", 0x7fff_fffb),
    ] {
        assert_eq!(r(code), want, "{code}");
    }
    assert_eq!(d("cvt.s64.s32 %d1, -5;"), -5i64 as u64);
    assert_eq!(f("cvt.rn.f32.s32 %f1, -7;"), -7.0);
    assert_eq!(f("cvt.rn.f32.u64 %f1, 5;"), 5.0);
    assert_eq!(f("mov.b16 %h1, 0x4000;\ncvt.f32.f16 %f1, %h1;"), 2.0);
    assert_eq!(f("mov.b16 %h1, 0x4000;\ncvt.f32.bf16 %f1, %h1;"), 2.0);
    assert_eq!(f("cvt.rmi.f32.f32 %f1, 0fC0200000;"), -3.0);
    assert_eq!(f("mov.f64 %g1, 0d3FF8000000000000;\ncvt.rn.f32.f64 %f1, %g1;"), 1.5);
    assert_eq!(h("cvt.rn.f16.f32 %h1, 0f40000000;"), 0x4000);
    assert_eq!(h("cvt.rn.bf16.f32 %h1, 0f40000000;"), 0x4000);
}

#[test]
fn moves_vectors_and_addresses() {
    assert_eq!(d("mov.b64 %d1, {1, 2};"), 2 << 32 | 1);
    assert_eq!(
        r("mov.b32 %r2, 0x12345678;\nmov.b32 {%h1, %h2}, %r2;\nmov.b32 %r1, {%h2, %h1};"),
        0x5678_1234
    );
    assert_eq!(r("mov.b64 %d2, 0x500000003;\nmov.b64 {_, %r1}, %d2;"), 5);
    assert_eq!(r("mov.u32 %r1, %ntid.x;"), 1);
    assert_eq!(r("mov.u32 %r1, WARP_SZ;"), 32);
    assert_eq!(r("mov.u32 %r1, %lanemask_ge;"), u32::MAX);
    assert_eq!(r("mov.u32 %r1, %dynamic_smem_size;"), 256);
    // Scopes shadow registers.
    assert_eq!(r("mov.u32 %r1, 1;\n{ .reg .u32 %r1; mov.u32 %r1, 2; }"), 1);
    for space in ["shared", "local"] {
        let code = format!(
            ".{space} .align 8 .b8 v[64];\nmov.u64 %d2, v;\ncvta.{space}.u64 %d3, %d2;\nmov.u32 %r2, 77;\n\
             st.u32 [%d3+8], %r2;\nld.{space}.u32 %r1, [v+8];\nisspacep.{space} %p1, %d3;\n\
             selp.u32 %r1, %r1, 0, %p1;\ncvta.to.{space}.u64 %d4, %d3;\nld.{space}.u32 %r3, [%d4+8];\n\
             sub.u32 %r3, %r3, 77;\nadd.u32 %r1, %r1, %r3;"
        );
        assert_eq!(r(&code), 77, "{space}");
    }
    assert!(p("isspacep.global %p1, %a0;"));
}

#[test]
fn loads_and_stores_of_every_size() {
    // p1 holds 8-byte words 0x0101… × i.
    for (code, want) in [
        ("ld.global.u8 %r1, [%a1+24];", 3),
        ("ld.global.s8 %r1, [%a1+25];", 3),
        ("ld.global.nc.u16 %r1, [%a1+16];", 0x0202),
        ("ld.global.L1::evict_last.L2::128B.u32 %r1, [%a1+40];", 0x0505_0505),
        ("ld.volatile.global.u32 %r1, [%a1+40];", 0x0505_0505),
        ("ld.acquire.gpu.global.u32 %r1, [%a1+40];", 0x0505_0505),
        ("ld.relaxed.sys.u32 %r1, [%a1+40];", 0x0505_0505),
        ("ld.global.v4.u32 {%r3, _, %r1, %r2}, [%a1+32];", 0x0505_0505),
        ("ld.global.v2.u64 {%d2, %d3}, [%a1+32];\ncvt.u32.u64 %r1, %d3;", 0x0505_0505),
        ("ld.global.v4.u8 {%r4, %r3, %r2, %r1}, [%a1+8];", 1),
        ("ld.global.v2.b16 {%h1, %h2}, [%a1+8];\ncvt.u32.u16 %r1, %h2;", 0x0101),
        ("mov.u32 %r2, 0x80;\nst.global.u8 [%a1], %r2;\nld.global.s8 %r1, [%a1];", 0xffff_ff80),
        ("mov.u32 %r2, 9;\nst.global.v2.u32 [%a1], {%r2, 7};\nld.global.u32 %r1, [%a1+4];", 7),
        ("st.release.gpu.global.u32 [%a1], 3;\nld.global.u32 %r1, [%a1];", 3),
        (
            "createpolicy.fractional.L2::evict_first.b64 %d2, 0f3F800000;\n\
             ld.global.L2::cache_hint.u32 %r1, [%a1+40], %d2;",
            0x0505_0505,
        ),
        ("prefetch.global.L2 [%a1];\nmembar.gl;\nfence.acq_rel.gpu;\nmov.u32 %r1, 1;", 1),
    ] {
        assert_eq!(r(code), want, "{code}");
    }
    assert_eq!(d("ld.global.s32 %d1, [%a1+8];"), 0x0101_0101);
}

#[test]
fn atomics() {
    for (code, want) in [
        ("atom.global.add.u32 %r2, [%a1+8], 1;\nld.global.u32 %r1, [%a1+8];", 0x0101_0102),
        ("atom.global.add.u32 %r1, [%a1+8], 1;", 0x0101_0101),
        ("atom.global.gpu.acq_rel.min.s32 %r2, [%a1+8], -1;\nld.global.u32 %r1, [%a1+8];", u32::MAX),
        ("atom.relaxed.gpu.global.max.u32 %r2, [%a1+8], -1;\nld.global.u32 %r1, [%a1+8];", u32::MAX),
        ("atom.cas.b32 %r2, [%a1+8], 0x01010101, 5;\nld.global.u32 %r1, [%a1+8];", 5),
        ("atom.cas.b32 %r2, [%a1+8], 0, 5;\nld.global.u32 %r1, [%a1+8];", 0x0101_0101),
        ("atom.exch.b32 %r2, [%a1+8], 5;\nld.global.u32 %r1, [%a1+8];", 5),
        ("atom.inc.u32 %r2, [%a1], 5;\natom.inc.u32 %r2, [%a1], 0;\nld.global.u32 %r1, [%a1];", 0),
        ("atom.dec.u32 %r2, [%a1], 5;\nld.global.u32 %r1, [%a1];", 5),
        ("red.global.or.b32 [%a1+8], 0xff;\nld.global.u32 %r1, [%a1+8];", 0x0101_01ff),
        ("red.global.add.noftz.f16x2 [%a1], 0x3c003c00;\nld.global.u32 %r1, [%a1];", 0x3c00_3c00),
        ("red.global.add.noftz.bf16x2 [%a1], 0x3f803f80;\nld.global.u32 %r1, [%a1];", 0x3f80_3f80),
        (
            ".shared .u32 s;\nst.shared.u32 [s], 7;\natom.shared.add.u32 %r2, [s], 3;\nld.shared.u32 %r1, [s];",
            10,
        ),
        ("atom.global.cas.b16 %h2, [%a1+10], %h1, %h1;\ncvt.u32.u16 %r1, %h2;", 0x0101),
    ] {
        assert_eq!(r(code), want, "{code}");
    }
    assert_eq!(f("red.global.add.f32 [%a1], 0f3F800000;\nld.global.f32 %f1, [%a1];"), 1.0);
    assert_eq!(
        f("mov.f32 %f2, 0f40000000;\nred.global.add.v2.f32 [%a1], {%f2, %f2};\nld.global.f32 %f1, [%a1+4];"),
        2.0
    );
    assert_eq!(d("atom.global.add.u64 %d2, [%a1], -1;\nld.global.u64 %d1, [%a1];"), u64::MAX);
    assert_eq!(d("red.add.f64 [%a1], 0d3FF0000000000000;\nld.u64 %d1, [%a1];"), 1.0f64.to_bits());
}

#[test]
fn indexed_branches_and_guarded_exits() {
    let code = |i: u32| {
        format!(
            "mov.u32 %r2, {i};\nT: .branchtargets A, B, C;\nbrx.idx %r2, T;\nA:\nmov.u32 %r1, 10;\nbra E;\n\
             B:\nmov.u32 %r1, 20;\nbra.uni E;\nC:\nmov.u32 %r1, 30;\nE:"
        )
    };
    assert_eq!([r(&code(0)), r(&code(1)), r(&code(2))], [10, 20, 30]);
}

#[test]
fn calls_with_parameters_by_value() {
    let text = format!(
        ".version 8.4\n.target sm_80\n.address_size 64\n\
         .global .align 8 .u64 table[2] = {{generic(value)+4, 5}};\n.global .u32 value[2] = {{3, 9}};\n\
         .func (.param .b64 out) twice(.param .align 8 .b8 pair[12], .param .b32 n)\n{{\n.reg .b32 %r<4>;\n\
         .reg .b64 %d<2>;\nld.param.u32 %r0, [pair+8];\nld.param.u32 %r1, [n];\nmad.lo.u32 %r2, %r0, %r1, 1;\n\
         cvt.u64.u32 %d0, %r2;\nst.param.b64 [out+0], %d0;\nret;\n}}\n{}",
        kernel_text(
            "{ .param .align 8 .b8 a[12]; .param .b32 b; .param .b64 c;\nst.param.b64 [a], 1;\n\
             st.param.b32 [a+8], 20;\nst.param.b32 [b], 2;\ncall.uni (c), twice, (a, b);\nld.param.b64 %d1, [c];\n}\n\
             ld.global.u64 %d2, [table];\nld.u32 %r2, [%d2];\ncvt.u64.u32 %d3, %r2;\nadd.u64 %d1, %d1, %d3;\n\
             st.global.u64 [%a0], %d1;"
        )
        .replace(".version 8.4\n.target sm_80\n.address_size 64\n", "")
    );
    let mut d = Device::new(&text, |_| {});
    let out = d.alloc(8);
    let one = [1, 1, 1];
    d.run("k", one, one, 0, &[out.into(), 0u64.into(), 0u64.into()]).unwrap();
    assert_eq!(d.download::<u64>(out, 1), [41 + 9]);
}

#[test]
fn what_is_not_known_is_refused_with_its_line() {
    for (code, part) in [
        ("frobnicate.u32 %r1, %r2;", "this instruction is not known"),
        ("add.rn.u32 %r1, %r2, %r3;", "rounding is for floats"),
        ("add.weird.u32 %r1, %r2, %r3;", "modifier `.weird`"),
        ("mul.u32 %r1, %r2, %r3;", "one of lo, hi and wide"),
        ("ld.global.frob.u32 %r1, [%a0];", "modifier `.frob`"),
        ("mov.u32 %r1, %nothing;", "`%nothing` is not declared"),
        ("mov.u32 %r1, %d1;", "%d1 is 64 bits wide"),
        ("add.u32 %r1, %r2;", "3 operands are expected, not 2"),
        ("bra NOWHERE;", "no label `NOWHERE`"),
        ("@%r1 ret;", "`%r1` is not a predicate"),
        ("st.const.u32 [%a0], %r1;", "constant memory cannot be written"),
        ("cvt.s32.f32 %r1, %f1;", "float to integer needs"),
        ("mma.sync.aligned.m16n8k16.row.row.f32.f16.f16.f32 {%f1}, {%r1}, {%r2}, {%f2};", "known are"),
        ("cp.async.cg.shared.global [%r1], [%a0], 4;", "cg 16"),
        ("L:\nL:", "defined twice"),
        ("call nothing;", "not declared"),
        ("atom.global.add.b32 %r1, [%a0], 1;", "does not go with this operation"),
        ("shfl.up.b32 %r1, %r2, 1, 0;", "only shfl.sync"),
    ] {
        let text = kernel_text(code);
        let error = Module::parse(&text).expect_err(code);
        assert!(error.message.contains(part), "{code}: {error}");
        assert!(code.lines().any(|l| l == error.text), "{code}: {error}");
    }
}
