//! Every checker fires on a kernel with that mistake and stays silent on the kernel without it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod device;

use device::{Device, kernel_text};
use ptxsim::{Checks, Fault, FaultKind, GpuConfig, GpuError, Launch, Module};

const B: [u32; 3] = [1, 1, 1];

/// Runs `body` on `threads` threads with p0 = 64 written words, p1 = 64 unwritten words, p2 = 0.
fn try_run(body: &str, threads: u32) -> Result<Vec<u32>, Fault> {
    try_run_with(body, threads, |_| {})
}

fn try_run_with(body: &str, threads: u32, change: impl FnOnce(&mut GpuConfig)) -> Result<Vec<u32>, Fault> {
    let mut d = Device::kernel(body, change);
    let input = d.upload(&(0..64).collect::<Vec<u32>>());
    let output = d.alloc(256);
    let args = [input.into(), output.into(), 0u64.into()];
    d.run("k", B, [threads, 1, 1], 1024, &args)?;
    Ok(d.download(output, 64))
}

fn fault(body: &str, threads: u32) -> Fault {
    try_run(body, threads).expect_err("the kernel has a mistake")
}

/// Address of this thread's word of p0 in %d0 and of p1 in %d1.
const ADDRESS: &str = "mul.wide.u32 %d9, %r0, 4;\nadd.s64 %d0, %a0, %d9;\nadd.s64 %d1, %a1, %d9;\n";
/// This thread's word of dynamic shared memory in %r10.
const SHARED: &str =
    ".extern .shared .align 16 .b8 dyn[];\nmov.u32 %r9, dyn;\nmad.lo.s32 %r10, %r0, 4, %r9;\n";

#[test]
fn good_kernel_copies() {
    let body = format!("{ADDRESS}ld.global.u32 %r1, [%d0];\nst.global.u32 [%d1], %r1;");
    assert_eq!(try_run(&body, 64).unwrap(), (0..64).collect::<Vec<_>>());
}

#[test]
fn out_of_bounds_names_line_thread_and_allocation() {
    let body = format!("{ADDRESS}ld.global.u32 %r1, [%d0+12];\nst.global.u32 [%d1], %r1;");
    let f = fault(&body, 64);
    assert_eq!(f.kind, FaultKind::OutOfBounds);
    assert_eq!(f.thread, [61, 0, 0]);
    assert_eq!(f.text, "ld.global.u32 %r1, [%d0+12];");
    assert_eq!(kernel_text(&body).lines().nth(f.line as usize - 1).unwrap(), f.text);
    assert!(f.message.contains("4 bytes past the end of the 256-byte allocation"), "{}", f.message);
    let off = Checks { bounds: false, ..Checks::ALL };
    assert!(try_run_with(&body, 64, |c| c.checks = off).is_ok());
}

#[test]
fn stray_stores_and_null_pointers() {
    let f = fault(&format!("{ADDRESS}st.global.u32 [%d1+256], %r0;"), 32);
    assert_eq!(f.kind, FaultKind::OutOfBounds);
    let f = fault("ld.u32 %r1, [%a2];", 32);
    assert_eq!(f.kind, FaultKind::OutOfBounds);
    let f = fault(&format!("{SHARED}st.shared.u32 [%r10+1024], %r0;"), 32);
    assert_eq!(f.kind, FaultKind::OutOfBounds);
    let f = fault(".local .align 4 .b8 l[16];\nmov.u64 %d0, l;\nst.local.u32 [%d0+16], %r0;", 32);
    assert_eq!(f.kind, FaultKind::OutOfBounds);
}

#[test]
fn a_predicated_off_load_never_faults() {
    let body = "setp.eq.u32 %p1, %r0, 99;\n@%p1 ld.global.u32 %r1, [%a2];\n@%p1 st.shared.u32 [%r1], %r1;";
    assert!(try_run(body, 32).is_ok());
}

#[test]
fn misaligned() {
    let f = fault("ld.global.v2.u32 {%r1, %r2}, [%a0+4];", 32);
    assert_eq!(f.kind, FaultKind::Misaligned);
    assert!(try_run("ld.global.v2.u32 {%r1, %r2}, [%a0+8];", 32).is_ok());
    let f = fault(&format!("{SHARED}st.shared.u16 [%r9+1], %h1;"), 1);
    assert_eq!(f.kind, FaultKind::Misaligned);
}

