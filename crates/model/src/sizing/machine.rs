//! What there is: a machine's memory and speed, and whether a model fits.

use crate::sizing::needs::{Demand, Needs};
use crate::sizing::speed::Arithmetic;
use crate::sizing::summary::Summary;
use crate::sizing::windows::Rule;

/// Contexts are looked for in steps of so many tokens.
const CONTEXT_STEP: u64 = 256;
/// A context below this is of no use to anyone who did not ask for it.
const CONTEXT_MIN: u64 = 1024;
/// The context that is taken where nobody asked for one, if the model was trained for more.
const CONTEXT_DEFAULT: u64 = 8192;
/// A machine, or what of it a model may have.
#[derive(Clone, Debug, PartialEq)]
pub struct Machine {
    /// What it is called.
    pub name: String,
    /// Bytes that a model may take.
    pub memory: u64,
    /// Bytes read per second in 10^9 where one token is computed; `None` if not known.
    pub read_gbs: Option<f64>,
    /// Published operations per second in 10^9 (a multiplication and an addition are two) of whole prompts; `None` if not
    /// known, or measured.
    pub gops: Option<f64>,
    /// What was measured of its arithmetic: only of the machine that asks. The speed of its memory is measured then too.
    pub arithmetic: Option<Arithmetic>,
    /// Whether it is a processor, on which Ingle computes. What another device needs is counted as llama.cpp would.
    pub is_cpu: bool,
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
pub fn verdict(summary: &Summary, machine: &Machine, demand: &Demand, extra: u64) -> Verdict {
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
