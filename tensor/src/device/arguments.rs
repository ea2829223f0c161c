//! Kernel arguments, and what the PTX text says its kernels take.

use super::DriverError;
use super::driver::DriverResult;

/// PTX text that ships inside the binary.
#[derive(Debug)]
pub struct Ptx {
    /// Name used in messages: the file's.
    pub name: &'static str,
    /// The PTX.
    pub source: &'static str,
}

/// One argument of a kernel.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum KernelArg {
    /// A device address.
    Ptr(u64),
    /// `unsigned int`.
    U32(u32),
    /// `int`.
    I32(i32),
    /// `float`.
    F32(f32),
    /// `unsigned long long`.
    U64(u64),
    /// `double`.
    F64(f64),
}

impl KernelArg {
    /// Size, and alignment, in bytes.
    pub fn bytes(&self) -> usize {
        match self {
            KernelArg::Ptr(_) | KernelArg::U64(_) | KernelArg::F64(_) => 8,
            KernelArg::U32(_) | KernelArg::I32(_) | KernelArg::F32(_) => 4,
        }
    }

    /// The bits, in the low bytes.
    pub(crate) fn bits(&self) -> u64 {
        match *self {
            KernelArg::Ptr(v) | KernelArg::U64(v) => v,
            KernelArg::F64(v) => v.to_bits(),
            KernelArg::U32(v) => u64::from(v),
            KernelArg::I32(v) => u64::from(v as u32),
            KernelArg::F32(v) => u64::from(v.to_bits()),
        }
    }
}

/// The parameter block: arguments one after another, each at a multiple of its size, as PTX lays
/// out `.param` scalars.
pub(crate) fn pack(arguments: &[KernelArg]) -> Vec<u8> {
    let mut block = Vec::with_capacity(arguments.len() * 8);
    for argument in arguments {
        let size = argument.bytes();
        block.resize(block.len().next_multiple_of(size), 0);
        block.extend_from_slice(&argument.bits().to_le_bytes()[..size]);
    }
    block
}

/// PTX ISA version and target of a module, from its first lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) version: (u32, u32),
    /// 80 for `sm_80`.
    pub(crate) target: u32,
}

impl Header {
    pub(crate) fn of(name: &str, ptx: &str) -> DriverResult<Header> {
        let bad = |what: &str| DriverError::Ptx {
            module: name.to_string(),
            message: format!("there is no `{what}` directive; this is not PTX text"),
        };
        let after = |directive: &str| {
            ptx.lines()
                .find_map(|l| l.trim().strip_prefix(directive))
                .map(str::trim)
                .ok_or_else(|| bad(directive))
        };
        let version = after(".version")?
            .split_once('.')
            .and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)))
            .ok_or_else(|| bad(".version major.minor"))?;
        let digits: String =
            after(".target")?.trim_start_matches("sm_").chars().take_while(char::is_ascii_digit).collect();
        Ok(Header { version, target: digits.parse().map_err(|_| bad(".target sm_NN"))? })
    }

    /// Oldest CUDA version whose driver compiles this PTX ISA (PTX ISA manual, release history).
    pub(crate) fn needed_cuda(self) -> (u32, u32) {
        match self.version {
            (8, minor @ 0..=5) => (12, minor),
            (8, minor) => (12, minor + 1),
            (major, minor) => (major + 4, minor),
        }
    }

    /// Refuses a driver or a device that cannot run the module.
    pub(crate) fn check(self, module: &str, info: &super::DeviceInfo) -> DriverResult<()> {
        let needed = self.needed_cuda();
        if info.driver_version < needed {
            return Err(DriverError::DriverTooOld {
                module: module.to_string(),
                driver: info.driver_version,
                ptx: self.version,
                needed,
            });
        }
        if info.sm() < self.target {
            return Err(DriverError::UnsupportedTarget {
                module: module.to_string(),
                needed: self.target,
                device: info.name.clone(),
                got: info.sm(),
            });
        }
        Ok(())
    }
}

