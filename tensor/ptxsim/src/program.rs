//! A decoded entry: flat code of the entry and of every function it calls, operands resolved.

use crate::exec::regs::{Alu, Reg, Row};
use crate::lex::Source;
use crate::parse::types::Type;
use crate::semantics;
use crate::semantics::tensor::Mma;
use crate::semantics::wmma::WmmaAccess;
use std::sync::Arc;

/// What an instruction is counted as.
pub(crate) use crate::count::Class;

/// A state space an access names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Generic,
    Global,
    Const,
    Shared,
    Local,
    /// The entry's parameter block.
    Param,
    /// A `.param` variable of the running function, addressed by name only.
    CallParam,
}

/// `[base + offset]`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Address {
    pub base: Option<Reg>,
    pub offset: i64,
}

/// What an access does to the order of other accesses (PTX ISA §8, memory consistency model).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Order {
    /// Does not race with other strong accesses: relaxed, acquire, release.
    pub strong: bool,
    /// Strong too, but counted so only in kernels with fences: without one it orders nothing.
    pub volatile: bool,
    pub acquire: bool,
    pub release: bool,
}

/// How a loaded element fills its register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extend {
    Zero,
    Sign,
}

/// `ld`.
#[derive(Debug)]
pub(crate) struct Load {
    pub place: Place,
    pub address: Address,
    /// Bytes of one element.
    pub bytes: u32,
    pub extend: Extend,
    pub dst: Vec<Reg>,
    /// Volatile, relaxed or acquire: a loop around it may be waiting for another thread.
    pub strong: bool,
    pub order: Order,
}

/// `st`.
#[derive(Debug)]
pub(crate) struct Store {
    pub place: Place,
    pub address: Address,
    pub bytes: u32,
    pub src: Vec<Reg>,
    pub order: Order,
}

/// The operation of an `atom` or `red`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AtomicOp {
    Add,
    Min,
    Max,
    Inc,
    Dec,
    And,
    Or,
    Xor,
    Exch,
    Cas,
}

/// `atom` and `red`.
#[derive(Debug)]
pub(crate) struct Atomic {
    pub place: Place,
    pub address: Address,
    pub op: AtomicOp,
    pub ty: Type,
    /// Results; empty for `red`. One an element of a vector.
    pub dst: Vec<Reg>,
    pub src: Vec<Reg>,
    pub order: Order,
    /// Third operand of `cas`.
    pub swap: Option<Reg>,
}

/// What an `mbarrier` instruction does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MbarrierOp {
    Init,
    Invalidate,
    /// `drop`: the phases to come expect so many fewer.
    Arrive {
        drop: bool,
    },
    /// `test_wait` and `try_wait`; with a parity rather than a state as operand.
    Wait {
        parity: bool,
    },
    /// `cp.async.mbarrier.arrive`: once the thread's copies are there; `expected` of the running phase.
    CopiesArrive {
        expected: bool,
    },
}

/// `mbarrier` and `cp.async.mbarrier`.
#[derive(Debug)]
pub(crate) struct Mbarrier {
    pub op: MbarrierOp,
    pub place: Place,
    pub address: Address,
    pub dst: Reg,
    /// A count, a state or a parity.
    pub operand: Option<Reg>,
}

/// `cp.async`.
#[derive(Debug)]
pub(crate) struct CopyAsync {
    pub dst: Address,
    pub src: Address,
    pub bytes: u32,
    /// Bytes read from the source; the rest is zero.
    pub source_bytes: Option<Reg>,
    /// Where set, nothing is read and zeros are written.
    pub ignore: Option<(Row, bool)>,
}

/// Kinds of block barrier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BarrierKind {
    Sync,
    Arrive,
    /// `bar.red.popc.u32`.
    Popc,
    /// `bar.red.and.pred`.
    And,
    /// `bar.red.or.pred`.
    Or,
}

/// `bar` and `barrier`.
#[derive(Debug)]
pub(crate) struct Barrier {
    pub kind: BarrierKind,
    pub id: Row,
    pub count: Option<Row>,
    pub aligned: bool,
    /// Predicate of a reduction and whether it is negated.
    pub input: Option<(Row, bool)>,
    pub dst: Reg,
}

/// Modes of `shfl`.
pub(crate) use semantics::warp::ShuffleMode;

/// Operations whose lanes exchange values.
#[derive(Debug)]
pub(crate) enum Collective {
    Shuffle { mode: ShuffleMode, dst: Reg, valid: Option<Row>, value: Row, lane: Row, clamp: Row },
    VoteAll { dst: Row, input: (Row, bool) },
    VoteAny { dst: Row, input: (Row, bool) },
    VoteUniform { dst: Row, input: (Row, bool) },
    Ballot { dst: Row, input: (Row, bool) },
    MatchAny { dst: Row, value: Reg },
    MatchAll { dst: Row, all: Option<Row>, value: Reg },
    Reduce { op: AtomicOp, ty: Type, dst: Row, value: Row },
    Elect { dst: Reg, chosen: Row },
    Barrier,
}

