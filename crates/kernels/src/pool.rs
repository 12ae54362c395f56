//! The process-wide thread pool.

use crate::Isa;

/// In which order a pool hands out work: results must not depend on it, and tests force it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClaimOrder {
    /// Ascending, each to whoever comes first.
    #[default]
    Forward,
    /// Descending.
    Reverse,
    /// A permutation drawn from a seed.
    Shuffled(u64),
}

/// Threads that run one parallel loop at a time. The caller's thread is one of them.
#[derive(Debug)]
pub struct Pool {}

impl Pool {
    /// A pool of `n_threads` (at least 1), the caller included, with the best instruction set.
    pub fn new(n_threads: usize) -> Self {
        Self::with(n_threads, Isa::detect(), ClaimOrder::Forward)
    }

    /// A pool with everything chosen: for tests and benchmarks.
    pub fn with(_n_threads: usize, _isa: Isa, _order: ClaimOrder) -> Self {
        todo!()
    }

    /// How many threads there are.
    pub fn n_threads(&self) -> usize {
        todo!()
    }

    /// The instruction set that kernels called with this pool use.
    pub fn isa(&self) -> Isa {
        todo!()
    }

    /// Runs `task(i)` for every `i` in `0..n`, each exactly once, on all threads, and returns when all are done.
    /// A panic in a task is carried to the caller after the others have finished.
    pub fn run(&self, _n: usize, _task: &(dyn Fn(usize) + Sync)) {
        todo!()
    }
}
