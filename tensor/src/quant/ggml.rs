//! The block formats of GGUF files, decoded to f32 exactly as ggml's `dequantize_row_*` does.
//!
//! Layouts after ggml (`ggml-common.h`, `ggml-quants.c`); little-endian; `d`, `m`, `dmin` are f16:
//!
//! ```text
//! Q8_0   32 weights  d, 32 × i8                             w = d·q
//! Q4_0   32          d, 16 bytes: low nibbles, then high    w = d·(q − 8)
//! Q4_1   32          d, m, 16 bytes                         w = d·q + m
//! Q5_0   32          d, 32 fifth bits, 16 bytes             w = d·(q − 16)
//! Q5_1   32          d, m, 32 fifth bits, 16 bytes          w = d·q + m
//! Q4_K   256         d, dmin, 8 × (scale, min) of 6 bits, 128 bytes
//! Q5_K   256         d, dmin, 8 × (scale, min) of 6 bits, 256 fifth bits, 128 bytes
//! Q6_K   256         128 bytes low 4 bits, 64 bytes high 2 bits, 16 × i8 scale, d
//! ```

use super::{Error, Result};
use half::{bf16, f16};

/// How a GGUF tensor is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, non_camel_case_types)] // The names are the format's own.
pub enum GgmlType {
    F32,
    F16,
    BF16,
    Q8_0,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q4_K,
    Q5_K,
    Q6_K,
}

/// One row of the table of formats.
struct Format {
    kind: GgmlType,
    /// Number in GGUF files (`enum ggml_type`).
    id: u32,
    name: &'static str,
    /// Weights a block.
    block: usize,
    /// Bytes a block.
    bytes: usize,
    decode: fn(&[u8], &mut [f32]),
}

const FORMATS: [Format; 11] = [
    Format { kind: GgmlType::F32, id: 0, name: "F32", block: 1, bytes: 4, decode: f32_block },
    Format { kind: GgmlType::F16, id: 1, name: "F16", block: 1, bytes: 2, decode: f16_block },
    Format { kind: GgmlType::BF16, id: 30, name: "BF16", block: 1, bytes: 2, decode: bf16_block },
    Format { kind: GgmlType::Q8_0, id: 8, name: "Q8_0", block: 32, bytes: 34, decode: q8_0 },
    Format { kind: GgmlType::Q4_0, id: 2, name: "Q4_0", block: 32, bytes: 18, decode: q4_0 },
    Format { kind: GgmlType::Q4_1, id: 3, name: "Q4_1", block: 32, bytes: 20, decode: q4_1 },
    Format { kind: GgmlType::Q5_0, id: 6, name: "Q5_0", block: 32, bytes: 22, decode: q5_0 },
    Format { kind: GgmlType::Q5_1, id: 7, name: "Q5_1", block: 32, bytes: 24, decode: q5_1 },
    Format { kind: GgmlType::Q4_K, id: 12, name: "Q4_K", block: 256, bytes: 144, decode: q4_k },
    Format { kind: GgmlType::Q5_K, id: 13, name: "Q5_K", block: 256, bytes: 176, decode: q5_k },
    Format { kind: GgmlType::Q6_K, id: 14, name: "Q6_K", block: 256, bytes: 210, decode: q6_k },
];

impl GgmlType {
    /// The format with that number in GGUF files, if it can be read.
    pub fn from_id(id: u32) -> Option<Self> {
        FORMATS.iter().find(|f| f.id == id).map(|f| f.kind)
    }

    /// Names of all formats that can be read, for messages.
    pub fn names() -> String {
        FORMATS.map(|f| f.name).join(", ")
    }

