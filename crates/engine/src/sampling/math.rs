//! `exp`, `ln` and `pow` of our own, in double precision: the same bits on every machine, whatever its C library.

/// The natural exponential; relative error below 1e-15. 0 below -708.
#[inline]
pub(super) fn exp(x: f64) -> f64 {
    if x > 709.7 {
        return f64::INFINITY;
    }
    // Also catches NaN: nothing that is not a number is likely.
    if x.partial_cmp(&-708.0) != Some(std::cmp::Ordering::Greater) {
        return 0.0;
    }
    // x = k ln 2 + r, |r| <= ln 2 / 2, with ln 2 in two parts so that r is exact.
    const LN2_HIGH: f64 = 6.931_471_803_691_238e-1;
    const LN2_LOW: f64 = 1.908_214_929_270_587_7e-10;
    const ROUND: f64 = 6_755_399_441_055_744.0; // 1.5 * 2^52: adding it rounds to a whole number
    let k = x * std::f64::consts::LOG2_E + ROUND - ROUND;
    let r = x - k * LN2_HIGH - k * LN2_LOW;
    // Taylor; the next term is below 2e-17.
    let mut p = 1.0 / 6_227_020_800.0;
    for c in [
        1.0 / 479_001_600.0,
        1.0 / 39_916_800.0,
        1.0 / 3_628_800.0,
        1.0 / 362_880.0,
        1.0 / 40_320.0,
        1.0 / 5_040.0,
        1.0 / 720.0,
        1.0 / 120.0,
        1.0 / 24.0,
        1.0 / 6.0,
        0.5,
        1.0,
        1.0,
    ] {
        p = p * r + c;
    }
    p * f64::from_bits((((k as i64) + 1023) as u64) << 52)
}

/// The natural logarithm; minus infinity for 0 and NaN below.
#[inline]
pub(super) fn ln(x: f64) -> f64 {
    if x == 0.0 {
        return f64::NEG_INFINITY;
    }
    if x < 0.0 || x.is_nan() {
        return f64::NAN;
    }
    if x.is_infinite() {
        return x;
    }
    // Subnormal numbers are scaled up first.
    let (x, shift) = if x < f64::MIN_POSITIVE { (x * (1u64 << 54) as f64, 54) } else { (x, 0) };
    let bits = x.to_bits();
    let mut e = (bits >> 52) as i64 - 1023 - shift;
    let mut m = f64::from_bits((bits & ((1 << 52) - 1)) | 1023 << 52);
    if m > std::f64::consts::SQRT_2 {
        m *= 0.5;
        e += 1;
    }
    // ln m = 2 artanh s with |s| < 0.172; the next term is below 1e-18.
    let s = (m - 1.0) / (m + 1.0);
    let z = s * s;
    let mut p = 1.0 / 21.0;
    for c in [
        1.0 / 19.0,
        1.0 / 17.0,
        1.0 / 15.0,
        1.0 / 13.0,
        1.0 / 11.0,
        1.0 / 9.0,
        1.0 / 7.0,
        1.0 / 5.0,
        1.0 / 3.0,
        1.0,
    ] {
        p = p * z + c;
    }
    e as f64 * std::f64::consts::LN_2 + 2.0 * s * p
}

/// `base` to a power; `base` is positive or 0.
pub(super) fn pow(base: f64, exponent: f64) -> f64 {
    if exponent == 0.0 {
        1.0
    } else if base == 0.0 {
        if exponent > 0.0 { 0.0 } else { f64::INFINITY }
    } else {
        exp(exponent * ln(base))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_the_c_library() {
        for i in -70_000..=70_000 {
            let x = f64::from(i) * 0.01;
            let (is, expected) = (exp(x), x.exp());
            assert!((is - expected).abs() <= 4e-15 * expected, "exp({x}): {is} instead of {expected}");
        }
        for i in 1..100_000 {
            for x in [f64::from(i) * 1e-5, f64::from(i) * 7.3, 1.0 / f64::from(i)] {
                let (is, expected) = (ln(x), x.ln());
                assert!(
                    (is - expected).abs() <= 4e-16 * expected.abs().max(1.0),
                    "ln({x}): {is} instead of {expected}"
                );
            }
        }
        assert!((pow(1.75, 7.0) - 1.75f64.powf(7.0)).abs() < 1e-13);
    }

    #[test]
    fn edges() {
        assert_eq!(
            (exp(0.0), exp(-1e9), exp(f64::NEG_INFINITY), exp(f64::NAN), exp(1e9)),
            (1.0, 0.0, 0.0, 0.0, f64::INFINITY)
        );
        assert_eq!((ln(1.0), ln(0.0), ln(f64::INFINITY)), (0.0, f64::NEG_INFINITY, f64::INFINITY));
        assert!((ln(5e-324) - 5e-324f64.ln()).abs() < 1e-12);
        assert_eq!((pow(0.0, 0.0), pow(0.0, 2.0), pow(3.0, 0.0)), (1.0, 0.0, 1.0));
    }
}
