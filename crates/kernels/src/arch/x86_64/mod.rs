//! AVX2 and AVX-512.
#![expect(unsafe_code, reason = "vector loads and stores take pointers")]

pub(crate) mod avx2;
pub(crate) mod avx512;

use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};

use crate::tile::TileInput;

/// How far ahead of its reads a kernel asks for weights, into the second cache: the first has too few slots for lines
/// under way. On two Zen 4 cores, a step over 0.55 GB of Q4_K took 17 ms for one token and 26 ms for 8, against 21 and 60
/// without asking, and 19 and 28 into the first cache; 0.80 GB of Q6_K 24 ms against 31. The weights lie in the order
/// in which they are read, which was worth another tenth: before, 2 to 16 KB ahead made little difference; now 2 KB is
/// worse. Some types do better without for one token: see `TileKernel::asks_ahead`.
const PREFETCH_AHEAD: usize = 6144;

/// Asks for weights ahead of their use.
#[derive(Clone, Copy)]
struct Prefetch {
    on: bool,
    /// The end of the weights being read, and how far from it those lie that are read next.
    end: *const u8,
    jump: isize,
}

impl Prefetch {
    fn new(input: &TileInput<'_>) -> Self {
        let end = input.w.as_ptr_range().end;
        let next = input.next.map_or(end, <[u8]>::as_ptr);
        Self { on: input.next.is_some(), end, jump: (next as isize).wrapping_sub(end as isize) }
    }

    /// Itself where it is known whether weights come from memory: a kernel that is compiled for either has no branch at
    /// each request, across which registers would be saved.
    fn known<const ON: bool>(self) -> Self {
        Self { on: ON, ..self }
    }

    /// Asks for the `LINES` cache lines that will be read [`PREFETCH_AHEAD`] bytes after those at `at`.
    #[inline(always)]
    fn ahead<const LINES: usize>(self, at: *const u8) {
        for i in 0..LINES {
            self.line(at, i);
        }
    }

    /// Line `i` of those. Requests that are spread between a kernel's instructions let memory work on while it computes.
    #[inline(always)]
    fn line(self, at: *const u8, i: usize) {
        if !self.on {
            return;
        }
        let at = at.wrapping_add(PREFETCH_AHEAD);
        let at = if at >= self.end { at.wrapping_offset(self.jump) } else { at };
        // SAFETY: a prefetch touches no memory that the program can see and never faults, whatever the address.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(at.wrapping_add(i * 64).cast()) };
    }
}
