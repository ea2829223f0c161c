//! NumPy's `.npy` files, versions 1 and 2, little-endian, C order.
//!
//! Format: `numpy/lib/format.py`. bfloat16 has no type of its own there: it is read from and written as
//! `<u2` (read also from `|V2`, which is what `ml_dtypes` arrays are saved as).

use std::path::{Path, PathBuf};

use thiserror::Error;

/// What is wrong with a file.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum NpyError {
    /// It could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is not what was expected.
    #[error("{path}: {message}")]
    Format {
        /// The file.
        path: PathBuf,
        /// What was expected, what is there, what to do.
        message: String,
    },
}

/// An element type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Dtype {
    F16,
    Bf16,
    F32,
    F64,
    I8,
    I16,
    I32,
    I64,
    U8,
    U16,
    U32,
    U64,
    Bool,
}

impl Dtype {
    /// Every type, by the name the command line uses.
    pub const NAMES: [(&'static str, Dtype); 13] = [
        ("f16", Dtype::F16),
        ("bf16", Dtype::Bf16),
        ("f32", Dtype::F32),
        ("f64", Dtype::F64),
        ("i8", Dtype::I8),
        ("i16", Dtype::I16),
        ("i32", Dtype::I32),
        ("i64", Dtype::I64),
        ("u8", Dtype::U8),
        ("u16", Dtype::U16),
        ("u32", Dtype::U32),
        ("u64", Dtype::U64),
        ("bool", Dtype::Bool),
    ];

    /// The type of that name.
    pub fn named(name: &str) -> Option<Dtype> {
        Self::NAMES.iter().find(|(known, _)| *known == name).map(|(_, dtype)| *dtype)
    }

    /// Size in bytes.
    pub fn bytes(self) -> usize {
        match self {
            Dtype::I8 | Dtype::U8 | Dtype::Bool => 1,
            Dtype::F16 | Dtype::Bf16 | Dtype::I16 | Dtype::U16 => 2,
            Dtype::F32 | Dtype::I32 | Dtype::U32 => 4,
            Dtype::F64 | Dtype::I64 | Dtype::U64 => 8,
        }
    }

    fn descr(self) -> &'static str {
        match self {
            Dtype::F16 => "<f2",
            Dtype::F32 => "<f4",
            Dtype::F64 => "<f8",
            Dtype::I8 => "|i1",
            Dtype::I16 => "<i2",
            Dtype::I32 => "<i4",
            Dtype::I64 => "<i8",
            Dtype::U8 => "|u1",
            Dtype::Bf16 | Dtype::U16 => "<u2",
            Dtype::U32 => "<u4",
            Dtype::U64 => "<u8",
            Dtype::Bool => "|b1",
        }
    }

    fn from_descr(descr: &str) -> Option<Dtype> {
        let plain = descr.trim_start_matches(['<', '|', '=']);
        Some(match plain {
            "f2" => Dtype::F16,
            "f4" => Dtype::F32,
            "f8" => Dtype::F64,
            "i1" => Dtype::I8,
            "i2" => Dtype::I16,
            "i4" => Dtype::I32,
            "i8" => Dtype::I64,
            "u1" => Dtype::U8,
            "u2" => Dtype::U16,
            "u4" => Dtype::U32,
            "u8" => Dtype::U64,
            "b1" => Dtype::Bool,
            "V2" => Dtype::Bf16,
            _ => return None,
        })
    }
}

/// An array: its type, its shape, its bytes in C order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Array {
    /// Element type.
    pub dtype: Dtype,
    /// Sizes of the dimensions; empty for a scalar.
    pub shape: Vec<usize>,
    /// Little-endian elements, the last dimension running fastest.
    pub bytes: Vec<u8>,
}

impl Array {
    /// Reads a file.
    ///
    /// # Errors
    /// [`NpyError`] naming the file: not a `.npy`, a type or order that is not supported, cut off.
    pub fn read(path: &Path) -> Result<Array, NpyError> {
        let data = std::fs::read(path).map_err(|source| NpyError::Io { path: path.to_owned(), source })?;
        Array::parse(&data).map_err(|message| NpyError::Format { path: path.to_owned(), message })
    }

