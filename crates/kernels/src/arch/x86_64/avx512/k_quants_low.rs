//! Q2_K and Q3_K. Their weights are so small that the sum of a sub-block of 16 columns fits in 16 bits: the sums of two
//! sub-blocks, side by side in a lane, are multiplied by their scales and added up by one `vpdpwssd`. Weights are
//! multiplied by activations where they lie in a byte as far as the sums fit, which are multiples of the true ones then.

use std::arch::x86_64::*;
use std::mem::offset_of;

use super::{Prefetch, TileInput, TileOut, broadcast, broadcast_f32, load, load_halves, store};
use crate::activations::X256;
use crate::layout::{FIRST_OF_PAIR, Paired, Q2KGroup, Q2KPart, Q3KGroup, Q3KHalf};

const X: usize = size_of::<X256>();

/// Bytes of a part of Q2_K.
const PART: usize = size_of::<Q2KPart>();

/// Bytes of a half of Q3_K.
const HALF: usize = size_of::<Q3KHalf>();

/// Up to so many tokens, weights in high nibbles are multiplied in place and their sums are shifted: for more tokens
/// that would be more shifts than those of the weights.
const N_IN_PLACE: usize = 2;

/// Up to so many tokens Q2_K's scales multiply sums, for more tokens weights, once for all of them: two pairs of sums
/// of more tokens would not fit into the registers.
const N_SUMS: usize = 4;

/// For each half and `j` of 0 to 3, minus the sums of 16 activations of sub-blocks `j` and `j + 4`, in 16 bits each.
type NegativeSums = [i32; 8];

/// Twin: `reference::k_quants_low::q2_k_tile`.
///
/// Per super-block of 16 rows (1,344 bytes) and token, in operations of 16 lanes: 64 products of four columns, 8 of sums
/// by scales, 8 of minimums. Measured on a Zen 4 core in cache, shares of the int8 limit: 48 % for 1 token, 67 for 2, 68
/// for 4, 66 for 8, 63 for 512. Bound by operations that are no products: at few tokens masks, one for each register of
/// weights; at many the minimums and the multiplication of weights by scales. One token from memory: 30 GB/s of the file
/// on two cores, 90 % of what they read, and 22 (72 %) on one.
///
/// # Safety
/// See `TileFn`.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(crate) unsafe fn q2_k_tile<const N: usize>(input: TileInput<'_>, out: &mut TileOut) {
    let mut w = input.w.as_ptr();
    let mut x = input.x.as_ptr();
    let prefetch = Prefetch::new(&input);
    let mut sums = [_mm512_setzero_ps(); N];
    for _ in 0..input.n_cols / 256 {
        // SAFETY: this super-block's weights, and `N` blocks of activations.
        let (products, minimums) = unsafe {
            if N <= N_SUMS {
                q2_k_by_sums::<N>(w, x, prefetch)
            } else {
                q2_k_by_products::<N>(w, x, prefetch)
            }
        };
        prefetch.ahead::<1>(w.wrapping_add(offset_of!(Q2KGroup, d)));
        // SAFETY: the 16 scales of this super-block.
        let d = unsafe { load_halves(w.add(offset_of!(Q2KGroup, d))) };
        // SAFETY: as above.
        let dmin = unsafe { load_halves(w.add(offset_of!(Q2KGroup, dmin))) };
        for t in 0..N {
            // SAFETY: the scale of token t.
            let dx = unsafe { broadcast_f32(x.add(t * X + offset_of!(X256, d))) };
            sums[t] = _mm512_fmadd_ps(_mm512_mul_ps(d, dx), _mm512_cvtepi32_ps(products[t]), sums[t]);
            sums[t] = _mm512_fmadd_ps(_mm512_mul_ps(dmin, dx), _mm512_cvtepi32_ps(minimums[t]), sums[t]);
        }
        w = w.wrapping_add(size_of::<Q2KGroup>());
        x = x.wrapping_add(N * X);
    }
    store(sums, out);
}

