//! What the inner loops read keys and values from: memory as it is stored, or floats made from it.

#![expect(unsafe_code, reason = "loads through pointers to 16 elements")]

use bytemuck::Pod;
use half::{bf16, f16};

use super::tile::N_GROUPS;
use crate::lanes::{Lanes, N_LANES};

/// How sixteen numbers become floats in registers.
pub(super) trait Source: Copy {
    /// One number as stored.
    type Code: Pod;
    /// Whether blocks of 32 numbers have a scale.
    const SCALED: bool;
    /// Numbers in a code.
    const PACKED: usize;
    /// Sixteen numbers, without scales: the `i`-th of the vectors that are stored together from `from` on.
    ///
    /// # Safety
    /// As [`Lanes`], of `Self::n_codes(i + 1)` codes.
    unsafe fn vector<V: Lanes>(from: *const Self::Code, i: usize) -> V;

    /// Codes of `n` vectors that are stored together.
    #[inline(always)]
    fn n_codes(n: usize) -> usize {
        n.div_ceil(Self::PACKED) * N_LANES
    }
}

macro_rules! source {
    ($(#[$doc:meta])* $name:ident, $code:ty, $load:ident, scaled: $scaled:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy)]
        pub(super) struct $name;

        impl Source for $name {
            type Code = $code;
            const SCALED: bool = $scaled;
            const PACKED: usize = 1;

            #[inline(always)]
            unsafe fn vector<V: Lanes>(from: *const $code, i: usize) -> V {
                // SAFETY: by the contract of `Lanes`, which is this function's.
                unsafe { V::$load(from.add(i * N_LANES)) }
            }
        }
    };
}

source!(
    /// F32 as stored, or what was made of another type for many rows.
    F32, f32, load, scaled: false
);
source!(
    /// F16 as stored.
    F16, f16, load_f16, scaled: false
);
source!(
    /// BF16 as stored.
    Bf16, bf16, load_bf16, scaled: false
);
source!(
    /// The int8 codes of Q8_0.
    Q8, i8, load_i8, scaled: true
);

/// The codes of Q4_0, two in a byte: the even vector in the low bits, the odd one in the high bits.
#[derive(Clone, Copy)]
pub(super) struct Q4;

impl Source for Q4 {
    type Code = u8;
    const SCALED: bool = true;
    const PACKED: usize = 2;

    #[inline(always)]
    unsafe fn vector<V: Lanes>(from: *const u8, i: usize) -> V {
        // SAFETY: sixteen bytes, by this function's contract; then an array of 16.
        unsafe {
            let bytes = from.add(i / 2 * N_LANES).cast::<[u8; N_LANES]>().read_unaligned();
            let shift = i % 2 * 4;
            let mut codes = [0i8; N_LANES];
            // A loop, as closures may not be inlined.
            for lane in 0..N_LANES {
                codes[lane] = (bytes[lane] >> shift & 15) as i8 - 8;
            }
            V::load_i8(codes.as_ptr())
        }
    }
}

/// The keys of a tile. Groups of which nothing is visible may be any others: their scores are overwritten.
#[derive(Clone, Copy)]
pub(super) struct Keys<'a, S: Source> {
    /// Per group `[k_dim][16]`, packed as the source is.
    pub(super) codes: [&'a [S::Code]; N_GROUPS],
    /// Per group `[k_dim / 32][16]`, empty unless scaled.
    pub(super) scales: [&'a [f16]; N_GROUPS],
    /// Where the codes of the next tile are, which is asked for while this one is read: with few rows to compute,
    /// memory is what all wait for.
    pub(super) next: [*const u8; N_GROUPS],
}

/// The values of a tile. Groups of which nothing is visible may be any others: nothing reads them.
#[derive(Clone, Copy)]
pub(super) struct Values<'a, S: Source> {
    /// Per group `[16][v_padded]`, packed as the source is.
    pub(super) codes: [&'a [S::Code]; N_GROUPS],
    /// `[TILE][v_padded / 32]`, unless scaled anything.
    pub(super) scales: &'a [f32],
    /// Where the codes of the next tile are.
    pub(super) next: [*const u8; N_GROUPS],
}

/// Asks for the lines of `n` bytes, rounded up, that will be read soon. Any address will do. Into the second cache: two
/// tiles are more than the first one holds, and there they would push out what is being read.
#[inline(always)]
pub(super) fn prefetch(at: *const u8, n: usize) {
    #[cfg(target_arch = "x86_64")]
    for line in (0..n).step_by(64) {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        // SAFETY: a hint, which does not fault; SSE is part of x86-64.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(at.wrapping_add(line).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (at, n);
}
