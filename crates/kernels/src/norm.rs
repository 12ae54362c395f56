//! Norms.

#![expect(unsafe_code, reason = "calls of functions that need an instruction set")]

#[cfg(target_arch = "x86_64")]
use crate::lanes::{Avx2, Avx512, Lanes};
use crate::lanes::{N_LANES, sum_tree};
use crate::{Isa, Pool};

/// Elements that are worth a claim.
const ELEMENTS_PER_CLAIM: usize = 8192;

/// A norm of rows.
#[derive(Clone, Copy, Debug)]
pub enum RowNorm<'a> {
    /// `x / sqrt(mean(x²) + eps) * weight` (Zhang and Sennrich 2019)
    Rms {
        /// `(n_cols,)`
        weight: &'a [f32],
        /// Added to the mean square.
        eps: f32,
    },
    /// `(x - mean(x)) / sqrt(variance(x) + eps) * weight + bias` (Ba et al. 2016)
    Layer {
        /// `(n_cols,)`
        weight: &'a [f32],
        /// `(n_cols,)`
        bias: &'a [f32],
        /// Added to the variance.
        eps: f32,
    },
}

impl RowNorm<'_> {
    /// Elements of a row.
    pub fn n_cols(&self) -> usize {
        match self {
            Self::Rms { weight, .. } | Self::Layer { weight, .. } => weight.len(),
        }
    }
}

/// Norms rows `x (n_rows, n_cols)` into `out`. In parallel if there are many.
///
/// # Panics
/// If `out` is not as long as `x`, or `x` is not whole rows of the weight's length.
pub fn norm_rows(pool: &Pool, x: &[f32], norm: RowNorm<'_>, out: &mut [f32]) {
    let n_cols = norm.n_cols();
    assert!(x.len() == out.len() && x.len().is_multiple_of(n_cols.max(1)), "whole rows in and out");
    let chunk = (ELEMENTS_PER_CLAIM / n_cols.max(1)).max(1) * n_cols;
    pool.run_chunks(out, chunk, &|i, out| {
        for (x, out) in x[i * chunk..].chunks_exact(n_cols).zip(out.chunks_exact_mut(n_cols)) {
            norm_row(pool.isa(), x, norm, out);
        }
    });
}

/// Norms rows `x (n_rows, n_cols)` where they are. A row may be a head: Qwen3's Q and K norms give each of them the same
/// weight `(head_dim,)`.
///
/// # Panics
/// If `x` is not whole rows.
pub fn norm_in_place(pool: &Pool, x: &mut [f32], norm: RowNorm<'_>) {
    let n_cols = norm.n_cols();
    assert!(x.len().is_multiple_of(n_cols.max(1)), "whole rows");
    let chunk = (ELEMENTS_PER_CLAIM / n_cols.max(1)).max(1) * n_cols;
    pool.run_chunks(x, chunk, &|_, rows| {
        for row in rows.chunks_exact_mut(n_cols) {
            norm_one(pool.isa(), row, norm);
        }
    });
}

/// Norms one row into `out`.
pub(crate) fn norm_row(isa: Isa, x: &[f32], norm: RowNorm<'_>, out: &mut [f32]) {
    out.copy_from_slice(x);
    norm_one(isa, out, norm);
}

/// Norms one row where it is.
fn norm_one(isa: Isa, x: &mut [f32], norm: RowNorm<'_>) {
    assert_eq!(x.len(), norm.n_cols(), "a weight for each element");
    match norm {
        RowNorm::Rms { weight, eps } => {
            let factor = rms_factor(isa, x, eps);
            scale_in_place(isa, x, factor, weight);
        }
        RowNorm::Layer { weight, bias, eps } => {
            assert_eq!(x.len(), bias.len(), "a bias for each element");
            let mean = sum_tree(sums(isa, x)) / x.len() as f32;
            subtract(isa, x, mean);
            // What is left has the mean 0: its mean square is the variance.
            let factor = rms_factor(isa, x, eps);
            scale_in_place(isa, x, factor, weight);
            add_in_place(isa, x, bias);
        }
    }
}

