//! The token sequences a constrained completion may be: a prefix tree.
//!
//! A reply that must be one of a few labels is chosen token by token, each among those that some label goes on
//! with. Greedy choice in the tree is not always the label of the highest likelihood (a likely first token may
//! lead to unlikely ones), but costs no more than an unconstrained reply, and less where the rest of a label is
//! already decided: such tokens are written without asking the model.

use std::collections::BTreeMap;

/// Token sequences by their prefixes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokenTrie {
    nodes: Vec<Node>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Node {
    /// The node after each token; ordered, so that ties go to the smaller id.
    next: BTreeMap<u32, usize>,
    /// A sequence ends here.
    end: bool,
}

/// A place in a [`TokenTrie`]: what has been written so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Place(usize);

/// What may come next at a [`Place`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Next {
    /// The sequence is complete.
    End,
    /// Nothing but this token.
    Forced(u32),
    /// One of these tokens (in ascending order); or, with `end`, nothing more.
    Choice { tokens: Vec<u32>, end: bool },
}

impl TokenTrie {
    /// The tree of `sequences`; empty ones stand for an empty reply.
    pub fn new<'a>(sequences: impl IntoIterator<Item = &'a [u32]>) -> Self {
        let mut trie = TokenTrie { nodes: vec![Node::default()] };
        for sequence in sequences {
            let mut at = 0;
            for id in sequence {
                at = match trie.nodes[at].next.get(id) {
                    Some(next) => *next,
                    None => {
                        trie.nodes.push(Node::default());
                        let next = trie.nodes.len() - 1;
                        trie.nodes[at].next.insert(*id, next);
                        next
                    }
                };
            }
            trie.nodes[at].end = true;
        }
        trie
    }

    /// Whether no sequence is in it.
    pub fn is_empty(&self) -> bool {
        self.nodes.first().is_none_or(|root| !root.end && root.next.is_empty())
    }

    pub(super) fn next(&self, place: Place) -> Next {
        let Some(node) = self.nodes.get(place.0) else { return Next::End };
        match (node.next.len(), node.end, node.next.keys().next()) {
            (0, ..) | (_, _, None) => Next::End,
            (1, false, Some(id)) => Next::Forced(*id),
            _ => Next::Choice { tokens: node.next.keys().copied().collect(), end: node.end },
        }
    }

    /// Where `id` leads; `None` where it is not allowed.
    pub(super) fn after(&self, place: Place, id: u32) -> Option<Place> {
        self.nodes.get(place.0)?.next.get(&id).copied().map(Place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sequence_is_a_path_and_nothing_else_is() {
        let trie = TokenTrie::new([&[5, 1][..], &[5, 2, 9], &[5, 2], &[3]]);
        let start = Place::default();
        assert_eq!(trie.next(start), Next::Choice { tokens: vec![3, 5], end: false });
        let five = trie.after(start, 5).unwrap();
        assert_eq!(trie.next(five), Next::Choice { tokens: vec![1, 2], end: false });
        assert_eq!(trie.next(trie.after(five, 1).unwrap()), Next::End);
        // One label may begin with another.
        let two = trie.after(five, 2).unwrap();
        assert_eq!(trie.next(two), Next::Choice { tokens: vec![9], end: true });
        assert_eq!(trie.after(five, 9), None);
        let alone = TokenTrie::new([&[7, 8][..]]);
        assert_eq!(alone.next(start), Next::Forced(7));
        assert!(!alone.is_empty() && TokenTrie::new([]).is_empty() && TokenTrie::default().is_empty());
        assert!(!TokenTrie::new([&[][..]]).is_empty());
    }
}
