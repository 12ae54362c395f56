//! Which full blocks hold which beginnings of sequences, so that equal beginnings are computed once.
//!
//! A radix tree over blocks: a node is one full block of tokens after one chain of ancestors, so a path from the root
//! spells a beginning. Only full blocks are in it, and nothing ever writes into a full block. The cache is one
//! holder of each of its blocks; a node is **idle** while it is the only one, and idle leaves can be evicted, least
//! recently used first.
//!
//! A sequence that holds a node's block also holds the blocks of all ancestors (its block table *is* the path), so
//! whatever hangs below an idle node is idle too: every idle block can be had by evicting leaf after leaf.
//!
//! The first block of a path is also keyed by a salt: tenants with different salts never share a block, and so
//! cannot learn from timing or `cached_tokens` what others have sent.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use ingle_step::{BlockId, TokenId};

use crate::block_allocator::BlockAllocator;

/// A place in the tree. Valid as long as the holder keeps the node's block held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NodeId(u32);

impl NodeId {
    /// The empty beginning.
    pub const ROOT: Self = Self(u32::MAX);
}

/// Parent and hash of (salt, tokens).
type Edge = (NodeId, u64);

#[derive(Clone, Debug)]
struct Node {
    /// Compared on lookup, so that a hash collision is a miss and never someone else's block.
    salt: u64,
    /// `(block_size,)`
    tokens: Box<[TokenId]>,
    edge: Edge,
    block: BlockId,
    n_children: u32,
    idle: bool,
    /// The step in which a sequence last held it.
    last_used: u64,
}

/// The tree.
#[derive(Clone, Debug)]
pub struct PrefixCache {
    block_size: usize,
    edges: BTreeMap<Edge, NodeId>,
    /// Slab: `None` where a node was evicted.
    nodes: Vec<Option<Node>>,
    vacant: Vec<NodeId>,
    /// The node of each block that is in the tree. `(n_blocks,)`
    node_of: Vec<Option<NodeId>>,
    n_idle: usize,
    /// Idle nodes without children, by last use.
    idle_leaves: BTreeSet<(u64, NodeId)>,
}

impl PrefixCache {
    /// An empty tree over an allocator's blocks.
    pub fn new(n_blocks: usize, block_size: usize) -> Self {
        Self {
            block_size,
            edges: BTreeMap::new(),
            nodes: Vec::new(),
            vacant: Vec::new(),
            node_of: vec![None; n_blocks],
            n_idle: 0,
            idle_leaves: BTreeSet::new(),
        }
    }

    /// Blocks that only the cache holds; all of them can be evicted.
    pub fn n_idle(&self) -> usize {
        self.n_idle
    }

    /// Whether the cache is one of the block's holders.
    pub fn holds(&self, block: BlockId) -> bool {
        self.node_of[block.0 as usize].is_some()
    }

    /// The longest cached beginning of `tokens` in full blocks. The caller becomes a holder of the blocks.
    pub fn match_prefix(
        &mut self,
        allocator: &mut BlockAllocator,
        salt: u64,
        tokens: &[TokenId],
    ) -> (NodeId, Vec<BlockId>) {
        let mut at = NodeId::ROOT;
        let mut blocks = Vec::new();
        for chunk in tokens.chunks_exact(self.block_size) {
            let Some(next) = self.child(at, salt, chunk) else { break };
            let block = self.node(next).block;
            allocator.retain(block);
            self.set_busy(next);
            blocks.push(block);
            at = next;
        }
        (at, blocks)
    }

    /// Publishes one more full block of a path. `at` is the path so far, whose blocks the caller holds, as it holds
    /// `block`. If the tree has such a block already, the caller is made a holder of that one instead of its own:
    /// equal beginnings have equal contents. Gives the path's new end and the block that the caller holds.
    pub fn insert(
        &mut self,
        allocator: &mut BlockAllocator,
        at: NodeId,
        salt: u64,
        tokens: &[TokenId],
        block: BlockId,
    ) -> Option<(NodeId, BlockId)> {
        assert_eq!(tokens.len(), self.block_size, "only full blocks are published");
        assert!(!self.holds(block), "block {} is in the prefix cache already", block.0);
        let edge = (at, hash(salt, tokens));
        if let Some(&existing) = self.edges.get(&edge) {
            let node = self.node(existing);
            if node.salt != salt || *node.tokens != *tokens {
                return None; // a collision: the block stays private
            }
            let shared = node.block;
            allocator.retain(shared);
            self.set_busy(existing);
            allocator.release(block);
            return Some((existing, shared));
        }
        allocator.retain(block);
        let node =
            Node { salt, tokens: tokens.into(), edge, block, n_children: 0, idle: false, last_used: 0 };
        let id = self.vacant.pop().unwrap_or_else(|| {
            self.nodes.push(None);
            NodeId(self.nodes.len() as u32 - 1)
        });
        self.nodes[id.0 as usize] = Some(node);
        self.edges.insert(edge, id);
        self.node_of[block.0 as usize] = Some(id);
        if at != NodeId::ROOT {
            assert!(!self.node(at).idle, "a path grows only under a sequence that holds it");
            self.node_mut(at).n_children += 1;
        }
        Some((id, block))
    }

