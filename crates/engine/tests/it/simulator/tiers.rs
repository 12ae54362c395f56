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
            assert_eq!(published.tokens.len(), n_before + published.blocks.len() * block_size);
            for &(block, stamp) in &published.blocks {
                assert!(scheduler.is_published(block, stamp));
                assert!(!scheduler.is_published(block, stamp + 1));
                tally.published += 1;
            }
            let salt = self.salts[&published.request];
            if self.kept.len() > KEPT_MAX {
                self.kept.clear();
            }
            for (i, (block, _)) in (published.first..).zip(published.blocks) {
                let tokens = published.tokens[..(i + 1) * block_size].to_vec();
                self.kept.insert((salt, tokens), executor.export_block(block).unwrap());
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
            let n_there = scheduler.n_cached_blocks(salt, prompt);
            let Some(tokens) = prompt.get(..(n_there + 1) * block_size) else { return };
            let Some(bytes) = self.kept.get(&(salt, tokens.to_vec())) else { return };
            let Some(block) = scheduler.adopt(salt, tokens) else { return };
            executor.import_block(block, bytes).unwrap();
            scheduler.check_integrity();
            assert_eq!(scheduler.n_cached_blocks(salt, tokens), n_there + 1);
            tally.adopted += 1;
        }
    }
}
