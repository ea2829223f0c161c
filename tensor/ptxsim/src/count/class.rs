//! Classes of instructions.

use serde::Serialize;

use crate::semantics::mma::Mma;

/// What an instruction is counted as: the unit of the multiprocessor that executes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// Tensor-core multiply-accumulate.
    Tensor {
        /// 2·m·n·k of one warp-wide operation.
        flops: u32,
        /// Bits of an element of A: 4, 8, 16, 32 (tf32) or 64.
        bits: u32,
        /// Accumulates in f16, which is twice as fast on some cards.
        half_sums: bool,
    },
    /// f32 arithmetic and comparison.
    Float32,
    /// f64 arithmetic and comparison.
    Float64,
    /// f16 and bf16 arithmetic, scalar or packed.
    Float16,
    /// Integer and logic instructions, comparison and selection.
    Integer,
    /// Conversions between types.
    Convert,
    /// The special-function unit: `ex2 lg2 sin cos tanh rcp rsqrt sqrt`, and divisions.
    Special,
    /// Moves between registers, addresses, special registers.
    Move,
    /// Branches, calls, returns.
    Control,
    /// Barriers of a block or warp, fences, waits for copies.
    Barrier,
    /// Shuffles, votes, matches, warp reductions.
    Exchange,
    /// Loads from global or generic addresses.
    LoadGlobal,
    /// Stores to global or generic addresses.
    StoreGlobal,
    /// Loads from shared memory.
    LoadShared,
    /// Stores to shared memory.
    StoreShared,
    /// `ldmatrix`, `stmatrix` and `wmma.load/store`.
    Matrix,
    /// Asynchronous copies from global to shared memory.
    CopyAsync,
    /// Loads and stores of local memory (spills, arrays indexed at run time).
    Local,
    /// Loads from parameters and constants.
    Constant,
    /// `atom` and `red`.
    Atomic,
    /// Everything else (prefetch, clocks, no-operation).
    Other,
}

impl Class {
    /// The name reports print.
    pub fn name(self) -> &'static str {
        match self {
            Class::Tensor { .. } => "tensor",
            Class::Float32 => "f32",
            Class::Float64 => "f64",
            Class::Float16 => "f16",
            Class::Integer => "integer",
            Class::Convert => "convert",
            Class::Special => "special",
            Class::Move => "move",
            Class::Control => "control",
            Class::Barrier => "barrier",
            Class::Exchange => "exchange",
            Class::LoadGlobal => "ld.global",
            Class::StoreGlobal => "st.global",
            Class::LoadShared => "ld.shared",
            Class::StoreShared => "st.shared",
            Class::Matrix => "matrix",
            Class::CopyAsync => "cp.async",
            Class::Local => "local",
            Class::Constant => "constant",
            Class::Atomic => "atomic",
            Class::Other => "other",
        }
    }

    /// The class of a whole opcode, such as `ld.global.v4.f32` or `fma.rn.f32`.
    pub fn of_opcode(opcode: &str) -> Class {
        let mut parts = opcode.split('.');
        let head = parts.next().unwrap_or_default();
        let has = |name: &str| opcode.split('.').skip(1).any(|part| part == name);
        let space = || opcode.split('.').skip(1).find(|part| part.starts_with("shared")).is_some();
        match head {
            "mma" => Class::tensor(opcode),
            "wmma" if has("mma") => Class::tensor(opcode),
            "wmma" | "ldmatrix" | "stmatrix" => Class::Matrix,
            "ld" | "ldu" if has("local") => Class::Local,
            "ld" | "ldu" if has("param") || has("const") => Class::Constant,
            "ld" | "ldu" if space() => Class::LoadShared,
            "ld" | "ldu" => Class::LoadGlobal,
            "st" if has("local") => Class::Local,
            "st" if has("param") => Class::Move,
            "st" if space() => Class::StoreShared,
            "st" => Class::StoreGlobal,
            "atom" | "red" => Class::Atomic,
            "cp" if has("wait_group") || has("wait_all") || has("commit_group") => Class::Barrier,
            "cp" => Class::CopyAsync,
            "bar" | "barrier" | "membar" | "fence" | "mbarrier" => Class::Barrier,
            "shfl" | "vote" | "match" | "redux" | "activemask" | "elect" => Class::Exchange,
            "bra" | "brx" | "call" | "ret" | "exit" | "trap" | "brkpt" => Class::Control,
            "mov" | "mova" | "cvta" | "isspacep" => Class::Move,
            "cvt" => Class::Convert,
            "ex2" | "lg2" | "sin" | "cos" | "tanh" | "rcp" | "rsqrt" | "sqrt" => Class::Special,
            "div" if has("f32") || has("f64") => Class::Special,
            "prefetch" | "prefetchu" | "nanosleep" | "pmevent" | "discard" | "applypriority"
            | "createpolicy" | "griddepcontrol" | "setmaxnreg" => Class::Other,
            _ if has("f64") => Class::Float64,
            _ if has("f16") || has("bf16") || has("f16x2") || has("bf16x2") => Class::Float16,
            _ if has("f32") => Class::Float32,
            _ => Class::Integer,
        }
    }

    fn tensor(opcode: &str) -> Class {
        match Mma::from_opcode(opcode) {
            Ok(mma) => Class::Tensor {
                flops: mma.flops() as u32,
                bits: mma.element_bits(),
                half_sums: mma.has_half_sums(),
            },
            // The decoder refuses such an opcode; a class is still needed for the listing.
            Err(_) => Class::Tensor { flops: 0, bits: 16, half_sums: false },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opcodes_have_their_class() {
        for (opcode, class) in [
            ("ld.global.v4.f32", Class::LoadGlobal),
            ("ld.f32", Class::LoadGlobal),
            ("ld.shared::cta.b32", Class::LoadShared),
            ("st.shared.v4.b32", Class::StoreShared),
            ("ld.param.u64", Class::Constant),
            ("ld.local.b32", Class::Local),
            ("cp.async.cg.shared.global", Class::CopyAsync),
            ("cp.async.wait_group", Class::Barrier),
            ("bar.sync", Class::Barrier),
            ("fma.rn.f32", Class::Float32),
            ("fma.rn.bf16x2", Class::Float16),
            ("setp.lt.s32", Class::Integer),
            ("setp.lt.f32", Class::Float32),
            ("mad.lo.s32", Class::Integer),
            ("add.f64", Class::Float64),
            ("cvt.rn.bf16x2.f32", Class::Convert),
            ("ex2.approx.ftz.f32", Class::Special),
            ("div.u32", Class::Integer),
            ("div.full.f32", Class::Special),
            ("shfl.sync.bfly.b32", Class::Exchange),
            ("bra.uni", Class::Control),
            ("ldmatrix.sync.aligned.m8n8.x4.shared.b16", Class::Matrix),
            ("atom.global.add.f32", Class::Atomic),
        ] {
            assert_eq!(Class::of_opcode(opcode), class, "{opcode}");
        }
        let mma = Class::of_opcode("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32");
        assert_eq!(mma, Class::Tensor { flops: 4096, bits: 16, half_sums: false });
    }
}
