//! How fast a model can be on a machine, and how fast to expect it.
//!
//! Two ceilings follow from the model and the machine alone. Each decoded token reads the active weights and the keys
//! and values of its sequence once, so decoding is never faster than the memory's speed over these bytes; each token of
//! a prompt is multiplied with all active weights, so prompts are never computed faster than arithmetic allows.
//!
//! What to expect below the ceilings is a range. On processors it is made of [`MEASURED`], the shares of the ceilings
//! that Ingle's kernels reach, type by type. Of other devices we have measured nothing: their range is what others report
//! of their engines.

use crate::sizing::layers::Keeps;
use crate::sizing::machine::Machine;
use crate::sizing::needs::Demand;
use crate::sizing::summary::Summary;
use crate::sizing::windows::Rule;

/// What a machine's arithmetic does at most, measured: operations per second in 10^9, a multiplication and an addition
/// being two.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Arithmetic {
    /// On 8-bit integers.
    pub int8_gops: f64,
    /// On BF16, if there are instructions for it.
    pub bf16_gops: Option<f64>,
    /// On F32.
    pub f32_gops: f64,
}

/// From the slowest that is likely to the fastest.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Range {
    /// The slowest that is likely.
    pub low: f64,
    /// The fastest that is likely.
    pub high: f64,
}

/// Tokens per second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Speed {
    /// No decoding is faster than this. `None` if the memory's speed is not known, or the model does not decode.
    pub decode_max: Option<f64>,
    /// What to expect of it.
    pub decode: Option<Range>,
    /// No prompt is computed faster than this.
    pub prefill_max: Option<f64>,
    /// What to expect of prompts of some hundred tokens.
    pub prefill: Option<Range>,
}

/// The share of the ceilings that our kernels reach with weights of a type.
struct Share {
    ty: &'static str,
    decode: Range,
    prefill: Range,
}

const fn share(ty: &'static str, decode: (f64, f64), prefill: (f64, f64)) -> Share {
    Share {
        ty,
        decode: Range { low: decode.0, high: decode.1 },
        prefill: Range { low: prefill.0, high: prefill.1 },
    }
}

/// Measured on 2026-11-21 on two cores of an AMD EPYC (Zen 4) with AVX-512, with one thread and with two, on files of the
/// llama-1b shape whose matrices are of one type, beside the read and arithmetic probes of the same run (`bench/results`).
/// The range is between the two numbers of threads.
const MEASURED: &[Share] = &[
    share("F32", (0.91, 0.92), (0.82, 0.85)),
    share("F16", (0.82, 0.88), (0.89, 0.93)),
    share("BF16", (0.88, 0.91), (0.87, 1.0)),
    share("Q8_0", (0.69, 0.77), (0.63, 0.66)),
    share("Q6_K", (0.67, 0.74), (0.60, 0.63)),
    share("Q5_K", (0.69, 0.83), (0.58, 0.61)),
    share("Q4_K", (0.72, 0.81), (0.64, 0.68)),
    share("Q3_K", (0.65, 0.84), (0.59, 0.65)),
    share("Q2_K", (0.63, 0.75), (0.59, 0.62)),
    share("Q5_1", (0.59, 0.66), (0.55, 0.61)),
    share("Q5_0", (0.57, 0.66), (0.60, 0.67)),
    share("Q4_1", (0.61, 0.64), (0.57, 0.61)),
    share("Q4_0", (0.72, 0.83), (0.61, 0.65)),
    share("IQ4_NL", (0.58, 0.64), (0.63, 0.67)),
    share("IQ4_XS", (0.68, 0.74), (0.61, 0.68)),
    share("MXFP4", (0.68, 0.83), (0.62, 0.65)),
    share("IQ3_S", (0.43, 0.47), (0.40, 0.43)),
    share("IQ3_XXS", (0.52, 0.78), (0.44, 0.48)),
    share("IQ2_S", (0.29, 0.48), (0.39, 0.42)),
    share("IQ2_XS", (0.32, 0.54), (0.43, 0.45)),
    share("IQ2_XXS", (0.35, 0.55), (0.48, 0.52)),
    share("IQ1_M", (0.14, 0.26), (0.35, 0.37)),
    share("IQ1_S", (0.13, 0.21), (0.36, 0.37)),
];
/// The share that attention reads keys and values with: the same run, from decoding after 4096 tokens.
const KV_SHARE: f64 = 0.75;
/// Of a type that was not measured.
const UNKNOWN: Share = share("", (0.4, 0.8), (0.4, 0.7));
/// The part of a processor's published bandwidth that programs can read: from loaded machines with several cores to
/// quiet ones. Assumed, not measured by us.
const READABLE: Range = Range { low: 0.7, high: 0.95 };
/// The part of published ceilings that other engines are reported to reach on cards: 42 % (4-bit weights, gpt-fast on an
/// A100), 62 % (Q4_K_M, llama.cpp on an RTX 5090), 69 % (BF16, gpt-fast on an A100), 88 % (BF16 in CUDA graphs on an
/// H100). Published by others, not measured by us.
const REPORTED: Range = Range { low: 0.4, high: 0.9 };