#[test]
fn uninitialised_global_memory() {
    let body = format!("{ADDRESS}ld.global.u32 %r1, [%d1];");
    assert_eq!(fault(&body, 32).kind, FaultKind::UninitialisedRead);
    let off = Checks { uninitialised: false, ..Checks::ALL };
    assert!(try_run_with(&body, 32, |c| c.checks = off).is_ok());
    // What the kernel itself wrote may be read, and a byte of a half-written word may not.
    assert!(try_run(&format!("{ADDRESS}st.global.u32 [%d1], %r0;\nld.global.u32 %r1, [%d1];"), 32).is_ok());
    let half = format!("{ADDRESS}st.global.u16 [%d1], %h1;\nld.global.u32 %r1, [%d1];");
    assert_eq!(fault(&half, 32).kind, FaultKind::UninitialisedRead);
}

#[test]
fn uninitialised_shared_memory() {
    let f = fault(&format!("{SHARED}ld.shared.u32 %r1, [%r10];"), 32);
    assert_eq!(f.kind, FaultKind::UninitialisedRead);
    let half = format!("{SHARED}st.shared.u8 [%r10], %r0;\nld.shared.u16 %h1, [%r10];");
    assert_eq!(fault(&half, 32).kind, FaultKind::UninitialisedRead);
    assert!(try_run(&format!("{SHARED}st.shared.u8 [%r10], %r0;\nld.shared.u8 %h1, [%r10];"), 32).is_ok());
}

/// Writes this thread's word, then (after `sync`) reads the one 32 threads on.
fn exchange(sync: &str) -> String {
    format!(
        "{SHARED}{ADDRESS}st.shared.u32 [%r10], %r0;\n{sync}\nxor.b32 %r2, %r0, 32;\n\
         mad.lo.s32 %r3, %r2, 4, %r9;\nld.shared.u32 %r4, [%r3];\nst.global.u32 [%d1], %r4;"
    )
}

#[test]
fn a_missing_barrier_is_a_race() {
    assert_eq!(try_run(&exchange("bar.sync 0;"), 64).unwrap()[..2], [32, 33]);
    assert_eq!(try_run(&exchange("barrier.sync 3, 64;"), 64).unwrap()[..2], [32, 33]);
    // The second warp reads what the first wrote and nobody ordered; the first one reads nothing yet.
    let f = fault(&exchange(""), 64);
    assert!(matches!(f.kind, FaultKind::SharedRace | FaultKind::UninitialisedRead), "{f}");
    // A write after another warp's read.
    let body = format!(
        "{SHARED}st.shared.u32 [%r10], %r0;\nbar.sync 0;\nxor.b32 %r2, %r0, 32;\n\
         mad.lo.s32 %r3, %r2, 4, %r9;\nld.shared.u32 %r4, [%r3];\nBARRIER\nst.shared.u32 [%r10], %r4;"
    );
    assert!(try_run(&body.replace("BARRIER", "bar.sync 0;"), 64).is_ok());
    let f = fault(&body.replace("BARRIER", ""), 64);
    assert_eq!(f.kind, FaultKind::SharedRace, "{f}");
    let off = Checks { races: false, ..Checks::ALL };
    assert!(try_run_with(&body.replace("BARRIER", ""), 64, |c| c.checks = off).is_ok());
}

#[test]
fn a_warp_barrier_does_not_order_warps_but_lanes_need_no_block_barrier() {
    let f = fault(&exchange("bar.warp.sync 0xffffffff;"), 64);
    assert!(matches!(f.kind, FaultKind::SharedRace | FaultKind::UninitialisedRead), "{f}");
    let within = exchange("bar.warp.sync -1;").replace("%r0, 32;", "%r0, 1;");
    assert_eq!(try_run(&within, 64).unwrap()[..4], [1, 0, 3, 2]);
}

#[test]
fn lanes_that_write_different_values_to_one_word() {
    let f = fault(&format!("{SHARED}st.shared.u32 [%r9], %r0;"), 32);
    assert_eq!(f.kind, FaultKind::SharedRace);
    assert!(try_run(&format!("{SHARED}mov.u32 %r1, 5;\nst.shared.u32 [%r9], %r1;"), 32).is_ok());
}

