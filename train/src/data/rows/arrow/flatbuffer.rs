//! The few parts of FlatBuffers that Arrow's metadata need: tables, strings, vectors, checked against the
//! end of the buffer (<https://flatbuffers.dev/internals/>).

/// Metadata that point outside of themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Damaged;

/// A table: fields by number, each there or not.
#[derive(Debug, Clone, Copy)]
pub(super) struct Table<'b> {
    buffer: &'b [u8],
    position: usize,
}

fn bytes<const N: usize>(buffer: &[u8], at: usize) -> Result<[u8; N], Damaged> {
    buffer.get(at..).and_then(|rest| rest.first_chunk::<N>()).copied().ok_or(Damaged)
}

fn offset(buffer: &[u8], at: usize) -> Result<usize, Damaged> {
    Ok(u32::from_le_bytes(bytes(buffer, at)?) as usize)
}

impl<'b> Table<'b> {
    /// The root table of a buffer.
    pub(super) fn root(buffer: &'b [u8]) -> Result<Table<'b>, Damaged> {
        Ok(Table { buffer, position: offset(buffer, 0)? })
    }

    /// Where field `number` is, if it is there.
    fn field(&self, number: usize) -> Result<Option<usize>, Damaged> {
        let back = i32::from_le_bytes(bytes(self.buffer, self.position)?);
        let vtable = i64::try_from(self.position).map_err(|_| Damaged)? - i64::from(back);
        let vtable = usize::try_from(vtable).map_err(|_| Damaged)?;
        let size = usize::from(u16::from_le_bytes(bytes(self.buffer, vtable)?));
        let slot = 4 + 2 * number;
        if slot + 2 > size {
            return Ok(None);
        }
        let offset = usize::from(u16::from_le_bytes(bytes(self.buffer, vtable + slot)?));
        Ok((offset != 0).then_some(self.position + offset))
    }

    pub(super) fn u8(&self, number: usize, default: u8) -> Result<u8, Damaged> {
        self.field(number)?.map_or(Ok(default), |at| Ok(bytes::<1>(self.buffer, at)?[0]))
    }

    pub(super) fn i16(&self, number: usize, default: i16) -> Result<i16, Damaged> {
        self.field(number)?.map_or(Ok(default), |at| Ok(i16::from_le_bytes(bytes(self.buffer, at)?)))
    }

    pub(super) fn i32(&self, number: usize, default: i32) -> Result<i32, Damaged> {
        self.field(number)?.map_or(Ok(default), |at| Ok(i32::from_le_bytes(bytes(self.buffer, at)?)))
    }

    pub(super) fn i64(&self, number: usize, default: i64) -> Result<i64, Damaged> {
        self.field(number)?.map_or(Ok(default), |at| Ok(i64::from_le_bytes(bytes(self.buffer, at)?)))
    }

    pub(super) fn table(&self, number: usize) -> Result<Option<Table<'b>>, Damaged> {
        let Some(at) = self.field(number)? else { return Ok(None) };
        Ok(Some(Table { buffer: self.buffer, position: at + offset(self.buffer, at)? }))
    }

    pub(super) fn string(&self, number: usize) -> Result<&'b str, Damaged> {
        let Some((start, length)) = self.vector(number)? else { return Ok("") };
        let text = self.buffer.get(start..start + length).ok_or(Damaged)?;
        std::str::from_utf8(text).map_err(|_| Damaged)
    }

    /// The tables of a vector of tables.
    pub(super) fn tables(&self, number: usize) -> Result<Vec<Table<'b>>, Damaged> {
        let Some((start, length)) = self.vector(number)? else { return Ok(Vec::new()) };
        let at = (0..length).map(|i| start + 4 * i);
        at.map(|at| Ok(Table { buffer: self.buffer, position: at + offset(self.buffer, at)? })).collect()
    }

    /// A vector of structs of `N` 64-bit numbers.
    pub(super) fn numbers<const N: usize>(&self, number: usize) -> Result<Vec<[i64; N]>, Damaged> {
        let Some((start, length)) = self.vector(number)? else { return Ok(Vec::new()) };
        (0..length)
            .map(|i| {
                let mut values = [0; N];
                for (k, value) in values.iter_mut().enumerate() {
                    *value = i64::from_le_bytes(bytes(self.buffer, start + 8 * (i * N + k))?);
                }
                Ok(values)
            })
            .collect()
    }

    /// Where the elements of a vector begin, and their number, which is no more than there are bytes.
    fn vector(&self, number: usize) -> Result<Option<(usize, usize)>, Damaged> {
        let Some(at) = self.field(number)? else { return Ok(None) };
        let start = at + offset(self.buffer, at)?;
        let length = offset(self.buffer, start)?;
        match length <= self.buffer.len() {
            true => Ok(Some((start + 4, length))),
            false => Err(Damaged),
        }
    }
}
