//! AVX2 and AVX-512.
#![expect(unsafe_code, reason = "vector loads and stores take pointers")]

pub(crate) mod avx2;
pub(crate) mod avx512;

use std::arch::x86_64::{_MM_HINT_NTA, _MM_HINT_T0, _mm_prefetch};

use crate::tile::TileInput;

/// How far ahead of its reads a kernel asks for weights: two super-blocks of Q4_K. At 25 GB/s per core and 100 ns of
/// latency 2.5 KB are under way; farther gains nothing.
const PREFETCH_AHEAD: usize = 4736;

/// Asks for weights ahead of their use.
#[derive(Clone, Copy)]
struct Prefetch {
    on: bool,
    /// Whether the weights are to stay in the outer caches, because other tiles read them too.
    keep: bool,
    /// The end of the weights being read, and how far from it those lie that are read next.
    end: *const u8,
    jump: isize,
}

impl Prefetch {
    fn new(input: &TileInput<'_>) -> Self {
        let end = input.w.as_ptr_range().end;
        let next = input.next.map_or(end, <[u8]>::as_ptr);
        Self {
            on: input.next.is_some(),
            keep: input.keep,
            end,
            jump: (next as isize).wrapping_sub(end as isize),
        }
    }

    /// Asks for the `LINES` cache lines that will be read [`PREFETCH_AHEAD`] bytes after those at `at`.
    #[inline(always)]
    fn ahead<const LINES: usize>(self, at: *const u8) {
        if !self.on {
            return;
        }
        let at = at.wrapping_add(PREFETCH_AHEAD);
        let at = if at >= self.end { at.wrapping_offset(self.jump) } else { at };
        for i in 0..LINES {
            // SAFETY: a prefetch touches no memory that the program can see and never faults, whatever the address.
            unsafe {
                if self.keep {
                    _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(i * 64).cast());
                } else {
                    _mm_prefetch::<_MM_HINT_NTA>(at.wrapping_add(i * 64).cast());
                }
            }
        }
    }
}
