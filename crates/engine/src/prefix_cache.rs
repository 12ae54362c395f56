//! Which blocks hold which beginnings of sequences, so that equal beginnings are computed once.
//!
//! A radix tree over blocks: a node is one block of tokens after one chain of ancestors, so a path from the root
//! spells a beginning. Nothing ever writes into a block that is in the tree. A node whose block is not full is a **tail**:
//! the end of a sequence that is complete; nothing hangs below it. The cache is one holder of each of its blocks; a node
//! is **idle** while it is the only one, and idle leaves can be evicted, least recently used first.
//!
//! Full blocks are shared. Where a beginning parts from the tree within a block, the slots up to there are for the
//! taker to copy ([`PrefixCache::match_partly`]), so that no token is computed again.
//!
//! A sequence that holds a node's block also holds the blocks of all ancestors (its block table *is* the path), so
//! whatever hangs below an idle node is idle too: every idle block can be had by evicting leaf after leaf.
//!
//! Every edge is also keyed by a salt: tenants with different salts never share a block, and so cannot learn from
//! timing or `cached_tokens` what others have sent.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ingle_step::{BlockId, TokenId};

use crate::block_allocator::BlockAllocator;

/// A place in the tree. Valid as long as the holder keeps the node's block held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NodeId(u32);

impl NodeId {
    /// The empty beginning.
    pub const ROOT: Self = Self(u32::MAX);
}

/// Where a node hangs. Ordered, so that of a node's children the one with most tokens in common with a text is next to
/// that text.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Edge {
    parent: NodeId,
    salt: u64,
    /// `(1..=block_size,)`
    tokens: Arc<[TokenId]>,
}

