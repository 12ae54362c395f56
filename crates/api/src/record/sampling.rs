//! How tokens were picked.

use ingle_chat::Sampling;
use ingle_step::{SamplerKind, TokenId};
use serde::{Deserialize, Serialize};

macro_rules! recorded {
    ($($field:ident: $ty:ty),* $(,)?) => {
        /// Sampling settings; what is absent is as the program has it.
        #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        #[expect(missing_docs, reason = "each field is documented in SamplingParams under the same name")]
        pub struct RecordedSampling {
            $(#[serde(skip_serializing_if = "Option::is_none")] pub $field: Option<$ty>,)*
            #[serde(skip_serializing_if = "Option::is_none")]
            pub order: Option<Vec<String>>,
            /// Tokens with what is added to their logits, as text: `-inf` is no number in JSON.
            #[serde(skip_serializing_if = "Vec::is_empty")]
            pub logit_bias: Vec<(u32, String)>,
        }

        impl From<&Sampling> for RecordedSampling {
            fn from(sampling: &Sampling) -> Self {
                Self {
                    $($field: sampling.$field.clone(),)*
                    order: sampling.order.as_ref().map(|o| o.iter().map(|k| k.name().to_owned()).collect()),
                    logit_bias: sampling.logit_bias.iter().map(|(t, b)| (t.0, b.to_string())).collect(),
                }
            }
        }

        impl RecordedSampling {
            /// The same, to run with.
            ///
            /// # Errors
            /// If it names a sampler that is not known, or a bias that is no number.
            pub fn to_sampling(&self) -> Result<Sampling, String> {
                let kind = |name: &String| {
                    let mut kinds = SamplerKind::DEFAULT_ORDER.into_iter();
                    kinds.find(|k| k.name() == name).ok_or_else(|| format!("there is no sampler `{name}`"))
                };
                let bias = |(token, bias): &(u32, String)| {
                    let number = bias.parse().map_err(|_| format!("the bias `{bias}` is no number"))?;
                    Ok::<_, String>((TokenId(*token), number))
                };
                Ok(Sampling {
                    $($field: self.$field.clone(),)*
                    order: self.order.as_ref().map(|o| o.iter().map(kind).collect()).transpose()?,
                    logit_bias: self.logit_bias.iter().map(bias).collect::<Result<_, _>>()?,
                })
            }
        }
    };
}

recorded! {
    seed: u64,
    temperature: f32,
    dynatemp_range: f32,
    dynatemp_exponent: f32,
    top_k: i32,
    top_p: f32,
    min_p: f32,
    typical_p: f32,
    top_n_sigma: f32,
    xtc_probability: f32,
    xtc_threshold: f32,
    repeat_penalty: f32,
    repeat_last_n: i32,
    frequency_penalty: f32,
    presence_penalty: f32,
    dry_multiplier: f32,
    dry_base: f32,
    dry_allowed_length: i32,
    dry_penalty_last_n: i32,
    dry_sequence_breakers: Vec<String>,
    mirostat: u8,
    mirostat_tau: f32,
    mirostat_eta: f32,
    min_keep: usize,
    context_shift: bool,
    n_keep: i32,
    n_discard: i32,
}
