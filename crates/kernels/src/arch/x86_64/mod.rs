//! AVX2 and AVX-512.
#![expect(unsafe_code, reason = "vector loads and stores take pointers")]

pub(crate) mod avx2;
pub(crate) mod avx512;

use std::arch::x86_64::{_MM_HINT_NTA, _mm_prefetch};

/// How far ahead of its reads a kernel asks for weights: two super-blocks of Q4_K. At 25 GB/s per core and 100 ns of
/// latency 2.5 KB are under way; farther gains nothing.
const PREFETCH_AHEAD: usize = 4736;

/// Asks for the `LINES` cache lines that lie [`PREFETCH_AHEAD`] behind `at`, not to be kept in the outer caches.
#[inline(always)]
fn prefetch_ahead<const LINES: usize>(at: *const u8) {
    for i in 0..LINES {
        let line = at.wrapping_add(PREFETCH_AHEAD + i * 64);
        // SAFETY: a prefetch touches no memory that the program can see and never faults, whatever the address.
        unsafe { _mm_prefetch::<_MM_HINT_NTA>(line.cast()) };
    }
}
