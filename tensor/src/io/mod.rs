//! Files: memory maps, and the formats read from them in place.

mod mapped;

pub use mapped::MappedFile;
