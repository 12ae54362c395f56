//! Whether the books are right.

use ingle_step::BlockId;

use super::Scheduler;
use super::sequence::State;

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
        self.check_swap();
    }
}