    /// A sequence gives up a block. If the cache is its last holder, it becomes evictable. `now` is the step.
    pub fn release(&mut self, allocator: &mut BlockAllocator, block: BlockId, now: u64) {
        let left = allocator.release(block);
        let Some(id) = self.node_of[block.0 as usize] else { return };
        assert!(left > 0, "block {} was freed under the prefix cache", block.0);
        if left > 1 {
            return;
        }
        self.n_idle += 1;
        let node = self.node_mut(id);
        node.idle = true;
        node.last_used = now;
        if node.n_children == 0 {
            self.idle_leaves.insert((now, id));
        }
    }

    /// Frees the least recently used idle leaf; false if nothing is idle.
    pub fn evict(&mut self, allocator: &mut BlockAllocator) -> bool {
        let Some(&leaf) = self.idle_leaves.first() else {
            assert_eq!(self.n_idle, 0, "idle blocks below a busy one");
            return false;
        };
        self.remove(allocator, leaf);
        true
    }

    /// Frees all that a salt has and only the cache holds.
    pub fn flush(&mut self, allocator: &mut BlockAllocator, salt: u64) {
        // All nodes of a path have the salt of the first.
        let of_salt = |leaf: &(u64, NodeId)| self.node(leaf.1).salt == salt;
        let leaves: Vec<_> = self.idle_leaves.iter().copied().filter(of_salt).collect();
        for leaf in leaves {
            let mut next = Some(leaf);
            while let Some(leaf) = next {
                next = self.remove(allocator, leaf);
            }
        }
    }

    /// Frees an idle leaf. Gives its parent if that has become one.
    fn remove(&mut self, allocator: &mut BlockAllocator, leaf: (u64, NodeId)) -> Option<(u64, NodeId)> {
        let was_there = self.idle_leaves.remove(&leaf);
        assert!(was_there, "only idle leaves are removed");
        let id = leaf.1;
        let node = self.nodes[id.0 as usize].take().expect("an idle leaf is in the tree");
        self.edges.remove(&node.edge);
        self.vacant.push(id);
        self.node_of[node.block.0 as usize] = None;
        self.n_idle -= 1;
        let left = allocator.release(node.block);
        assert_eq!(left, 0, "an idle block has no other holder");
        let parent = node.edge.0;
        if parent == NodeId::ROOT {
            return None;
        }
        let parent_node = self.node_mut(parent);
        parent_node.n_children -= 1;
        let leaf = (parent_node.last_used, parent);
        let is_idle_leaf = parent_node.n_children == 0 && parent_node.idle;
        is_idle_leaf.then(|| {
            self.idle_leaves.insert(leaf);
            leaf
        })
    }

    fn child(&self, at: NodeId, salt: u64, tokens: &[TokenId]) -> Option<NodeId> {
        let id = *self.edges.get(&(at, hash(salt, tokens)))?;
        let node = self.node(id);
        (node.salt == salt && *node.tokens == *tokens).then_some(id)
    }

    fn set_busy(&mut self, id: NodeId) {
        let node = self.node_mut(id);
        if !std::mem::take(&mut node.idle) {
            return;
        }
        let last_used = node.last_used;
        self.n_idle -= 1;
        self.idle_leaves.remove(&(last_used, id));
    }

    fn node(&self, id: NodeId) -> &Node {
        self.nodes[id.0 as usize].as_ref().expect("the caller holds the node's block")
    }

    fn node_mut(&mut self, id: NodeId) -> &mut Node {
        self.nodes[id.0 as usize].as_mut().expect("the caller holds the node's block")
    }
}