    fn format(self) -> &'static Format {
        // The table lists the kinds in the order of the enum (a test holds it to that).
        &FORMATS[self as usize]
    }

    /// The format's name, `Q4_K` for example.
    pub fn name(self) -> &'static str {
        self.format().name
    }

    /// Weights a block; rows are whole blocks.
    pub fn block(self) -> usize {
        self.format().block
    }

    /// Bytes that `numel` weights take, if that is a whole number of blocks and fits u64.
    pub fn bytes_for(self, numel: u64) -> Option<u64> {
        let format = self.format();
        let block = format.block as u64;
        if !numel.is_multiple_of(block) {
            return None;
        }
        (numel / block).checked_mul(format.bytes as u64)
    }

    /// Decodes whole blocks into `out`, one f32 a weight.
    ///
    /// # Errors
    /// [`Error::Blocks`] unless `bytes` are exactly the blocks of `out.len()` weights.
    pub fn dequantize(self, bytes: &[u8], out: &mut [f32]) -> Result<()> {
        let format = self.format();
        if self.bytes_for(out.len() as u64) != Some(bytes.len() as u64) {
            return Err(Error::Blocks { format: format.name, bytes: bytes.len(), weights: out.len() });
        }
        for (block, values) in bytes.chunks_exact(format.bytes).zip(out.chunks_exact_mut(format.block)) {
            (format.decode)(block, values);
        }
        Ok(())
    }
}

impl std::fmt::Display for GgmlType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

