#![expect(unsafe_code, reason = "calls of the vector chains")]

use super::*;
use crate::{ClaimOrder, Pool};

/// Distance in units of the last place of the exact value rounded to f32.
fn ulps(got: f32, exact: f64) -> f64 {
    let rounded = exact as f32;
    if got == rounded {
        return 0.0;
    }
    let ulp = f64::from(f32::from_bits(rounded.abs().to_bits() + 1)) - f64::from(rounded.abs());
    (f64::from(got) - exact).abs() / ulp
}

/// All magnitudes, both signs, and the special values.
fn floats() -> impl Iterator<Item = f32> {
    let grid = (0..40_000).map(|i| (i as f32 - 20_000.0) * 0.005_312);
    let bits = (0..20_000u32).map(|i| f32::from_bits(i.wrapping_mul(0x9E37_79B9)));
    grid.chain(bits).chain([
        0.0,
        -0.0,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
        f32::MAX,
        f32::MIN,
        1e-40,
        88.722_84,
        88.75,
        -87.4,
        -103.9,
        -104.1,
    ])
}

#[test]
fn exp_is_within_two_ulps() {
    for x in floats().filter(|x| !x.is_nan()) {
        let exact = f64::from(x).exp();
        let got = exp(x);
        if exact > f64::from(f32::MAX) * 1.000_000_03 {
            assert_eq!(got, f32::INFINITY, "{x}");
        } else if exact < f64::from(f32::MAX) {
            assert!(ulps(got, exact) <= 1.5, "{x}: {got} for {exact}");
        }
    }
    assert!(exp(f32::NAN).is_nan());
    assert_eq!(exp(0.0), 1.0);
    assert_eq!(exp(f32::NEG_INFINITY).to_bits(), 0);
    assert_eq!(exp(f32::INFINITY), f32::INFINITY);
}

#[test]
fn tanh_is_within_four_ulps() {
    for x in floats().filter(|x| !x.is_nan() && x.abs() > 1e-37) {
        let exact = f64::from(x).tanh();
        assert!(ulps(tanh(x), exact) <= 4.0, "{x}: {} for {exact}", tanh(x));
    }
    assert!(tanh(f32::NAN).is_nan());
    assert_eq!(tanh(-0.0).to_bits(), (-0.0f32).to_bits());
}

#[test]
fn ln_powf_sin_and_cos_match_std() {
    for i in 1..20_000 {
        let x = f64::from(i) * 0.37;
        assert!((ln(x) - x.ln()).abs() <= 4e-16 * x.ln().abs().max(1.0), "ln {x}");
        assert!((ln(1.0 / x) - (1.0 / x).ln()).abs() <= 4e-16 * x.ln().abs().max(1.0), "ln 1/{x}");
        let y = -f64::from(i % 64) / 64.0;
        let (got, exact) = (powf(x * 100.0, y), (x * 100.0).powf(y));
        assert!((got / exact - 1.0).abs() < 1e-14, "{x}^{y}: {got} for {exact}");
    }
    for i in 0..40_000 {
        let x = (f64::from(i) - 20_000.0) * 499.123_4;
        for x in [x, x * 1e-3, x * 1e-6] {
            let ((sin, cos), (sin_std, cos_std)) = (sin_cos(x), x.sin_cos());
            assert!((sin - sin_std).abs() < 1e-15 && (cos - cos_std).abs() < 1e-15, "{x}");
        }
    }
    let (sin, cos) = sin_cos(1e12);
    assert!((sin * sin + cos * cos - 1.0).abs() < 1e-12);
    assert!(sin_cos(f64::INFINITY).0.is_nan());
    assert_eq!(sin_cos(0.0), (0.0, 1.0));
    assert_eq!(ln(0.0), f64::NEG_INFINITY);
    assert!(ln(-1.0).is_nan());
    assert!((ln(5e-324) - 5e-324f64.ln()).abs() < 1e-12);
    assert_eq!(powf(10_000.0, 0.0), 1.0);
    assert_eq!(powf(2.0, 10.0), 1024.0);
    assert_eq!(powf(2.0, 5000.0), f64::INFINITY);
    assert_eq!(powf(2.0, -5000.0), 0.0);
}

fn same(a: f32, b: f32) -> bool {
    a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan()
}

