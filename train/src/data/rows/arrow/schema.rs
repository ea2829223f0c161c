//! Arrow's schema: the columns, their types, and which buffers each has in a record batch.
//!
//! Numbers of tables' fields and of types are those of `Schema.fbs`
//! (<https://arrow.apache.org/docs/format/Columnar.html>).

use super::flatbuffer::{Damaged, Table};
use std::collections::HashMap;

/// A column, or what is inside of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Field {
    pub name: String,
    pub kind: Kind,
    pub children: Vec<Field>,
    /// Id and index type of a dictionary; then `kind` and `children` are those of its values.
    pub dictionary: Option<(i64, Integer)>,
}

/// An integer's width in bytes and whether it has a sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Integer {
    pub bytes: usize,
    pub signed: bool,
}

/// A type. `wide`: with offsets of 64 instead of 32 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Null,
    Bool,
    Integer(Integer),
    /// Width in bytes: 2, 4 or 8.
    Float(usize),
    Text {
        wide: bool,
    },
    TextView,
    List {
        wide: bool,
    },
    FixedList(usize),
    Struct,
    /// A type that is passed over: its name, its buffers, and whether a number of buffers of its own
    /// follows them.
    Other {
        name: &'static str,
        buffers: usize,
        variadic: bool,
    },
}

/// Deeper schemas than any real one; what damaged metadata may build is bounded by it.
const MOST_DEPTH: usize = 32;
const MOST_FIELDS: usize = 65_536;

/// Reads a `Schema` table.
pub(super) fn fields(schema: &Table<'_>) -> Result<Vec<Field>, Damaged> {
    let mut left = MOST_FIELDS;
    schema.tables(1)?.iter().map(|field| Field::read(field, MOST_DEPTH, &mut left)).collect()
}

impl Field {
    fn read(table: &Table<'_>, depth: usize, left: &mut usize) -> Result<Field, Damaged> {
        *left = left.checked_sub(1).ok_or(Damaged)?;
        let depth = depth.checked_sub(1).ok_or(Damaged)?;
        let details = table.table(3)?;
        let kind = Kind::read(table.u8(2, 0)?, details.as_ref())?;
        let children: Result<Vec<Field>, Damaged> =
            table.tables(5)?.iter().map(|child| Field::read(child, depth, left)).collect();
        let dictionary = match table.table(4)? {
            None => None,
            Some(encoding) => {
                let index = match encoding.table(1)? {
                    Some(int) => Integer::read(&int)?,
                    None => Integer { bytes: 4, signed: true },
                };
                Some((encoding.i64(0, 0)?, index))
            }
        };
        Ok(Field { name: table.string(0)?.to_string(), kind, children: children?, dictionary })
    }

    /// The field as it is inside of its dictionary.
    fn values(&self) -> Field {
        Field { dictionary: None, ..self.clone() }
    }

    /// The values' fields of all dictionaries, by id.
    pub(super) fn dictionaries(&self, found: &mut HashMap<i64, Field>) {
        if let Some((id, _)) = self.dictionary {
            found.insert(id, self.values());
        }
        self.children.iter().for_each(|child| child.dictionaries(found));
    }

    /// The name of the first type inside that has no form in JSON here.
    pub(super) fn unreadable(&self) -> Option<&'static str> {
        match self.kind {
            Kind::Other { name, .. } => Some(name),
            _ => self.children.iter().find_map(Field::unreadable),
        }
    }
}

impl Integer {
    fn read(table: &Table<'_>) -> Result<Integer, Damaged> {
        let bytes = match table.i32(0, 0)? {
            8 => 1,
            16 => 2,
            32 => 4,
            64 => 8,
            _ => return Err(Damaged),
        };
        Ok(Integer { bytes, signed: table.u8(1, 0)? != 0 })
    }
}

impl Kind {
    fn read(number: u8, details: Option<&Table<'_>>) -> Result<Kind, Damaged> {
        let other = |name, buffers| Kind::Other { name, buffers, variadic: false };
        Ok(match (number, details) {
            (1, _) => Kind::Null,
            (2, Some(int)) => Kind::Integer(Integer::read(int)?),
            (3, Some(float)) => match float.i16(0, 0)? {
                0 => Kind::Float(2),
                1 => Kind::Float(4),
                2 => Kind::Float(8),
                _ => return Err(Damaged),
            },
            (4, _) => other("binary", 3),
            (5, _) => Kind::Text { wide: false },
            (6, _) => Kind::Bool,
            (7, _) => other("decimal", 2),
            (8, _) => other("date", 2),
            (9, _) => other("time", 2),
            (10, _) => other("timestamp", 2),
            (11, _) => other("interval", 2),
            (12, _) => Kind::List { wide: false },
            (13, _) => Kind::Struct,
            (14, Some(union)) => other("union", 1 + usize::from(union.i16(0, 0)? == 1)),
            (15, _) => other("fixed size binary", 2),
            (16, Some(list)) => Kind::FixedList(usize::try_from(list.i32(0, 0)?).map_err(|_| Damaged)?),
            (17, _) => other("map", 2),
            (18, _) => other("duration", 2),
            (19, _) => other("large binary", 3),
            (20, _) => Kind::Text { wide: true },
            (21, _) => Kind::List { wide: true },
            (22, _) => other("run-end encoded", 0),
            (23, _) => Kind::Other { name: "binary view", buffers: 2, variadic: true },
            (24, _) => Kind::TextView,
            (25, _) => other("list view", 3),
            (26, _) => other("large list view", 3),
            _ => return Err(Damaged),
        })
    }

    /// How many buffers the type has, and whether a number of further ones follows.
    pub(super) fn buffers(self) -> (usize, bool) {
        match self {
            Kind::Null => (0, false),
            Kind::Struct | Kind::FixedList(_) => (1, false),
            Kind::Bool | Kind::Integer(_) | Kind::Float(_) | Kind::List { .. } => (2, false),
            Kind::Text { .. } => (3, false),
            Kind::TextView => (2, true),
            Kind::Other { buffers, variadic, .. } => (buffers, variadic),
        }
    }
}