/// The sums of a super-block's products, and of its minimums times minus the activations: scales multiply the sums of
/// sub-blocks.
///
/// # Safety
/// `w` is a `Q2KGroup`, `x` are `N` blocks; the instructions are there.
#[inline(always)]
unsafe fn q2_k_by_sums<const N: usize>(
    w: *const u8,
    x: *const u8,
    prefetch: Prefetch,
) -> ([__m512i; N], [__m512i; N]) {
    // SAFETY: this function's contract.
    unsafe {
        let x_sums = negative_sums::<N>(x);
        let mut minimums = [_mm512_setzero_si512(); N];
        // Runs 0 and 2 of 32 columns, and four times runs 1 and 3.
        let mut products = [[_mm512_setzero_si512(); N]; 2];
        for part in 0..4 {
            let (w, x) = (w.add(part * PART), x.add(part_at(part)));
            let mut dots = [[[_mm512_setzero_si512(); N]; 2]; 2];
            prefetch.ahead::<1>(w);
            for i in 0..4 {
                let raw = w.add(offset_of!(Q2KPart, quads) + i * 64);
                prefetch.ahead::<1>(raw);
                let raw = load(raw);
                for (pair, dots) in dots.iter_mut().enumerate() {
                    let [first, second] = nibbles::<N>(raw, if pair == 0 { 0x03 } else { 0x0C });
                    let x = x.add(pair * 32 + i * 4);
                    add_quad(first, x, &mut dots[0]);
                    add_quad(second, x.add(64), &mut dots[1]);
                }
            }
            let both = load(w.add(offset_of!(Q2KPart, scales)));
            let low = _mm512_set1_epi16(15);
            let scales = [_mm512_and_si512(both, low), _mm512_and_si512(_mm512_srli_epi16::<8>(both), low)];
            for pair in 0..2 {
                add_pair(scales[pair], &dots[pair], &mut products[pair]);
            }
            add_minimums(both, part, &x_sums, &mut minimums);
        }
        let [mut products, times_4] = products;
        for (product, times_4) in products.iter_mut().zip(times_4) {
            *product = _mm512_add_epi32(*product, _mm512_srai_epi32::<2>(times_4));
        }
        (products, minimums)
    }
}

/// As `q2_k_by_sums`, but scales multiply weights, four times the true product: both together are an unsigned byte
/// (3 * 15 * 4), so that no carry leaves a byte of `vpmullw`.
///
/// # Safety
/// As `q2_k_by_sums`.
#[inline(always)]
unsafe fn q2_k_by_products<const N: usize>(
    w: *const u8,
    x: *const u8,
    prefetch: Prefetch,
) -> ([__m512i; N], [__m512i; N]) {
    // SAFETY: this function's contract.
    unsafe {
        let x_sums = negative_sums::<N>(x);
        let mut products = [_mm512_setzero_si512(); N];
        for part in 0..4 {
            let (w, x) = (w.add(part * PART), x.add(part_at(part)));
            prefetch.ahead::<5>(w);
            let scales = _mm512_and_si512(load(w.add(offset_of!(Q2KPart, scales))), _mm512_set1_epi8(15));
            let times_4 = _mm512_slli_epi16::<2>(scales);
            let scales = [twice(times_4, 0), twice(scales, 1), twice(times_4, 2), twice(scales, 3)];
            for i in 0..4 {
                let raw = load(w.add(offset_of!(Q2KPart, quads) + i * 64));
                let ([a, c], [b, d]) = (nibbles::<N>(raw, 0x03), nibbles::<N>(raw, 0x0C));
                for (run, weights) in [a, b, c, d].into_iter().enumerate() {
                    let weights = _mm512_mullo_epi16(weights, scales[run]);
                    add_quad(weights, x.add(run * 32 + i * 4), &mut products);
                }
            }
        }
        for product in &mut products {
            *product = _mm512_srai_epi32::<2>(*product);
        }
        let mut minimums = [_mm512_setzero_si512(); N];
        for part in 0..4 {
            add_minimums(
                load(w.add(part * PART + offset_of!(Q2KPart, scales))),
                part,
                &x_sums,
                &mut minimums,
            );
        }
        (products, minimums)
    }
}

/// The first column of a part.
fn part_at(part: usize) -> usize {
    part / 2 * 128 + part % 2 * 16
}