#[test]
fn bytes_of_one_word_by_different_warps_do_not_race() {
    let body = format!(
        "{SHARED}shr.u32 %r1, %r0, 5;\nadd.s32 %r2, %r9, %r1;\nand.b32 %r3, %r0, 31;\n\
         setp.eq.u32 %p1, %r3, 0;\n@%p1 st.shared.u8 [%r2], %r0;"
    );
    assert!(try_run(&body, 64).is_ok());
}

#[test]
fn named_barriers_order_producer_and_consumer() {
    // Warp 0 fills and arrives, warp 1 waits and reads.
    let body = format!(
        "{SHARED}{ADDRESS}setp.ge.u32 %p1, %r0, 32;\n@%p1 bra CONSUME;\n\
         st.shared.u32 [%r10], %r0;\nbar.arrive 1, 64;\nbra DONE;\n\
         CONSUME:\nbar.sync 1, 64;\nld.shared.u32 %r1, [%r10+-128];\nst.global.u32 [%d1], %r1;\nDONE:"
    );
    assert_eq!(try_run(&body, 64).unwrap()[32..34], [0, 1]);
    let f = fault(&body.replace("bar.sync 1, 64;", "bar.sync 2, 32;"), 64);
    assert_eq!(f.kind, FaultKind::SharedRace, "{f}");
}

#[test]
fn barrier_reductions() {
    let body = format!(
        "{ADDRESS}setp.lt.u32 %p1, %r0, 40;\nbar.red.popc.u32 %r1, 0, %p1;\n\
         barrier.cta.red.and.pred %p2, 0, %p1;\nbar.red.or.pred %p3, 0, !%p1;\n\
         selp.u32 %r2, 1000, 0, %p2;\nselp.u32 %r3, 100, 0, %p3;\nadd.u32 %r1, %r1, %r2;\n\
         add.u32 %r1, %r1, %r3;\nst.global.u32 [%d1], %r1;"
    );
    assert_eq!(try_run(&body, 64).unwrap(), [140; 64]);
}

#[test]
fn barrier_divergence() {
    // Half a warp skips the barrier and exits.
    let half = "setp.lt.u32 %p1, %r0, 16;\n@%p1 bar.sync 0;";
    assert_eq!(fault(half, 32).kind, FaultKind::BarrierDivergence);
    // A whole warp does.
    let warp = "setp.lt.u32 %p1, %r0, 32;\n@!%p1 bra END;\nbar.sync 0;\nEND:";
    let f = fault(warp, 64);
    assert_eq!(f.kind, FaultKind::BarrierDivergence);
    assert!(f.message.contains("32 threads (first: 0) wait at barrier 0"), "{f}");
    assert!(f.message.contains("32 threads have exited"), "{f}");
    let off = Checks { barriers: false, ..Checks::ALL };
    assert!(try_run_with(warp, 64, |c| c.checks = off).is_ok());
    // Two warps wait at different barriers.
    let two = "setp.lt.u32 %p1, %r0, 32;\n@%p1 bra A;\nbar.sync 1;\nbra END;\nA:\nbar.sync 2;\nEND:";
    assert_eq!(fault(two, 64).kind, FaultKind::BarrierDivergence);
    // The same barrier at two places is one barrier.
    assert!(try_run(&two.replace("bar.sync 2", "bar.sync 1"), 64).is_ok());
    // A thread count that does not fit.
    assert_eq!(fault("bar.sync 0, 33;", 64).kind, FaultKind::IllegalInstruction);
}

/// Two groups in flight; reads the first after waiting for all but `left` of them.
fn copies(left: u32, barrier: &str) -> String {
    format!(
        "{SHARED}{ADDRESS}cp.async.ca.shared.global [%r10], [%d0], 4;\ncp.async.commit_group;\n\
         cp.async.ca.shared.global [%r10+256], [%d0], 4;\ncp.async.commit_group;\n\
         cp.async.wait_group {left};\n{barrier}\nxor.b32 %r2, %r0, 32;\n\
         mad.lo.s32 %r3, %r2, 4, %r9;\nld.shared.u32 %r4, [%r3];\nst.global.u32 [%d1], %r4;"
    )
}

