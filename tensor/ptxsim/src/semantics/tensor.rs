//! The opcodes of the tensor cores: what `mma.sync…` and `wmma.mma.sync…` name, the registers they
//! take, their operations and their FLOPs.

use super::mma::{MmaFloat, MmaInteger, mma_f16, mma_f32, mma_f64, mma_s32, mma_s32_m8};
use super::wmma::{Element, WmmaMma};

/// A decoded `mma` or `wmma.mma`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mma {
    /// `mma.m16n8k*` on floats.
    Float {
        /// Type of A and B.
        element: MmaFloat,
        /// The shape's k.
        k: u32,
        /// C and D are f16 instead of f32.
        half_sums: bool,
    },
    /// `mma.m16n8k*` and `mma.m8n8k*` on integers.
    Integer {
        /// Type of A.
        a: MmaInteger,
        /// Type of B.
        b: MmaInteger,
        /// The shape's m: 8 or 16.
        m: u32,
        /// The shape's k.
        k: u32,
        /// `.satfinite`.
        saturate: bool,
    },
    /// `mma.m8n8k4` and `m16n8k*` on f64.
    Double {
        /// The shape's m: 8 or 16.
        m: u32,
        /// The shape's k.
        k: u32,
    },
    /// `wmma.mma`.
    Wmma(WmmaMma),
}

/// How many registers of a lane an operand list takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Registers {
    /// Registers of A.
    pub a: u32,
    /// Registers of B.
    pub b: u32,
    /// Registers of C.
    pub c: u32,
    /// Registers of D.
    pub d: u32,
}

/// Reads `m16n8k16`.
pub(super) fn shape(text: &str) -> Option<(u32, u32, u32)> {
    let (m, rest) = text.strip_prefix('m')?.split_once('n')?;
    let (n, k) = rest.split_once('k')?;
    Some((m.parse().ok()?, n.parse().ok()?, k.parse().ok()?))
}

fn float(text: &str) -> Option<MmaFloat> {
    Some(match text {
        "f16" => MmaFloat::F16,
        "bf16" => MmaFloat::Bf16,
        "tf32" => MmaFloat::Tf32,
        "e4m3" => MmaFloat::E4m3,
        "e5m2" => MmaFloat::E5m2,
        _ => return None,
    })
}

fn integer(text: &str) -> Option<MmaInteger> {
    Some(match text {
        "u8" => MmaInteger::U8,
        "s8" => MmaInteger::S8,
        "u4" => MmaInteger::U4,
        "s4" => MmaInteger::S4,
        _ => return None,
    })
}

impl Mma {
    /// Reads a whole opcode, such as `mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32`.
    ///
    /// # Errors
    /// Says what is not supported.
    pub fn from_opcode(opcode: &str) -> Result<Mma, String> {
        let parts: Vec<&str> = opcode.split('.').collect();
        if parts.first() == Some(&"wmma") {
            return WmmaMma::from_opcode(&parts).map(Mma::Wmma);
        }
        let unknown = || {
            format!(
                "{opcode}: known are mma.sync.aligned.m16n8k{{4,8,16,32,64}} and m8n8k{{4,16,32}} .row.col \
                 of f16, bf16, tf32, e4m3, e5m2, 8- and 4-bit integers and f64"
            )
        };
        let saturate = parts.contains(&"satfinite");
        let [m, s, al, dims, row, col, types @ ..] = &parts[..] else { return Err(unknown()) };
        let types: Vec<&str> = types.iter().copied().filter(|t| *t != "satfinite").collect();
        let ([d, a, b, c], Some((m_size, 8, k))) = (&types[..], shape(dims)) else {
            return Err(unknown());
        };
        if (*m, *s, *al, *row, *col) != ("mma", "sync", "aligned", "row", "col") {
            return Err(unknown());
        }
        let found = match (*d, *c) {
            ("f32", "f32") | ("f16", "f16") => float(a).filter(|_| a == b).and_then(|element| {
                let half_sums = *d == "f16";
                let wide = 8 * element.packed() as u32;
                let fits =
                    m_size == 16 && (k == wide || 2 * k == wide) && (!half_sums || element == MmaFloat::F16);
                fits.then_some(Mma::Float { element, k, half_sums })
            }),
            ("s32", "s32") => integer(a).zip(integer(b)).and_then(|(a, b)| {
                let wide = 8 * a.packed() as u32;
                let fits = a.packed() == b.packed()
                    && (m_size == 16 && (k == wide || 2 * k == wide) || m_size == 8 && 2 * k == wide);
                fits.then_some(Mma::Integer { a, b, m: m_size, k, saturate })
            }),
            ("f64", "f64") if *a == "f64" && *b == "f64" => {
                let fits = (m_size, k) == (8, 4) || m_size == 16 && matches!(k, 4 | 8 | 16);
                fits.then_some(Mma::Double { m: m_size, k })
            }
            _ => None,
        };
        found.ok_or_else(unknown)
    }

