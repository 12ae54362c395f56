//! What there is: a machine's memory and speed, and whether a model fits.

use crate::sizing::needs::{Demand, Needs};
use crate::sizing::summary::Summary;
use crate::sizing::windows::Rule;

/// Contexts are looked for in steps of so many tokens.
const CONTEXT_STEP: u64 = 256;
/// A context below this is of no use to anyone who did not ask for it.
const CONTEXT_MIN: u64 = 1024;
/// The context that is taken where nobody asked for one, if the model was trained for more.
const CONTEXT_DEFAULT: u64 = 8192;
/// The part of the memory's speed that decoding with one sequence reaches: kernels take some time besides, and layers
/// wait for each other.
const DECODE_SHARE: f64 = 0.7;

/// A machine, or what of it a model may have.
#[derive(Clone, Debug, PartialEq)]
pub struct Machine {
    /// What it is called.
    pub name: String,
    /// Bytes that a model may take.
    pub memory: u64,
    /// Bytes read per second in 10^9 where one token is computed; `None` if not known.
    pub read_gbs: Option<f64>,
    /// Operations per second in 10^9 (a multiplication and an addition are two) of whole prompts; `None` if not known.
    pub gops: Option<f64>,
    /// Whether it is a processor, on which Ingle computes. What another device needs is counted as llama.cpp would.
    pub is_cpu: bool,
}

/// Tokens per second, by what memory and arithmetic allow.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Speed {
    /// No decoding is faster than this: every token reads the weights and the keys and values once.
    pub decode_max: Option<f64>,
    /// What to expect of it.
    pub decode: Option<f64>,
    /// No prompt is computed faster than this.
    pub prefill_max: Option<f64>,
}

/// Whether a machine can run a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It fits.
    Fits {
        /// Bytes that are left.
        left: u64,
    },
    /// It fits if sequences are shorter.
    Shorter {
        /// The longest context that fits.
        n_ctx: u64,
    },
    /// It does not, whatever the context.
    TooLarge {
        /// Bytes that it needs at the shortest context.
        needs: u64,
        /// Bytes that there are.
        memory: u64,
    },
    /// Ingle does not run it.
    Unsupported {
        /// Why.
        why: String,
    },
}

impl Machine {
    /// What a model needs here: on a processor what Ingle takes if it runs the model, elsewhere what llama.cpp would.
    pub fn needs(&self, summary: &Summary, demand: &Demand) -> Needs {
        match &summary.own {
            Ok(own) if self.is_cpu => own.needs_for(demand),
            _ => summary.needs(demand, Rule::LlamaCpp),
        }
    }

    /// The longest context of `demand`'s sequences that fits beside `extra` bytes, up to what the model was trained for.
    pub fn n_ctx_max(&self, summary: &Summary, demand: &Demand, extra: u64) -> Option<u64> {
        let fits = |n_ctx: u64| {
            let needs = self.needs(summary, &Demand { n_ctx, ..*demand });
            needs.total().saturating_add(extra) <= self.memory
        };
        let trained = if summary.n_ctx_train == 0 { CONTEXT_DEFAULT } else { summary.n_ctx_train };
        if fits(trained) {
            return Some(trained);
        }
        // Between a number of steps that fits and one that does not.
        let (mut low, mut high) = (0, trained.div_ceil(CONTEXT_STEP));
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if fits(middle * CONTEXT_STEP) {
                low = middle;
            } else {
                high = middle;
            }
        }
        (low > 0).then_some(low * CONTEXT_STEP)
    }

    /// How fast it can be with one sequence of the demanded context.
    pub fn speed(&self, summary: &Summary, demand: &Demand) -> Speed {
        let rule = if self.is_cpu && summary.runs_here() { Rule::AllPositions } else { Rule::LlamaCpp };
        let one = Demand { n_seqs: 1, ..*demand };
        let kv = summary.kv_bytes(&one, rule).saturating_add(summary.state_bytes(1));
        let bytes = summary.active_bytes.saturating_add(kv).max(1) as f64;
        let decode_max = self.read_gbs.map(|gbs| gbs * 1e9 / bytes);
        Speed {
            decode_max,
            decode: decode_max.map(|max| max * DECODE_SHARE),
            prefill_max: self.gops.map(|gops| gops * 1e9 / (2.0 * summary.n_parameters_active.max(1) as f64)),
        }
    }
}

impl Summary {
    /// The context that is taken where nobody asks for one.
    pub fn n_ctx_default(&self) -> u64 {
        if self.n_ctx_train == 0 { CONTEXT_DEFAULT } else { self.n_ctx_train.min(CONTEXT_DEFAULT) }
    }
}

/// Whether a machine can run a model: one sequence of the default context, in F16. For whoever is about to download
/// one, its header alone in hand.
pub fn fits(summary: &Summary, machine: &Machine) -> Verdict {
    let demand = Demand { n_ctx: summary.n_ctx_default(), ..Demand::default() };
    verdict(summary, machine, &demand, 0)
}

/// The same for a demand, beside `extra` bytes.
pub(super) fn verdict(summary: &Summary, machine: &Machine, demand: &Demand, extra: u64) -> Verdict {
    if let (true, Err(why)) = (machine.is_cpu, &summary.own) {
        return Verdict::Unsupported { why: why.clone() };
    }
    let needs = machine.needs(summary, demand).total().saturating_add(extra);
    if needs <= machine.memory {
        return Verdict::Fits { left: machine.memory - needs };
    }
    let shortest = CONTEXT_MIN.min(demand.n_ctx);
    match machine.n_ctx_max(summary, demand, extra) {
        Some(n_ctx) if n_ctx >= shortest => Verdict::Shorter { n_ctx },
        _ => {
            let needs = machine.needs(summary, &Demand { n_ctx: shortest, ..*demand });
            Verdict::TooLarge { needs: needs.total().saturating_add(extra), memory: machine.memory }
        }
    }
}
