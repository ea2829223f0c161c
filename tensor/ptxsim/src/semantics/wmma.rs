//! `wmma.load`, `wmma.mma` and `wmma.store`.
//!
//! PTX leaves the distribution of a `wmma` fragment over the lanes open: a program may only pass whole
//! fragments between these instructions and apply the same function to every element. The layout here:
//! element e of the row-major matrix is in lane (e / E) mod 32, register e / (32 E), position e mod E,
//! with E elements a register. Fragments of f16 have more room than elements (8 registers for all
//! shapes): there the matrix is repeated, and the first copy counts. f64 uses `mma.m8n8k4`'s layout.

use super::half2::{bf16_to_f32, f16_to_f32, f32_to_f16};
use super::tensor::{Registers, shape};

/// The element type of a fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Element {
    F16,
    Bf16,
    Tf32,
    F32,
    F64,
    U8,
    S8,
    U4,
    S4,
    S32,
}

impl Element {
    fn named(text: &str) -> Option<Element> {
        Some(match text {
            "f16" => Element::F16,
            "bf16" => Element::Bf16,
            "tf32" => Element::Tf32,
            "f32" => Element::F32,
            "f64" => Element::F64,
            "u8" => Element::U8,
            "s8" => Element::S8,
            "u4" => Element::U4,
            "s4" => Element::S4,
            "s32" => Element::S32,
            _ => return None,
        })
    }

    /// Size in bits.
    pub fn bits(self) -> u32 {
        match self {
            Element::U4 | Element::S4 => 4,
            Element::U8 | Element::S8 => 8,
            Element::F16 | Element::Bf16 => 16,
            Element::Tf32 | Element::F32 | Element::S32 => 32,
            Element::F64 => 64,
        }
    }

    fn packed(self) -> u32 {
        32 / self.bits().min(32)
    }

    fn float(self, word: u32, index: u32) -> f32 {
        match self {
            Element::F16 => f16_to_f32((word >> (16 * index)) as u16),
            Element::Bf16 => bf16_to_f32((word >> (16 * index)) as u16),
            Element::Tf32 => f32::from_bits(word & 0xffff_e000),
            _ => f32::from_bits(word),
        }
    }

    fn integer(self, word: u32, index: u32) -> i64 {
        let bits = self.bits();
        let raw = u64::from(word) >> (bits * index) << (64 - bits);
        match self {
            Element::U8 | Element::U4 => (raw >> (64 - bits)) as i64,
            _ => raw as i64 >> (64 - bits),
        }
    }
}

/// Which matrix of D = A·B + C.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Operand {
    A,
    B,
    Accumulator,
}

/// One fragment: a matrix spread over the registers of a warp.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fragment {
    /// Rows of the matrix.
    pub rows: u32,
    /// Columns of the matrix.
    pub columns: u32,
    /// Its element type.
    pub element: Element,
    /// Registers of each lane.
    pub registers: u32,
}

const SHAPES: [(u32, u32, u32); 6] =
    [(16, 16, 16), (32, 8, 16), (8, 32, 16), (16, 16, 8), (8, 8, 4), (8, 8, 32)];

impl Fragment {
    fn new(operand: Operand, (m, n, k): (u32, u32, u32), element: Element) -> Fragment {
        let (rows, columns) = match operand {
            Operand::A => (m, k),
            Operand::B => (k, n),
            Operand::Accumulator => (m, n),
        };
        let needed = (rows * columns).div_ceil(32 * element.packed());
        let registers = match (operand, element) {
            (Operand::A | Operand::B, Element::F16) => 8,
            _ => needed,
        };
        Fragment { rows, columns, element, registers }
    }

    /// Row and column of the element in `lane`, `register`, at `position` within the register.
    pub fn place(&self, lane: u32, register: u32, position: u32) -> (u32, u32) {
        if self.element == Element::F64 {
            // Only m8n8k4: B is stored transposed, C as two columns a lane.
            return match (self.rows, self.columns) {
                (8, 4) => (lane / 4, lane % 4),
                (4, 8) => (lane % 4, lane / 4),
                _ => (lane / 4, 2 * (lane % 4) + register),
            };
        }
        let packed = self.element.packed();
        let index = ((register * 32 + lane) * packed + position) % (self.rows * self.columns);
        (index / self.columns, index % self.columns)
    }

