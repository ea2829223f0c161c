//! Exchanges between the 32 lanes of a warp: `shfl`, `vote`, `match`, `redux`.

/// The modes of `shfl.sync`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ShuffleMode {
    /// `.up`: from a lane `b` below.
    Up,
    /// `.down`: from a lane `b` above.
    Down,
    /// `.bfly`: from the lane whose number is xor-ed with `b`.
    Butterfly,
    /// `.idx`: from lane `b` of the segment.
    Index,
}

/// Which lane `shfl.sync.MODE.b32 d|p, a, b, c` reads in `lane`, and the predicate `p`.
///
/// `c` packs the clamp (bits 0–4) and the segment mask (bits 8–12). A lane out of range keeps its own
/// value and gets a false predicate (PTX ISA, `shfl.sync`).
#[inline(always)]
pub fn shuffle_source(mode: ShuffleMode, b: u32, c: u32, lane: u32) -> (u32, bool) {
    let b = b & 31;
    let clamp = c & 31;
    let segment = c >> 8 & 31;
    let last = (lane & segment) | (clamp & !segment);
    let first = lane & segment;
    let (source, inside) = match mode {
        ShuffleMode::Up => {
            let source = lane.wrapping_sub(b);
            (source, source as i32 >= last as i32)
        }
        ShuffleMode::Down => (lane + b, lane + b <= last),
        ShuffleMode::Butterfly => (lane ^ b, lane ^ b <= last),
        ShuffleMode::Index => {
            let source = first | (b & !segment);
            (source, source <= last)
        }
    };
    if inside { (source, true) } else { (lane, false) }
}

/// The modes of `vote.sync` that give a predicate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum VoteMode {
    /// True for every lane.
    All,
    /// True for some lane.
    Any,
    /// The same for every lane.
    Uniform,
}

/// `vote.sync.all/.any/.uni.pred`: `predicates` has a bit a lane, `members` says whose count.
#[inline(always)]
pub fn vote(mode: VoteMode, predicates: u32, members: u32) -> bool {
    let yes = predicates & members;
    match mode {
        VoteMode::All => yes == members,
        VoteMode::Any => yes != 0,
        VoteMode::Uniform => yes == 0 || yes == members,
    }
}

/// `match.any.sync`: for each lane of `members` the mask of members with the same value; 0 elsewhere.
pub fn match_any(values: &[u64; 32], members: u32) -> [u32; 32] {
    let mut out = [0; 32];
    for lane in 0..32 {
        if members >> lane & 1 != 0 {
            out[lane] = (0..32)
                .filter(|&other| members >> other & 1 != 0 && values[other] == values[lane])
                .fold(0, |mask, other| mask | 1 << other);
        }
    }
    out
}

/// `match.all.sync`: (`members`, true) if every member has one value, (0, false) otherwise.
pub fn match_all(values: &[u64; 32], members: u32) -> (u32, bool) {
    let mut present = (0..32).filter(|&lane| members >> lane & 1 != 0).map(|lane| values[lane]);
    let first = present.next();
    let same = present.all(|value| Some(value) == first);
    if same { (members, true) } else { (0, false) }
}

/// The operations of `redux.sync`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reduction {
    /// Wrapping sum.
    Add,
    /// Unsigned minimum.
    MinU32,
    /// Unsigned maximum.
    MaxU32,
    /// Signed minimum.
    MinS32,
    /// Signed maximum.
    MaxS32,
    /// Bitwise and.
    And,
    /// Bitwise or.
    Or,
    /// Bitwise exclusive or.
    Xor,
}

/// `redux.sync`: the reduction of the members' values; 0 if there are none.
pub fn redux(operation: Reduction, values: &[u32; 32], members: u32) -> u32 {
    (0..32)
        .filter(|&lane| members >> lane & 1 != 0)
        .map(|lane| values[lane])
        .reduce(|a, b| match operation {
            Reduction::Add => a.wrapping_add(b),
            Reduction::MinU32 => a.min(b),
            Reduction::MaxU32 => a.max(b),
            Reduction::MinS32 => (a as i32).min(b as i32) as u32,
            Reduction::MaxS32 => (a as i32).max(b as i32) as u32,
            Reduction::And => a & b,
            Reduction::Or => a | b,
            Reduction::Xor => a ^ b,
        })
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_warp_shuffles() {
        use ShuffleMode::*;
        assert_eq!(shuffle_source(Down, 16, 0x1f, 3), (19, true));
        assert_eq!(shuffle_source(Down, 16, 0x1f, 20), (20, false));
        assert_eq!(shuffle_source(Up, 1, 0, 0), (0, false));
        assert_eq!(shuffle_source(Up, 1, 0, 31), (30, true));
        assert_eq!(shuffle_source(Butterfly, 5, 0x1f, 6), (3, true));
        assert_eq!(shuffle_source(Index, 40, 0x1f, 6), (8, true));
    }

    /// `__shfl_*_sync(…, width = 8)` compiles to c = (32 − width) << 8 | 31 (up: clamp 0).
    #[test]
    fn segments_of_eight() {
        use ShuffleMode::*;
        let c = 24 << 8 | 31;
        assert_eq!(shuffle_source(Down, 3, c, 12), (15, true));
        assert_eq!(shuffle_source(Down, 3, c, 13), (13, false));
        assert_eq!(shuffle_source(Index, 2, c, 13), (10, true));
        assert_eq!(shuffle_source(Index, 10, c, 13), (10, true));
        assert_eq!(shuffle_source(Up, 2, 24 << 8, 9), (9, false));
        assert_eq!(shuffle_source(Up, 2, 24 << 8, 10), (8, true));
        assert_eq!(shuffle_source(Butterfly, 4, c, 10), (14, true));
        assert_eq!(shuffle_source(Butterfly, 8, c, 2), (2, false));
    }

    #[test]
    fn votes_and_matches() {
        assert!(vote(VoteMode::All, 0b1111, 0b0110) && !vote(VoteMode::All, 0b0010, 0b0110));
        assert!(vote(VoteMode::Any, 0b0010, 0b0110) && !vote(VoteMode::Any, 0b1001, 0b0110));
        assert!(vote(VoteMode::Uniform, 0b1001, 0b0110) && !vote(VoteMode::Uniform, 0b0010, 0b0110));
        let mut values = [0u64; 32];
        for (lane, value) in values.iter_mut().enumerate() {
            *value = lane as u64 % 3;
        }
        let found = match_any(&values, 0xff);
        assert_eq!((found[0], found[1], found[2]), (0b0100_1001, 0b1001_0010, 0b0010_0100));
        assert_eq!(found[8], 0);
        assert_eq!(match_all(&values, 0b1001), (0b1001, true));
        assert_eq!(match_all(&values, 0b11), (0, false));
    }

    #[test]
    fn reductions() {
        let mut values = [0u32; 32];
        values[3] = u32::MAX;
        values[4] = 5;
        assert_eq!(redux(Reduction::MinS32, &values, 0b11000), u32::MAX);
        assert_eq!(redux(Reduction::MinU32, &values, 0b11000), 5);
        assert_eq!(redux(Reduction::MaxS32, &values, 0b11000), 5);
        assert_eq!(redux(Reduction::Add, &values, u32::MAX), 4);
        assert_eq!(redux(Reduction::Xor, &values, 0b11000), !5);
        assert_eq!(redux(Reduction::And, &values, 0b11000), 5);
    }
}
