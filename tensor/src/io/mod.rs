//! Files: memory maps, and the formats read from them in place.
//!
//! | file | what |
//! |---|---|
//! | `mapped.rs` | a read-only memory map |
//! | `safetensors.rs` | one safetensors file, validated and used in place |
//! | `sharded.rs` | a Hugging Face folder's weights: one file or an index over shards |
//! | `write.rs` | safetensors written tensor by tensor, then renamed into place |
//! | `gguf.rs` | GGUF v2 and v3: metadata and tensors |

mod atomic;
mod error;
pub mod gguf;
mod mapped;
mod safetensors;
mod sharded;
mod write;

pub use atomic::{sync_folder, write_atomic};
pub use error::{Error, Result};
pub use gguf::Gguf;
pub use mapped::MappedFile;
pub use safetensors::{Safetensors, StoredDType, TensorInfo};
pub use sharded::WeightFiles;
pub use write::{SafetensorsWriter, TensorSpec};
