//! The whole state as text, for debugging and snapshots.

use std::fmt;

use super::Scheduler;
use super::sequence::State;

impl fmt::Display for Scheduler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stats = self.stats();
        writeln!(
            f,
            "step {}: blocks {} free, {} cached, {} used of {} ({} reserved); queued {} requests, {} tokens",
            self.step,
            stats.blocks_free,
            stats.blocks_cached,
            stats.blocks_used,
            self.config.n_blocks,
            self.n_reserved,
            stats.queued_requests,
            stats.queued_tokens,
        )?;
        for (id, seq) in &self.seqs {
            let state = match seq.state {
                State::Waiting => "waiting",
                State::Running => "running",
            };
            write!(
                f,
                "  seq {} of {}: {state}{}{}, {} prompt + {} new tokens, {} computed, blocks [",
                id.0,
                seq.request.0,
                if seq.paused { " (paused)" } else { "" },
                if seq.is_background() { " (background)" } else { "" },
                seq.n_prompt,
                seq.n_new(),
                seq.n_computed,
            )?;
            for (i, block) in seq.blocks.iter().enumerate() {
                let holders = self.allocator.ref_count(*block);
                let cached = if self.cache.holds(*block) { "c" } else { "" };
                write!(f, "{}{}{cached}", if i > 0 { " " } else { "" }, block.0)?;
                if holders > 1 {
                    write!(f, "x{holders}")?;
                }
            }
            writeln!(f, "], preempted {}", seq.preemptions)?;
        }
        Ok(())
    }
}
