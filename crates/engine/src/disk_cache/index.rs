//! Which blocks lie in the folder, and which of them go first. Pure: knows no file.
//!
//! Blocks hang on each other as in the prefix cache, and are given up as there: those on which nothing hangs, the least
//! [worth](crate::worth) first. A block whose parent is not there may find it again later: computed anew, it has the same
//! name.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use ingle_step::TokenId;

use super::record::{Header, Key};
use crate::worth::worth;

/// See the module's description.
#[derive(Debug)]
pub(super) struct Index {
    entries: HashMap<Key, Entry>,
    /// How many entries hang on each key, be that one there or not.
    children: HashMap<Key, usize>,
    /// By parent and tokens: of what hangs on a block, the one with most tokens in common with a text is next to that text.
    edges: BTreeMap<Edge, Key>,
    /// Worth, last use.
    leaves: BTreeSet<(u64, u64, Key)>,
    n_bytes: u64,
    max_bytes: u64,
    clock: u64,
    /// Counts uses.
    now: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Edge {
    parent: Key,
    tokens: Arc<[TokenId]>,
}

/// A block that begins as a text goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Nearest {
    pub key: Key,
    /// Those of the block.
    pub tokens: Arc<[TokenId]>,
    /// How many of them it has in common with the text; one at least.
    pub n_common: usize,
}

#[derive(Clone, Debug)]
struct Entry {
    parent: Key,
    tokens: Arc<[TokenId]>,
    tenant: Key,
    cost: u64,
    n_bytes: u64,
    uses: u32,
    worth: u64,
    last_used: u64,
}

impl Index {
    /// An empty one for files of `max_bytes` together.
    pub fn new(max_bytes: u64) -> Self {
        Self {
            entries: HashMap::new(),
            children: HashMap::new(),
            edges: BTreeMap::new(),
            leaves: BTreeSet::new(),
            n_bytes: 0,
            max_bytes,
            clock: 0,
            now: 0,
        }
    }

    /// How many blocks there are.
    pub fn n_blocks(&self) -> usize {
        self.entries.len()
    }

    /// Bytes of their files.
    pub fn n_bytes(&self) -> u64 {
        self.n_bytes
    }

    pub fn contains(&self, key: &Key) -> bool {
        self.entries.contains_key(key)
    }

    /// How many of these, each the parent of the next, are there.
    pub fn n_found(&self, keys: &[Key]) -> usize {
        keys.iter().take_while(|key| self.contains(key)).count()
    }

    /// The block after `parent` that begins with most of `tokens`.
    pub fn nearest(&self, parent: &Key, tokens: &[TokenId]) -> Option<Nearest> {
        let edge = Edge { parent: *parent, tokens: tokens.into() };
        let before = self.edges.range(..&edge).next_back();
        let after = self.edges.range(&edge..).next();
        let siblings = [before, after].into_iter().flatten().filter(|(other, _)| other.parent == *parent);
        let nearest = siblings.map(|(other, &key)| {
            let n_common = other.tokens.iter().zip(tokens).take_while(|(a, b)| a == b).count();
            Nearest { key, tokens: Arc::clone(&other.tokens), n_common }
        });
        nearest.max_by_key(|nearest| nearest.n_common).filter(|nearest| nearest.n_common > 0)
    }

    /// Whether a block after `parent` begins with all of `tokens`.
    pub fn covers(&self, parent: &Key, tokens: &[TokenId]) -> bool {
        self.nearest(parent, tokens).is_some_and(|nearest| nearest.n_common == tokens.len())
    }

    /// Forgets the tails that say no more than the beginning of a block of `tokens` after `parent`: their files are to be
    /// removed.
    pub fn remove_within(&mut self, parent: &Key, tokens: &[TokenId]) -> Vec<Key> {
        let shorter = (1..tokens.len()).map(|n| Edge { parent: *parent, tokens: tokens[..n].into() });
        let within: Vec<Key> = shorter.filter_map(|edge| self.edges.get(&edge).copied()).collect();
        within.iter().for_each(|key| {
            self.remove(key);
        });
        within
    }

