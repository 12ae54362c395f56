//! The rope table: which angle each pair of elements turns by per position.
//!
//! All in doubles with the kernels' own `powf` and `ln`, so that the table has the same bits on every machine.

use std::f64::consts::PI;

use ingle_gguf::GgufFile;
use ingle_kernels::{RopeStyle, RopeTable, ln, powf};

use crate::error::ModelError;
use crate::hparams::{HParams, RopeParams, RopeScaling};
use crate::weights;

/// Divisors of the frequencies as Llama 3.1 and later have them.
pub(crate) const ROPE_FREQS: &str = "rope_freqs.weight";
/// Divisors for contexts beyond the original one.
pub(crate) const ROPE_FACTORS_LONG: &str = "rope_factors_long.weight";
/// Divisors for contexts up to the original one.
pub(crate) const ROPE_FACTORS_SHORT: &str = "rope_factors_short.weight";

/// The table for a context of `n_ctx`. The factors follow the configured context and never a sequence's length,
/// so that a token's angles don't change while its sequence grows.
///
/// # Errors
/// If a tensor of factors has a wrong shape or values that are not above 0.
pub fn rope_table(
    file: &GgufFile,
    hp: &HParams,
    style: RopeStyle,
    n_ctx: usize,
) -> Result<RopeTable, ModelError> {
    let name = match hp.rope.scaling {
        RopeScaling::LongRope { original_ctx, .. } if n_ctx > original_ctx => ROPE_FACTORS_LONG,
        RopeScaling::LongRope { .. } => ROPE_FACTORS_SHORT,
        _ => ROPE_FREQS,
    };
    let n_pairs = hp.rope.n_rot / 2;
    let factors = match hp.rope.scaling {
        RopeScaling::LongRope { .. } => Some(weights::vector(file, name, n_pairs)?),
        _ => weights::opt_vector(file, name, n_pairs)?,
    };
    if let Some(factor) = factors.iter().flatten().find(|f| !(f.is_finite() && **f > 0.0)) {
        return Err(ModelError::bad(name, format!("the factor {factor} is not above 0")));
    }
    Ok(table(&hp.rope, style, factors.as_deref()))
}

fn table(rope: &RopeParams, style: RopeStyle, factors: Option<&[f32]>) -> RopeTable {
    let n_rot = rope.n_rot as f64;
    let base = f64::from(rope.base);
    let freqs = (0..rope.n_rot / 2).map(|i| {
        let factor = factors.map_or(1.0, |f| f64::from(f[i]));
        let freq = powf(base, -2.0 * i as f64 / n_rot) / factor;
        scaled(freq, i, rope)
    });
    let magnitude = match rope.scaling {
        RopeScaling::Yarn { factor, ext_factor, .. } if ext_factor != 0.0 && factor > 1.0 => {
            1.0 + 0.1 * ln(f64::from(factor))
        }
        _ => 1.0,
    };
    RopeTable {
        n_rot: rope.n_rot,
        style,
        freqs: freqs.collect(),
        magnitude: (magnitude * f64::from(rope.attn_factor)) as f32,
    }
}

/// Frequency `i` as the scaling has it.
fn scaled(freq: f64, i: usize, rope: &RopeParams) -> f64 {
    match rope.scaling {
        RopeScaling::None => freq,
        RopeScaling::Linear { factor } | RopeScaling::LongRope { factor, .. } => freq / f64::from(factor),
        RopeScaling::Yarn { factor, original_ctx, ext_factor, beta_fast, beta_slow } => {
            let low = pair_of_rotations(beta_fast, original_ctx, rope).floor().max(0.0);
            let high = pair_of_rotations(beta_slow, original_ctx, rope).ceil().min(rope.n_rot as f64 - 1.0);
            // 1 for pairs that turn often (they keep their frequency), 0 for pairs that turn rarely.
            let ramp = 1.0 - ((i as f64 - low) / (high - low).max(0.001)).clamp(0.0, 1.0);
            let keep = ramp * f64::from(ext_factor);
            freq / f64::from(factor) * (1.0 - keep) + freq * keep
        }
    }
}

/// Which pair turns this often over the original context: a real number.
fn pair_of_rotations(rotations: f32, original_ctx: usize, rope: &RopeParams) -> f64 {
    let wavelengths = original_ctx as f64 / (f64::from(rotations) * 2.0 * PI);
    // A base of 1 turns all pairs alike: then no pair is past any number of rotations.
    let ln_base = ln(f64::from(rope.base)).max(f64::MIN_POSITIVE);
    (rope.n_rot as f64 * ln(wavelengths) / (2.0 * ln_base)).clamp(-1e9, 1e9)
}
