//! Sixteen floats in an array, for machines without kernels of their own.

use super::{Lanes, Work};
use crate::numerics::constants::EXP_ROUND;

/// Sixteen floats in an array. The compiler vectorizes the loops as it can.
#[derive(Clone, Copy)]
pub(crate) struct Portable([f32; 16]);

impl Portable {
    #[inline(always)]
    fn zip(self, other: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        Self(std::array::from_fn(|i| f(self.0[i], other.0[i])))
    }
}

// SAFETY comments: no instruction set is needed; pointers have 16 elements by the contract of `Lanes`.
impl Lanes for Portable {
    const REGISTERS: usize = 4;

    #[inline(never)]
    unsafe fn call<W: Work>(work: W) {
        // SAFETY: portable code needs no instruction set.
        unsafe { work.run::<Self>() }
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Self([x; 16])
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: see above.
        Self(unsafe { from.cast::<[f32; 16]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const half::f16) -> Self {
        // SAFETY: see above.
        Self(unsafe { from.cast::<[half::f16; 16]>().read_unaligned() }.map(half::f16::to_f32))
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const half::bf16) -> Self {
        // SAFETY: see above.
        Self(unsafe { from.cast::<[half::bf16; 16]>().read_unaligned() }.map(half::bf16::to_f32))
    }
    #[inline(always)]
    unsafe fn load_i8(from: *const i8) -> Self {
        // SAFETY: see above.
        Self(unsafe { from.cast::<[i8; 16]>().read_unaligned() }.map(f32::from))
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: see above.
        unsafe { to.cast::<[f32; 16]>().write_unaligned(self.0) }
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        self.zip(other, |a, b| a + b)
    }
    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        self.zip(other, |a, b| a - b)
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        self.zip(other, |a, b| a * b)
    }
    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        self.zip(other, |a, b| a / b)
    }
    #[inline(always)]
    unsafe fn fma(self, b: Self, c: Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i].mul_add(b.0[i], c.0[i])))
    }
    #[inline(always)]
    unsafe fn neg_fma(self, b: Self, c: Self) -> Self {
        Self(std::array::from_fn(|i| (-self.0[i]).mul_add(b.0[i], c.0[i])))
    }
    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        self.zip(other, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    unsafe fn clamp(self, low: f32, high: f32) -> Self {
        // f32::clamp lets NaN pass.
        Self(self.0.map(|x| x.clamp(low, high)))
    }
    #[inline(always)]
    unsafe fn abs(self) -> Self {
        Self(self.0.map(f32::abs))
    }
    #[inline(always)]
    unsafe fn with_sign_of(self, sign: Self) -> Self {
        self.zip(sign, f32::copysign)
    }
    #[inline(always)]
    unsafe fn select_below(self, limit: f32, yes: Self, no: Self) -> Self {
        Self(std::array::from_fn(|i| if self.0[i] < limit { yes.0[i] } else { no.0[i] }))
    }
    #[inline(always)]
    unsafe fn max_lane(self) -> f32 {
        self.0.into_iter().fold(f32::NEG_INFINITY, |m, x| if x > m { x } else { m })
    }
    #[inline(always)]
    unsafe fn times_pow2(self, rounded: Self) -> Self {
        // In two steps, because 2^k alone may be out of range where the product is not.
        let k = rounded.0.map(|x| (x.to_bits() as i32).wrapping_sub(EXP_ROUND.to_bits() as i32));
        let pow2 = |k: i32| f32::from_bits((k.wrapping_add(127) as u32) << 23);
        Self(std::array::from_fn(|i| self.0[i] * pow2(k[i] >> 1) * pow2(k[i].wrapping_sub(k[i] >> 1))))
    }
}
