//! Data: from files (JSON, JSON Lines, CSV, TSV, Parquet, Arrow, text) to tokenised examples, each with
//! its task.
//!
//! `data_files` or `dataset` name files, folders or patterns ([`data_files`]); their rows are read in
//! chunks, whatever the size of the files, parsed, rendered and tokenised in parallel and stored one after
//! another ([`load_sft`], [`load_pt`] → [`Dataset`]). The order and the content do not depend on the number
//! of threads.

mod dataset;
mod detect;
mod error;
mod expand;
mod format;
mod info;
mod load;
mod pretrain;
mod rows;
mod select;
mod source;

pub use dataset::{Dataset, Example, TaskId, TaskReport, Tasks};
pub(crate) use dataset::{STREAM_ANSWERS, STREAM_ORDER, STREAM_PCGRAD, STREAM_PROBE, STREAM_SLOTS, stream};
pub use error::DataError;
pub use format::location;
pub use load::{Conversation, LoadOptions, load_sft, read_conversations};
pub use pretrain::{Document, PtOptions, load_pt, read_documents};
pub use source::{AlpacaColumns, ChatColumns, DataFile, Formatting, Split, data_files};

#[cfg(test)]
mod tests;
