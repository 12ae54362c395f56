//! Norms.

#![expect(unsafe_code, reason = "calls of functions that need an instruction set")]

#[cfg(target_arch = "x86_64")]
use crate::lanes::{Avx2, Avx512, Lanes};
use crate::lanes::{N_LANES, sum_tree};
use crate::{Isa, Pool, RmsNorm};

/// Elements that are worth a claim.
const ELEMENTS_PER_CLAIM: usize = 8192;

/// Norms rows `x (n_rows, n_cols)` into `out`. In parallel if there are many.
///
/// # Panics
/// If `out` is not as long as `x`, or `x` is not whole rows of the weight's length.
pub fn rms_norm_rows(pool: &Pool, x: &[f32], norm: RmsNorm<'_>, out: &mut [f32]) {
    let n_cols = norm.weight.len();
    assert!(x.len() == out.len() && x.len().is_multiple_of(n_cols.max(1)), "whole rows in and out");
    let chunk = (ELEMENTS_PER_CLAIM / n_cols.max(1)).max(1) * n_cols;
    pool.run_chunks(out, chunk, &|i, out| {
        for (x, out) in x[i * chunk..].chunks_exact(n_cols).zip(out.chunks_exact_mut(n_cols)) {
            rms_norm_row(pool.isa(), x, norm, out);
        }
    });
}

/// Norms each head of `x (n_rows, n_heads * head_dim)` in place with the same weight `(head_dim,)`: Qwen3's Q and
/// K norms.
///
/// # Panics
/// If `x` is not whole heads.
pub fn rms_norm_heads(pool: &Pool, x: &mut [f32], norm: RmsNorm<'_>) {
    let n_cols = norm.weight.len();
    assert!(x.len().is_multiple_of(n_cols.max(1)), "whole heads");
    let chunk = (ELEMENTS_PER_CLAIM / n_cols.max(1)).max(1) * n_cols;
    pool.run_chunks(x, chunk, &|_, heads| {
        for head in heads.chunks_exact_mut(n_cols) {
            let factor = rms_factor(pool.isa(), head, norm.eps);
            scale_in_place(pool.isa(), head, factor, norm.weight);
        }
    });
}

/// `out = x / sqrt(mean(x²) + eps) * weight` for one row.
pub(crate) fn rms_norm_row(isa: Isa, x: &[f32], norm: RmsNorm<'_>, out: &mut [f32]) {
    assert!(x.len() == out.len() && x.len() == norm.weight.len(), "rows of one length");
    let factor = rms_factor(isa, x, norm.eps);
    out.copy_from_slice(x);
    scale_in_place(isa, out, factor, norm.weight);
}

/// `x * factor * weight`, element by element, in the widest registers there are.
fn scale_in_place(isa: Isa, x: &mut [f32], factor: f32, weight: &[f32]) {
    #[inline(always)]
    fn any(x: &mut [f32], factor: f32, weight: &[f32]) {
        for (x, &weight) in x.iter_mut().zip(weight) {
            *x = *x * factor * weight;
        }
    }
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    fn avx512(x: &mut [f32], factor: f32, weight: &[f32]) {
        any(x, factor, weight);
    }
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn avx2(x: &mut [f32], factor: f32, weight: &[f32]) {
        any(x, factor, weight);
    }
    match isa {
        // SAFETY: an `Isa` above scalar exists only where the machine has it.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => unsafe { avx512(x, factor, weight) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { avx2(x, factor, weight) },
        _ => any(x, factor, weight),
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
