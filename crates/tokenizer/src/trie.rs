//! A byte trie from pieces to numbers.

use hashbrown::HashMap;

/// Nodes are numbers from 0, the root.
#[derive(Default)]
pub(crate) struct Trie {
    /// From (node, byte) to node.
    children: HashMap<(u32, u8), u32>,
    /// From node to the number of the piece that ends there.
    ends: HashMap<u32, u32>,
}

impl Trie {
    pub(crate) fn memory_bytes(&self) -> usize {
        self.children.allocation_size() + self.ends.allocation_size()
    }

    /// Adds a piece; of equal ones the last counts. An empty piece is ignored.
    pub(crate) fn insert(&mut self, piece: &[u8], number: u32) {
        let mut node = 0;
        for &byte in piece {
            let Ok(next) = u32::try_from(self.children.len() + 1) else { return };
            node = *self.children.entry((node, byte)).or_insert(next);
        }
        if node != 0 {
            self.ends.insert(node, number);
        }
    }

    /// All pieces that `text` starts with, shortest first: length and number.
    pub(crate) fn prefixes<'a>(&'a self, text: &'a [u8]) -> impl Iterator<Item = (usize, u32)> + 'a {
        let mut node = 0;
        (1..)
            .zip(text)
            .map_while(move |(len, &byte)| {
                node = *self.children.get(&(node, byte))?;
                Some((len, node))
            })
            .filter_map(|(len, node)| Some((len, *self.ends.get(&node)?)))
    }

    /// The longest piece that `text` starts with.
    pub(crate) fn longest(&self, text: &[u8]) -> Option<(usize, u32)> {
        self.prefixes(text).last()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_every_prefix() {
        let mut trie = Trie::default();
        for (piece, number) in [("a", 1), ("abc", 2), ("b", 3), ("", 4)] {
            trie.insert(piece.as_bytes(), number);
        }
        assert_eq!(trie.prefixes(b"abcd").collect::<Vec<_>>(), [(1, 1), (3, 2)]);
        assert_eq!(trie.longest(b"ab"), Some((1, 1)));
        assert_eq!(trie.longest(b"x"), None);
        assert_eq!(trie.longest(b""), None);
    }
}