#[derive(Clone, Debug)]
struct Node {
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
            let edge = Edge { parent: at, salt, tokens: chunk.into() };
            let Some(&next) = self.edges.get(&edge) else { break };
            blocks.push(self.hold(allocator, next));
            at = next;
        }
        (at, blocks)
    }

    /// The block below `at` that begins with most of `tokens`, which come after the path to `at`, and how many slots of
    /// it they fill. The caller becomes a holder of the block, to copy the slots.
    pub fn match_partly(
        &mut self,
        allocator: &mut BlockAllocator,
        at: NodeId,
        salt: u64,
        tokens: &[TokenId],
    ) -> Option<(BlockId, usize)> {
        let tokens = &tokens[..tokens.len().min(self.block_size)];
        let edge = Edge { parent: at, salt, tokens: tokens.into() };
        let before = self.edges.range(..&edge).next_back();
        let after = self.edges.range(&edge..).next();
        let siblings = [before, after].into_iter().flatten();
        let siblings = siblings.filter(|(other, _)| other.parent == at && other.salt == salt);
        let common = |(other, &node): (&Edge, &NodeId)| {
            let n = other.tokens.iter().zip(tokens).take_while(|(a, b)| a == b).count();
            (n, node)
        };
        let (n_slots, node) = siblings.map(common).max_by_key(|&(n, _)| n).filter(|&(n, _)| n > 0)?;
        Some((self.hold(allocator, node), n_slots))
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
    ) -> (NodeId, BlockId) {
        assert_eq!(tokens.len(), self.block_size, "only full blocks are part of a path");
        let edge = Edge { parent: at, salt, tokens: tokens.into() };
        if let Some(&existing) = self.edges.get(&edge) {
            let shared = self.hold(allocator, existing);
            allocator.release(block);
            return (existing, shared);
        }
        self.remove_tail_within(allocator, &edge);
        (self.add(allocator, edge, block), block)
    }

    /// Publishes the last block of a sequence, of which `tokens` fill the first slots, unless the tree has them already.
    /// `at` is the path so far, whose blocks the caller holds; it also holds `block`, and has no more to write there.
    pub fn insert_tail(
        &mut self,
        allocator: &mut BlockAllocator,
        at: NodeId,
        salt: u64,
        tokens: &[TokenId],
        block: BlockId,
    ) {
        assert!((1..self.block_size).contains(&tokens.len()), "a tail has tokens, and room for more");
        let edge = Edge { parent: at, salt, tokens: tokens.into() };
        let next = self.edges.range(&edge..).next();
        let is_known =
            |other: &Edge| other.parent == at && other.salt == salt && other.tokens.starts_with(tokens);
        if next.is_some_and(|(other, _)| is_known(other)) {
            return;
        }
        self.remove_tail_within(allocator, &edge);
        self.add(allocator, edge, block);
    }

    fn add(&mut self, allocator: &mut BlockAllocator, edge: Edge, block: BlockId) -> NodeId {
        assert!(!self.holds(block), "block {} is in the prefix cache already", block.0);
        allocator.retain(block);
        if edge.parent != NodeId::ROOT {
            let parent = self.node_mut(edge.parent);
            assert!(!parent.idle, "a path grows only under a sequence that holds it");
            parent.n_children += 1;
        }
        let node = Node { edge: edge.clone(), block, n_children: 0, idle: false, last_used: 0 };
        let id = self.vacant.pop().unwrap_or_else(|| {
            self.nodes.push(None);
            NodeId(self.nodes.len() as u32 - 1)
        });
        self.nodes[id.0 as usize] = Some(node);
        self.edges.insert(edge, id);
        self.node_of[block.0 as usize] = Some(id);
        id
    }

    /// A tail that says no more than the beginning of a block that is about to be published has become useless.
    fn remove_tail_within(&mut self, allocator: &mut BlockAllocator, edge: &Edge) {
        let Some((before, &id)) = self.edges.range(..edge).next_back() else { return };
        let is_within = before.parent == edge.parent
            && before.salt == edge.salt
            && edge.tokens.starts_with(&before.tokens);
        let node = self.node(id);
        if is_within && node.idle {
            self.remove(allocator, (node.last_used, id));
        }
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
        let of_salt = |leaf: &(u64, NodeId)| self.node(leaf.1).edge.salt == salt;
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
        let parent = node.edge.parent;
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

    /// One more holder of a node's block.
    fn hold(&mut self, allocator: &mut BlockAllocator, id: NodeId) -> BlockId {
        let node = self.node_mut(id);
        let (block, was_idle, last_used) = (node.block, node.idle, node.last_used);
        node.idle = false;
        allocator.retain(block);
        if was_idle {
            self.n_idle -= 1;
            self.idle_leaves.remove(&(last_used, id));
        }
        block
    }

    fn node(&self, id: NodeId) -> &Node {
        self.nodes[id.0 as usize].as_ref().expect("the caller holds the node's block")
    }

    fn node_mut(&mut self, id: NodeId) -> &mut Node {
        self.nodes[id.0 as usize].as_mut().expect("the caller holds the node's block")
    }
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
                let (next, block) = self.cache.insert(&mut self.allocator, at, salt, chunk, own);
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
        let (_, block) = f.cache.insert(&mut f.allocator, NodeId::ROOT, 0, &tokens("ab"), own);
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

    /// Publishes `text`, whose last block may be a tail, and lets go of it.
    fn publish_all(f: &mut Fixture, text: &str) {
        let all = tokens(text);
        f.publish(0, text);
        let (at, mut blocks) = f.cache.match_prefix(&mut f.allocator, 0, &all);
        let tail = &all[blocks.len() * BLOCK..];
        if !tail.is_empty() {
            let own = f.allocator.take().unwrap();
            f.cache.insert_tail(&mut f.allocator, at, 0, tail, own);
            blocks.push(own);
        }
        f.release(&blocks);
    }

    /// What a copy gives of `text` after its full blocks.
    fn check_partly(f: &mut Fixture, text: &str, expected: Option<usize>) {
        let all = tokens(text);
        let (at, mut blocks) = f.cache.match_prefix(&mut f.allocator, 0, &all);
        let part = f.cache.match_partly(&mut f.allocator, at, 0, &all[blocks.len() * BLOCK..]);
        assert_eq!(part.map(|(_, n_slots)| n_slots), expected, "slots to copy for {text:?}");
        blocks.extend(part.map(|(block, _)| block));
        f.release(&blocks);
    }

    #[test]
    fn a_block_is_matched_up_to_where_texts_part() {
        let mut f = Fixture::new(8);
        publish_all(&mut f, "abcd");
        publish_all(&mut f, "abxy");
        check_partly(&mut f, "abcz", Some(1));
        check_partly(&mut f, "abx", Some(1));
        check_partly(&mut f, "abq", None);
        check_partly(&mut f, "az", Some(1));
        check_partly(&mut f, "abcd", None);
        f.cache.flush(&mut f.allocator, 0);
        assert_eq!(f.allocator.n_free(), 8);
    }

    #[test]
    fn a_tail_is_found_until_a_longer_block_replaces_it() {
        let mut f = Fixture::new(8);
        publish_all(&mut f, "abc");
        check_partly(&mut f, "abcd", Some(1));
        publish_all(&mut f, "abc");
        assert_eq!(f.cache.n_idle(), 2, "a tail is kept once");
        publish_all(&mut f, "abcd");
        assert_eq!(f.cache.n_idle(), 2, "a full block replaces the tail that it begins with");
        publish_all(&mut f, "abc");
        assert_eq!((f.cache.n_idle(), f.allocator.n_free()), (2, 6), "what is known already is not kept");
    }
}