#[test]
fn silu_mul_has_the_same_bits_everywhere() {
    let gate: Vec<f32> = floats().collect();
    let up: Vec<f32> = gate.iter().rev().map(|x| x * 0.77).collect();
    for n in [0, 1, 15, 16, 17, 40, gate.len()] {
        let mut expected = vec![0.0; n];
        silu_mul_row(Isa::Scalar, &gate[..n], &up[..n], &mut expected);
        for isa in Isa::available() {
            let mut out = vec![0.0; n];
            silu_mul_row(isa, &gate[..n], &up[..n], &mut out);
            for i in 0..n {
                assert!(same(out[i], expected[i]), "{isa:?} silu({}) * {}", gate[i], up[i]);
            }
        }
    }
    let mut out = [0.0];
    silu_mul_row(Isa::Scalar, &[1.5], &[2.0], &mut out);
    assert!((out[0] - 2.0 * 1.5 / (1.0 + (-1.5f32).exp())).abs() < 1e-6);
}

/// `erfc(t)` for `t >= 0` in doubles: its series near 0, its continued fraction beyond.
fn erfc(t: f64) -> f64 {
    let (two_over_sqrt_pi, t2) = (std::f64::consts::FRAC_2_SQRT_PI, t * t);
    if t < 2.5 {
        let (mut term, mut sum) = (t, t);
        for n in 1..60 {
            term *= -t2 / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        return 1.0 - two_over_sqrt_pi * sum;
    }
    let fraction = (1..120).rev().fold(0.0, |f, k| f64::from(k) * 0.5 / (t + f));
    0.5 * two_over_sqrt_pi * (-t2).exp() / (t + fraction)
}

#[test]
fn gelu_is_exact_and_has_the_same_bits_everywhere() {
    let x: Vec<f32> = floats().collect();
    for &x in x.iter().filter(|x| x.is_finite()) {
        let exact_tail = 0.5 * erfc(f64::from(x.abs()) / std::f64::consts::SQRT_2);
        let exact = f64::from(x) * if x < 0.0 { exact_tail } else { 1.0 - exact_tail };
        let error = (f64::from(gelu(x)) - exact).abs();
        assert!(error <= 3e-7 * f64::from(x.abs()) + 1e-44, "{x}: {} for {exact}", gelu(x));
    }
    assert_eq!(gelu(f32::INFINITY), f32::INFINITY);
    assert!(gelu(f32::NAN).is_nan());
    for n in [0, 1, 15, 16, 17, 40, x.len()] {
        for isa in Isa::available() {
            let mut out = x[..n].to_vec();
            gelu_in_place(&Pool::with(2, isa, ClaimOrder::Shuffled(3)), &mut out);
            for (out, &x) in out.iter().zip(&x) {
                assert!(same(*out, gelu(x)), "{isa:?} gelu({x})");
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod vectors {
    use super::*;
    use crate::lanes::{self, Avx2, Avx512, Lanes, N_LANES};

    /// # Safety
    /// As [`Lanes`].
    #[inline(always)]
    unsafe fn exp_and_tanh<V: Lanes>(x: &[f32; N_LANES]) -> [[f32; N_LANES]; 2] {
        let mut out = [[0.0; N_LANES]; 2];
        // SAFETY: arrays of 16; the caller has the instruction set.
        unsafe {
            lanes::exp(V::load(x.as_ptr())).store(out[0].as_mut_ptr());
            lanes::tanh(V::load(x.as_ptr())).store(out[1].as_mut_ptr());
        }
        out
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn on_avx2(x: &[f32; N_LANES]) -> [[f32; N_LANES]; 2] {
        // SAFETY: this function's own instruction set.
        unsafe { exp_and_tanh::<Avx2>(x) }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    unsafe fn on_avx512(x: &[f32; N_LANES]) -> [[f32; N_LANES]; 2] {
        // SAFETY: this function's own instruction set.
        unsafe { exp_and_tanh::<Avx512>(x) }
    }

    #[test]
    fn vector_chains_have_the_bits_of_their_twins() {
        let all: Vec<f32> = floats().collect();
        for chunk in all.as_chunks::<N_LANES>().0 {
            for isa in Isa::available() {
                let [exps, tanhs] = match isa {
                    Isa::Scalar => continue,
                    // SAFETY: the machine has it.
                    Isa::Avx2 | Isa::AvxVnni => unsafe { on_avx2(chunk) },
                    // SAFETY: the machine has it.
                    Isa::Avx512 => unsafe { on_avx512(chunk) },
                };
                for (i, &x) in chunk.iter().enumerate() {
                    assert!(same(exps[i], exp(x)), "{isa:?} exp({x}): {} for {}", exps[i], exp(x));
                    assert!(same(tanhs[i], tanh(x)), "{isa:?} tanh({x}): {} for {}", tanhs[i], tanh(x));
                }
            }
        }
    }
}