#[test]
fn asynchronous_copies_need_their_wait_and_a_barrier() {
    assert_eq!(try_run(&copies(1, "bar.sync 0;"), 64).unwrap()[..2], [32, 33]);
    assert_eq!(try_run(&copies(0, "bar.sync 0;"), 64).unwrap()[..2], [32, 33]);
    assert_eq!(fault(&copies(2, "bar.sync 0;"), 64).kind, FaultKind::MissingWait);
    // Waited for, but by another warp and without a barrier.
    let f = fault(&copies(1, ""), 64);
    assert!(matches!(f.kind, FaultKind::SharedRace | FaultKind::UninitialisedRead), "{f}");
    let off = Checks { async_copies: false, ..Checks::ALL };
    assert!(try_run_with(&copies(2, "bar.sync 0;"), 64, |c| c.checks = off).is_ok());
    // The issuer itself needs no barrier.
    let own = copies(1, "").replace("%r0, 32;", "%r0, 0;");
    assert_eq!(try_run(&own, 64).unwrap()[..2], [0, 1]);
}

#[test]
fn asynchronous_copies_fill_with_zeros() {
    let body = format!(
        "{SHARED}{ADDRESS}shl.b32 %r5, %r0, 4;\nadd.s32 %r5, %r5, %r9;\nmov.u32 %r6, 6;\n\
         cp.async.cg.shared.global.L2::128B [%r5], [%a0+16], 16, %r6;\ncp.async.wait_all;\n\
         ld.shared.v4.u32 {{%r1, %r2, %r3, %r4}}, [%r5];\nadd.u32 %r1, %r1, %r2;\nadd.u32 %r1, %r1, %r3;\n\
         add.u32 %r1, %r1, %r4;\nst.global.u32 [%d1], %r1;"
    );
    // Words 4 and the low half of 5.
    assert_eq!(try_run(&body, 8).unwrap()[..8], [9; 8]);
    let none = body.replace("mov.u32 %r6, 6;", "mov.u32 %r6, 0;").replace("%a0+16", "%a2");
    assert_eq!(try_run(&none, 8).unwrap()[..8], [0; 8]);
}

#[test]
fn shuffles_from_lanes_that_are_not_there() {
    let shuffle = |block: u32| {
        let body =
            format!("{ADDRESS}shfl.sync.down.b32 %r1|%p1, %r0, 16, 31, -1;\nst.global.u32 [%d1], %r1;");
        try_run(&body, block)
    };
    assert_eq!(shuffle(32).unwrap()[..2], [16, 17]);
    assert_eq!(shuffle(24).unwrap_err().kind, FaultKind::InactiveLane);
    // A mask that names lanes which have exited.
    let body = "setp.lt.u32 %p1, %r0, 16;\n@!%p1 exit;\nshfl.sync.idx.b32 %r1, %r0, 0, 31, -1;";
    assert_eq!(fault(body, 32).kind, FaultKind::InactiveLane);
    // A lane outside its own mask.
    assert_eq!(fault("vote.sync.any.pred %p1, %p2, 0xffff;", 32).kind, FaultKind::InactiveLane);
}

#[test]
fn lanes_that_arrive_late_take_part_all_the_same() {
    // The second half loops before it comes to the shuffle.
    let body = format!(
        "{ADDRESS}mov.u32 %r5, 0;\nsetp.lt.u32 %p1, %r0, 16;\n@%p1 bra JOIN;\nLOOP:\nadd.u32 %r5, %r5, 1;\n\
         setp.lt.u32 %p2, %r5, %r0;\n@%p2 bra LOOP;\nJOIN:\nshfl.sync.bfly.b32 %r1, %r5, 16, 31, -1;\n\
         st.global.u32 [%d1], %r1;"
    );
    let got = try_run(&body, 32).unwrap();
    assert_eq!(got[..3], [16, 17, 18]);
    assert_eq!(got[16], 0);
    // Here the target comes first in the text, so the early lanes are at a smaller address.
    let body = format!(
        "{ADDRESS}mov.u32 %r5, 7;\nsetp.ge.u32 %p1, %r0, 16;\n@%p1 bra LATE;\nJOIN:\n\
         vote.sync.ballot.b32 %r1, %p1, -1;\nst.global.u32 [%d1], %r1;\nret;\nLATE:\nmov.u32 %r5, 8;\nbra JOIN;"
    );
    assert_eq!(try_run(&body, 32).unwrap()[..32], [0xffff_0000; 32]);
}

