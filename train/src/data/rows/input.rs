//! The bytes of a file, unpacked while they are read.

use crate::data::error::DataError;
use crate::data::format::Compression;
use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::path::Path;
use std::sync::Arc;

/// A file's bytes in order.
pub(super) struct Input {
    path: Arc<Path>,
    compression: Compression,
    reader: Box<dyn BufRead>,
}

/// Bytes asked of the operating system at once.
const BUFFER: usize = 1 << 18;

impl Input {
    pub(super) fn open(path: &Arc<Path>, compression: Compression) -> Result<Input, DataError> {
        let file = File::open(path).map_err(|e| DataError::io(path, e))?;
        let raw = BufReader::with_capacity(BUFFER, file);
        let reader: Box<dyn BufRead> = match compression {
            Compression::None => Box::new(raw),
            Compression::Gzip => {
                Box::new(BufReader::with_capacity(BUFFER, flate2::bufread::MultiGzDecoder::new(raw)))
            }
            Compression::Zstd => {
                let decoder = zstd::Decoder::with_buffer(raw).map_err(|e| error(path, compression, e))?;
                Box::new(BufReader::with_capacity(BUFFER, decoder))
            }
        };
        Ok(Input { path: path.clone(), compression, reader })
    }

    /// What is in the buffer, read anew where it is empty; nothing at the end of the file.
    pub(super) fn fill(&mut self) -> Result<&[u8], DataError> {
        let Input { path, compression, reader } = self;
        reader.fill_buf().map_err(|e| error(path, *compression, e))
    }

    /// Passes over bytes of [`Input::fill`].
    pub(super) fn consume(&mut self, count: usize) {
        self.reader.consume(count);
    }

    /// Appends a line with its line break to `line`; returns its length, 0 at the end of the file.
    pub(super) fn read_line(&mut self, line: &mut Vec<u8>) -> Result<usize, DataError> {
        self.reader.read_until(b'\n', line).map_err(|e| error(&self.path, self.compression, e))
    }

    /// Turns an error that another reader met in this input into one that says what to do.
    pub(super) fn error(path: &Path, compression: Compression, source: std::io::Error) -> DataError {
        error(path, compression, source)
    }

    pub(super) fn compression(&self) -> Compression {
        self.compression
    }
}

impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.reader.read(buffer)
    }
}

fn error(path: &Path, compression: Compression, source: std::io::Error) -> DataError {
    let kind = match compression {
        Compression::None => return DataError::io(path, source),
        Compression::Gzip => "gzip",
        Compression::Zstd => "zstd",
    };
    match source.kind() {
        ErrorKind::UnexpectedEof => DataError::file(
            path,
            format!("the {kind} data end before they should: the file was cut short; copy it again"),
        ),
        ErrorKind::InvalidData | ErrorKind::InvalidInput | ErrorKind::Other => DataError::file(
            path,
            format!("not {kind} data, or damaged ({source}); copy it again, or correct the file's ending"),
        ),
        _ => DataError::io(path, source),
    }
}