/// Compiles a loop over rows once for each instruction set, in the widest registers that it has, and runs the one for
/// `isa`. Each operation is one IEEE operation per element, so that all of them give the same bits.
macro_rules! per_isa {
    ($(#[$doc:meta])* fn $name:ident($($arg:ident: $ty:ty),+) $(-> $out:ty)? $body:block) => {
        $(#[$doc])*
        fn $name(isa: Isa, $($arg: $ty),+) $(-> $out)? {
            #[inline(always)]
            fn any($($arg: $ty),+) $(-> $out)? $body
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
            fn avx512($($arg: $ty),+) $(-> $out)? {
                any($($arg),+)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2")]
            fn avx2($($arg: $ty),+) $(-> $out)? {
                any($($arg),+)
            }
            match isa {
                // SAFETY: an `Isa` above scalar exists only where the machine has it.
                #[cfg(target_arch = "x86_64")]
                Isa::Avx512 => unsafe { avx512($($arg),+) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                Isa::Avx2 | Isa::AvxVnni => unsafe { avx2($($arg),+) },
                _ => any($($arg),+),
            }
        }
    };
}

per_isa! {
    /// `x * factor * weight`, element by element.
    fn scale_in_place(x: &mut [f32], factor: f32, weight: &[f32]) {
        for (x, &weight) in x.iter_mut().zip(weight) {
            *x = *x * factor * weight;
        }
    }
}

per_isa! {
    /// `x - mean`, element by element.
    fn subtract(x: &mut [f32], mean: f32) {
        x.iter_mut().for_each(|x| *x -= mean);
    }
}

per_isa! {
    /// `x + bias`, element by element.
    fn add_in_place(x: &mut [f32], bias: &[f32]) {
        for (x, &bias) in x.iter_mut().zip(bias) {
            *x += bias;
        }
    }
}

per_isa! {
    /// Sixteen sums by index modulo 16.
    fn sums(x: &[f32]) -> [f32; N_LANES] {
        let (whole, tail) = x.as_chunks::<N_LANES>();
        let mut sums = [0.0f32; N_LANES];
        for chunk in whole {
            for (sum, &x) in sums.iter_mut().zip(chunk) {
                *sum += x;
            }
        }
        for (sum, &x) in sums.iter_mut().zip(tail) {
            *sum += x;
        }
        sums
    }
}

/// `1 / sqrt(mean(x²) + eps)`: squares go to sixteen sums by index modulo 16, which are added by [`sum_tree`].
fn rms_factor(isa: Isa, x: &[f32], eps: f32) -> f32 {
    let (whole, tail) = x.as_chunks::<N_LANES>();
    let mut sums = match isa {
        // SAFETY: an `Isa` above scalar exists only where the machine has it.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => unsafe { square_sums_avx512(whole) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 | Isa::AvxVnni => unsafe { square_sums_avx2(whole) },
        _ => {
            let mut sums = [0.0f32; N_LANES];
            for chunk in whole {
                for (sum, &x) in sums.iter_mut().zip(chunk) {
                    *sum = x.mul_add(x, *sum);
                }
            }
            sums
        }
    };
    for (sum, &x) in sums.iter_mut().zip(tail) {
        *sum = x.mul_add(x, *sum);
    }
    1.0 / (sum_tree(sums) / x.len() as f32 + eps).sqrt()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn square_sums_avx512(x: &[[f32; N_LANES]]) -> [f32; N_LANES] {
    // SAFETY: this function's own instruction set.
    unsafe { square_sums::<Avx512>(x) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn square_sums_avx2(x: &[[f32; N_LANES]]) -> [f32; N_LANES] {
    // SAFETY: this function's own instruction set.
    unsafe { square_sums::<Avx2>(x) }
}

/// # Safety
/// As [`Lanes`].
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn square_sums<V: Lanes>(x: &[[f32; N_LANES]]) -> [f32; N_LANES] {
    let mut out = [0.0; N_LANES];
    // SAFETY: arrays of 16; the caller has the instruction set.
    unsafe {
        let mut sums = V::splat(0.0);
        for chunk in x {
            let x = V::load(chunk.as_ptr());
            sums = x.fma(x, sums);
        }
        sums.store(out.as_mut_ptr());
    }
    out
}

#[cfg(test)]
mod tests;
