//! Bounds of numbers, such that a double holds them.

use serde_json::Value;

/// All integers up to this one are doubles.
const EXACT: f64 = 9_007_199_254_740_992.0;
/// `multipleOf` is reckoned in 32 bits.
const MULTIPLE_DIGITS_MAX: usize = 9;

/// A bound that is no looser than this one, and that the recognizer handles exactly. `None` if it cannot be met.
pub(super) fn bound(value: f64, is_upper: bool) -> Option<f64> {
    if is_upper {
        (value > -EXACT).then_some(value.min(EXACT))
    } else {
        (value < EXACT).then_some(value.max(-EXACT))
    }
}

/// Whether a value is the same as a double.
pub(super) fn is_exact(value: &Value) -> bool {
    match value {
        Value::Number(number) => number.as_f64().is_some_and(|number| number.abs() < EXACT),
        _ => true,
    }
}

/// The digits of `multipleOf` and how many are behind the point: `0.25` is `(25, 2)`. `None` if there are too many.
pub(super) fn multiple(value: f64) -> Option<(u64, u32)> {
    if value <= 0.0 || !value.is_finite() {
        return None;
    }
    let text = format!("{value}");
    let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
    if whole.len() + fraction.len() > MULTIPLE_DIGITS_MAX {
        return None;
    }
    let digits = format!("{whole}{fraction}").parse().ok()?;
    Some((digits, u32::try_from(fraction.len()).ok()?))
}

/// Whether the least common multiple can be reckoned, too, should both hold for one value.
pub(super) fn have_common_multiple(a: (u64, u32), b: (u64, u32)) -> bool {
    let places = a.1.max(b.1);
    let scaled = |(digits, own): (u64, u32)| 10u64.checked_pow(places - own)?.checked_mul(digits);
    let product = scaled(a).zip(scaled(b)).and_then(|(a, b)| a.checked_mul(b));
    a == b || product.is_some_and(|product| product <= u64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_become_stricter_never_looser() {
        for (value, is_upper, expected) in [
            (10.0, true, Some(10.0)),
            (9.3e18, true, Some(EXACT)),
            (-9.3e18, false, Some(-EXACT)),
            (-9.3e18, true, None),
            (9.3e18, false, None),
            (0.1, false, Some(0.1)),
        ] {
            assert_eq!(bound(value, is_upper), expected, "{value} {is_upper}");
        }
    }

    #[test]
    fn multiples_have_few_digits() {
        for (value, expected) in [
            (1.0, Some((1, 0))),
            (0.25, Some((25, 2))),
            (0.01, Some((1, 2))),
            (1e-300, None),
            (1e300, None),
            (0.0, None),
            (-1.0, None),
        ] {
            assert_eq!(multiple(value), expected, "{value}");
        }
        assert!(have_common_multiple((100_003, 0), (100_003, 0)));
        assert!(!have_common_multiple((100_003, 0), (100_002, 0)));
        assert!(have_common_multiple((25, 2), (3, 0)));
    }
}