    /// The element's number in memory (multiply by the size): `row · stride + column`, or column-major.
    pub fn offset(&self, row: u32, column: u32, stride: u32, column_major: bool) -> u64 {
        let (major, minor) = if column_major { (column, row) } else { (row, column) };
        u64::from(major) * u64::from(stride) + u64::from(minor)
    }

    /// Elements in a register.
    pub fn packed(&self) -> u32 {
        self.element.packed()
    }

    fn floats(&self, registers: &[[u32; 32]]) -> Vec<f32> {
        let packed = self.element.packed();
        (0..self.rows * self.columns)
            .map(|e| {
                let word = registers[(e / (32 * packed)) as usize][(e / packed % 32) as usize];
                self.element.float(word, e % packed)
            })
            .collect()
    }

    fn integers(&self, registers: &[[u32; 32]]) -> Vec<i64> {
        let packed = self.element.packed();
        (0..self.rows * self.columns)
            .map(|e| {
                let word = registers[(e / (32 * packed)) as usize][(e / packed % 32) as usize];
                self.element.integer(word, e % packed)
            })
            .collect()
    }
}

/// A decoded `wmma.load` or `wmma.store`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WmmaAccess {
    /// The fragment loaded or stored.
    pub fragment: Fragment,
    /// `.col`: the matrix lies column by column.
    pub column_major: bool,
    /// True for `wmma.store`.
    pub store: bool,
}

impl WmmaAccess {
    /// Reads `wmma.load.a.sync.aligned.row.m16n16k16.shared.f16` and its kin; the state space, if any, is
    /// the caller's business.
    ///
    /// # Errors
    /// Says what is not supported.
    pub fn from_opcode(opcode: &str) -> Result<WmmaAccess, String> {
        let parts: Vec<&str> = opcode.split('.').collect();
        let unknown = || {
            format!(
                "{opcode}: known are wmma.load.{{a,b,c}} and wmma.store.d, .sync.aligned.{{row,col}}, of shapes \
                 m16n16k16, m32n8k16, m8n32k16, m16n16k8 (tf32), m8n8k4 (f64), m8n8k32 (4 bits)"
            )
        };
        let [_, direction, operand, "sync", "aligned", rest @ ..] = &parts[..] else {
            return Err(unknown());
        };
        let operand = match (*direction, *operand) {
            ("load", "a") => Operand::A,
            ("load", "b") => Operand::B,
            ("load", "c") | ("store", "d") => Operand::Accumulator,
            _ => return Err(unknown()),
        };
        let column_major = match (rest.contains(&"row"), rest.contains(&"col")) {
            (true, false) => false,
            (false, true) => true,
            _ => return Err(unknown()),
        };
        let dims = rest.iter().find_map(|part| shape(part)).filter(|s| SHAPES.contains(s));
        let element = rest.last().and_then(|part| Element::named(part));
        let (Some(dims), Some(element)) = (dims, element) else { return Err(unknown()) };
        Ok(WmmaAccess {
            fragment: Fragment::new(operand, dims, element),
            column_major,
            store: *direction == "store",
        })
    }
}

/// A decoded `wmma.mma`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WmmaMma {
    /// (m, n, k).
    pub shape: (u32, u32, u32),
    /// Type of A.
    pub a: Element,
    /// Type of B.
    pub b: Element,
    /// Type of C.
    pub c: Element,
    /// Type of D.
    pub d: Element,
    /// `.satfinite`.
    pub saturate: bool,
}

impl WmmaMma {
    pub(super) fn from_opcode(parts: &[&str]) -> Result<WmmaMma, String> {
        let unknown = || format!("{}: this form of wmma.mma is not known", parts.join("."));
        let dims = parts.iter().position(|part| shape(part).is_some()).ok_or_else(unknown)?;
        let size = shape(parts[dims]).filter(|s| SHAPES.contains(s)).ok_or_else(unknown)?;
        let types: Vec<Element> = parts[dims + 1..]
            .iter()
            .filter(|p| !matches!(**p, "satfinite" | "rn" | "rz" | "rm" | "rp"))
            .map(|p| Element::named(p))
            .collect::<Option<_>>()
            .ok_or_else(unknown)?;
        let (d, a, b, c) = match types[..] {
            [d, c] => (d, Element::F16, Element::F16, c),
            [d, a, b, c] => (d, a, b, c),
            _ => return Err(unknown()),
        };
        let saturate = parts.contains(&"satfinite");
        Ok(WmmaMma { shape: size, a, b, c, d, saturate })
    }