#[test]
fn lanes_that_wait_for_each_other_at_different_places() {
    let body = "setp.lt.u32 %p1, %r0, 16;\n@%p1 bra A;\nshfl.sync.idx.b32 %r1, %r0, 0, 31, -1;\nbra END;\n\
                A:\nvote.sync.ballot.b32 %r1, %p1, -1;\nEND:";
    assert_eq!(fault(body, 32).kind, FaultKind::Deadlock);
    // bar.warp.sync may be met at different places.
    let body =
        "setp.lt.u32 %p1, %r0, 16;\n@%p1 bra A;\nbar.warp.sync -1;\nbra END;\nA:\nbar.warp.sync -1;\nEND:";
    assert!(try_run(body, 32).is_ok());
}

#[test]
fn endless_loops_end() {
    let f = try_run_with("LOOP:\nbra LOOP;", 32, |c| c.max_instructions = Some(100_000)).unwrap_err();
    assert_eq!(f.kind, FaultKind::InstructionLimit);
    let spin = "LOOP:\nld.volatile.global.u32 %r1, [%a0];\nsetp.eq.u32 %p1, %r1, 0;\n@%p1 bra LOOP;";
    let f = try_run_with(spin, 64, |c| c.max_instructions = Some(100_000)).unwrap_err();
    assert_eq!(f.kind, FaultKind::InstructionLimit);
}

#[test]
fn traps_assertions_and_constant_memory() {
    assert_eq!(fault("trap;", 32).kind, FaultKind::Trap);
    let mut d = Device::new(
        ".version 8.4\n.target sm_80\n.address_size 64\n.const .align 4 .u32 c[2] = {7, 9};\n\
         .visible .entry k() {\n.reg .b64 %d<2>;\n.reg .b32 %r<2>;\nmov.u64 %d0, c;\n\
         ld.const.u32 %r0, [c+4];\nst.global.u32 [%d0], %r0;\nret;\n}",
        |_| {},
    );
    assert_eq!(d.run("k", B, B, 0, &[]).unwrap_err().kind, FaultKind::ReadOnly);
}

#[test]
fn launches_that_are_refused() {
    let mut d = Device::kernel("", |_| {});
    let args = [0u8; 24];
    let mut launch = |grid, block, shared_bytes, args: &[u8]| {
        let launch = Launch { grid, block, shared_bytes };
        let fault = d.gpu.launch(&d.loaded, "k", launch, args).unwrap_err();
        assert_eq!(fault.kind, FaultKind::InvalidLaunch);
        fault.message
    };
    assert!(launch(B, B, 0, &args[..20]).contains("20 bytes, the kernel's parameters take 24"));
    assert!(launch(B, [1025, 1, 1], 0, &args).contains("1025 threads"));
    assert!(launch(B, [0, 1, 1], 0, &args).contains("no threads"));
    assert!(launch([1, 0, 1], B, 0, &args).contains("no blocks"));
    assert!(launch([1, 70000, 1], B, 0, &args).contains("65535"));
    assert!(launch(B, B, 164 << 10, &args).contains("at most 166912 on sm_80"));
    let launch = Launch { grid: B, block: B, shared_bytes: 0 };
    let fault = d.gpu.launch(&d.loaded, "nope", launch, &args).unwrap_err();
    assert!(fault.message.contains("the module has k"));
}

#[test]
fn modules_for_other_cards_and_drivers_are_refused() {
    let load = |change: fn(&mut GpuConfig), text: &str| {
        let mut config = GpuConfig { threads: 1, ..GpuConfig::default() };
        change(&mut config);
        let mut gpu = ptxsim::Gpu::new(config).unwrap();
        gpu.load(&Module::parse(text).unwrap()).map(|_| ())
    };
    let text = kernel_text("");
    assert_eq!(load(|_| {}, &text), Ok(()));
    let old = load(|c| c.compute_capability = (7, 5), &text);
    assert!(matches!(old, Err(GpuError::Unsupported(m)) if m.contains("sm_80") && m.contains("sm_75")));
    let driver = load(|c| c.ptx_version = (8, 2), &text);
    assert!(matches!(driver, Err(GpuError::Unsupported(m)) if m.contains("8.4") && m.contains("8.2")));
}