/// Weights of a type, as far as a token is multiplied with them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ActiveType {
    pub ty: String,
    /// Bytes that a decoded token reads.
    pub bytes: u64,
    /// Numbers that each token of a prompt is multiplied with: the output matrix is not among them.
    pub n_prefill: u64,
}

impl Range {
    /// The middle.
    pub fn middle(self) -> f64 {
        f64::midpoint(self.low, self.high)
    }

    fn times(self, other: Self) -> Self {
        Self { low: self.low * other.low, high: self.high * other.high }
    }

    fn of(self, x: f64) -> Self {
        Self { low: self.low * x, high: self.high * x }
    }
}

impl Arithmetic {
    /// The limit of products with weights of a type.
    fn gops_of(&self, ty: &str) -> f64 {
        match ty {
            "BF16" => self.bf16_gops.unwrap_or(self.f32_gops),
            "F32" | "F16" | "F64" => self.f32_gops,
            _ => self.int8_gops,
        }
    }
}

fn share_of(ty: &str) -> &'static Share {
    MEASURED.iter().find(|share| share.ty == ty).unwrap_or(&UNKNOWN)
}

impl Machine {
    /// How fast it can be with one sequence of the demanded context.
    pub fn speed(&self, summary: &Summary, demand: &Demand) -> Speed {
        let (decode_max, decode) = self.decode(summary, demand);
        let (prefill_max, prefill) = self.prefill(summary);
        Speed { decode_max, decode, prefill_max, prefill }
    }

    fn decode(&self, summary: &Summary, demand: &Demand) -> (Option<f64>, Option<Range>) {
        let remembers = summary.layers.iter().any(|layer| layer.keeps != Keeps::Nothing || layer.state > 0);
        let Some(read) = self.read_gbs.map(|gbs| gbs * 1e9).filter(|_| remembers) else {
            return (None, None);
        };
        let is_own = self.is_cpu && summary.runs_here();
        let rule = if is_own { Rule::AllPositions } else { Rule::LlamaCpp };
        let one = Demand { n_seqs: 1, ..*demand };
        let kv = summary.kv_bytes(&one, rule).saturating_add(summary.state_bytes(1)) as f64;
        let max = read / (summary.active_bytes as f64 + kv).max(1.0);
        if !self.is_cpu {
            return (Some(max), Some(REPORTED.of(max)));
        }
        if !is_own {
            return (Some(max), None);
        }
        let at = |pick: fn(&Range) -> f64| {
            let weights =
                summary.by_type.iter().map(|used| used.bytes as f64 / pick(&share_of(&used.ty).decode));
            read / (weights.sum::<f64>() + kv / KV_SHARE).max(1.0)
        };
        let range = Range { low: at(|range| range.low), high: at(|range| range.high) };
        let range = if self.arithmetic.is_some() { range } else { range.times(READABLE) };
        (Some(max), Some(range))
    }

    fn prefill(&self, summary: &Summary) -> (Option<f64>, Option<Range>) {
        let n: u64 = summary.by_type.iter().map(|used| used.n_prefill).fold(0, u64::saturating_add);
        let Some(arithmetic) = &self.arithmetic else {
            return (self.gops.map(|gops| gops * 1e9 / (2.0 * n.max(1) as f64)), None);
        };
        let at = |share: &dyn Fn(&str) -> f64| {
            let seconds = summary.by_type.iter().map(|used| {
                2.0 * used.n_prefill as f64 / (arithmetic.gops_of(&used.ty) * 1e9 * share(&used.ty))
            });
            1.0 / seconds.sum::<f64>().max(f64::MIN_POSITIVE)
        };
        let range =
            Range { low: at(&|ty| share_of(ty).prefill.low), high: at(&|ty| share_of(ty).prefill.high) };
        (Some(at(&|_| 1.0)), summary.runs_here().then_some(range))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table has every type that the kernels compute with, and no share that cannot be.
    #[test]
    fn every_type_of_ours_is_measured() {
        for ty in ingle_kernels::Matrix::TYPES {
            assert!(MEASURED.iter().any(|share| share.ty == ty.name()), "{}", ty.name());
        }
        for Share { ty, decode, prefill } in MEASURED {
            for range in [decode, prefill] {
                assert!(0.1 < range.low && range.low <= range.high && range.high <= 1.0, "{ty}: {range:?}");
            }
        }
    }
}