    fn fragments(&self) -> [Fragment; 4] {
        [
            Fragment::new(Operand::A, self.shape, self.a),
            Fragment::new(Operand::B, self.shape, self.b),
            Fragment::new(Operand::Accumulator, self.shape, self.c),
            Fragment::new(Operand::Accumulator, self.shape, self.d),
        ]
    }

    pub(super) fn registers(&self) -> Registers {
        let [a, b, c, d] = self.fragments().map(|f| f.registers);
        Registers { a, b, c, d }
    }

    /// D = A·B + C of everything but f64. Sums of floats are kept in f32 (f16 results rounded once).
    pub(super) fn run(&self, a: &[[u32; 32]], b: &[[u32; 32]], c: &[[u32; 32]], d: &mut [[u32; 32]]) {
        let (m, n, k) = self.shape;
        let (n, k) = (n as usize, k as usize);
        let [fa, fb, fc, fd] = self.fragments();
        let packed = fd.packed();
        d.iter_mut().for_each(|row| *row = [0; 32]);
        let mut put = |e: usize, bits: u32| {
            let e = e as u32;
            d[(e / (32 * packed)) as usize][(e / packed % 32) as usize] |=
                bits << (self.d.bits() % 32 * (e % packed));
        };
        if self.d == Element::S32 {
            let (a, b, c) = (fa.integers(a), fb.integers(b), fc.integers(c));
            for e in 0..m as usize * n {
                let (row, column) = (e / n, e % n);
                let sum: i64 = (0..k).map(|i| a[row * k + i] * b[i * n + column]).sum();
                let sum = c[e] + sum;
                let clamped = sum.clamp(i64::from(i32::MIN), i64::from(i32::MAX));
                put(e, if self.saturate { clamped } else { sum } as u32);
            }
            return;
        }
        let (a, b, mut sums) = (fa.floats(a), fb.floats(b), fc.floats(c));
        for (row, totals) in sums.chunks_exact_mut(n).enumerate() {
            for i in 0..k {
                let x = a[row * k + i];
                for (total, y) in totals.iter_mut().zip(&b[i * n..]) {
                    *total += x * y;
                }
            }
        }
        for (e, sum) in sums.iter().enumerate() {
            let half = self.d == Element::F16;
            put(e, if half { u32::from(f32_to_f16(*sum)) } else { sum.to_bits() });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tensor::Mma;
    use super::*;

    /// Fills a fragment as `wmma.load` would.
    fn load(access: &WmmaAccess, memory: impl Fn(u32, u32) -> u32) -> Vec<[u32; 32]> {
        let f = access.fragment;
        let mut registers = vec![[0; 32]; f.registers as usize];
        for lane in 0..32 {
            for register in 0..f.registers {
                for position in 0..f.packed() {
                    let (row, column) = f.place(lane, register, position);
                    let bits = memory(row, column) << (f.element.bits() % 32 * position);
                    registers[register as usize][lane as usize] |= bits;
                }
            }
        }
        registers
    }

    fn value(row: u32, column: u32) -> i32 {
        (row * 5 + column * 3) as i32 % 11 - 5
    }

    #[test]
    fn every_shape_multiplies() {
        let half = |r, c| u32::from(half::f16::from_f32(value(r, c) as f32).to_bits());
        let brain = |r, c| (value(r, c) as f32).to_bits() >> 16;
        let byte = |r, c| value(r, c) as u32 & 0xff;
        let tf32 = |r, c| (value(r, c) as f32).to_bits();
        type Encode<'a> = &'a dyn Fn(u32, u32) -> u32;
        let cases: [(&str, &str, Encode); 8] = [
            ("m16n16k16", "f16", &half),
            ("m32n8k16", "f16", &half),
            ("m8n32k16", "f16", &half),
            ("m16n16k16", "bf16", &brain),
            ("m32n8k16", "bf16", &brain),
            ("m16n16k8", "tf32", &tf32),
            ("m16n16k16", "s8", &byte),
            ("m8n32k16", "s8", &byte),
        ];
        for (dims, element, encode) in cases {
            let sums = if element == "s8" { "s32" } else { "f32" };
            let access = |what: &str, layout, element: &str| {
                WmmaAccess::from_opcode(&format!("wmma.{what}.sync.aligned.{layout}.{dims}.shared.{element}"))
                    .expect("known")
            };
            let types = if element == "f16" {
                "f32.f32".into()
            } else {
                format!("{sums}.{element}.{element}.{sums}")
            };
            let op =
                Mma::from_opcode(&format!("wmma.mma.sync.aligned.row.col.{dims}.{types}")).expect("known");
            let (a, b, c) = (
                access("load.a", "row", element),
                access("load.b", "col", element),
                access("load.c", "row", sums),
            );
            let start = |r: u32, c: u32| {
                let x = r as i32 - c as i32;
                if sums == "s32" { x as u32 } else { (x as f32).to_bits() }
            };
            let (ra, rb, rc) = (load(&a, encode), load(&b, encode), load(&c, start));
            let want = op.registers();
            assert_eq!([ra.len(), rb.len(), rc.len()], [want.a, want.b, want.c].map(|n| n as usize));
            let mut d = vec![[0; 32]; want.d as usize];
            op.run(&ra, &rb, &rc, &mut d);
            let store = access("store.d", "row", sums);
            for lane in 0..32 {
                for register in 0..want.d {
                    let (row, column) = store.fragment.place(lane, register, 0);
                    let bits = d[register as usize][lane as usize];
                    let got = if sums == "s32" { bits as i32 } else { f32::from_bits(bits) as i32 };
                    let (_, _, k) = op.shape();
                    let sum: i32 = (0..k).map(|i| value(row, i) * value(i, column)).sum();
                    assert_eq!(got, sum + row as i32 - column as i32, "{dims} {element}");
                }
            }
        }
    }

    #[test]
    fn registers_are_those_of_the_isa() {
        let registers = |opcode: &str| WmmaAccess::from_opcode(opcode).map(|a| a.fragment.registers);
        for (opcode, want) in [
            ("wmma.load.a.sync.aligned.row.m16n16k16.f16", 8),
            ("wmma.load.b.sync.aligned.col.m32n8k16.shared.f16", 8),
            ("wmma.load.c.sync.aligned.row.m16n16k16.f16", 4),
            ("wmma.load.c.sync.aligned.row.m16n16k16.global.f32", 8),
            ("wmma.load.a.sync.aligned.row.m16n16k16.bf16", 4),
            ("wmma.load.a.sync.aligned.row.m32n8k16.bf16", 8),
            ("wmma.load.b.sync.aligned.row.m32n8k16.bf16", 2),
            ("wmma.load.a.sync.aligned.row.m16n16k8.tf32", 4),
            ("wmma.load.a.sync.aligned.row.m16n16k16.s8", 2),
            ("wmma.load.a.sync.aligned.row.m8n32k16.u8", 1),
            ("wmma.load.b.sync.aligned.col.m8n32k16.u8", 4),
            ("wmma.load.a.sync.aligned.row.m8n8k4.f64", 1),
            ("wmma.store.d.sync.aligned.row.m8n8k4.f64", 2),
            ("wmma.load.a.sync.aligned.row.m8n8k32.s4", 1),
        ] {
            assert_eq!(registers(opcode), Ok(want), "{opcode}");
        }
        assert!(registers("wmma.load.a.sync.aligned.row.m8n8k128.b1").is_err());
    }

    #[test]
    fn half_accumulators_and_doubles() {
        let op = Mma::from_opcode("wmma.mma.sync.aligned.row.row.m16n16k16.f16.f16").expect("known");
        let one = [[0x3c00_3c00; 32]; 8];
        let mut d = [[0; 32]; 4];
        op.run(&one, &one, &[[0x4000_4000; 32]; 4], &mut d);
        assert_eq!(d, [[0x4c80_4c80; 32]; 4]); // 2 + 16
        let op = Mma::from_opcode("wmma.mma.sync.aligned.row.col.m8n8k4.rn.f64.f64.f64.f64").expect("known");
        assert!(op.is_f64());
        let ones = [[1.0f64.to_bits(); 32]];
        let mut d = [[0; 32]; 2];
        op.run_f64(&ones, &ones, &[[3.0f64.to_bits(); 32]; 2], &mut d);
        assert_eq!(d, [[7.0f64.to_bits(); 32]; 2]);
    }
}