#[test]
fn leaks_and_freed_memory() {
    let body = format!("{ADDRESS}ld.global.u32 %r1, [%d0];");
    let mut d = Device::kernel(&body, |_| {});
    let at = d.upload(&[1u32; 32]);
    assert_eq!(d.gpu.leaks().len(), 1);
    let args = || [at.into(), 0u64.into(), 0u64.into()];
    d.run("k", B, [32, 1, 1], 0, &args()).unwrap();
    d.gpu.forget_contents(at).unwrap();
    let f = d.run("k", B, [32, 1, 1], 0, &args()).unwrap_err();
    assert_eq!(f.kind, FaultKind::UninitialisedRead);
    d.gpu.free(at).unwrap();
    assert!(d.gpu.leaks().is_empty());
    let f = d.run("k", B, [32, 1, 1], 0, &args()).unwrap_err();
    assert!(f.message.contains("which has been freed"), "{f}");
}

#[test]
fn the_fault_reported_does_not_depend_on_the_number_of_threads() {
    // Blocks 5 and later fault.
    let body = "mov.u32 %r1, %ctaid.x;\nsetp.ge.u32 %p1, %r1, 5;\n@%p1 ld.global.u32 %r2, [%a2];";
    for threads in [1, 2, 4] {
        let mut d = Device::kernel(body, |c| c.threads = threads);
        let args = [0u64.into(), 0u64.into(), 0u64.into()];
        let f = d.run("k", [40, 1, 1], [32, 1, 1], 0, &args).unwrap_err();
        assert_eq!(f.block, [5, 0, 0]);
    }
}

#[test]
fn atomics_race_with_a_plain_store_before_them() {
    // Warp 0 clears the counter and counts too; warp 1's update is not ordered after the clearing.
    let histogram = |barrier: &str| {
        format!(
            "{SHARED}setp.eq.u32 %p1, %r0, 0;\n@%p1 st.shared.u32 [%r10], %r0;\n{barrier}\n\
             red.shared.add.u32 [%r9], 1;"
        )
    };
    let f = fault(&histogram(""), 64);
    assert_eq!(f.kind, FaultKind::SharedRace);
    assert!(f.message.contains("updates") && f.message.contains("wrote"), "{f}");
    assert!(try_run(&histogram("bar.sync 0;"), 64).is_ok());
}

#[test]
fn mbarriers_order_and_count() {
    // Warp 0 stores and arrives; warp 1 waits and reads what warp 0 stored.
    let kernel = |count: u32, wait: &str| {
        format!(
            "{SHARED}setp.eq.u32 %p1, %r0, 0;\n@%p1 mbarrier.init.shared.b64 [%r9], {count};\nbar.sync 0;\n\
             setp.ge.u32 %p2, %r0, 32;\n@%p2 bra WAIT;\nst.shared.u32 [%r10+64], %r0;\n\
             mbarrier.arrive.shared.b64 _, [%r9];\nbra END;\nWAIT:\n{wait}\n\
             ld.shared.u32 %r1, [%r10+-64];\nEND:"
        )
    };
    let wait = "mbarrier.test_wait.parity.shared.b64 %p3, [%r9], 0;\n@!%p3 bra WAIT;";
    assert!(try_run(&kernel(32, wait), 64).is_ok());
    let unseen = Checks { uninitialised_shared: false, ..Checks::ALL };
    let f = try_run_with(&kernel(32, ""), 64, |c| c.checks = unseen).unwrap_err();
    assert_eq!(f.kind, FaultKind::SharedRace);
    assert_eq!(fault(&kernel(0, wait), 64).kind, FaultKind::IllegalInstruction);
    // The phase waits for one arrival more than ever comes.
    let limit = try_run_with(&kernel(33, wait), 64, |c| c.max_instructions = Some(100_000)).unwrap_err();
    assert_eq!(limit.kind, FaultKind::InstructionLimit);
}
