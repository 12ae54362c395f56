//! What it is worth to keep a computed block: the same in memory and on disk. Pure.
//!
//! Greedy-Dual-Size-Frequency (Cherkasova 1998): a block is worth its cost times how often it was used, above a clock
//! that each eviction raises to what was evicted. So what costs much or is used often outlasts what came once, such as
//! long texts that nobody asks about again, and what is not used any more falls behind the clock in the end. All blocks of
//! a cache have one size, so it does not enter.

/// What a block at the beginning of a sequence costs. Deeper ones cost more by fractions of it.
const BLOCK_COST: u64 = 1024;
/// More uses than these do not make a block worth more: after so many turns of the whole cache it is forgotten.
const USES_MAX: u32 = 32;

/// At which depth attention costs as much as everything else, in tokens. A layer of a transformer has about `12 n_embd²`
/// weights and so takes `24 n_embd²` operations a token, and `4 n_embd` more for each token before it (Kaplan et al.
/// 2020, table 1).
pub fn attention_depth(n_embd: usize) -> usize {
    (6 * n_embd).max(1)
}

/// What it costs to compute a block again after `n_before` tokens, relative to others.
pub fn recompute_cost(n_before: usize, attention_depth: usize) -> u64 {
    BLOCK_COST + BLOCK_COST * n_before as u64 / attention_depth.max(1) as u64
}

/// What a block is worth that has been used so often, the last time now.
pub fn worth(clock: u64, uses: u32, cost: u64) -> u64 {
    clock.saturating_add(u64::from(uses.clamp(1, USES_MAX)).saturating_mul(cost))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deeper_and_more_often_is_worth_more() {
        assert_eq!(recompute_cost(0, 600), 1024);
        assert_eq!(recompute_cost(600, 600), 2048);
        assert!(worth(0, 2, 1024) > worth(1000, 1, 1024));
        assert!(worth(0, 2, 1024) < worth(1100, 1, 1024), "the clock overtakes what is not used");
        assert_eq!(worth(5, u32::MAX, 1), 5 + 32);
        assert_eq!(worth(u64::MAX, 9, u64::MAX), u64::MAX);
    }
}