fn f16_at(bytes: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn f32_block(block: &[u8], out: &mut [f32]) {
    out[0] = f32::from_bits(u32_at(block, 0));
}

fn f16_block(block: &[u8], out: &mut [f32]) {
    out[0] = f16_at(block, 0);
}

fn bf16_block(block: &[u8], out: &mut [f32]) {
    out[0] = bf16::from_le_bytes([block[0], block[1]]).to_f32();
}

fn q8_0(block: &[u8], out: &mut [f32]) {
    let d = f16_at(block, 0);
    for (w, &q) in out.iter_mut().zip(&block[2..]) {
        *w = d * f32::from(q as i8);
    }
}

/// Sixteen bytes hold weights 0–15 in their low and 16–31 in their high nibbles; `fifth` holds
/// another bit for each.
fn nibbles_32(bytes: &[u8], fifth: u32, out: &mut [f32], weight: impl Fn(u8) -> f32) {
    let (low, high) = out.split_at_mut(16);
    for (i, &byte) in bytes.iter().enumerate() {
        low[i] = weight((byte & 15) | (((fifth >> i) & 1) << 4) as u8);
        high[i] = weight((byte >> 4) | (((fifth >> (i + 16)) & 1) << 4) as u8);
    }
}

fn q4_0(block: &[u8], out: &mut [f32]) {
    let d = f16_at(block, 0);
    nibbles_32(&block[2..], 0, out, |q| d * (f32::from(q) - 8.0));
}

fn q4_1(block: &[u8], out: &mut [f32]) {
    let (d, m) = (f16_at(block, 0), f16_at(block, 2));
    nibbles_32(&block[4..], 0, out, |q| d * f32::from(q) + m);
}

fn q5_0(block: &[u8], out: &mut [f32]) {
    let d = f16_at(block, 0);
    nibbles_32(&block[6..], u32_at(block, 2), out, |q| d * (f32::from(q) - 16.0));
}

fn q5_1(block: &[u8], out: &mut [f32]) {
    let (d, m) = (f16_at(block, 0), f16_at(block, 2));
    nibbles_32(&block[8..], u32_at(block, 4), out, |q| d * f32::from(q) + m);
}

/// Six-bit scale and min of sub-block `j` of 8, from their 12 packed bytes (`get_scale_min_k4`).
fn scale_min(packed: &[u8], j: usize) -> (f32, f32) {
    let (scale, min) = if j < 4 {
        (packed[j] & 63, packed[j + 4] & 63)
    } else {
        let low = packed[j + 4];
        ((low & 15) | ((packed[j - 4] >> 6) << 4), (low >> 4) | ((packed[j] >> 6) << 4))
    };
    (f32::from(scale), f32::from(min))
}

fn q4_k(block: &[u8], out: &mut [f32]) {
    q45_k(block, &block[4..16], None, &block[16..], out);
}

fn q5_k(block: &[u8], out: &mut [f32]) {
    q45_k(block, &block[4..16], Some(&block[16..48]), &block[48..], out);
}

/// Eight sub-blocks of 32; a run of 32 bytes holds two of them, in its low and high nibbles.
fn q45_k(block: &[u8], scales: &[u8], fifth: Option<&[u8]>, nibbles: &[u8], out: &mut [f32]) {
    let (d, dmin) = (f16_at(block, 0), f16_at(block, 2));
    for (j, values) in out.chunks_exact_mut(32).enumerate() {
        let (scale, min) = scale_min(scales, j);
        let (d, m) = (d * scale, dmin * min);
        let bytes = &nibbles[j / 2 * 32..][..32];
        for (i, w) in values.iter_mut().enumerate() {
            let low = (bytes[i] >> (4 * (j % 2))) & 15;
            let high = fifth.map_or(0, |bits| ((bits[i] >> j) & 1) << 4);
            *w = d * f32::from(low | high) - m;
        }
    }
}

fn q6_k(block: &[u8], out: &mut [f32]) {
    let (low, high, scales, d) = (&block[..128], &block[128..192], &block[192..208], f16_at(block, 208));
    for (half, values) in out.chunks_exact_mut(128).enumerate() {
        let (low, high) = (&low[half * 64..], &high[half * 32..]);
        for (i, w) in values.iter_mut().enumerate() {
            // Runs of 32 weights take their low bits from: bytes 0–31 low, 32–63 low, then the high
            // nibbles of both; each run its own two bits of `high`.
            let (run, at) = (i / 32, i % 32);
            let nibble = (low[(run % 2) * 32 + at] >> (4 * (run / 2))) & 15;
            let q = nibble | (((high[at] >> (2 * run)) & 3) << 4);
            let scale = f32::from(scales[half * 8 + i / 16] as i8);
            *w = d * scale * (f32::from(q) - 32.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::Safetensors;
    use std::path::PathBuf;

    #[test]
    fn the_table_follows_the_enum() {
        for (i, format) in FORMATS.iter().enumerate() {
            assert_eq!(format.kind as usize, i, "{}", format.name);
            assert_eq!(GgmlType::from_id(format.id), Some(format.kind));
        }
        assert_eq!(GgmlType::from_id(10), None, "Q2_K");
    }

    /// Golden values were computed by the `gguf` Python package (tests/fixtures/gguf/generate.py).
    #[test]
    fn every_format_decodes_as_the_reference_does_bit_for_bit() {
        let path =
            PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/gguf/blocks.safetensors");
        let golden = Safetensors::open(path).unwrap();
        for format in &FORMATS {
            let blocks = golden.info(&format!("{}.blocks", format.name)).unwrap().data();
            let values = golden.info(&format!("{}.values", format.name)).unwrap().data();
            let mut out = vec![0.0; values.len() / 4];
            assert!(out.len() >= 4 * format.block);
            format.kind.dequantize(blocks, &mut out).unwrap();
            for (i, value) in values.chunks_exact(4).enumerate() {
                let expected = f32::from_bits(u32_at(value, 0));
                assert_eq!(out[i].to_bits(), expected.to_bits(), "{} weight {i}: {expected}", format.name);
            }
        }
    }

    #[test]
    fn partial_blocks_are_refused() {
        let error = GgmlType::Q4_0.dequantize(&[0; 18], &mut [0.0; 31]).unwrap_err().to_string();
        assert!(error.contains("Q4_0") && error.contains("18 bytes") && error.contains("31"), "{error}");
        assert!(GgmlType::Q4_0.dequantize(&[0; 17], &mut [0.0; 32]).is_err());
        assert_eq!(GgmlType::Q8_0.bytes_for(u64::MAX - 31), None, "more than 2^64 bytes");
    }
}