    /// Registers of each operand; 64-bit ones if [`Mma::is_f64`].
    pub fn registers(&self) -> Registers {
        match *self {
            Mma::Float { element, k, half_sums } => {
                let b = k / (4 * element.packed() as u32);
                let c = if half_sums { 2 } else { 4 };
                Registers { a: 2 * b, b, c, d: c }
            }
            Mma::Integer { a, m, k, .. } => {
                let b = k / (4 * a.packed() as u32);
                Registers { a: b * m / 8, b, c: m / 4, d: m / 4 }
            }
            Mma::Double { m, k } => Registers { a: k / 4 * m / 8, b: k / 4, c: m / 4, d: m / 4 },
            Mma::Wmma(op) => op.registers(),
        }
    }

    /// Whether the registers are 64-bit.
    pub fn is_f64(&self) -> bool {
        match self {
            Mma::Double { .. } => true,
            Mma::Wmma(op) => op.a == Element::F64,
            _ => false,
        }
    }

    /// The shape (m, n, k).
    pub fn shape(&self) -> (u32, u32, u32) {
        match *self {
            Mma::Float { k, .. } => (16, 8, k),
            Mma::Integer { m, k, .. } | Mma::Double { m, k } => (m, 8, k),
            Mma::Wmma(op) => op.shape,
        }
    }

    /// Additions and multiplications of one warp-wide operation: 2·m·n·k.
    pub fn flops(&self) -> u64 {
        let (m, n, k) = self.shape();
        2 * u64::from(m) * u64::from(n) * u64::from(k)
    }

    /// Whether D is f16.
    pub fn has_half_sums(&self) -> bool {
        match self {
            Mma::Float { half_sums, .. } => *half_sums,
            Mma::Wmma(op) => op.d == Element::F16,
            Mma::Integer { .. } | Mma::Double { .. } => false,
        }
    }

    /// Bits of an element of A, which is what the tensor cores' speed depends on.
    pub fn element_bits(&self) -> u32 {
        match *self {
            Mma::Float { element, .. } => match element {
                MmaFloat::Tf32 => 32,
                MmaFloat::F16 | MmaFloat::Bf16 => 16,
                MmaFloat::E4m3 | MmaFloat::E5m2 => 8,
            },
            Mma::Integer { a, .. } => 32 / a.packed() as u32,
            Mma::Double { .. } => 64,
            Mma::Wmma(op) => op.a.bits(),
        }
    }

