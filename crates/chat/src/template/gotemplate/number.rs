//! Floating-point numbers in Go's spelling.

/// The shortest decimal digits of a finite number, without its sign, and the place of the point before them: `0.d1d2…`
/// times ten to that power.
fn shortest(f: f64) -> (String, i32) {
    decimal(&format!("{:e}", f.abs()))
}

/// Digits and the place of the point of a number in scientific notation.
fn decimal(scientific: &str) -> (String, i32) {
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((scientific, "0"));
    let digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
    let trimmed = digits.trim_end_matches('0');
    if trimmed.is_empty() {
        return (String::new(), 0);
    }
    (trimmed.to_owned(), exponent.parse::<i32>().unwrap_or_default() + 1)
}

fn special(f: f64) -> Option<&'static str> {
    match f {
        f if f.is_nan() => Some("NaN"),
        f if f == f64::INFINITY => Some("+Inf"),
        f if f == f64::NEG_INFINITY => Some("-Inf"),
        _ => None,
    }
}

fn sign(f: f64) -> &'static str {
    if f.is_sign_negative() { "-" } else { "" }
}

/// `d.ddde±XX`
fn scientific(digits: &str, point: i32, n_decimals: usize, mark: char) -> String {
    let exponent = if digits.is_empty() { 0 } else { point - 1 };
    let mut digits = digits.to_owned();
    while digits.len() < n_decimals + 1 {
        digits.push('0');
    }
    let decimals = if n_decimals > 0 { format!(".{}", &digits[1..=n_decimals]) } else { String::new() };
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{}{decimals}{mark}{sign}{:02}", &digits[..1], exponent.abs())
}

/// Digits with a point where it belongs.
fn fixed(digits: &str, point: i32, n_decimals: usize) -> String {
    let digit = |at: i32| {
        usize::try_from(at).ok().and_then(|at| digits.as_bytes().get(at)).map_or('0', |b| char::from(*b))
    };
    let mut out: String = if point > 0 { (0..point).map(digit).collect() } else { "0".into() };
    if n_decimals > 0 {
        out.push('.');
        out.extend((0..n_decimals as i32).map(|i| digit(point + i)));
    }
    out
}

/// As `%v` shows it.
pub(super) fn general(f: f64) -> String {
    format_g(f, None, 'e')
}

/// As `%g` with so many digits shows it, or with as many as it needs.
pub(super) fn format_g(f: f64, precision: Option<usize>, mark: char) -> String {
    if let Some(name) = special(f) {
        return name.into();
    }
    let (digits, point) = match precision {
        None => shortest(f),
        Some(n) => decimal(&format!("{:.*e}", n.max(1) - 1, f.abs())),
    };
    let n = digits.len() as i32;
    let limit = match precision {
        None => 6,
        Some(p) => {
            let p = p.max(1) as i32;
            if p > n && n >= point { n } else { p }
        }
    };
    let exponent = point - 1;
    let is_zero = digits.is_empty();
    let text = if !is_zero && (exponent < -4 || exponent >= limit) {
        scientific(&digits, point, digits.len() - 1, mark)
    } else {
        fixed(&digits, point, (n - point).max(0) as usize)
    };
    format!("{}{text}", sign(f))
}

/// As `%e` or `%E` shows it.
pub(super) fn format_e(f: f64, precision: usize, mark: char) -> String {
    if let Some(name) = special(f) {
        return name.into();
    }
    let (digits, point) = decimal(&format!("{:.*e}", precision, f.abs()));
    format!("{}{}", sign(f), scientific(&digits, point, precision, mark))
}

/// As `%f` shows it.
pub(super) fn format_f(f: f64, precision: usize) -> String {
    match special(f) {
        Some(name) => name.into(),
        None => format!("{}{:.*}", sign(f), precision, f.abs()),
    }
}

/// As `%x` shows it: hexadecimal digits, and a power of two.
pub(super) fn format_x(f: f64) -> String {
    if let Some(name) = special(f) {
        return name.into();
    }
    const MANTISSA_BITS: u32 = 52;
    let bits = f.abs().to_bits();
    if bits == 0 {
        return format!("{}0x0p+00", sign(f));
    }
    let (mut exponent, mut mantissa) =
        ((bits >> MANTISSA_BITS) as i32 - 1023, bits & ((1 << MANTISSA_BITS) - 1));
    if exponent == -1023 {
        // A subnormal number: its first bit becomes the one before the point.
        let shift = mantissa.leading_zeros() - (63 - MANTISSA_BITS);
        mantissa = (mantissa << shift) & ((1 << MANTISSA_BITS) - 1);
        exponent = -1022 - shift as i32;
    }
    let digits = format!("{mantissa:013x}");
    let digits = digits.trim_end_matches('0');
    let point = if digits.is_empty() { "" } else { "." };
    let of_exponent = if exponent < 0 { '-' } else { '+' };
    format!("{}0x1{point}{digits}p{of_exponent}{:02}", sign(f), exponent.abs())
}

/// As JSON has it.
pub(super) fn json(f: f64) -> String {
    let size = f.abs();
    let (digits, point) = shortest(f);
    let text = if size != 0.0 && !(1e-6..1e21).contains(&size) {
        let text = scientific(&digits, point, digits.len() - 1, 'e');
        // `e-09` is written `e-9`.
        text.replace("e-0", "e-")
    } else {
        fixed(&digits, point, (digits.len() as i32 - point).max(0) as usize)
    };
    format!("{}{text}", sign(f))
}
