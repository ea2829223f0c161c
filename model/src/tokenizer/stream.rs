//! Decoding while tokens arrive.

use super::{Tokenizer, TokenizerError};

/// Turns ids into text one at a time, holding back what is not yet whole.
///
/// A token may end in the middle of a UTF-8 character, and a decoder may treat the first token of a
/// text differently (SentencePiece drops its leading space). So each step decodes a short window of
/// ids twice, without and with the new ones, and gives out the difference once it no longer ends in
/// U+FFFD, the mark of an unfinished character. Concatenated, the pieces and [`StreamDecoder::finish`]
/// equal `decode` of all ids.
#[derive(Debug)]
pub struct StreamDecoder<'t> {
    tokenizer: &'t Tokenizer,
    skip_special: bool,
    /// The window: ids already given out (for context), then ids still held back.
    ids: Vec<u32>,
    /// How many ids at the front of the window have been given out.
    given: usize,
}

impl<'t> StreamDecoder<'t> {
    pub(super) fn new(tokenizer: &'t Tokenizer, skip_special: bool) -> Self {
        StreamDecoder { tokenizer, skip_special, ids: Vec::new(), given: 0 }
    }

    /// Takes the next id; returns the text that became complete, often empty.
    ///
    /// # Errors
    /// As [`Tokenizer::decode`].
    pub fn push(&mut self, id: u32) -> Result<String, TokenizerError> {
        self.ids.push(id);
        let (before, all) = self.texts()?;
        if all.ends_with('\u{FFFD}') || all.len() <= before.len() {
            return Ok(String::new());
        }
        let piece = all.get(before.len()..).unwrap_or_default().to_string();
        // Only what was given out last is needed as context for what comes next.
        self.ids.drain(..self.given);
        self.given = self.ids.len();
        Ok(piece)
    }

    /// The rest: an unfinished character, shown as U+FFFD, or nothing.
    ///
    /// # Errors
    /// As [`Tokenizer::decode`].
    pub fn finish(&mut self) -> Result<String, TokenizerError> {
        let (before, all) = self.texts()?;
        self.ids.clear();
        self.given = 0;
        Ok(all.get(before.len()..).unwrap_or_default().to_string())
    }

    fn texts(&self) -> Result<(String, String), TokenizerError> {
        let before = self.tokenizer.decode(&self.ids[..self.given], self.skip_special)?;
        Ok((before, self.tokenizer.decode(&self.ids, self.skip_special)?))
    }
}
