//! F32 and F16: one fused multiply-add per column and token. BF16: `vdpbf16ps` per two columns.
//!
//! Bytes of 16 rows, operations of 16 lanes, and, measured on a Zen 4 core in cache, shares of the f32 limit, for BF16
//! of the bf16 limit:
//!
//! |      | bytes          | per token | for all tokens | share for 1, 2, 4, 8 and 512 tokens |
//! |------|----------------|-----------|----------------|-------------------------------------|
//! | F32  | 64 a column    | 1         | none           | 36, 68, 92, 99, 94 %                |
//! | F16  | 32 a column    | 1         | 1 to convert   | 47, 63, 80, 99, 97 %                |
//! | BF16 | 64 two columns | 1         | none           | 39, 75, 96, 97, 92 %                |
//!
//! Bound by the products from 8 tokens on; for fewer by reading the weights (one token of F32 or BF16 takes about as
//! long as two), of F16 also by converting them. From memory, two threads read the weights of all three as fast as the
//! read probe for 1 to 8 tokens (F16 with 90 to 98 % of its speed for 2 and 4).

use std::arch::x86_64::*;

use super::{Prefetch, TileInput, TileOut, broadcast, broadcast_f32, load, load_halves, store};
use crate::tile::WideKernel;

/// Kernels of `G` groups.
pub(super) struct Floats<const G: usize>;

/// Four chains hide the four cycles of a fused multiply-add.
pub(super) const F32_WIDE: &[WideKernel] = &[
    WideKernel { n_groups: 4, run: Floats::<4>::f32_tile::<1> },
    WideKernel { n_groups: 2, run: Floats::<2>::f32_tile::<2> },
    WideKernel { n_groups: 2, run: Floats::<2>::f32_tile::<3> },
];

/// As for F32. From memory, a token of 1.95 GB took a Zen 4 core 71 ms (28 GB/s) with four groups at once, 80 with one.
pub(super) const F16_WIDE: &[WideKernel] = &[
    WideKernel { n_groups: 4, run: Floats::<4>::f16_tile::<1> },
    WideKernel { n_groups: 2, run: Floats::<2>::f16_tile::<2> },
    WideKernel { n_groups: 2, run: Floats::<2>::f16_tile::<3> },
];

/// `vdpbf16ps` takes six cycles. From memory, a token of 1.95 GB took a Zen 4 core 73 ms (27 GB/s) with four groups at
/// once, 83 with one.
pub(super) const BF16_WIDE: &[WideKernel] = &[
    WideKernel { n_groups: 4, run: Floats::<4>::bf16_tile::<1> },
    WideKernel { n_groups: 4, run: Floats::<4>::bf16_tile::<2> },
    WideKernel { n_groups: 2, run: Floats::<2>::bf16_tile::<3> },
    WideKernel { n_groups: 2, run: Floats::<2>::bf16_tile::<4> },
];

impl<const G: usize> Floats<G> {
    /// Twin: `reference::floats::f32_tile`.
    ///
    /// # Safety
    /// See `TileFn`.
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn f32_tile<const N: usize>(input: TileInput<'_>, out: &mut TileOut) {
        let (w, x) = (input.w.as_ptr(), input.x.as_ptr());
        let group_bytes = input.n_cols * 64;
        let prefetch = Prefetch::new(&input);
        let mut sums = [[_mm512_setzero_ps(); G]; N];
        for k in 0..input.n_cols {
            for g in 0..G {
                let w = w.wrapping_add(g * group_bytes + k * 64);
                if G == 1 {
                    prefetch.ahead::<1>(w);
                }
                // SAFETY: column k of group g.
                let weights = unsafe { w.cast::<__m512>().read_unaligned() };
                for (t, sums) in sums.iter_mut().enumerate() {
                    // SAFETY: column k of token t.
                    let x = unsafe { broadcast_f32(x.add((k * N + t) * 4)) };
                    sums[g] = _mm512_fmadd_ps(weights, x, sums[g]);
                }
            }
        }
        store(sums.as_flattened(), out);
    }

    /// Twin: `reference::floats::f16_tile`.
    ///
    /// # Safety
    /// See `TileFn`.
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn f16_tile<const N: usize>(input: TileInput<'_>, out: &mut TileOut) {
        let (w, x) = (input.w.as_ptr(), input.x.as_ptr());
        let group_bytes = input.n_cols * 32;
        let prefetch = Prefetch::new(&input);
        let mut sums = [[_mm512_setzero_ps(); G]; N];
        // Two columns are a line.
        for k in (0..input.n_cols / 2 * 2).step_by(2) {
            if G == 1 {
                prefetch.ahead::<1>(w.wrapping_add(k * 32));
            }
            // SAFETY: columns k and k + 1.
            unsafe {
                f16_column(w.add(k * 32), group_bytes, x.add(k * N * 4), &mut sums);
                f16_column(w.add((k + 1) * 32), group_bytes, x.add((k + 1) * N * 4), &mut sums);
            }
        }
        if input.n_cols % 2 == 1 {
            let k = input.n_cols - 1;
            // SAFETY: the last column.
            unsafe { f16_column(w.add(k * 32), group_bytes, x.add(k * N * 4), &mut sums) };
        }
        store(sums.as_flattened(), out);
    }

    /// Twin: `reference::floats::bf16_tile`.
    ///
    /// # Safety
    /// See `TileFn`.
    #[target_feature(enable = "avx512f,avx512bf16")]
    pub(super) unsafe fn bf16_tile<const N: usize>(input: TileInput<'_>, out: &mut TileOut) {
        let (w, x) = (input.w.as_ptr(), input.x.as_ptr());
        let n_pairs = input.n_cols.div_ceil(2);
        let group_bytes = n_pairs * 64;
        let prefetch = Prefetch::new(&input);
        let mut sums = [[_mm512_setzero_ps(); G]; N];
        for pair in 0..n_pairs {
            for g in 0..G {
                let w = w.wrapping_add(g * group_bytes + pair * 64);
                if G == 1 {
                    prefetch.ahead::<1>(w);
                }
                // SAFETY: columns 2 * pair and 2 * pair + 1 of group g.
                let weights = as_bf16(unsafe { load(w) });
                for (t, sums) in sums.iter_mut().enumerate() {
                    // SAFETY: the same columns of token t.
                    let x = as_bf16(unsafe { broadcast(x.add((pair * N + t) * 4)) });
                    sums[g] = _mm512_dpbf16_ps(sums[g], weights, x);
                }
            }
        }
        store(sums.as_flattened(), out);
    }
}

/// Adds a column.
///
/// # Safety
/// `w` is the column in the first of `G` groups, `x` in the first of `N` tokens.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn f16_column<const G: usize, const N: usize>(
    w: *const u8,
    group_bytes: usize,
    x: *const u8,
    sums: &mut [[__m512; G]; N],
) {
    for g in 0..G {
        // SAFETY: the column in group g.
        let weights = unsafe { load_halves(w.add(g * group_bytes)) };
        for (t, sums) in sums.iter_mut().enumerate() {
            // SAFETY: the column of token t.
            sums[g] = _mm512_fmadd_ps(weights, unsafe { broadcast_f32(x.add(t * 4)) }, sums[g]);
        }
    }
}

#[inline(always)]
fn as_bf16(bits: __m512i) -> __m512bh {
    // SAFETY: both are 64 bytes in which every bit pattern is a value.
    unsafe { std::mem::transmute::<__m512i, __m512bh>(bits) }
}
