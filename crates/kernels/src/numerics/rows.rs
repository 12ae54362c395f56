//! Elementary functions over rows, per instruction set.

#![expect(unsafe_code, reason = "calls of functions that need an instruction set")]

use super::{Isa, exp, gelu};
use crate::Pool;
#[cfg(target_arch = "x86_64")]
use crate::lanes::{self, Avx2, Avx512, Lanes, N_LANES};

/// Elements that are worth a claim.
const ELEMENTS_PER_CLAIM: usize = 8192;

/// [`gelu`] of each element. In parallel if there are many.
pub fn gelu_in_place(pool: &Pool, x: &mut [f32]) {
    pool.run_chunks(x, ELEMENTS_PER_CLAIM, &|_, x| gelu_row(pool.isa(), x));
}

/// [`gelu`] of each element.
pub(crate) fn gelu_row(isa: Isa, x: &mut [f32]) {
    match isa {
        // SAFETY: an `Isa` above scalar exists only where the machine has it.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => unsafe { gelu_avx512(x) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 | Isa::AvxVnni => unsafe { gelu_avx2(x) },
        _ => x.iter_mut().for_each(|x| *x = gelu(*x)),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn gelu_avx512(x: &mut [f32]) {
    // SAFETY: this function's own instruction set.
    unsafe { gelu_lanes::<Avx512>(x) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn gelu_avx2(x: &mut [f32]) {
    // SAFETY: this function's own instruction set.
    unsafe { gelu_lanes::<Avx2>(x) }
}

/// # Safety
/// As [`Lanes`].
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn gelu_lanes<V: Lanes>(x: &mut [f32]) {
    let (whole, tail) = x.as_chunks_mut::<N_LANES>();
    for x in whole {
        // SAFETY: arrays of 16; the caller has the instruction set.
        unsafe { lanes::gelu(V::load(x.as_ptr())).store(x.as_mut_ptr()) }
    }
    if !tail.is_empty() {
        let mut padded = [0.0; N_LANES];
        padded[..tail.len()].copy_from_slice(tail);
        // SAFETY: as above.
        unsafe { lanes::gelu(V::load(padded.as_ptr())).store(padded.as_mut_ptr()) }
        tail.copy_from_slice(&padded[..tail.len()]);
    }
}

/// `out = gate * (1 / (1 + e^-gate)) * up`, element by element; all of one length.
pub(crate) fn silu_mul_row(isa: Isa, gate: &[f32], up: &[f32], out: &mut [f32]) {
    assert!(gate.len() == out.len() && up.len() == out.len(), "rows of one length");
    match isa {
        // SAFETY: an `Isa` above scalar exists only where the machine has it.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => unsafe { silu_mul_avx512(gate, up, out) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 | Isa::AvxVnni => unsafe { silu_mul_avx2(gate, up, out) },
        _ => {
            for ((out, &gate), &up) in out.iter_mut().zip(gate).zip(up) {
                *out = gate * (1.0 / (1.0 + exp(-gate))) * up;
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn silu_mul_avx512(gate: &[f32], up: &[f32], out: &mut [f32]) {
    // SAFETY: this function's own instruction set.
    unsafe { silu_mul::<Avx512>(gate, up, out) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn silu_mul_avx2(gate: &[f32], up: &[f32], out: &mut [f32]) {
    // SAFETY: this function's own instruction set.
    unsafe { silu_mul::<Avx2>(gate, up, out) }
}

/// # Safety
/// As [`Lanes`].
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn silu_mul<V: Lanes>(gate: &[f32], up: &[f32], out: &mut [f32]) {
    let (gate, gate_tail) = gate.as_chunks::<N_LANES>();
    let (up, up_tail) = up.as_chunks::<N_LANES>();
    let (out, out_tail) = out.as_chunks_mut::<N_LANES>();
    for ((out, gate), up) in out.iter_mut().zip(gate).zip(up) {
        // SAFETY: arrays of 16; the caller has the instruction set.
        unsafe { lanes::silu_mul(V::load(gate.as_ptr()), V::load(up.as_ptr())).store(out.as_mut_ptr()) }
    }
    if !out_tail.is_empty() {
        let mut padded = [[0.0; N_LANES]; 3];
        padded[0][..gate_tail.len()].copy_from_slice(gate_tail);
        padded[1][..up_tail.len()].copy_from_slice(up_tail);
        // SAFETY: as above.
        unsafe {
            lanes::silu_mul(V::load(padded[0].as_ptr()), V::load(padded[1].as_ptr()))
                .store(padded[2].as_mut_ptr());
        }
        out_tail.copy_from_slice(&padded[2][..out_tail.len()]);
    }
}