    /// Forgets blocks until `n_bytes` more fit, that hang on `parent`: their files are to be removed. As many as can be, if
    /// that is not enough.
    pub fn make_room(&mut self, n_bytes: u64, parent: Option<&Key>) -> Vec<Key> {
        let mut removed = Vec::new();
        while n_bytes <= self.max_bytes && !self.has_room(n_bytes) {
            let Some(&leaf) = self.leaves.iter().find(|leaf| Some(&leaf.2) != parent) else { break };
            self.clock = self.clock.max(leaf.0);
            self.remove(&leaf.2);
            removed.push(leaf.2);
        }
        removed
    }

    /// Whether `n_bytes` more fit now.
    pub fn has_room(&self, n_bytes: u64) -> bool {
        self.n_bytes.saturating_add(n_bytes) <= self.max_bytes
    }

    /// A file is there. False if it was already.
    pub fn insert(&mut self, header: &Header) -> bool {
        if self.contains(&header.key) {
            return false;
        }
        let n_bytes = header.file_bytes();
        let edge = Edge { parent: header.parent, tokens: Arc::clone(&header.tokens) };
        self.edges.insert(edge, header.key);
        let entry = Entry {
            parent: header.parent,
            tokens: Arc::clone(&header.tokens),
            tenant: header.tenant,
            cost: header.cost,
            n_bytes,
            uses: 0,
            worth: 0,
            last_used: 0,
        };
        self.entries.insert(header.key, entry);
        self.n_bytes += n_bytes;
        let n_siblings = self.children.entry(header.parent).or_default();
        *n_siblings += 1;
        if let Some(parent) = self.entries.get(&header.parent) {
            self.leaves.remove(&(parent.worth, parent.last_used, header.parent));
        }
        self.note_use(&header.key);
        true
    }

    /// A block was read.
    pub fn note_use(&mut self, key: &Key) {
        let is_leaf = !self.children.contains_key(key);
        let Some(entry) = self.entries.get_mut(key) else { return };
        self.now += 1;
        self.leaves.remove(&(entry.worth, entry.last_used, *key));
        entry.uses = entry.uses.saturating_add(1);
        entry.worth = worth(self.clock, entry.uses, entry.cost);
        entry.last_used = self.now;
        if is_leaf {
            self.leaves.insert((entry.worth, entry.last_used, *key));
        }
    }

    /// A file is gone. False if it was not there.
    pub fn remove(&mut self, key: &Key) -> bool {
        let Some(entry) = self.entries.remove(key) else { return false };
        self.leaves.remove(&(entry.worth, entry.last_used, *key));
        self.n_bytes -= entry.n_bytes;
        self.edges.remove(&Edge { parent: entry.parent, tokens: entry.tokens });
        let n_siblings = self.children.get_mut(&entry.parent).expect("it hung there");
        *n_siblings -= 1;
        if *n_siblings == 0 {
            self.children.remove(&entry.parent);
            if let Some(parent) = self.entries.get(&entry.parent) {
                self.leaves.insert((parent.worth, parent.last_used, entry.parent));
            }
        }
        true
    }

    /// All that a tenant has.
    pub fn of_tenant(&self, tenant: &Key) -> Vec<Key> {
        let of_tenant = self.entries.iter().filter(|(_, entry)| entry.tenant == *tenant);
        of_tenant.map(|(&key, _)| key).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u8) -> Key {
        Key([n; 32])
    }

    fn insert(index: &mut Index, n: u8, parent: u8, tenant: u8) {
        insert_text(index, n, parent, tenant, &[n.into()]);
    }

    fn insert_text(index: &mut Index, n: u8, parent: u8, tenant: u8, ids: &[u32]) {
        let header = Header { parent: key(parent), tenant: key(tenant), ..header(n, ids) };
        assert!(index.insert(&header));
        assert!(!index.insert(&header), "it is there");
    }

    fn header(n: u8, ids: &[u32]) -> Header {
        Header { key: key(n), parent: key(0), tenant: key(0), cost: 1024, tokens: tokens(ids), n_bytes: 1000 }
    }

    fn tokens(ids: &[u32]) -> Arc<[TokenId]> {
        ids.iter().map(|&id| TokenId(id)).collect()
    }

    /// Room for so many blocks.
    fn index(n: u64) -> Index {
        Index::new(n * header(0, &[0]).file_bytes())
    }