/// Adds a part's minimums times minus the sums of activations. `both` are its scales and minimums.
///
/// # Safety
/// The instructions are there.
#[inline(always)]
unsafe fn add_minimums<const N: usize>(
    both: __m512i,
    part: usize,
    x_sums: &[NegativeSums; N],
    minimums: &mut [__m512i; N],
) {
    // SAFETY: this function's contract.
    unsafe {
        let mins = [
            _mm512_and_si512(_mm512_srli_epi16::<4>(both), _mm512_set1_epi16(15)),
            _mm512_srli_epi16::<12>(both),
        ];
        for (minimum, sums) in minimums.iter_mut().zip(x_sums) {
            for (pair, mins) in mins.into_iter().enumerate() {
                let sums = _mm512_set1_epi32(sums[part / 2 * 4 + pair * 2 + part % 2]);
                *minimum = _mm512_dpwssd_epi32(*minimum, mins, sums);
            }
        }
    }
}

/// Byte `i` of each lane, in both halves of it.
///
/// # Safety
/// The instructions are there.
#[inline(always)]
unsafe fn twice(lanes: __m512i, i: i16) -> __m512i {
    // SAFETY: this function's contract.
    unsafe {
        let bytes = _mm512_set4_epi32(
            0x800C_800C_u32 as i32,
            0x8008_8008_u32 as i32,
            0x8004_8004_u32 as i32,
            0x8000_8000_u32 as i32,
        );
        _mm512_shuffle_epi8(lanes, _mm512_add_epi8(bytes, _mm512_set1_epi16(i)))
    }
}

/// Minus the sums of 16 of each token: the sums times -32, shifted back.
///
/// # Safety
/// `x` are `N` blocks; the instructions are there.
#[inline(always)]
unsafe fn negative_sums<const N: usize>(x: *const u8) -> [NegativeSums; N] {
    // SAFETY: this function's contract.
    unsafe {
        /// The lower halves of lanes, of two tokens.
        const ORDER: [i16; 32] = {
            let mut order = [0; 32];
            let mut i = 0;
            while i < 32 {
                let (token, half, j, second) = (i / 16, i / 8 % 2, i / 2 % 4, i % 2);
                order[i] = (token * 32 + (half * 8 + j + second * 4) * 2) as i16;
                i += 1;
            }
            order
        };
        let order = load(ORDER.as_ptr().cast());
        let mut sums = [[0; 8]; N];
        for (i, sums) in sums.chunks_mut(2).enumerate() {
            let x = x.wrapping_add(2 * i * X + offset_of!(X256, times_neg32));
            let first = _mm512_srai_epi32::<5>(load(x));
            if sums.len() == 2 {
                let second = _mm512_srai_epi32::<5>(load(x.add(X)));
                let both = _mm512_permutex2var_epi16(first, order, second);
                _mm512_storeu_si512(sums.as_mut_ptr().cast(), both);
            } else {
                let one = _mm512_castsi512_si256(_mm512_permutexvar_epi16(order, first));
                _mm256_storeu_si256(sums.as_mut_ptr().cast(), one);
            }
        }
        sums
    }
}

