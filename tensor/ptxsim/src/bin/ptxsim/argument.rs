//! Kernel arguments as the command line gives them.

use std::path::PathBuf;

use ptxsim::Gpu;
use ptxsim::npy::{Array, Dtype};
use ptxsim::semantics::convert::{Conversion, ScalarType, convert};

/// One `--arg`.
#[derive(Debug)]
pub struct Argument {
    /// As it was typed.
    pub text: String,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    In { file: PathBuf, dtype: Option<Dtype> },
    Out { dtype: Dtype, shape: Vec<usize>, file: PathBuf, zeros: bool },
    InOut { file: PathBuf, to: PathBuf },
    Scratch(u64),
    Value(Vec<u8>),
}

/// Where an argument lies on the device, to be saved after the launch.
pub struct Placed {
    address: u64,
    array: Array,
    file: PathBuf,
}

/// An array the kernel has written, and the file it goes to.
#[derive(PartialEq)]
pub struct Output {
    array: Array,
    file: PathBuf,
}

impl Output {
    /// Writes the file.
    pub fn save(&self) -> Result<(), String> {
        self.array.write(&self.file).map_err(|e| e.to_string())
    }
}

impl Placed {
    /// Reads the array back.
    pub fn fetch(mut self, gpu: &Gpu) -> Result<Output, String> {
        gpu.read(self.address, &mut self.array.bytes).map_err(|e| e.to_string())?;
        Ok(Output { array: self.array, file: self.file })
    }
}

impl Argument {
    /// Reads a specification such as `out:f32:1024:c.npy`.
    ///
    /// # Errors
    /// Names the specification, what it takes and what to do.
    pub fn parse(text: &str) -> Result<Argument, String> {
        let wrong = |message: &str| format!("--arg {text}: {message}");
        let (head, rest) = text.split_once(':').unwrap_or((text, ""));
        let kind = match head {
            "null" if rest.is_empty() => Kind::Value(vec![0; 8]),
            "in" if rest.is_empty() => return Err(wrong("in:FILE.npy")),
            "in" => match rest.split_once(':') {
                Some((name, file)) if Dtype::named(name).is_some() => {
                    Kind::In { file: file.into(), dtype: Dtype::named(name) }
                }
                _ => Kind::In { file: rest.into(), dtype: None },
            },
            "out" | "zeros" => {
                let mut parts = rest.splitn(3, ':');
                let (Some(dtype), Some(shape), Some(file)) = (parts.next(), parts.next(), parts.next())
                else {
                    return Err(wrong(&format!("{head}:DTYPE:SHAPE:FILE.npy, as in {head}:f32:64x32:c.npy")));
                };
                let dtype = Dtype::named(dtype).ok_or_else(|| {
                    let known: Vec<&str> = Dtype::NAMES.iter().map(|(name, _)| *name).collect();
                    wrong(&format!("{dtype} is not one of {}", known.join(" ")))
                })?;
                let shape = shape
                    .split(['x', ','])
                    .map(|size| size.parse().map_err(|_| wrong(&format!("{size} is not a size"))))
                    .collect::<Result<Vec<usize>, _>>()?;
                let fits = shape.iter().try_fold(dtype.bytes(), |n, &size| n.checked_mul(size));
                if fits.is_none_or(|bytes| bytes > 1 << 40) {
                    return Err(wrong("the array is too large"));
                }
                Kind::Out { dtype, shape, file: file.into(), zeros: head == "zeros" }
            }
            "inout" if rest.is_empty() => return Err(wrong("inout:FILE.npy[:OTHER.npy]")),
            "inout" => {
                let (file, to) = rest.split_once(':').unwrap_or((rest, rest));
                Kind::InOut { file: file.into(), to: to.into() }
            }
            "scratch" => {
                Kind::Scratch(rest.parse().map_err(|_| wrong("scratch:BYTES, with a number of bytes"))?)
            }
            "bytes" => Kind::Value(hexadecimal(rest).map_err(|message| wrong(&message))?),
            _ => Kind::Value(scalar(head, rest).map_err(|message| wrong(&message))?),
        };
        Ok(Argument { text: text.to_owned(), kind })
    }

