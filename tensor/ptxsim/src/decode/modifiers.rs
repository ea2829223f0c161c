//! An opcode's dot-separated modifiers. Each must be taken by name: what is left over is an error, so a
//! modifier that the simulator does not know is never ignored.

use crate::parse::types::Type;
use crate::semantics::exact::Rounding;

/// The modifiers of one opcode.
pub(crate) struct Modifiers<'a> {
    parts: Vec<&'a str>,
    taken: u64,
}

impl<'a> Modifiers<'a> {
    /// Splits `opcode` into its name and modifiers.
    pub(crate) fn new(opcode: &'a str) -> (&'a str, Self) {
        let mut parts = opcode.split('.');
        let name = parts.next().unwrap_or_default();
        (name, Self { parts: parts.collect(), taken: 0 })
    }

    fn left(&self) -> impl Iterator<Item = (usize, &'a str)> + '_ {
        self.parts.iter().enumerate().filter(|(i, _)| self.taken >> i & 1 == 0).map(|(i, p)| (i, *p))
    }

    /// Takes modifier `name` if it is there.
    pub(crate) fn take(&mut self, name: &str) -> bool {
        let found = self.left().find(|(_, p)| *p == name).map(|(i, _)| i);
        if let Some(i) = found {
            self.taken |= 1 << i;
        }
        found.is_some()
    }

    /// Whether modifier `name` is there, taken or not.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.parts.contains(&name)
    }

    /// Takes all that are left: something else has read the opcode.
    pub(crate) fn take_all(&mut self) {
        self.taken = u64::MAX;
    }

    /// Takes every modifier that satisfies `f`.
    pub(crate) fn take_all_of(&mut self, f: impl Fn(&str) -> bool) {
        while self.take_where(&f).is_some() {}
    }

    /// Takes the first of `names` that is there.
    pub(crate) fn one_of(&mut self, names: &[&'static str]) -> Option<&'static str> {
        names.iter().copied().find(|name| self.take(name))
    }

    /// Takes the first modifier that satisfies `f`.
    pub(crate) fn take_where(&mut self, f: impl Fn(&str) -> bool) -> Option<&'a str> {
        let found = self.left().find(|(_, p)| f(p));
        if let Some((i, p)) = found {
            self.taken |= 1 << i;
            return Some(p);
        }
        None
    }

    /// Takes the next type.
    pub(crate) fn ty(&mut self) -> Result<Type, String> {
        self.try_ty().ok_or_else(|| "a type such as .u32 is missing".to_string())
    }

    /// Takes the next type if there is one.
    pub(crate) fn try_ty(&mut self) -> Option<Type> {
        let found = self.left().find_map(|(i, p)| Type::parse(p).map(|t| (i, t)));
        let (i, ty) = found?;
        self.taken |= 1 << i;
        Some(ty)
    }

    /// Takes `.rn .rz .rm .rp`.
    pub(crate) fn rounding(&mut self) -> Option<Rounding> {
        Some(match self.one_of(&["rn", "rz", "rm", "rp"])? {
            "rn" => Rounding::Nearest,
            "rz" => Rounding::Zero,
            "rm" => Rounding::Down,
            _ => Rounding::Up,
        })
    }

    /// Fails on the first modifier that nothing took.
    pub(crate) fn finish(&self) -> Result<(), String> {
        match self.left().next() {
            None => Ok(()),
            Some((_, part)) => Err(format!("modifier `.{part}` is not known here")),
        }
    }
}
