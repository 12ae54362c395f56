//! K/V outside of the pool: what preempted sequences left there, and what a disk would keep of the prefix cache.

use std::collections::BTreeMap;

use ingle_engine::scheduler::{RequestId, Scheduler, SwapSlot};
use ingle_step::{BlockImport, Executor, TokenId};
use ingle_testkit::scripted::ScriptedExecutor;

use super::tally::Tally;

/// Blocks that are kept at most, as if on disk.
const KEPT_MAX: usize = 500;

#[derive(Default)]
pub struct Outside {
    /// Whose salt a request has.
    salts: BTreeMap<RequestId, u64>,
    /// What was published, by salt and tokens.
    kept: BTreeMap<(u64, Vec<TokenId>), Vec<u8>>,
    /// What preempted sequences left, by slot.
    slots: BTreeMap<SwapSlot, Vec<u8>>,
}

impl Outside {
    pub fn enter(&mut self, id: RequestId, salt: u64) {
        self.salts.insert(id, salt);
    }

    pub fn leave(&mut self, id: RequestId) {
        self.salts.remove(&id);
    }

    /// A step failed: what is in slots is lost with it.
    pub fn reset(&mut self) {
        self.slots.clear();
    }

    /// Keeps what leaves, and gives what comes back.
    pub fn move_blocks(
        &mut self,
        scheduler: &mut Scheduler,
        executor: &mut ScriptedExecutor,
    ) -> Vec<BlockImport> {
        let moves = scheduler.take_moves();
        for (block, slot) in moves.out {
            self.slots.insert(slot, executor.export_block(block).unwrap());
        }
        let back = |(slot, block)| {
            let bytes = self.slots.remove(&slot).expect("what comes back was moved out");
            BlockImport { block, bytes }
        };
        moves.back.into_iter().map(back).collect()
    }

    /// What is published is what it is said to be: read back elsewhere, another sequence could go on from it.
    pub fn keep_published(
        &mut self,
        scheduler: &mut Scheduler,
        executor: &mut ScriptedExecutor,
        block_size: usize,
        tally: &mut Tally,
    ) {
        for published in scheduler.take_published() {
            let n_before = published.first * block_size;
            let n_blocks = (published.tokens.len() - n_before).div_ceil(block_size);
            assert_eq!(published.blocks.len(), n_blocks, "each block has tokens, and each token a block");
            let is_tail = !published.tokens.len().is_multiple_of(block_size);
            tally.tails += usize::from(is_tail);
            for &(block, stamp) in &published.blocks {
                // In the same step a longer one may have replaced a tail.
                assert!(is_tail || scheduler.is_published(block, stamp));
                assert!(!scheduler.is_published(block, stamp + 1));
                tally.published += 1;
            }
            let salt = self.salts[&published.request];
            if self.kept.len() > KEPT_MAX {
                self.kept.clear();
            }
            for (i, (block, stamp)) in (published.first..).zip(published.blocks) {
                if !scheduler.is_published(block, stamp) {
                    continue;
                }
                let end = ((i + 1) * block_size).min(published.tokens.len());
                let bytes = executor.export_slots(block, end - i * block_size).unwrap();
                self.kept.insert((salt, published.tokens[..end].to_vec()), bytes);
            }
        }
    }

    /// Brings back what was once published of a prompt and has gone since.
    pub fn adopt(
        &self,
        scheduler: &mut Scheduler,
        executor: &mut ScriptedExecutor,
        block_size: usize,
        salt: u64,
        prompt: &[TokenId],
        tally: &mut Tally,
    ) {
        loop {
            let n_there = scheduler.n_cached_blocks(salt, prompt) * block_size;
            let most = prompt.len().min(n_there + block_size);
            let known =
                (n_there + 1..=most).rev().find(|&n| self.kept.contains_key(&(salt, prompt[..n].to_vec())));
            let Some(tokens) = known.map(|n| &prompt[..n]) else { return };
            let is_there = scheduler.n_cached_tokens(salt, tokens) == tokens.len();
            let Some(block) = scheduler.adopt(salt, tokens) else { return };
            assert!(!is_there, "what is there is not put there again");
            executor.import_block(block, &self.kept[&(salt, tokens.to_vec())]).unwrap();
            scheduler.check_integrity();
            assert_eq!(scheduler.n_cached_tokens(salt, tokens), tokens.len());
            tally.adopted += 1;
            if tokens.len() < n_there + block_size {
                tally.tails_adopted += 1;
                return;
            }
        }
    }
}
