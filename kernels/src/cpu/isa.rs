//! Which vector instruction set the running machine offers, found out once.

use std::sync::OnceLock;

/// A family of kernels. Every family computes the same function; they differ in rounding only where one
/// has a fused multiply-add and another has not, so results are reproducible on machines of one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isa {
    /// x86-64 with AVX2, FMA and F16C (Haswell 2013, Zen 2017 and newer).
    Avx2,
    /// AArch64 with Advanced SIMD (every 64-bit Arm processor that runs an operating system).
    Neon,
    /// Plain Rust, correct everywhere.
    Portable,
}

impl Isa {
    /// Every family that this machine can run, the best first; the last is always [`Isa::Portable`].
    pub fn available() -> Vec<Isa> {
        let best = detect();
        if best == Isa::Portable { vec![best] } else { vec![best, Isa::Portable] }
    }
}

/// The best family this machine can run (detected at the first call, then cached).
pub fn isa() -> Isa {
    static ISA: OnceLock<Isa> = OnceLock::new();
    *ISA.get_or_init(detect)
}

fn detect() -> Isa {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
    {
        return Isa::Avx2;
    }
    #[cfg(target_arch = "aarch64")]
    if std::arch::is_aarch64_feature_detected!("neon") {
        return Isa::Neon;
    }
    Isa::Portable
}
