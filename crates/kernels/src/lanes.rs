//! Sixteen floats side by side, and the chains that are written once over them.
//!
//! Every operation is one IEEE operation per lane, so a chain written over [`Lanes`] gives the bits of the same chain
//! in scalar code with `f32::mul_add`. AVX2 uses two registers of 8, AVX-512 one of 16.
//! [`Portable`] leaves it to the compiler.
//!
//! The functions are `unsafe` for one reason: they must be inlined into a function that enables the instruction set
//! (`#[target_feature]`), and the caller must have checked that the machine has it ([`crate::Isa::available`]).

#![expect(unsafe_code, reason = "vector intrinsics; pointers to 16 elements")]

use crate::numerics::constants::*;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;

pub(crate) use portable::Portable;
#[cfg(target_arch = "x86_64")]
pub(crate) use {avx2::Avx2, avx512::Avx512};

/// How many there are.
pub(crate) const N_LANES: usize = 16;

/// Work that is written once over [`Lanes`].
pub(crate) trait Work {
    /// Does it.
    ///
    /// # Safety
    /// As [`Lanes`].
    unsafe fn run<V: Lanes>(self);
}

/// Sixteen floats.
///
/// # Safety
/// Every function needs the instruction set of its implementor. Those that take a pointer need 16 readable or writable
/// elements behind it; no alignment.
pub(crate) trait Lanes: Copy {
    /// How many registers the sixteen take: what tiles are sized by.
    const REGISTERS: usize;

    /// Does work in a function of its own that has the instruction set. Where everything is inlined, one function
    /// becomes so large that compiling it takes minutes.
    unsafe fn call<W: Work>(work: W);
    unsafe fn splat(x: f32) -> Self;
    unsafe fn load(from: *const f32) -> Self;
    unsafe fn load_f16(from: *const half::f16) -> Self;
    unsafe fn load_bf16(from: *const half::bf16) -> Self;
    unsafe fn load_i8(from: *const i8) -> Self;
    unsafe fn store(self, to: *mut f32);
    unsafe fn add(self, other: Self) -> Self;
    unsafe fn sub(self, other: Self) -> Self;
    unsafe fn mul(self, other: Self) -> Self;
    unsafe fn div(self, other: Self) -> Self;
    /// `self * b + c`, rounded once.
    unsafe fn fma(self, b: Self, c: Self) -> Self;
    /// `c - self * b`, rounded once.
    unsafe fn neg_fma(self, b: Self, c: Self) -> Self;
    /// The larger; which one if they do not compare is not said.
    unsafe fn max(self, other: Self) -> Self;
    /// NaN passes.
    unsafe fn clamp(self, low: f32, high: f32) -> Self;
    unsafe fn abs(self) -> Self;
    /// The magnitude of `self` with the sign of `sign`.
    unsafe fn with_sign_of(self, sign: Self) -> Self;
    /// Lane by lane `yes` where `self < limit`, else `no`.
    unsafe fn select_below(self, limit: f32, yes: Self, no: Self) -> Self;
    /// The largest lane.
    unsafe fn max_lane(self) -> f32;
    /// `self * 2^k`, rounded once, where `rounded` is `k + EXP_ROUND` for an integer `k` from -151 to 130, and the
    /// magnitude of `self` lies between 1/2 and 2.
    unsafe fn times_pow2(self, rounded: Self) -> Self;
}

/// `e^x`: the chain of [`crate::exp`].
///
/// # Safety
/// As [`Lanes`].
#[inline(always)]
pub(crate) unsafe fn exp<V: Lanes>(x: V) -> V {
    // SAFETY: the caller has the instruction set.
    unsafe {
        let x = x.clamp(EXP_MIN, EXP_MAX);
        let rounded = x.fma(V::splat(LOG2_E), V::splat(EXP_ROUND));
        let k = rounded.sub(V::splat(EXP_ROUND));
        let r = k.neg_fma(V::splat(LN2_HIGH), x);
        let r = k.neg_fma(V::splat(LN2_LOW), r);
        let mut q = V::splat(EXP_POLY[4]);
        q = q.fma(r, V::splat(EXP_POLY[3]));
        q = q.fma(r, V::splat(EXP_POLY[2]));
        q = q.fma(r, V::splat(EXP_POLY[1]));
        q = q.fma(r, V::splat(EXP_POLY[0]));
        q = q.fma(r, V::splat(1.0));
        q = q.fma(r, V::splat(1.0));
        q.times_pow2(rounded)
    }
}

/// `tanh x`: the chain of [`crate::numerics::tanh`].
///
/// # Safety
/// As [`Lanes`].
#[inline(always)]
pub(crate) unsafe fn tanh<V: Lanes>(x: V) -> V {
    // SAFETY: the caller has the instruction set.
    unsafe {
        let one = V::splat(1.0);
        let magnitude = x.abs();
        let t = exp(magnitude.mul(V::splat(-2.0)));
        let far = one.sub(t).div(one.add(t));
        let x2 = x.mul(x);
        let above = x2.fma(V::splat(1.0), V::splat(TANH_ABOVE[1])).fma(x2, V::splat(TANH_ABOVE[0]));
        let below = x2.fma(V::splat(TANH_BELOW[2]), V::splat(TANH_BELOW[1])).fma(x2, V::splat(TANH_BELOW[0]));
        let near = magnitude.mul(above).div(below);
        magnitude.select_below(TANH_NEAR, near, far).with_sign_of(x)
    }
}

/// `gate * (1 / (1 + e^-gate)) * up`: the chain of the scalar twin in [`crate::numerics`].
///
/// # Safety
/// As [`Lanes`].
#[inline(always)]
pub(crate) unsafe fn silu_mul<V: Lanes>(gate: V, up: V) -> V {
    // SAFETY: the caller has the instruction set.
    unsafe {
        let one = V::splat(1.0);
        let sigmoid = one.div(one.add(exp(gate.mul(V::splat(-1.0)))));
        gate.mul(sigmoid).mul(up)
    }
}

/// `x * Φ(x)`: the chain of [`crate::gelu`].
///
/// # Safety
/// As [`Lanes`].
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(crate) unsafe fn gelu<V: Lanes>(x: V) -> V {
    // SAFETY: the caller has the instruction set.
    unsafe {
        let one = V::splat(1.0);
        let t = x.abs().mul(V::splat(std::f32::consts::FRAC_1_SQRT_2));
        let u = one.div(t.fma(V::splat(ERFC_SCALE), one));
        let mut q = V::splat(ERFC_POLY[9]);
        for &coefficient in ERFC_POLY[..9].iter().rev() {
            q = q.fma(u, V::splat(coefficient));
        }
        let gauss = exp(t.mul(t).mul(V::splat(-1.0)));
        let tail = q.mul(u).mul(gauss).mul(V::splat(0.5));
        x.mul(x.select_below(0.0, tail, one.sub(tail)))
    }
}

/// The one order in which sixteen partial sums are added: halves, quarters, pairs.
pub(crate) fn sum_tree(mut partial: [f32; N_LANES]) -> f32 {
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            partial[i] += partial[i + half];
        }
    }
    partial[0]
}