    /// Puts the argument on the device: the bytes of the parameter, and what to save afterwards.
    pub fn place(&self, gpu: &mut Gpu) -> Result<(Vec<u8>, Option<Placed>), String> {
        match &self.kind {
            Kind::Value(bytes) => Ok((bytes.clone(), None)),
            Kind::Scratch(bytes) => {
                let address = gpu.alloc(*bytes).map_err(|e| e.to_string())?;
                Ok((address.to_le_bytes().to_vec(), None))
            }
            Kind::In { file, dtype } => {
                let array = Array::read(file).map_err(|e| e.to_string())?;
                let array = match dtype {
                    Some(dtype) => {
                        to_dtype(array, *dtype).map_err(|message| format!("{}: {message}", file.display()))?
                    }
                    None => array,
                };
                Ok((upload(gpu, &array)?.to_le_bytes().to_vec(), None))
            }
            Kind::InOut { file, to } => {
                let array = Array::read(file).map_err(|e| e.to_string())?;
                let address = upload(gpu, &array)?;
                let placed = Placed { address, array, file: to.clone() };
                Ok((address.to_le_bytes().to_vec(), Some(placed)))
            }
            Kind::Out { dtype, shape, file, zeros } => {
                let bytes = dtype.bytes() * shape.iter().product::<usize>();
                let address = gpu.alloc(bytes as u64).map_err(|e| e.to_string())?;
                if *zeros {
                    gpu.fill(address, bytes as u64, 0).map_err(|e| e.to_string())?;
                }
                let array = Array { dtype: *dtype, shape: shape.clone(), bytes: vec![0; bytes] };
                let placed = Placed { address, array, file: file.clone() };
                Ok((address.to_le_bytes().to_vec(), Some(placed)))
            }
        }
    }
}

fn upload(gpu: &mut Gpu, array: &Array) -> Result<u64, String> {
    let address = gpu.alloc(array.bytes.len() as u64).map_err(|e| e.to_string())?;
    gpu.write(address, &array.bytes).map_err(|e| e.to_string())?;
    Ok(address)
}

fn scalar_type(dtype: Dtype) -> ScalarType {
    match dtype {
        Dtype::F16 => ScalarType::F16,
        Dtype::Bf16 => ScalarType::Bf16,
        Dtype::F32 => ScalarType::F32,
        Dtype::F64 => ScalarType::F64,
        Dtype::I8 => ScalarType::S8,
        Dtype::I16 => ScalarType::S16,
        Dtype::I32 => ScalarType::S32,
        Dtype::I64 => ScalarType::S64,
        Dtype::U8 | Dtype::Bool => ScalarType::U8,
        Dtype::U16 => ScalarType::U16,
        Dtype::U32 => ScalarType::U32,
        Dtype::U64 => ScalarType::U64,
    }
}

/// Converts an array's elements, rounding floats to nearest.
fn to_dtype(array: Array, dtype: Dtype) -> Result<Array, String> {
    // A file cannot say bf16: there u2 already is what is asked for.
    if array.dtype == dtype || dtype == Dtype::Bf16 && array.dtype == Dtype::U16 {
        return Ok(Array { dtype, ..array });
    }
    let (from, to) = (scalar_type(array.dtype), scalar_type(dtype));
    if from.is_float() != to.is_float() && from.is_float() {
        return Err("floats are not converted to integers; use array.astype in NumPy".into());
    }
    let conversion = Conversion::new(to, from);
    let mut bytes = Vec::with_capacity(array.bytes.len() / array.dtype.bytes() * dtype.bytes());
    for element in array.bytes.chunks_exact(array.dtype.bytes()) {
        let mut wide = [0; 8];
        wide[..element.len()].copy_from_slice(element);
        let converted = convert(u64::from_le_bytes(wide), &conversion);
        bytes.extend(&converted.to_le_bytes()[..dtype.bytes()]);
    }
    Ok(Array { dtype, shape: array.shape, bytes })
}

fn hexadecimal(text: &str) -> Result<Vec<u8>, String> {
    let digits: Option<Vec<u8>> = text.chars().map(|c| c.to_digit(16).map(|digit| digit as u8)).collect();
    match digits {
        Some(digits) if digits.len().is_multiple_of(2) && !digits.is_empty() => {
            Ok(digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect())
        }
        _ => Err("bytes:HEX takes pairs of hexadecimal digits".into()),
    }
}

