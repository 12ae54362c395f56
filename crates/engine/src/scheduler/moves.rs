//! Preemption by moving: K/V of who makes way are kept in a store of slots, of one block each, and come back when the
//! sequence does. The scheduler says which blocks move; who calls it moves the bytes, right after
//! [`Scheduler::schedule`]: first all that goes out, as the blocks may have new owners in this very step, then, as
//! [`BlockImport`](ingle_step::BlockImport)s of the batch, what comes in.
//!
//! ```text
//! preempt      running, blocks  ──out──▶  waiting, slots      if slots are free and moving costs less than computing
//! admit        waiting, slots   ──in───▶  running, blocks     only what the prefix cache has not got
//! ```
//! A sequence that is admitted keeps its slots until a batch takes the imports along: if it is preempted before, nothing
//! has moved.

use ingle_step::{BlockId, SeqId};

use super::Scheduler;

/// A place for one block in the store. An index below [`SchedulerConfig::swap_blocks`](super::SchedulerConfig).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SwapSlot(pub u32);

/// What is to be moved for the step that was scheduled last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Moves {
    /// Before anything of the step runs.
    pub out: Vec<(BlockId, SwapSlot)>,
    /// With the step. The slots are empty then.
    pub back: Vec<(SwapSlot, BlockId)>,
}

/// Where a waiting sequence's K/V are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Swapped {
    /// In the order of its blocks.
    slots: Vec<SwapSlot>,
    /// How many leading tokens they hold.
    n_computed: usize,
    /// Once it is admitted: how many of its blocks need not come back.
    n_found: usize,
}

/// The store's books.
#[derive(Clone, Debug)]
pub(super) struct SwapSpace {
    n_slots: usize,
    free: Vec<SwapSlot>,
    /// Admitted, and their blocks still in slots.
    coming: Vec<SeqId>,
    moves: Moves,
    /// How many tokens are computed while a block moves out and back.
    block_cost: f64,
    n_out: u64,
    n_back: u64,
}

impl Swapped {
    pub fn n_slots(&self) -> usize {
        self.slots.len()
    }
}

impl SwapSpace {
    pub fn new(n_slots: usize) -> Self {
        let last = u32::try_from(n_slots).expect("slots are numbered with 32 bits");
        Self {
            n_slots,
            free: (0..last).rev().map(SwapSlot).collect(),
            coming: Vec::new(),
            moves: Moves::default(),
            block_cost: 0.0,
            n_out: 0,
            n_back: 0,
        }
    }

    /// Slots that hold something.
    pub fn n_used(&self) -> usize {
        self.n_slots - self.free.len()
    }

    /// Moves that nobody has taken.
    pub fn n_leaving(&self) -> usize {
        self.moves.out.len() + self.moves.back.len()
    }

    /// Since start: blocks that moved out, and back.
    pub fn n_moved(&self) -> (u64, u64) {
        (self.n_out, self.n_back)
    }

    fn give_back(&mut self, swapped: Option<Swapped>) {
        self.free.extend(swapped.into_iter().flat_map(|swapped| swapped.slots));
    }
}

impl Scheduler {
    /// What is to be moved for the step that was scheduled last, or would have been: also if it is none. Called after
    /// each [`Scheduler::schedule`], unless there are no slots.
    pub fn take_moves(&mut self) -> Moves {
        let moves = std::mem::take(&mut self.swap.moves);
        self.swap.free.extend(moves.back.iter().map(|&(slot, _)| slot));
        moves
    }

    /// How many tokens are computed in the time in which a block moves out and back, as measured. 0 at first.
    pub fn set_swap_cost(&mut self, n_tokens: f64) {
        self.swap.block_cost = n_tokens;
    }

    /// Moves a sequence's K/V out if there is room and it pays. Its blocks are the caller's to release.
    pub(super) fn swap_out(&mut self, id: SeqId) -> Option<Swapped> {
        let seq = self.seqs.get_mut(&id).expect("who is preempted is there");
        if let Some(coming) = seq.swapped.take() {
            // It was admitted and has not run: everything is where it was.
            self.swap.coming.retain(|&other| other != id);
            return Some(coming);
        }
        let n_computed = seq.n_computed;
        let n_blocks = n_computed.div_ceil(self.config.block_size);
        let pays = n_blocks as f64 * self.swap.block_cost < n_computed as f64;
        if n_blocks == 0 || n_blocks > self.swap.free.len() || !pays {
            return None;
        }
        let slots = self.swap.free.split_off(self.swap.free.len() - n_blocks);
        self.swap.moves.out.extend(seq.blocks.iter().copied().zip(slots.iter().copied()));
        self.swap.n_out += n_blocks as u64;
        Some(Swapped { slots, n_computed, n_found: 0 })
    }

    /// An admitted sequence, which has `n_found` blocks from the prefix cache and room for the rest, gets back what was
    /// moved out.
    pub(super) fn swap_in(&mut self, id: SeqId, n_found: usize) {
        let seq = self.seq_mut(id);
        let Some(mut swapped) = seq.swapped.take() else { return };
        if n_found >= swapped.n_slots() {
            self.swap.give_back(Some(swapped));
            return;
        }
        swapped.n_found = n_found;
        let n_blocks = swapped.n_slots();
        seq.n_computed = swapped.n_computed;
        seq.swapped = Some(swapped);
        self.swap.coming.push(id);
        for _ in n_found..n_blocks {
            let block = self.take_block(id);
            self.seq_mut(id).blocks.push(block);
        }
    }

    /// A batch is on its way: it takes along what comes back.
    pub(super) fn send_moves(&mut self) {
        for id in std::mem::take(&mut self.swap.coming) {
            let seq = self.seqs.get_mut(&id).expect("who has ended comes no more");
            let Swapped { slots, n_found, .. } = seq.swapped.take().expect("who comes has slots");
            let from = &slots[n_found..];
            self.swap.n_back += from.len() as u64;
            self.swap.moves.back.extend(from.iter().copied().zip(seq.blocks[n_found..].iter().copied()));
            self.swap.free.extend(&slots[..n_found]);
        }
    }

    /// A sequence ends, or begins anew.
    pub(super) fn forget_swapped(&mut self, id: SeqId) {
        let swapped = self.seq_mut(id).swapped.take();
        self.swap.give_back(swapped);
        self.swap.coming.retain(|&other| other != id);
    }

    /// Everything in the slots is lost.
    pub(super) fn reset_swap(&mut self) {
        let (n_out, n_back) = self.swap.n_moved();
        let block_cost = self.swap.block_cost;
        self.swap = SwapSpace { n_out, n_back, block_cost, ..SwapSpace::new(self.swap.n_slots) };
    }

    /// See [`Scheduler::check_integrity`].
    pub(super) fn check_swap(&self) {
        let mut held = vec![false; self.swap.n_slots];
        let of_seqs = self.seqs.values().filter_map(|seq| seq.swapped.as_ref()).flat_map(|s| &s.slots);
        let leaving = self.swap.moves.back.iter().map(|(slot, _)| slot);
        for slot in of_seqs.chain(leaving).chain(&self.swap.free) {
            let is_held = std::mem::replace(&mut held[slot.0 as usize], true);
            assert!(!is_held, "slot {} is used twice", slot.0);
        }
        assert!(held.iter().all(|&held| held), "a slot of the store is lost");
        for (id, seq) in &self.seqs {
            let is_coming = self.swap.coming.contains(id);
            assert!(
                seq.swapped.is_none() || self.waiting.contains(id) || is_coming,
                "running sequence {} is in the store",
                id.0
            );
        }
    }
}