/// `ldmatrix` and `stmatrix`.
#[derive(Debug)]
pub(crate) struct Matrix {
    pub address: Address,
    pub place: Place,
    pub transposed: bool,
    pub regs: Vec<Reg>,
}

/// `mma.sync` and `wmma.mma`.
#[derive(Debug)]
pub(crate) struct Multiply {
    pub operation: Mma,
    pub d: Vec<Row>,
    pub a: Vec<Row>,
    pub b: Vec<Row>,
    pub c: Vec<Row>,
}

/// `wmma.load` and `wmma.store`.
#[derive(Debug)]
pub(crate) struct FragmentAccess {
    pub place: Place,
    pub address: Address,
    pub access: WmmaAccess,
    /// Row of the stride in elements; the matrix is dense without.
    pub stride: Option<Row>,
    pub regs: Vec<Reg>,
}

/// `call` through a register.
#[derive(Debug)]
pub(crate) struct IndirectCall {
    /// 64-bit row of the function's address.
    pub target: Row,
    /// Address and index of every function the call fits.
    pub candidates: Vec<(u64, u32)>,
    pub arguments: Vec<(u32, u32)>,
    pub results: Vec<(u32, u32)>,
}

/// What an instruction does.
pub(crate) enum Kind {
    Alu(Alu),
    Nop,
    /// `bra`.
    Branch(u32),
    /// `brx.idx`.
    BranchIndexed {
        index: Row,
        targets: Vec<u32>,
    },
    Call {
        function: u32,
        /// Words copied from the caller's parameter frame to the callee's, (from, to).
        arguments: Vec<(u32, u32)>,
        /// Words copied back at `ret`, (callee's, caller's).
        results: Vec<(u32, u32)>,
    },
    CallIndirect(Box<IndirectCall>),
    Return,
    Exit,
    Trap,
    /// Something that decodes but cannot run: the message says what.
    Illegal(String),
    Load(Box<Load>),
    Store(Box<Store>),
    Atomic(Box<Atomic>),
    CopyAsync(Box<CopyAsync>),
    CommitGroup,
    /// `cp.async.wait_group n`.
    WaitGroup(u32),
    WaitAll,
    Barrier(Box<Barrier>),
    Collective {
        /// Row of the member mask; `None` means every lane of the warp.
        members: Option<Row>,
        operation: Box<Collective>,
    },
    ActiveMask(Row),
    /// `fence` and `membar`: memory is coherent here, but they order a warp's shared accesses.
    Fence,
    /// `mbarrier` and `cp.async.mbarrier`.
    Mbarrier(Box<Mbarrier>),
    /// A clock into a register.
    Clock(Reg),
    LoadMatrix(Box<Matrix>),
    StoreMatrix(Box<Matrix>),
    Multiply(Box<Multiply>),
    LoadFragment(Box<FragmentAccess>),
    StoreFragment(Box<FragmentAccess>),
}

/// One decoded instruction.
pub(crate) struct Inst {
    /// Guard predicate and whether it is negated.
    pub guard: Option<(Row, bool)>,
    pub kind: Kind,
    pub line: u32,
    pub class: Class,
}

/// Sizes of a function's frame, and where its code begins.
#[derive(Clone, Debug, Default)]
pub(crate) struct FunctionFrame {
    pub name: String,
    pub start: u32,
    pub rows32: u32,
    pub rows64: u32,
    pub preds: u32,
    pub param_words: u32,
    pub local_bytes: u32,
}

/// A special register that is constant for a thread while a kernel runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Special {
    Tid(u8),
    Ntid(u8),
    Ctaid(u8),
    Nctaid(u8),
    LaneId,
    WarpId,
    WarpCount,
    LaneMaskEq,
    LaneMaskLe,
    LaneMaskLt,
    LaneMaskGe,
    LaneMaskGt,
    SmId,
    SmCount,
    GridId,
    DynamicShared,
    TotalShared,
    /// Byte of the 1 KiB of shared memory that system software keeps for itself (cooperative groups).
    ReservedShared(u16),
    Zero,
    One,
}

/// What fills an absolute row.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Constant {
    Bits(u64),
    Special(Special),
    /// Address of a module-level variable, known when the module is loaded.
    Symbol(String, i64),
    /// Offset from the start of dynamic shared memory, known when the entry is decoded.
    DynamicShared(i64),
}

/// A decoded entry.
pub(crate) struct Program {
    pub code: Vec<Inst>,
    /// `functions[0]` is the entry.
    pub functions: Vec<FunctionFrame>,
    pub constants32: Vec<Constant>,
    pub constants64: Vec<Constant>,
    /// Static shared memory in bytes.
    pub shared_bytes: u32,
    /// Where `.extern .shared` begins.
    pub dynamic_shared: u32,
    /// Whether the code asks where reserved shared memory lies.
    pub reserved_shared: bool,
    /// Whether the code has a `fence` or `membar`.
    pub fences: bool,
    pub source: Arc<Source>,
}
