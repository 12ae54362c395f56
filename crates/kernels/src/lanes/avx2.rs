//! Two registers of 8.

use std::arch::x86_64::*;

use super::{Lanes, Work};
use crate::numerics::constants::EXP_ROUND;

/// Sixteen floats in two registers: lanes 0 to 7 and 8 to 15.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(__m256, __m256);

/// Applies an intrinsic to both halves.
macro_rules! both {
    ($f:ident, $($x:expr),+) => {
        // SAFETY: an intrinsic of AVX2, FMA or F16C, which the machine has by the contract of `Lanes`.
        unsafe { Avx2($f($($x.0),+), $f($($x.1),+)) }
    };
}

// Functions and not closures below: a closure that is not inlined loses the instruction set.

#[inline(always)]
fn two(x: __m256) -> Avx2 {
    Avx2(x, x)
}

/// # Safety
/// As [`Lanes`], for 8 elements.
#[inline(always)]
unsafe fn widen_bf16(from: *const half::bf16) -> __m256 {
    // SAFETY: by this function's contract.
    unsafe {
        let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()));
        _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
    }
}

/// # Safety
/// As [`Lanes`], for 8 elements.
#[inline(always)]
unsafe fn widen_i8(from: *const i8) -> __m256 {
    // SAFETY: by this function's contract.
    unsafe { _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(from.cast()))) }
}

/// `2^(k >> 1)` and `2^(k - (k >> 1))` for 8 lanes of `k + EXP_ROUND`: 2^k alone may be out of range where a product
/// with it is not.
///
/// # Safety
/// As [`Lanes`].
#[inline(always)]
unsafe fn pow2_halves(x: __m256) -> (__m256, __m256) {
    // SAFETY: by this function's contract.
    unsafe {
        let round = _mm256_set1_epi32(EXP_ROUND.to_bits() as i32);
        let k = _mm256_sub_epi32(_mm256_castps_si256(x), round);
        let a = _mm256_srai_epi32::<1>(k);
        let b = _mm256_sub_epi32(k, a);
        let one = _mm256_set1_epi32(127);
        (
            _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_add_epi32(a, one))),
            _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_add_epi32(b, one))),
        )
    }
}

/// # Safety
/// As [`Lanes`].
#[inline(never)]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn call<W: Work>(work: W) {
    // SAFETY: this function's own instruction set.
    unsafe { work.run::<Avx2>() }
}

// SAFETY comments: every function here is a few intrinsics of AVX2, FMA or F16C, which the caller's machine has by the
// contract of `Lanes`; pointers have 16 elements by the same contract.
impl Lanes for Avx2 {
    const REGISTERS: usize = 2;

    #[inline(always)]
    unsafe fn call<W: Work>(work: W) {
        // SAFETY: see above.
        unsafe { call(work) }
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        // SAFETY: see above.
        unsafe { two(_mm256_set1_ps(x)) }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: see above.
        unsafe { Self(_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))) }
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const half::f16) -> Self {
        // SAFETY: see above.
        unsafe {
            Self(
                _mm256_cvtph_ps(_mm_loadu_si128(from.cast())),
                _mm256_cvtph_ps(_mm_loadu_si128(from.add(8).cast())),
            )
        }
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const half::bf16) -> Self {
        // SAFETY: see above.
        unsafe { Self(widen_bf16(from), widen_bf16(from.add(8))) }
    }
    #[inline(always)]
    unsafe fn load_i8(from: *const i8) -> Self {
        // SAFETY: see above.
        unsafe { Self(widen_i8(from), widen_i8(from.add(8))) }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: see above.
        unsafe {
            _mm256_storeu_ps(to, self.0);
            _mm256_storeu_ps(to.add(8), self.1);
        }
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        both!(_mm256_add_ps, self, other)
    }
    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        both!(_mm256_sub_ps, self, other)
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        both!(_mm256_mul_ps, self, other)
    }
    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        both!(_mm256_div_ps, self, other)
    }
    #[inline(always)]
    unsafe fn fma(self, b: Self, c: Self) -> Self {
        both!(_mm256_fmadd_ps, self, b, c)
    }
    #[inline(always)]
    unsafe fn neg_fma(self, b: Self, c: Self) -> Self {
        both!(_mm256_fnmadd_ps, self, b, c)
    }
    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        both!(_mm256_max_ps, self, other)
    }
    #[inline(always)]
    unsafe fn clamp(self, low: f32, high: f32) -> Self {
        // The instructions return their second operand if either is NaN, so NaN passes both.
        // SAFETY: see above.
        let (low, high) = unsafe { (Self::splat(low), Self::splat(high)) };
        let at_least = both!(_mm256_max_ps, low, self);
        both!(_mm256_min_ps, high, at_least)
    }
    #[inline(always)]
    unsafe fn abs(self) -> Self {
        // SAFETY: see above.
        let sign = unsafe { Self::splat(-0.0) };
        both!(_mm256_andnot_ps, sign, self)
    }
    #[inline(always)]
    unsafe fn with_sign_of(self, sign: Self) -> Self {
        // SAFETY: see above.
        let mask = unsafe { Self::splat(-0.0) };
        let magnitude = both!(_mm256_andnot_ps, mask, self);
        let sign = both!(_mm256_and_ps, mask, sign);
        both!(_mm256_or_ps, magnitude, sign)
    }
    #[inline(always)]
    unsafe fn select_below(self, limit: f32, yes: Self, no: Self) -> Self {
        // SAFETY: see above.
        unsafe {
            let limit = _mm256_set1_ps(limit);
            Self(
                _mm256_blendv_ps(no.0, yes.0, _mm256_cmp_ps::<_CMP_LT_OQ>(self.0, limit)),
                _mm256_blendv_ps(no.1, yes.1, _mm256_cmp_ps::<_CMP_LT_OQ>(self.1, limit)),
            )
        }
    }
    #[inline(always)]
    unsafe fn max_lane(self) -> f32 {
        // SAFETY: see above.
        unsafe {
            let m8 = _mm256_max_ps(self.0, self.1);
            let m4 = _mm_max_ps(_mm256_castps256_ps128(m8), _mm256_extractf128_ps::<1>(m8));
            let m2 = _mm_max_ps(m4, _mm_movehl_ps(m4, m4));
            _mm_cvtss_f32(_mm_max_ss(m2, _mm_movehdup_ps(m2)))
        }
    }
    #[inline(always)]
    unsafe fn times_pow2(self, rounded: Self) -> Self {
        // SAFETY: see above.
        unsafe {
            let (a0, b0) = pow2_halves(rounded.0);
            let (a1, b1) = pow2_halves(rounded.1);
            self.mul(Self(a0, a1)).mul(Self(b0, b1))
        }
    }
}
