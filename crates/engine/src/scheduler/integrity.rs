//! Whether the books are right.

use std::collections::{BTreeMap, BTreeSet};

use ingle_step::BlockId;

use super::fairness::Level;
use super::sequence::State;
use super::{Priority, Scheduler, Waiting};

impl Scheduler {
    /// Checks the books: every block's holders are exactly the tables that name it, and the prefix cache.
    ///
    /// # Panics
    /// If they are not, with the reason.
    pub fn check_integrity(&self) {
        let mut holders = vec![0u32; self.config.n_blocks];
        for (id, seq) in &self.seqs {
            let covered = seq.n_computed.div_ceil(self.config.block_size);
            assert!(
                seq.blocks.len() >= covered,
                "sequence {}: {} blocks for {} computed tokens",
                id.0,
                seq.blocks.len(),
                seq.n_computed
            );
            match seq.state {
                State::Waiting => assert!(seq.blocks.is_empty(), "waiting sequence {} holds blocks", id.0),
                State::Running => assert!(self.running.contains(id), "sequence {} is lost", id.0),
            }
            seq.blocks.iter().for_each(|b| holders[b.0 as usize] += 1);
        }
        let referenced = holders.iter().filter(|&&n| n > 0).count();
        for (i, n) in holders.into_iter().enumerate() {
            let block = BlockId(i as u32);
            let expected = n + u32::from(self.cache.holds(block));
            let count = self.allocator.ref_count(block);
            assert_eq!(count, expected, "block {i} counts {count} holders and has {expected}");
        }
        let stats = self.stats();
        assert_eq!(
            stats.blocks_free + referenced + stats.blocks_cached,
            self.config.n_blocks,
            "free + referenced + cached is not the total"
        );
        assert_eq!(self.waiting.len() + self.running.len(), self.seqs.len(), "a sequence has no state");
        let reserved: usize = self.seqs.values().map(|s| s.n_reserved).sum();
        assert_eq!(reserved, self.n_reserved, "reservations");
        assert!(reserved <= stats.blocks_free + stats.blocks_cached, "more is reserved than is there");
        self.check_accounts();
    }

    fn check_accounts(&self) {
        let mut n_seqs = BTreeMap::<_, usize>::new();
        let mut queued = Waiting::default();
        for seq in self.seqs.values() {
            *n_seqs.entry((seq.level(), seq.tenant)).or_default() += 1;
            let is_background = seq.is_background();
            let most = self.config.max_preemptions;
            assert!(seq.preemptions <= most, "a sequence was preempted {} times of {most}", seq.preemptions);
            if seq.cached_tokens.is_none() && !is_background {
                queued.requests += 1;
                queued.tokens += seq.n_prompt;
            }
        }
        for (&(level, tenant), &n) in &n_seqs {
            assert_eq!(self.shares.account(level, tenant).n_seqs, n, "sequences of tenant {tenant}");
        }
        let levels: BTreeSet<Level> = n_seqs.keys().map(|key| key.0).collect();
        assert!(self.shares.levels().into_iter().eq(levels), "a level without sequences is kept");
        assert_eq!(self.queues.of(Priority::Normal), queued, "the queue of normal requests");
        assert!(!self.seqs.is_empty() || self.deadlines.is_empty(), "a deadline outlives its request");
    }
}