/// Twin: `reference::k_quants_low::q3_k_tile`.
///
/// Per super-block of 16 rows (1,824 bytes) and token, in operations of 16 lanes: 64 products of four columns, 8 of sums
/// by scales, and none for the offset of weights: sums start at it. Measured on a Zen 4 core in cache, shares of the int8
/// limit: 46 % for 1 token, 63 for 2, 68 for 4, 71 for 8, 69 for 512. Bound by unpacking for few tokens. One token from
/// memory: 27 GB/s of the file on two cores, 86 % of what they read, and 20 (64 %) on one.
///
/// # Safety
/// See `TileFn`.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(crate) unsafe fn q3_k_tile<const N: usize>(input: TileInput<'_>, out: &mut TileOut) {
    let mut x = input.x.as_ptr();
    let prefetch = Prefetch::new(&input);
    let mut sums = [_mm512_setzero_ps(); N];
    for block in 0..input.n_cols / 256 {
        let w = input.w.as_ptr().wrapping_add(Q3KGroup::block_at(block));
        // SAFETY: `N` blocks of activations.
        let starts = unsafe { q3_k_starts::<N>(x) };
        // Twice the products.
        let mut products = [_mm512_setzero_si512(); N];
        for half in 0..2 {
            let (w, x) = (w.wrapping_add(half * HALF), x.wrapping_add(half * 128));
            // SAFETY: this super-block's weights and activations.
            unsafe {
                prefetch.ahead::<4>(w);
                q3_k_pair::<N, 0>(w, x, half, &starts, &mut products);
                prefetch.ahead::<4>(w.wrapping_add(4 * 64));
                q3_k_pair::<N, 1>(w, x, half, &starts, &mut products);
                prefetch.ahead::<3>(w.wrapping_add(8 * 64));
                q3_k_pair::<N, 2>(w, x, half, &starts, &mut products);
                prefetch.ahead::<3>(w.wrapping_add(11 * 64));
                q3_k_pair::<N, 3>(w, x, half, &starts, &mut products);
            }
        }
        // The scales of the next pair of blocks.
        prefetch.ahead::<1>(w.wrapping_add(size_of::<Q3KGroup>()));
        // SAFETY: the 16 scales of this super-block.
        let d = unsafe { load_halves(input.w.as_ptr().add(Q3KGroup::scales_at(block))) };
        for t in 0..N {
            // SAFETY: the scale of token t.
            let dx = unsafe { broadcast_f32(x.add(t * X + offset_of!(X256, d))) };
            let product = _mm512_cvtepi32_ps(_mm512_srai_epi32::<1>(products[t]));
            sums[t] = _mm512_fmadd_ps(_mm512_mul_ps(d, dx), product, sums[t]);
        }
        x = x.wrapping_add(N * X);
    }
    store(sums, out);
}

/// Adds twice the products of pair `PAIR` of a half, which start at `starts`.
///
/// # Safety
/// `w` is a `Q3KHalf`, `x` its columns in the first of `N` blocks; the instructions are there.
#[inline(always)]
unsafe fn q3_k_pair<const N: usize, const PAIR: usize>(
    w: *const u8,
    x: *const u8,
    half: usize,
    starts: &[[i32; 16]; N],
    products: &mut [__m512i; N],
) {
    // SAFETY: this function's contract.
    unsafe {
        let sub = FIRST_OF_PAIR[PAIR];
        let mut dots = [[_mm512_setzero_si512(); N]; 2];
        for (t, starts) in starts.iter().enumerate() {
            dots[0][t] = _mm512_set1_epi32(starts[half * 8 + sub]);
            dots[1][t] = _mm512_set1_epi32(starts[half * 8 + sub + 4]);
        }
        for i in 0..4 {
            let raw = q3_k_raw::<PAIR>(w.add(i * 64));
            let [first, second] = nibbles::<N>(raw, if PAIR < 3 { 7 } else { 14 });
            let x = x.wrapping_add(sub * 16 + i * 4);
            add_quad(first, x, &mut dots[0]);
            add_quad(second, x.add(64), &mut dots[1]);
        }
        let scales = load(w.add(offset_of!(Q3KHalf, scales) + PAIR / 2 * 64));
        let scales = if PAIR.is_multiple_of(2) { _mm512_slli_epi16::<8>(scales) } else { scales };
        add_pair(_mm512_srai_epi16::<8>(scales), &dots, products);
    }
}

/// Bytes that hold two weights of a pair, in bits 0 to 2 and 4 to 6, of the fourth pair in bits 1 to 3 and 5 to 7.
///
/// # Safety
/// `w` is a quad of the first pair of a `Q3KHalf`; the instructions are there.
#[inline(always)]
unsafe fn q3_k_raw<const PAIR: usize>(w: *const u8) -> __m512i {
    // SAFETY: this function's contract.
    unsafe {
        /// Where bits of the first operand are set the second's, otherwise the third's.
        const SELECT: i32 = 0xCA;
        if PAIR < 3 {
            return load(w.add(PAIR * 256));
        }
        let (high, mid, low) = (load(w), load(w.add(256)), load(w.add(512)));
        let (mid, low) = (_mm512_srli_epi16::<1>(mid), _mm512_srli_epi16::<2>(low));
        let upper = _mm512_ternarylogic_epi32::<SELECT>(_mm512_set1_epi8(0x88_u8 as i8), high, mid);
        _mm512_ternarylogic_epi32::<SELECT>(_mm512_set1_epi8(0xCC_u8 as i8), upper, low)
    }
}

