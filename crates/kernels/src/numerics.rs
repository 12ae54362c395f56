//! Our own elementary functions: the same bits on every machine, whatever its libm.
//!
//! The `f32` functions are the scalar twins of the vector chains in [`crate::lanes`]. The `f64` functions serve tables
//! and sampling, where speed does not matter; they use nothing but IEEE additions, products and quotients.

use crate::Isa;

mod rows;

pub use rows::gelu_in_place;
pub(crate) use rows::silu_mul_row;

/// Numbers that the scalar and the vector chains share.
pub(crate) mod constants {
    /// Below this `e^x` rounds to 0, and the steps in between stay in range.
    pub(crate) const EXP_MIN: f32 = -104.5;
    /// Above this `e^x` is infinite.
    pub(crate) const EXP_MAX: f32 = 89.5;
    /// Adding this rounds a small float to an integer in the low bits.
    pub(crate) const EXP_ROUND: f32 = 12_582_912.0; // 1.5 * 2^23
    pub(crate) const LOG2_E: f32 = std::f32::consts::LOG2_E;
    /// ln 2 in 15 bits, so that products with exponents are exact, and the rest.
    pub(crate) const LN2_HIGH: f32 = f32::from_bits(0x3F31_7200);
    pub(crate) const LN2_LOW: f32 = 1.428_606_8e-6;
    /// `(e^r - 1 - r) / r²` for `|r| <= ln 2 / 2`: interpolated at the Chebyshev nodes, error below 1e-8.
    pub(crate) const EXP_POLY: [f32; 5] = [0.5, 0.166_665_76, 0.041_666_552, 0.008_363_233, 0.001_392_625];
    /// Below this tanh is a quotient of polynomials (its continued fraction cut after five steps, error below
    /// 1e-9); above, the exponential loses nothing.
    pub(crate) const TANH_NEAR: f32 = 0.625;
    pub(crate) const TANH_ABOVE: [f32; 2] = [945.0, 105.0];
    pub(crate) const TANH_BELOW: [f32; 3] = [945.0, 420.0, 15.0];
    /// `erfc(t) e^(t²)` for `t >= 0` is this polynomial in `u = 1 / (1 + 0.42 t)`, lowest power first and without a
    /// constant: fitted by reweighted least squares, relative error below 3e-9.
    pub(crate) const ERFC_SCALE: f32 = 0.42;
    pub(crate) const ERFC_POLY: [f32; 10] = [
        0.236_972_5,
        0.236_629_11,
        0.219_746_77,
        0.150_764_78,
        0.211_536_63,
        -0.193_042_98,
        0.431_761_23,
        -0.482_424_2,
        0.228_835_17,
        -0.040_779_043,
    ];
}
use constants::*;

/// `e^x` within 1.5 ulp, the scalar twin of the vector exponential in softmax and SiLU. Underflows gradually to 0.
pub fn exp(x: f32) -> f32 {
    // NaN passes.
    let x = x.clamp(EXP_MIN, EXP_MAX);
    let rounded = x.mul_add(LOG2_E, EXP_ROUND);
    let k = rounded - EXP_ROUND;
    let r = (-k).mul_add(LN2_HIGH, x);
    let r = (-k).mul_add(LN2_LOW, r);
    let mut q = EXP_POLY[4];
    for &coefficient in EXP_POLY[..4].iter().rev() {
        q = q.mul_add(r, coefficient);
    }
    q = q.mul_add(r, 1.0);
    q = q.mul_add(r, 1.0);
    // In two steps, because 2^k alone may be out of range where the result is not.
    let k = (rounded.to_bits() as i32).wrapping_sub(EXP_ROUND.to_bits() as i32);
    let (a, b) = (k >> 1, k.wrapping_sub(k >> 1));
    let pow2 = |k: i32| f32::from_bits((k.wrapping_add(127) as u32) << 23);
    q * pow2(a) * pow2(b)
}

/// `x * Φ(x)`, the Gaussian error linear unit in its exact form (Hendrycks and Gimpel 2016), with an error below `3e-7 |x|`.
/// The scalar twin of the vector chain.
pub fn gelu(x: f32) -> f32 {
    let t = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let u = 1.0 / t.mul_add(ERFC_SCALE, 1.0);
    let mut q = ERFC_POLY[9];
    for &coefficient in ERFC_POLY[..9].iter().rev() {
        q = q.mul_add(u, coefficient);
    }
    // Φ(-|x|) = erfc(t) / 2
    let tail = q * u * exp(-(t * t)) * 0.5;
    x * if x < 0.0 { tail } else { 1.0 - tail }
}

