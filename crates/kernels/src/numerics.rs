//! Our own elementary functions: the same bits on every machine, whatever its libm.

/// `e^x`, the scalar twin of the vector exponential in softmax and SiLU.
pub fn exp(_x: f32) -> f32 {
    todo!()
}

/// Natural logarithm.
pub fn ln(_x: f64) -> f64 {
    todo!()
}

/// `x^y` for positive `x`.
pub fn powf(_x: f64, _y: f64) -> f64 {
    todo!()
}

/// Sine and cosine.
pub fn sin_cos(_x: f64) -> (f64, f64) {
    todo!()
}