/// Where sums of weights raised by 4 start, for each token and sub-block: the sums times -4, times -8 in the
/// fourth pair, whose weights are doubled, and 16 times that where high nibbles are multiplied in place.
///
/// # Safety
/// `x` are `N` blocks; the instructions are there.
#[inline(always)]
unsafe fn q3_k_starts<const N: usize>(x: *const u8) -> [[i32; 16]; N] {
    // SAFETY: this function's contract.
    unsafe {
        let mut starts = [[0; 16]; N];
        for (t, starts) in starts.iter_mut().enumerate() {
            let sums = load(x.add(t * X + offset_of!(X256, times_neg32)));
            let sums = if N <= N_IN_PLACE {
                let shifts = _mm512_setr_epi32(5, 5, 5, 4, 1, 1, 1, 0, 5, 5, 5, 4, 1, 1, 1, 0);
                _mm512_srav_epi32(_mm512_slli_epi32::<2>(sums), shifts)
            } else {
                _mm512_srav_epi32(sums, _mm512_setr_epi32(3, 3, 3, 2, 3, 3, 3, 2, 3, 3, 3, 2, 3, 3, 3, 2))
            };
            _mm512_storeu_si512(starts.as_mut_ptr().cast(), sums);
        }
        starts
    }
}

/// What `mask` selects of low nibbles, and of high ones: the latter 16 times as large where they are multiplied in place.
///
/// # Safety
/// The instructions are there.
#[inline(always)]
unsafe fn nibbles<const N: usize>(raw: __m512i, mask: u8) -> [__m512i; 2] {
    // SAFETY: this function's contract.
    unsafe {
        let low = _mm512_and_si512(raw, _mm512_set1_epi8(mask as i8));
        let high = if N <= N_IN_PLACE {
            _mm512_and_si512(raw, _mm512_set1_epi8((mask << 4) as i8))
        } else {
            _mm512_and_si512(_mm512_srli_epi16::<4>(raw), _mm512_set1_epi8(mask as i8))
        };
        [low, high]
    }
}

/// Adds the products of a register of weights with the activations at `x`.
///
/// # Safety
/// `x` is inside q of the first of `N` blocks; the instructions are there.
#[inline(always)]
unsafe fn add_quad<const N: usize>(weights: __m512i, x: *const u8, dots: &mut [__m512i; N]) {
    // SAFETY: this function's contract.
    unsafe {
        for (t, dot) in dots.iter_mut().enumerate() {
            *dot = _mm512_dpbusd_epi32(*dot, weights, broadcast(x.add(t * X)));
        }
    }
}

/// Adds the sums of a pair of sub-blocks, of low and of high [`nibbles`], times their scales: two numbers of 16 bits in
/// each lane.
///
/// # Safety
/// The instructions are there.
#[inline(always)]
unsafe fn add_pair<const N: usize>(
    scales: __m512i,
    [first, second]: &[[__m512i; N]; 2],
    products: &mut [__m512i; N],
) {
    // SAFETY: this function's contract.
    unsafe {
        /// The upper half of each lane: numbers of 16 bits, and bytes.
        const UPPER_16: __mmask32 = 0xAAAA_AAAA;
        const UPPER_8: __mmask64 = 0xCCCC_CCCC_CCCC_CCCC;
        let lower_to_upper = _mm512_set4_epi32(0x0D0C_0000, 0x0908_0000, 0x0504_0000, 0x0100_0000);
        for t in 0..N {
            let both = if N <= N_IN_PLACE {
                _mm512_mask_blend_epi16(UPPER_16, first[t], _mm512_slli_epi32::<12>(second[t]))
            } else {
                _mm512_mask_shuffle_epi8(first[t], UPPER_8, second[t], lower_to_upper)
            };
            products[t] = _mm512_dpwssd_epi32(products[t], scales, both);
        }
    }
}