fn hash(salt: u64, tokens: &[TokenId]) -> u64 {
    let mut hasher = DefaultHasher::new();
    (salt, tokens).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: usize = 2;

    struct Fixture {
        allocator: BlockAllocator,
        cache: PrefixCache,
        now: u64,
    }

    impl Fixture {
        fn new(n_blocks: usize) -> Self {
            Self {
                allocator: BlockAllocator::new(n_blocks),
                cache: PrefixCache::new(n_blocks, BLOCK),
                now: 0,
            }
        }

        /// Publishes all full blocks of `text` and lets go of them; gives the blocks.
        fn publish(&mut self, salt: u64, text: &str) -> Vec<BlockId> {
            self.now += 1;
            let tokens = tokens(text);
            let (mut at, mut blocks) = self.cache.match_prefix(&mut self.allocator, salt, &tokens);
            for chunk in tokens.chunks_exact(BLOCK).skip(blocks.len()) {
                let own = self.allocator.take().unwrap();
                let (next, block) = self.cache.insert(&mut self.allocator, at, salt, chunk, own).unwrap();
                (at, blocks) = (next, [blocks, vec![block]].concat());
            }
            self.release(&blocks);
            blocks
        }

        fn release(&mut self, blocks: &[BlockId]) {
            for &block in blocks.iter().rev() {
                self.cache.release(&mut self.allocator, block, self.now);
            }
        }

        /// How many tokens of `text` are cached.
        fn check(&mut self, salt: u64, text: &str, expected: usize) {
            let (_, blocks) = self.cache.match_prefix(&mut self.allocator, salt, &tokens(text));
            assert_eq!(blocks.len() * BLOCK, expected, "cached tokens of {text:?}");
            let now = self.now;
            self.now = 0; // looking is not using
            self.release(&blocks);
            self.now = now;
        }
    }

    fn tokens(text: &str) -> Vec<TokenId> {
        text.bytes().map(|b| TokenId(b.into())).collect()
    }

    #[test]
    fn matches_the_longest_beginning_in_full_blocks() {
        let mut f = Fixture::new(8);
        f.publish(0, "abcdef");
        f.check(0, "abcdef", 6);
        f.check(0, "abcdefgh", 6);
        f.check(0, "abcde", 4);
        f.check(0, "abcx", 2);
        f.check(0, "cdef", 0);
        f.check(0, "a", 0);
    }

    #[test]
    fn another_salt_sees_nothing() {
        let mut f = Fixture::new(8);
        f.publish(1, "abcd");
        f.check(2, "abcd", 0);
        f.check(1, "abcd", 4);
    }

    #[test]
    fn flushing_frees_what_is_idle_of_one_salt() {
        let mut f = Fixture::new(16);
        f.publish(1, "abcdef");
        f.publish(1, "abxy");
        f.publish(2, "abcd");
        let (_, held) = f.cache.match_prefix(&mut f.allocator, 1, &tokens("abcd"));
        f.cache.flush(&mut f.allocator, 1);
        f.check(1, "abcdef", 4);
        f.check(1, "abxy", 2);
        f.check(2, "abcd", 4);
        f.release(&held);
        f.cache.flush(&mut f.allocator, 1);
        f.check(1, "abcdef", 0);
        f.check(2, "abcd", 4);
        assert_eq!((f.cache.n_idle(), f.allocator.n_free()), (2, 14));
    }

    #[test]
    fn beginnings_share_blocks() {
        let mut f = Fixture::new(8);
        let a = f.publish(0, "abcd");
        let b = f.publish(0, "abxy");
        assert_eq!(a[0], b[0]);
        assert_ne!(a[1], b[1]);
        assert_eq!((f.cache.n_idle(), f.allocator.n_free()), (3, 5));
    }

    #[test]
    fn the_second_of_two_equal_blocks_is_given_up() {
        let mut f = Fixture::new(4);
        let shared = f.publish(0, "ab")[0];
        let own = f.allocator.take().unwrap();
        let (_, block) = f.cache.insert(&mut f.allocator, NodeId::ROOT, 0, &tokens("ab"), own).unwrap();
        assert_eq!(block, shared);
        assert_eq!(f.allocator.n_free(), 3);
    }

    #[test]
    fn evicts_leaves_least_recently_used_first() {
        let mut f = Fixture::new(8);
        f.publish(0, "abcd");
        f.publish(0, "abxy");
        f.publish(0, "abcd");
        assert!(f.cache.evict(&mut f.allocator));
        f.check(0, "abxy", 2);
        f.check(0, "abcd", 4);
        while f.cache.evict(&mut f.allocator) {}
        assert_eq!((f.cache.n_idle(), f.allocator.n_free()), (0, 8));
    }

    #[test]
    fn what_a_sequence_holds_is_not_evicted() {
        let mut f = Fixture::new(8);
        f.publish(0, "abcd");
        let (_, held) = f.cache.match_prefix(&mut f.allocator, 0, &tokens("ab"));
        while f.cache.evict(&mut f.allocator) {}
        f.check(0, "abcd", 2);
        f.release(&held);
        assert!(f.cache.evict(&mut f.allocator));
        assert_eq!(f.allocator.n_free(), 8);
    }
}