    /// Writes a file of version 1.
    ///
    /// # Errors
    /// [`NpyError::Io`] naming the file.
    pub fn write(&self, path: &Path) -> Result<(), NpyError> {
        std::fs::write(path, self.encode()).map_err(|source| NpyError::Io { path: path.to_owned(), source })
    }

    /// Reads the contents of a file.
    ///
    /// # Errors
    /// Says what was expected and what is there.
    pub fn parse(data: &[u8]) -> Result<Array, String> {
        let Some(rest) = data.strip_prefix(b"\x93NUMPY") else {
            return Err("not a NumPy file (it does not begin with \\x93NUMPY); save with numpy.save".into());
        };
        let (length, start): (usize, usize) = match rest {
            [1, _, a, b, ..] => (usize::from(u16::from_le_bytes([*a, *b])), 10),
            [2 | 3, _, a, b, c, d, ..] => (u32::from_le_bytes([*a, *b, *c, *d]) as usize, 12),
            [version, ..] if *version > 3 => {
                return Err(format!("version {version} of the .npy format is not known (1 to 3 are)"));
            }
            _ => return Err("the file ends within its header".into()),
        };
        let header = start
            .checked_add(length)
            .and_then(|end| data.get(start..end))
            .and_then(|header| std::str::from_utf8(header).ok())
            .ok_or("the file ends within its header")?;
        let descr = field(header, "descr").ok_or_else(|| no_field("descr", header))?;
        let descr = descr.trim_matches(['\'', '"']);
        if let Some(plain) = descr.strip_prefix('>') {
            return Err(format!("big-endian {descr}: save with array.astype('<{plain}')"));
        }
        let dtype = Dtype::from_descr(descr).ok_or_else(|| {
            format!("type {descr} is not supported: use f2 f4 f8, i1 i2 i4 i8, u1 u2 u4 u8 or b1")
        })?;
        let order = field(header, "fortran_order").ok_or_else(|| no_field("fortran_order", header))?;
        if order != "False" {
            return Err("Fortran order: save with numpy.ascontiguousarray(array)".into());
        }
        let shape: Vec<usize> = field(header, "shape")
            .ok_or_else(|| no_field("shape", header))?
            .trim_matches(['(', ')'])
            .split(',')
            .map(str::trim)
            .filter(|size| !size.is_empty())
            .map(|size| size.parse().map_err(|_| format!("{size} is not a size of a dimension")))
            .collect::<Result<_, _>>()?;
        let wanted = shape
            .iter()
            .try_fold(dtype.bytes(), |product, &size| product.checked_mul(size))
            .ok_or_else(|| format!("shape {shape:?} is too large"))?;
        let bytes = &data[start + length..];
        if bytes.len() != wanted {
            return Err(format!(
                "shape {shape:?} of {descr} needs {wanted} bytes, the file holds {}",
                bytes.len()
            ));
        }
        Ok(Array { dtype, shape, bytes: bytes.to_vec() })
    }

    /// The contents of a file of version 1.
    pub fn encode(&self) -> Vec<u8> {
        let sizes: Vec<String> = self.shape.iter().map(usize::to_string).collect();
        let comma = if sizes.len() == 1 { "," } else { "" };
        let mut header = format!(
            "{{'descr': '{}', 'fortran_order': False, 'shape': ({}{comma}), }}",
            self.dtype.descr(),
            sizes.join(", ")
        );
        // Magic, version and length take 10 bytes; data begins at a multiple of 64.
        let padding = (64 - (header.len() + 11) % 64) % 64;
        header.extend(std::iter::repeat_n(' ', padding));
        header.push('\n');
        let mut out = b"\x93NUMPY\x01\x00".to_vec();
        out.extend((header.len() as u16).to_le_bytes());
        out.extend(header.as_bytes());
        out.extend(&self.bytes);
        out
    }
}

