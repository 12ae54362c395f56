//! What to do: which mixture and context to take on a machine, and why.

use ingle_gguf::{GgufFile, GgufWriter};

use crate::error::ModelError;
use crate::sizing::machine::{Machine, Verdict, verdict};
use crate::sizing::mixture::{Facts, Mixture};
use crate::sizing::needs::Demand;
use crate::sizing::speed::Speed;
use crate::sizing::summary::Summary;

/// Mixtures that are offered, the largest first. Above Q8_0 nothing is gained that shows.
const OFFERED: &[Mixture] =
    &[Mixture::Q8_0, Mixture::Q6_K, Mixture::Q5_K_M, Mixture::Q4_K_M, Mixture::Q3_K_M, Mixture::Q2_K];
/// A shorter context than this is no reason to take more bits.
const CONTEXT_WANTED: u64 = 4096;

/// More parameters than this are not believed: sums of their bytes fit into 64 bits in any type.
const PARAMETERS_MAX: u64 = 1 << 56;

/// A mixture of the same model.
#[derive(Clone, Debug, PartialEq)]
pub struct Alternative {
    /// Which.
    pub mixture: Mixture,
    /// Bytes of its tensors in a file.
    pub file_bytes: u64,
    /// Bytes that it needs with the demanded sequences.
    pub total: u64,
    /// The longest context with which it fits.
    pub n_ctx_max: Option<u64>,
    /// Tokens per second to decode at the demanded context.
    pub speed: Speed,
}

/// What to do with a model on a machine.
#[derive(Clone, Debug, PartialEq)]
pub struct Advice {
    /// Whether it fits as it is.
    pub verdict: Verdict,
    /// The longest context with which it fits as it is.
    pub n_ctx_max: Option<u64>,
    /// What other mixtures would be, the largest first.
    pub alternatives: Vec<Alternative>,
    /// What to take: a mixture, or the model as it is, and a context.
    pub take: Option<(Option<Mixture>, u64)>,
    /// Why, in words.
    pub reason: String,
}

impl Summary {
    /// The same model in another mixture.
    ///
    /// # Errors
    /// If its tensors have no such types, or names that no mixture knows.
    pub fn in_mixture(&self, mixture: Mixture) -> Result<Self, ModelError> {
        if self.n_parameters > PARAMETERS_MAX {
            let what = format!("{} parameters cannot be meant", self.n_parameters);
            return Err(ModelError::Options(what));
        }
        let facts = Facts {
            arch: &self.arch,
            n_layers: self.layers.len() + self.n_layers_ahead,
            n_gqa: self.n_gqa,
            n_experts: self.n_experts,
            is_tied: !self.tensors.iter().any(|t| t.name == "output.weight"),
        };
        let types = mixture.types(self.tensors.iter().map(|t| (t.name.as_str(), t.dims.as_slice())), facts);
        let mut file = GgufWriter::with_metadata(self.metadata.clone());
        for (tensor, ty) in self.tensors.iter().zip(types) {
            file.tensor_repeated(&tensor.name, ty, &tensor.dims, [0].into(), 0);
        }
        let (head, n_bytes) = file.head();
        Self::from_gguf(&GgufFile::from_head(head, n_bytes)?)
    }
}

/// What to do with a model on a machine, for `demand` and beside `extra` bytes.
pub fn advise(summary: &Summary, machine: &Machine, demand: &Demand, extra: u64) -> Advice {
    let verdict = verdict(summary, machine, demand, extra);
    let n_ctx_max = machine.n_ctx_max(summary, demand, extra);
    let alternatives: Vec<Alternative> = OFFERED
        .iter()
        .filter_map(|&mixture| Some((mixture, summary.in_mixture(mixture).ok()?)))
        .map(|(mixture, other)| Alternative {
            mixture,
            file_bytes: other.weight_bytes,
            total: machine.needs(&other, demand).total().saturating_add(extra),
            n_ctx_max: machine.n_ctx_max(&other, demand, extra),
            speed: machine.speed(&other, demand),
        })
        .collect();
    let (take, reason) = choose(summary, &verdict, &alternatives, demand, n_ctx_max);
    Advice { verdict, n_ctx_max, alternatives, take, reason }
}

fn choose(
    summary: &Summary,
    verdict: &Verdict,
    alternatives: &[Alternative],
    demand: &Demand,
    n_ctx_max: Option<u64>,
) -> (Option<(Option<Mixture>, u64)>, String) {
    if let Verdict::Unsupported { why } = verdict {
        return (None, format!("Ingle does not run it: {why}"));
    }
    if matches!(verdict, Verdict::Fits { .. }) {
        let more = n_ctx_max.filter(|&n| n > demand.n_ctx).map(|n| format!(" (up to {n} would fit)"));
        let reason =
            format!("it fits as it is, with a context of {}{}", demand.n_ctx, more.unwrap_or_default());
        return (Some((None, demand.n_ctx)), reason);
    }
    // Only what is smaller helps.
    let smaller = || alternatives.iter().filter(|a| a.file_bytes < summary.weight_bytes);
    let has = |a: &Alternative, n_ctx: u64| a.n_ctx_max.is_some_and(|max| max >= n_ctx);
    let is_good = |a: &Alternative| a.file_bytes >= q4_bytes(alternatives);
    if let Some(a) = smaller().find(|a| is_good(a) && has(a, demand.n_ctx)) {
        let reason = format!(
            "as it is it does not fit with a context of {}; {} is the largest mixture that does",
            demand.n_ctx,
            a.mixture.name()
        );
        return (Some((Some(a.mixture), demand.n_ctx)), reason);
    }
    if let Verdict::Shorter { n_ctx } = *verdict
        && n_ctx >= CONTEXT_WANTED
    {
        let reason = format!("it fits as it is if sequences are no longer than {n_ctx}");
        return (Some((None, n_ctx)), reason);
    }
    let wanted = CONTEXT_WANTED.min(demand.n_ctx);
    if let Some(a) = smaller().find(|a| is_good(a) && has(a, wanted)) {
        let n_ctx = a.n_ctx_max.unwrap_or(wanted).min(demand.n_ctx);
        let reason = format!("{} fits if sequences are no longer than {n_ctx}", a.mixture.name());
        return (Some((Some(a.mixture), n_ctx)), reason);
    }
    if let Some(a) = smaller().find(|a| has(a, wanted)) {
        let n_ctx = a.n_ctx_max.unwrap_or(wanted).min(demand.n_ctx);
        let reason = format!(
            "only {} fits, with a context of {n_ctx}: below Q4_K_M answers get worse; a smaller model may be better",
            a.mixture.name()
        );
        return (Some((Some(a.mixture), n_ctx)), reason);
    }
    if let Verdict::Shorter { n_ctx } = *verdict {
        return (
            Some((None, n_ctx)),
            format!("it fits only with a context of {n_ctx}, and no mixture has more"),
        );
    }
    (None, "no mixture of it fits: take a smaller model, or a machine with more memory".to_owned())
}

/// Bytes of Q4_K_M: below it answers get worse.
fn q4_bytes(alternatives: &[Alternative]) -> u64 {
    alternatives.iter().find(|a| a.mixture == Mixture::Q4_K_M).map_or(0, |a| a.file_bytes)
}