    #[test]
    fn gives_up_ends_of_chains_first() {
        let mut index = index(4);
        for (n, parent) in [(1, 100), (2, 1), (3, 2), (9, 100)] {
            insert(&mut index, n, parent, 50);
        }
        assert_eq!(index.n_found(&[key(1), key(2), key(3), key(4)]), 3);
        assert_eq!(index.n_found(&[key(7), key(1)]), 0);
        index.note_use(&key(9));
        let one = index.n_bytes() / 4;
        assert_eq!(index.make_room(one, Some(&key(3))), [key(9)], "not what the new one hangs on");
        assert_eq!(index.make_room(2 * one, None), [key(3)], "the end of the chain");
        assert_eq!(index.make_room(4 * one, None), [key(2), key(1)]);
        assert_eq!((index.n_blocks(), index.n_bytes()), (0, 0));
        assert_eq!(index.make_room(5 * one, None), []);
        assert!(!index.has_room(5 * one));
    }

    #[test]
    fn what_is_used_stays_longer() {
        let mut index = index(3);
        for n in 1..4 {
            insert(&mut index, n, 100, 50);
        }
        let one = index.n_bytes() / 3;
        index.note_use(&key(1));
        index.note_use(&key(2));
        assert_eq!(index.make_room(one, None), [key(3)]);
        insert(&mut index, 4, 100, 50);
        // The clock has passed what was used once; of what was used twice, the older goes.
        assert_eq!(index.make_room(one, None), [key(1)]);
    }

    #[test]
    fn finds_the_block_that_goes_on_longest_with_a_text() {
        let mut index = index(20);
        insert_text(&mut index, 1, 100, 50, &[1, 2, 3]);
        insert_text(&mut index, 2, 100, 50, &[1, 2, 9, 9]);
        insert_text(&mut index, 3, 101, 50, &[1, 2, 4, 4]);
        let check = |index: &Index, ids: &[u32], expected: Option<(u8, usize)>| {
            let found = index.nearest(&key(100), &tokens(ids));
            assert_eq!(
                found.map(|nearest| (nearest.key, nearest.n_common)),
                expected.map(|(n, c)| (key(n), c))
            );
        };
        check(&index, &[1, 2, 3, 4], Some((1, 3)));
        check(&index, &[1, 2, 9], Some((2, 3)));
        check(&index, &[1, 2, 9, 8], Some((2, 3)));
        check(&index, &[2], None);
        check(&index, &[], None);
        assert!(index.covers(&key(100), &tokens(&[1, 2])) && !index.covers(&key(100), &tokens(&[1, 2, 4])));
        assert!(!index.covers(&key(102), &tokens(&[1])));
        index.remove(&key(1));
        check(&index, &[1, 2, 3, 4], Some((2, 2)));
    }

    #[test]
    fn what_a_longer_block_says_is_forgotten() {
        let mut index = index(20);
        insert_text(&mut index, 1, 100, 50, &[1]);
        insert_text(&mut index, 2, 100, 50, &[1, 1]);
        insert_text(&mut index, 3, 100, 50, &[1, 2, 3]);
        insert_text(&mut index, 4, 101, 50, &[1]);
        insert_text(&mut index, 5, 100, 50, &[1, 2, 3, 4]);
        assert_eq!(index.remove_within(&key(100), &tokens(&[1, 2, 3, 4])), [key(1), key(3)]);
        let left = [1, 2, 3, 4, 5].map(|n| index.contains(&key(n)));
        assert_eq!(left, [false, true, false, true, true]);
        assert_eq!(index.remove_within(&key(100), &tokens(&[1, 2, 3, 4])), []);
    }

    #[test]
    fn knows_whose_a_block_is() {
        let mut index = index(10);
        insert(&mut index, 1, 100, 50);
        insert(&mut index, 2, 1, 50);
        insert(&mut index, 3, 100, 51);
        let mut of_tenant = index.of_tenant(&key(50));
        of_tenant.sort();
        assert_eq!(of_tenant, [key(1), key(2)]);
        assert!(index.remove(&key(1)) && !index.remove(&key(1)));
        insert(&mut index, 1, 100, 50);
        assert_eq!(index.n_found(&[key(1), key(2)]), 2, "computed anew, it leads to what hung on it");
    }
}
