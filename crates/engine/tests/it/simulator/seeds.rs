//! Seeds of simulations that have found a bug, with what it was. They run as long as it took to find it.

/// Seed, turns, what was wrong.
pub const FOUND: &[(u64, usize, &str)] = &[];