    /// Computes D = A·B + C; every list has the length [`Mma::registers`] says. Not for f64.
    pub fn run(&self, a: &[[u32; 32]], b: &[[u32; 32]], c: &[[u32; 32]], d: &mut [[u32; 32]]) {
        match *self {
            Mma::Float { element, half_sums: false, .. } => {
                let wide = std::array::from_fn(|i| c[i].map(f32::from_bits));
                for (out, sums) in d.iter_mut().zip(mma_f32(element, a, b, &wide)) {
                    *out = sums.map(f32::to_bits);
                }
            }
            Mma::Float { half_sums: true, .. } => {
                d.copy_from_slice(&mma_f16(a, b, &[c[0], c[1]]));
            }
            Mma::Integer { a: x, b: y, m: 16, saturate, .. } => {
                d.copy_from_slice(&mma_s32(x, y, a, b, &[c[0], c[1], c[2], c[3]], saturate));
            }
            Mma::Integer { a: x, b: y, saturate, .. } => {
                d.copy_from_slice(&mma_s32_m8(x, y, &a[0], &b[0], &[c[0], c[1]], saturate));
            }
            Mma::Double { .. } => {}
            Mma::Wmma(op) => op.run(a, b, c, d),
        }
    }

    /// [`Mma::run`] for f64.
    pub fn run_f64(&self, a: &[[u64; 32]], b: &[[u64; 32]], c: &[[u64; 32]], d: &mut [[u64; 32]]) {
        let float = |rows: &[[u64; 32]]| -> Vec<[f64; 32]> {
            rows.iter().map(|row| row.map(f64::from_bits)).collect()
        };
        let (a, b, c) = (float(a), float(b), float(c));
        let mut out = vec![[0.0; 32]; c.len()];
        match self {
            // One register of A and B, two of C: `wmma.m8n8k4` shares the layout of `mma.m8n8k4`.
            Mma::Double { .. } | Mma::Wmma(_) => mma_f64(&a, &b, &c, &mut out),
            Mma::Float { .. } | Mma::Integer { .. } => {}
        }
        for (row, values) in d.iter_mut().zip(out) {
            *row = values.map(f64::to_bits);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opcodes_registers_and_flops() {
        let read = |opcode: &str| Mma::from_opcode(opcode).map(|m| (m.registers(), m.flops()));
        let registers = |a, b, c, d| Registers { a, b, c, d };
        let head = "mma.sync.aligned";
        for (tail, want, flops) in [
            ("m16n8k16.row.col.f32.bf16.bf16.f32", registers(4, 2, 4, 4), 4096),
            ("m16n8k8.row.col.f32.f16.f16.f32", registers(2, 1, 4, 4), 2048),
            ("m16n8k16.row.col.f16.f16.f16.f16", registers(4, 2, 2, 2), 4096),
            ("m16n8k8.row.col.f32.tf32.tf32.f32", registers(4, 2, 4, 4), 2048),
            ("m16n8k4.row.col.f32.tf32.tf32.f32", registers(2, 1, 4, 4), 1024),
            ("m16n8k32.row.col.satfinite.s32.s8.u8.s32", registers(4, 2, 4, 4), 8192),
            ("m16n8k16.row.col.s32.s8.s8.s32", registers(2, 1, 4, 4), 4096),
            ("m8n8k16.row.col.s32.u8.u8.s32", registers(1, 1, 2, 2), 2048),
            ("m16n8k64.row.col.s32.s4.s4.s32", registers(4, 2, 4, 4), 16384),
            ("m16n8k32.row.col.f32.e4m3.e4m3.f32", registers(4, 2, 4, 4), 8192),
            ("m8n8k4.row.col.f64.f64.f64.f64", registers(1, 1, 2, 2), 512),
            ("m16n8k8.row.col.f64.f64.f64.f64", registers(4, 2, 4, 4), 2048),
        ] {
            assert_eq!(read(&format!("{head}.{tail}")), Ok((want, flops)), "{tail}");
        }
    }

    #[test]
    fn what_is_not_known_is_refused_by_name() {
        for opcode in [
            "mma.sync.aligned.m8n8k4.row.col.f32.f16.f16.f32",
            "mma.sync.aligned.m16n8k16.row.col.f32.f16.bf16.f32",
            "mma.sync.aligned.m16n8k256.row.col.s32.b1.b1.s32.xor.popc",
            "mma.sync.aligned.m16n8k16.row.row.f32.f16.f16.f32",
        ] {
            assert!(Mma::from_opcode(opcode).is_err_and(|m| m.contains(opcode)), "{opcode}");
        }
    }
}