/// Hyperbolic tangent, within 4 ulp: the scalar twin of the one in soft-capped scores.
pub fn tanh(x: f32) -> f32 {
    let magnitude = x.abs();
    let result = if magnitude < TANH_NEAR {
        let x2 = x * x;
        let above = (x2 + TANH_ABOVE[1]).mul_add(x2, TANH_ABOVE[0]);
        let below = x2.mul_add(TANH_BELOW[2], TANH_BELOW[1]).mul_add(x2, TANH_BELOW[0]);
        magnitude * above / below
    } else {
        let t = exp(magnitude * -2.0);
        (1.0 - t) / (1.0 + t)
    };
    result.copysign(x)
}

/// Natural logarithm, within 1e-15 of its value.
pub fn ln(x: f64) -> f64 {
    /// ln 2 in 40 bits, so that products with exponents are exact, and the rest.
    const LN2_HIGH: f64 = 0.693_147_180_559_208_2;
    const LN2_LOW: f64 = 7.371_002_565_167_799e-13;
    const TWO_54: f64 = (1u64 << 54) as f64;
    if x.is_nan() || x < 0.0 {
        return f64::NAN;
    }
    if x == 0.0 {
        return f64::NEG_INFINITY;
    }
    if x.is_infinite() {
        return x;
    }
    // Subnormals are lifted first.
    let (x, lifted) = if x < f64::MIN_POSITIVE { (x * TWO_54, 54) } else { (x, 0) };
    let bits = x.to_bits();
    let mut exponent = (bits >> 52) as i64 - 1023 - lifted;
    let mut m = f64::from_bits(bits & ((1 << 52) - 1) | 1023 << 52);
    if m > std::f64::consts::SQRT_2 {
        m *= 0.5;
        exponent += 1;
    }
    // ln m = 2 artanh(s) with |s| < 0.172.
    let s = (m - 1.0) / (m + 1.0);
    let s2 = s * s;
    let mut series = 0.0;
    for k in (1..13).rev() {
        series = (series + 1.0 / f64::from(2 * k + 1)) * s2;
    }
    let e = exponent as f64;
    e * LN2_HIGH + (e * LN2_LOW + (2.0 * s * series + 2.0 * s))
}

/// `x^y` for positive `x`.
pub fn powf(x: f64, y: f64) -> f64 {
    if y == 0.0 || x == 1.0 {
        return 1.0;
    }
    if x == 0.0 {
        return if y > 0.0 { 0.0 } else { f64::INFINITY };
    }
    exp_f64(y * ln(x))
}

fn exp_f64(x: f64) -> f64 {
    const LN2_HIGH: f64 = 0.693_147_180_559_208_2;
    const LN2_LOW: f64 = 7.371_002_565_167_799e-13;
    /// 1.5 * 2^52: adding it rounds to an integer.
    const ROUND: f64 = 6_755_399_441_055_744.0;
    if x.is_nan() {
        return x;
    }
    let x = x.clamp(-746.0, 710.0);
    let k = (x * std::f64::consts::LOG2_E + ROUND) - ROUND;
    let r = (x - k * LN2_HIGH) - k * LN2_LOW;
    let mut sum = 1.0;
    for i in (1..15).rev() {
        sum = sum * r / f64::from(i) + 1.0;
    }
    let k = k as i64;
    let pow2 = |k: i64| f64::from_bits(((k + 1023) as u64) << 52);
    sum * pow2(k >> 1) * pow2(k - (k >> 1))
}

/// Sine and cosine, within 1e-15 up to 1e7 and with slowly growing error beyond.
pub fn sin_cos(x: f64) -> (f64, f64) {
    /// pi/2 in three parts; the first two have 28 bits, so that products with up to 25 bits are exact.
    const PART_1: f64 = 1.570_796_325_802_803;
    const PART_2: f64 = 9.920_935_739_593_517e-10;
    const PART_3: f64 = 5.721_188_726_109_832e-18;
    const ROUND: f64 = 6_755_399_441_055_744.0;
    /// Beyond, whole turns are taken off first (exactly, but of a rounded turn).
    const DIRECT_MAX: f64 = (1u64 << 25) as f64;
    if !x.is_finite() {
        return (f64::NAN, f64::NAN);
    }
    let x = if x.abs() > DIRECT_MAX { x % std::f64::consts::TAU } else { x };
    let k = (x * std::f64::consts::FRAC_2_PI + ROUND) - ROUND;
    let r = ((x - k * PART_1) - k * PART_2) - k * PART_3;
    let r2 = r * r;
    // Taylor: |r| <= pi/4, so the terms left out are below 1e-19.
    let mut sin = 0.0;
    let mut cos = 0.0;
    for i in (1..10).rev() {
        let even = f64::from(2 * i);
        sin = -(sin + 1.0) * r2 / (even * (even + 1.0));
        cos = -(cos + 1.0) * r2 / (even * (even - 1.0));
    }
    let (sin, cos) = (r * sin + r, cos + 1.0);
    match (k as i64).rem_euclid(4) {
        0 => (sin, cos),
        1 => (cos, -sin),
        2 => (-sin, -cos),
        _ => (-cos, sin),
    }
}

#[cfg(test)]
mod tests;