fn no_field(name: &str, header: &str) -> String {
    format!("the header has no field '{name}': {}", header.trim())
}

/// The text of a field's value in the header's Python dictionary.
fn field<'a>(header: &'a str, name: &str) -> Option<&'a str> {
    let after = &header[header.find(&format!("'{name}'"))? + name.len() + 2..];
    let value = after.trim_start().strip_prefix(':')?.trim_start();
    let end = if value.starts_with('(') { value.find(')')? + 1 } else { value.find([',', '}'])? };
    Some(value[..end].trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(header: &str, data: &[u8]) -> Vec<u8> {
        let mut out = b"\x93NUMPY\x01\x00".to_vec();
        out.extend((header.len() as u16).to_le_bytes());
        out.extend(header.as_bytes());
        out.extend(data);
        out
    }

    #[test]
    fn what_numpy_writes_is_read() {
        // numpy.save of numpy.arange(6, dtype='f4').reshape(2, 3)
        let mut header = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }".to_owned();
        header.push_str(&" ".repeat(117 - header.len()));
        header.push('\n');
        let data: Vec<u8> = (0..6).flat_map(|i| (i as f32).to_le_bytes()).collect();
        let array = Array::parse(&file(&header, &data)).expect("valid");
        assert_eq!((array.dtype, &array.shape[..]), (Dtype::F32, &[2, 3][..]));
        assert_eq!(array.encode(), file(&header, &data));
    }

    #[test]
    fn every_type_and_rank_survives() {
        for (_, dtype) in Dtype::NAMES {
            for shape in [vec![], vec![0], vec![3], vec![2, 1, 3]] {
                let n = shape.iter().product::<usize>() * dtype.bytes();
                let array = Array { dtype, shape, bytes: (0..n as u8).collect() };
                let encoded = array.encode();
                assert_eq!((encoded.len() - n) % 64, 0);
                let back = Array::parse(&encoded).expect("valid");
                let stored = if dtype == Dtype::Bf16 { Dtype::U16 } else { dtype };
                assert_eq!(back, Array { dtype: stored, ..array });
            }
        }
        let v2 = file("{'descr': '|V2', 'fortran_order': False, 'shape': (1,), }\n", &[0x80, 0x3f]);
        assert_eq!(Array::parse(&v2).map(|a| a.dtype), Ok(Dtype::Bf16));
    }

    #[test]
    fn version_two_headers() {
        let header = "{'descr': '|u1', 'fortran_order': False, 'shape': (2,), }\n";
        let mut data = b"\x93NUMPY\x02\x00".to_vec();
        data.extend((header.len() as u32).to_le_bytes());
        data.extend(header.as_bytes());
        data.extend([7, 8]);
        assert_eq!(Array::parse(&data).map(|a| a.bytes), Ok(vec![7, 8]));
    }

    #[test]
    fn bad_files_say_what_to_do() {
        let bad = |data: &[u8], needle: &str| {
            let message = Array::parse(data).expect_err("bad");
            assert!(message.contains(needle), "{message}");
        };
        bad(b"PK\x03\x04", "numpy.save");
        bad(b"\x93NUMPY\x01\x00\xff\xff{", "ends within its header");
        bad(b"\x93NUMPY\x09\x00", "version 9");
        bad(b"\x93NUMPY", "ends within");
        bad(&file("{'descr': '>f4', 'fortran_order': False, 'shape': (1,)}", &[0; 4]), "astype('<f4')");
        bad(&file("{'descr': '<c8', 'fortran_order': False, 'shape': (1,)}", &[0; 8]), "<c8");
        bad(&file("{'descr': '<f4', 'fortran_order': True, 'shape': (2, 2)}", &[0; 16]), "ascontiguous");
        bad(&file("{'descr': '<f4', 'fortran_order': False, 'shape': (3,)}", &[0; 8]), "needs 12 bytes");
        bad(&file("{'fortran_order': False, 'shape': (3,)}", &[0; 8]), "no field 'descr'");
        bad(
            &file("{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999, 99999999999)}", &[]),
            "too large",
        );
    }
}