/// The bytes of a number such as `f32:0.5`.
fn scalar(kind: &str, text: &str) -> Result<Vec<u8>, String> {
    fn read<T: std::str::FromStr>(kind: &str, text: &str) -> Result<T, String> {
        text.parse().map_err(|_| format!("{text:?} is not a number that fits {kind}"))
    }
    let narrow = |to: ScalarType| -> Result<Vec<u8>, String> {
        let value: f64 = read(kind, text)?;
        let bits = convert(value.to_bits(), &Conversion::new(to, ScalarType::F64));
        Ok(bits.to_le_bytes()[..2].to_vec())
    };
    Ok(match kind {
        "u8" => read::<u8>(kind, text)?.to_le_bytes().to_vec(),
        "u16" => read::<u16>(kind, text)?.to_le_bytes().to_vec(),
        "u32" => read::<u32>(kind, text)?.to_le_bytes().to_vec(),
        "u64" => read::<u64>(kind, text)?.to_le_bytes().to_vec(),
        "i8" => read::<i8>(kind, text)?.to_le_bytes().to_vec(),
        "i16" => read::<i16>(kind, text)?.to_le_bytes().to_vec(),
        "i32" => read::<i32>(kind, text)?.to_le_bytes().to_vec(),
        "i64" => read::<i64>(kind, text)?.to_le_bytes().to_vec(),
        "f32" => read::<f32>(kind, text)?.to_le_bytes().to_vec(),
        "f64" => read::<f64>(kind, text)?.to_le_bytes().to_vec(),
        "f16" => narrow(ScalarType::F16)?,
        "bf16" => narrow(ScalarType::Bf16)?,
        _ => {
            return Err(
                "known are in, out, zeros, inout, scratch, null, bytes, u8-u64, i8-i64, f16, bf16, f32, f64; \
                 ptxsim --help explains"
                    .into(),
            );
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> Vec<u8> {
        match Argument::parse(text).map(|a| a.kind) {
            Ok(Kind::Value(bytes)) => bytes,
            other => unreachable!("{text}: {other:?}"),
        }
    }

    #[test]
    fn numbers_become_bytes() {
        assert_eq!(value("u32:7"), [7, 0, 0, 0]);
        assert_eq!(value("i64:-1"), [255; 8]);
        assert_eq!(value("f32:0.5"), 0.5f32.to_le_bytes());
        assert_eq!(value("f16:1.5"), [0x00, 0x3e]);
        assert_eq!(value("bf16:-2"), [0x00, 0xc0]);
        assert_eq!(value("null"), [0; 8]);
        assert_eq!(value("bytes:0aFF"), [10, 255]);
    }

    #[test]
    fn arrays_are_described() {
        let out = Argument::parse("out:f16:4x3:a.npy").map(|a| a.kind);
        assert!(
            matches!(out, Ok(Kind::Out { dtype: Dtype::F16, zeros: false, ref shape, .. }) if *shape == [4, 3])
        );
        let both = Argument::parse("inout:a.npy").map(|a| a.kind);
        assert!(matches!(both, Ok(Kind::InOut { ref file, ref to }) if file == to));
        let with = Argument::parse("in:bf16:a.npy").map(|a| a.kind);
        assert!(matches!(with, Ok(Kind::In { dtype: Some(Dtype::Bf16), .. })));
    }

    #[test]
    fn mistakes_are_named() {
        for (text, needle) in [
            ("u32:-1", "fits u32"),
            ("u8:300", "fits u8"),
            ("out:f32:c.npy", "DTYPE:SHAPE:FILE"),
            ("out:f31:4:c.npy", "bf16"),
            ("out:f32:4xy:c.npy", "not a size"),
            ("out:f32:99999999999x99999999999:c.npy", "too large"),
            ("bytes:abc", "pairs"),
            ("tensor:a.npy", "known are"),
            ("scratch:lots", "scratch:BYTES"),
        ] {
            let message = Argument::parse(text).expect_err(text);
            assert!(message.contains(needle) && message.contains(text), "{message}");
        }
    }

    #[test]
    fn floats_are_converted() {
        let bytes = [1.0f32, -2.5].iter().flat_map(|x| x.to_le_bytes()).collect();
        let array = Array { dtype: Dtype::F32, shape: vec![2], bytes };
        let half = to_dtype(array.clone(), Dtype::Bf16).expect("floats");
        assert_eq!(half.bytes, [0x80, 0x3f, 0x20, 0xc0]);
        assert!(to_dtype(array, Dtype::I32).is_err());
    }
}