/// Sizes in bytes of the parameters of `entry`, or `None` when the text has no such entry.
pub(crate) fn parameters(ptx: &str, entry: &str) -> Option<Vec<usize>> {
    let mut rest = ptx;
    let list = loop {
        let at = rest.find(".entry")?;
        rest = rest[at + ".entry".len()..].trim_start();
        if let Some(after) = rest.strip_prefix(entry)
            && let Some(list) = after.trim_start().strip_prefix('(')
        {
            break list;
        }
    };
    let list = &list[..list.find(')')?];
    let size = |parameter: &str| -> Option<usize> {
        let mut words = parameter.split_whitespace().skip_while(|w| *w != ".param").skip(1);
        let mut kind = words.next()?;
        while matches!(kind, ".align" | ".ptr") {
            words.next()?;
            kind = words.next()?;
        }
        let scalar = kind.trim_start_matches(|c: char| !c.is_ascii_digit()).parse::<usize>().ok()? / 8;
        let count = match parameter.split_once('[') {
            Some((_, array)) => array.trim_end().trim_end_matches(']').parse().ok()?,
            None => 1,
        };
        Some(scalar * count)
    };
    list.split(',').filter(|p| p.contains(".param")).map(size).collect()
}

/// Refuses arguments whose number or sizes are not the kernel's.
pub(crate) fn check(entry: &str, parameters: &[usize], arguments: &[KernelArg]) -> DriverResult<()> {
    if parameters.len() == arguments.len() && parameters.iter().zip(arguments).all(|(p, a)| *p == a.bytes()) {
        return Ok(());
    }
    let words = |sizes: &[usize]| format!("{} of {sizes:?} bytes", sizes.len());
    let got: Vec<usize> = arguments.iter().map(KernelArg::bytes).collect();
    Err(DriverError::Arguments { entry: entry.to_string(), expected: words(parameters), got: words(&got) })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = ".version 8.4\n.target sm_80\n.address_size 64\n.visible .entry copy2(\n\
        \t.param .u64 copy2_param_0,\n\t.param .u32 copy2_param_1\n)\n{\n\tret;\n}\n\
        .visible .entry copy(\n.param .f32 a,\n.param .align 4 .b8 b[12]\n)\n.maxntid 256, 1, 1\n{ ret; }\n\
        .visible .entry none()\n{ ret; }";

    #[test]
    fn headers_and_parameters_are_read_from_the_text() {
        let header = Header::of("m", TEXT).unwrap();
        assert_eq!((header.version, header.target, header.needed_cuda()), ((8, 4), 80, (12, 4)));
        assert_eq!(Header { version: (7, 8), target: 80 }.needed_cuda(), (11, 8));
        assert_eq!(Header { version: (8, 8), target: 80 }.needed_cuda(), (12, 9));
        assert_eq!(Header { version: (9, 0), target: 80 }.needed_cuda(), (13, 0));
        assert_eq!(parameters(TEXT, "copy2").unwrap(), [8, 4]);
        assert_eq!(parameters(TEXT, "copy").unwrap(), [4, 12]);
        assert_eq!(parameters(TEXT, "none").unwrap(), [0usize; 0]);
        assert!(parameters(TEXT, "cop").is_none());
        assert!(Header::of("m", "hello").unwrap_err().to_string().contains(".version"));
    }

    #[test]
    fn blocks_are_packed_with_natural_alignment() {
        use KernelArg::*;
        let block = pack(&[U32(1), Ptr(0x0807_0605_0403_0201), I32(-1), F32(1.0)]);
        assert_eq!(block.len(), 24);
        assert_eq!(block[..4], [1, 0, 0, 0]);
        assert_eq!(block[8..16], [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(block[16..20], [0xff; 4]);
        assert_eq!(block[20..], 1.0f32.to_le_bytes());
        let text = check("k", &[8, 4], &[Ptr(0)]).unwrap_err().to_string();
        assert!(text.contains("2 of [8, 4]") && text.contains("1 of [8]"), "{text}");
        check("k", &[8, 4], &[Ptr(0), F32(0.0)]).unwrap();
    }
}
