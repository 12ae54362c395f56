//! Rounding activations to int8 and bf16.
//!
//! One plain source for every instruction set: the arithmetic is element by element (and maxima and sums of integers,
//! whose order does not matter), so that wider registers cannot change a bit.
#![expect(unsafe_code, reason = "functions compiled for an instruction set are called after it was detected")]

use crate::Isa;
use crate::activations::{X32, X256};

/// A block whose largest magnitude is below this (2^-100) is rounded to zeros: the reciprocal of its scale would
/// overflow, and nothing that small reaches an output.
const AMAX_MIN: f32 = f32::from_bits((127 - 100) << 23);

/// Adding and subtracting this (1.5 * 2^23) rounds to an integer, ties to even, for magnitudes below 2^22.
const ROUND: f32 = 12_582_912.0;

/// `x` to bf16, ties to even; denormals become zero, as the bf16 product treats them.
#[inline]
pub(crate) fn round_to_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    if x.is_nan() {
        return (bits >> 16) as u16 | 0x40;
    }
    if x.abs() < f32::MIN_POSITIVE {
        return (bits >> 16) as u16 & 0x8000;
    }
    ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16) as u16
}

/// Quantizes with one scale: `d = amax / 127`, `q = round(x * (127 / amax))`, ties to even. A block with an infinity
/// or NaN gets `d = NaN`, so that every product with it is NaN on every machine.
#[inline(always)]
fn quantize<const N: usize>(x: &[f32; N], q: &mut [i8; N]) -> f32 {
    // As integers, magnitudes compare like floats, with NaN above infinity.
    let amax = x.iter().fold(0, |max: u32, v| max.max(v.to_bits() & 0x7FFF_FFFF));
    let amax = f32::from_bits(amax);
    if !amax.is_finite() || amax < AMAX_MIN {
        *q = [0; N];
        return if amax.is_finite() { 0.0 } else { f32::NAN };
    }
    let inverse = 127.0 / amax;
    for (q, x) in q.iter_mut().zip(x) {
        *q = (x * inverse + ROUND).to_bits().wrapping_sub(ROUND.to_bits()) as i8;
    }
    amax / 127.0
}

#[inline(always)]
fn sum<const N: usize>(q: &[i8]) -> [i32; N] {
    let len = q.len() / N;
    std::array::from_fn(|i| q[i * len..][..len].iter().map(|&q| i32::from(q)).sum())
}

#[inline(always)]
fn quantize_32_any(x: &[f32; 32], out: &mut X32) {
    out.d = quantize(x, &mut out.q);
    let [sum] = sum(&out.q);
    out.times_neg8 = -8 * sum;
    out.times_neg128 = -128 * sum;
}

#[inline(always)]
fn quantize_256_any(x: &[f32; 256], out: &mut X256) {
    out.d = quantize(x, &mut out.q);
    let sums: [i32; 16] = sum(&out.q);
    out.times_neg32 = sums.map(|sum| -32 * sum);
    // At most 127 * 32: fits.
    out.sums = std::array::from_fn(|i| (sums[2 * i] + sums[2 * i + 1]) as i16);
}

macro_rules! for_each_isa {
    ($name:ident, $any:ident, $x:ty, $out:ty) => {
        /// Quantizes a block.
        pub(crate) fn $name(isa: Isa, x: &$x, out: &mut $out) {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2")]
                fn avx2(x: &$x, out: &mut $out) {
                    $any(x, out);
                }
                #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
                fn avx512(x: &$x, out: &mut $out) {
                    $any(x, out);
                }
                debug_assert!(isa.is_available());
                match isa {
                    // SAFETY: callers pass what `Isa::usable` found on this machine.
                    Isa::Avx512 => return unsafe { avx512(x, out) },
                    // SAFETY: as above.
                    Isa::Avx2 | Isa::AvxVnni => return unsafe { avx2(x, out) },
                    Isa::Scalar => {}
                }
            }
            let _ = isa;
            $any(x, out);
        }
    };
}

for_each_isa!(quantize_32, quantize_32_any, [f32; 32], X32);
for_each_isa!(quantize_256, quantize_256_any, [f32; 256], X256);

#[cfg(test)]
mod tests {
    use super::*;
    use bytemuck::Zeroable;

    fn check_256(x: &[f32; 256]) {
        let mut first: Option<X256> = None;
        for isa in Isa::available() {
            let mut out = X256::zeroed();
            quantize_256(isa, x, &mut out);
            let first = first.get_or_insert(out);
            assert_eq!(bytemuck::bytes_of(first), bytemuck::bytes_of(&out), "{}", isa.name());
        }
        let out = first.expect("scalar is always there");
        let amax = x.iter().fold(0.0f32, |max, v| max.max(v.abs()));
        for (k, (&x, &q)) in x.iter().zip(&out.q).enumerate() {
            assert!(
                (f64::from(x) - f64::from(q) * f64::from(out.d)).abs() <= f64::from(amax) * 0.00395,
                "{k}"
            );
        }
        for (i, &sum) in out.sums.iter().enumerate() {
            assert_eq!(sum, out.q[i * 32..][..32].iter().map(|&q| i16::from(q)).sum::<i16>());
        }
        for (i, &sum) in out.times_neg32.iter().enumerate() {
            assert_eq!(sum, -32 * out.q[i * 16..][..16].iter().map(|&q| i32::from(q)).sum::<i32>());
        }
    }

    #[test]
    fn int8_is_the_same_on_every_isa_and_close() {
        let mut seed = 1u64;
        let mut random = || {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (seed >> 40) as f32 / (1 << 23) as f32 - 1.0
        };
        for scale in [1.0, 1e-20, 1e20, 1e-29] {
            for _ in 0..50 {
                check_256(&std::array::from_fn(|_| random() * scale));
            }
        }
        check_256(&[0.0; 256]);
        check_256(&[-3.5; 256]);
        check_256(&std::array::from_fn(|k| k as f32 - 127.0));
    }

    #[test]
    fn blocks_that_are_not_finite_give_nan_and_tiny_ones_zero() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = [1.0; 32];
            x[17] = bad;
            for isa in Isa::available() {
                let mut out = X32::zeroed();
                quantize_32(isa, &x, &mut out);
                assert!(out.d.is_nan() && out.q == [0; 32] && out.times_neg8 == 0);
            }
        }
        let mut out = X32::zeroed();
        quantize_32(Isa::Scalar, &[1e-38; 32], &mut out);
        assert_eq!((out.d, out.q), (0.0, [0; 32]));
    }

    #[test]
    fn bf16_rounds_to_even_and_flushes_denormals() {
        for bits in (0..=u32::MAX).step_by(65_521) {
            let x = f32::from_bits(bits);
            let got = round_to_bf16(x);
            if x.is_nan() {
                assert!(half::bf16::from_bits(got).is_nan());
            } else if x.abs() < f32::MIN_POSITIVE {
                assert_eq!(got, (bits >> 31 << 15) as u16);
            } else {
                assert_eq!(got, half::bf16::from_f32(x).to_bits(), "{x}");
            }
        }
    }
}
