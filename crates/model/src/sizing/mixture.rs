//! Mixtures of element types: what `Q4_K_M` and the like mean for each tensor of a model.
//!
//! A mixture gives most matrices one type, and more bits to those that lose most: the output matrix, values of
//! attention, and the narrowing matrix of feed-forward networks in the outer layers. The rules are those of
//! llama-quantize without an importance matrix (`src/llama-quant.cpp` of llama.cpp), which most published files follow;
//! the tests compare them with its own snapshots.

use std::collections::HashMap;

use ingle_gguf::TensorType;

use TensorType::{
    BF16, F16, F32, IQ1_M, IQ1_S, IQ2_S, IQ2_XS, IQ2_XXS, IQ3_S, IQ3_XXS, IQ4_NL, IQ4_XS, MXFP4, Q2_K, Q3_K,
    Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q5_K, Q6_K, Q8_0, TQ1_0, TQ2_0,
};

macro_rules! mixtures {
    ($($name:ident = $text:literal, $bulk:ident;)*) => {
        /// A mixture, by the name that files have it in theirs.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[expect(missing_docs, reason = "the names are the field's own")]
        #[expect(non_camel_case_types, reason = "the names are the field's own")]
        pub enum Mixture { $($name,)* }

        impl Mixture {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// Its name.
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// The type of most matrices.
            pub fn bulk_type(self) -> TensorType {
                match self { $(Self::$name => $bulk,)* }
            }
        }
    };
}

mixtures! {
    F32 = "F32", F32;
    BF16 = "BF16", BF16;
    F16 = "F16", F16;
    Q8_0 = "Q8_0", Q8_0;
    Q6_K = "Q6_K", Q6_K;
    Q5_K_M = "Q5_K_M", Q5_K;
    Q5_K_S = "Q5_K_S", Q5_K;
    Q5_1 = "Q5_1", Q5_1;
    Q5_0 = "Q5_0", Q5_0;
    Q4_K_M = "Q4_K_M", Q4_K;
    Q4_K_S = "Q4_K_S", Q4_K;
    Q4_1 = "Q4_1", Q4_1;
    Q4_0 = "Q4_0", Q4_0;
    IQ4_NL = "IQ4_NL", IQ4_NL;
    IQ4_XS = "IQ4_XS", IQ4_XS;
    MXFP4_MOE = "MXFP4_MOE", MXFP4;
    Q3_K_L = "Q3_K_L", Q3_K;
    Q3_K_M = "Q3_K_M", Q3_K;
    Q3_K_S = "Q3_K_S", Q3_K;
    IQ3_M = "IQ3_M", IQ3_S;
    IQ3_S = "IQ3_S", IQ3_S;
    IQ3_XS = "IQ3_XS", IQ3_S;
    IQ3_XXS = "IQ3_XXS", IQ3_XXS;
    Q2_K = "Q2_K", Q2_K;
    Q2_K_S = "Q2_K_S", Q2_K;
    IQ2_M = "IQ2_M", IQ2_S;
    IQ2_S = "IQ2_S", IQ2_XS;
    IQ2_XS = "IQ2_XS", IQ2_XS;
    IQ2_XXS = "IQ2_XXS", IQ2_XXS;
    TQ2_0 = "TQ2_0", TQ2_0;
    TQ1_0 = "TQ1_0", TQ1_0;
    IQ1_M = "IQ1_M", IQ1_M;
    IQ1_S = "IQ1_S", IQ1_S;
}

/// A model's facts that mixtures look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Facts<'a> {
    pub arch: &'a str,
    pub n_layers: usize,
    /// Query heads for each K/V head, in the first layer.
    pub n_gqa: u64,
    pub n_experts: u64,
    pub is_tied: bool,
}

/// What a tensor is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Part {
    Output,
    Embedding,
    /// Values of attention, or what they are a part of.
    Values,
    Keys,
    Queries,
    AttentionOutput,
    Up,
    Gate,
    Down,
    Other,
}

impl Mixture {
    /// The mixture of this name, in any case.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|mixture| mixture.name().eq_ignore_ascii_case(name))
    }

    /// The type of each tensor, given with its dimensions in the order of layers.
    pub(super) fn types<'t>(
        self,
        tensors: impl Iterator<Item = (&'t str, &'t [u64])>,
        facts: Facts<'_>,
    ) -> Vec<TensorType> {
        let tensors: Vec<_> = tensors.collect();
        let n_values = tensors.iter().filter(|(name, _)| part(name) == Part::Values).count();
        let mut seen = HashMap::<Part, usize>::new();
        let mut ty = |(name, dims): (&str, &[u64])| {
            let bulk = self.bulk_type();
            if !is_quantized(name, dims) {
                return F32;
            }
            if bulk.block_len() == 1 {
                return bulk;
            }
            let part = part(name);
            let counted = seen.entry(part).or_default();
            let at = match part {
                Part::Values => Place { i: *counted, n: n_values },
                // Experts may stand in any order: their layer counts.
                _ if facts.n_experts > 1 && !self.counts_plainly() => {
                    Place { i: layer_of(name).unwrap_or(0), n: facts.n_layers }
                }
                _ => Place { i: *counted, n: facts.n_layers },
            };
            *counted += 1;
            fitting(self.pick(part, dims, at, facts), dims[0])
        };
        tensors.into_iter().map(&mut ty).collect()
    }

    /// Mixtures of few bits count narrowing matrices as they come, not by layer.
    fn counts_plainly(self) -> bool {
        use Mixture as M;
        matches!(self, M::IQ2_XXS | M::IQ2_XS | M::IQ2_S | M::IQ2_M | M::IQ1_S | M::IQ1_M)
    }

    fn pick(self, part: Part, dims: &[u64], at: Place, facts: Facts<'_>) -> TensorType {
        use Mixture as M;
        let bulk = self.bulk_type();
        if part == Part::Output || (facts.is_tied && part == Part::Embedding) {
            return self.output(dims[0], facts);
        }
        if self == M::MXFP4_MOE {
            return if dims.get(2).is_some_and(|&n| n > 1) { MXFP4 } else { Q8_0 };
        }
        if part == Part::Embedding {
            return match self {
                M::IQ2_XXS | M::IQ2_XS | M::IQ1_S | M::IQ1_M => Q2_K,
                M::IQ2_S | M::IQ2_M | M::IQ3_XXS => IQ3_S,
                M::TQ1_0 | M::TQ2_0 => Q4_K,
                _ => bulk,
            };
        }
        if self.counts_plainly() {
            return self.pick_of_few_bits(part, at, facts);
        }
        match part {
            Part::Values => self.values(at, facts),
            Part::Keys | Part::Queries => match self {
                _ if part == Part::Keys && facts.n_experts == 8 => Q8_0,
                M::IQ3_XS => IQ3_XXS,
                M::IQ3_XXS => IQ2_S,
                _ => bulk,
            },
            Part::Down => self.down(at, facts),
            Part::AttentionOutput => self.attention_output(facts),
            Part::Gate | Part::Up if self == M::IQ3_XS && !at.is_outer() => IQ3_XXS,
            _ => bulk,
        }
    }

    fn output(self, n_cols: u64, facts: Facts<'_>) -> TensorType {
        use Mixture as M;
        let bulk = self.bulk_type();
        match self {
            M::MXFP4_MOE | M::Q8_0 => Q8_0,
            _ if facts.arch == "falcon" || !n_cols.is_multiple_of(bulk.block_len() as u64) => Q8_0,
            M::IQ3_XXS => Q5_K,
            _ if self.counts_plainly() => Q5_K,
            _ => Q6_K,
        }
    }

    fn pick_of_few_bits(self, part: Part, at: Place, facts: Facts<'_>) -> TensorType {
        use Mixture as M;
        let is_larger = matches!(self, M::IQ2_S | M::IQ2_M);
        let more = if is_larger { IQ3_S } else { Q2_K };
        match part {
            Part::Values if facts.n_gqa >= 4 || facts.n_experts >= 4 => Q4_K,
            Part::Values => more,
            Part::Keys if facts.n_experts == 8 => Q4_K,
            Part::Down if at.is_before(8) => more,
            Part::AttentionOutput if facts.n_experts == 8 => Q5_K,
            Part::AttentionOutput if matches!(self, M::IQ1_S | M::IQ1_M) => IQ2_XXS,
            Part::AttentionOutput if is_larger => IQ3_S,
            _ => self.bulk_type(),
        }
    }

    fn values(self, at: Place, facts: Facts<'_>) -> TensorType {
        use Mixture as M;
        let shares = facts.n_gqa >= 4;
        let ty = match self {
            M::Q2_K if !shares => Q3_K,
            M::Q2_K | M::Q2_K_S | M::IQ3_XXS | M::IQ3_XS | M::IQ3_S if shares => Q4_K,
            M::IQ3_XXS => IQ3_S,
            M::IQ3_M => Q4_K,
            M::Q3_K_M if at.i < 2 => Q5_K,
            M::Q3_K_M => Q4_K,
            M::Q3_K_L => Q5_K,
            M::IQ4_NL | M::IQ4_XS if shares => Q5_K,
            M::Q4_K_M | M::Q5_K_M if at.has_more_bits() => Q6_K,
            M::Q4_K_S if at.i < 4 => Q5_K,
            _ => self.bulk_type(),
        };
        // Eight heads share these, so they are small.
        let is_70b =
            facts.n_layers == 80 && ["llama", "qwen2", "deci"].contains(&facts.arch) && facts.n_gqa > 1;
        match ty {
            _ if facts.n_experts == 8 => Q8_0,
            Q3_K | Q4_K if is_70b => Q5_K,
            ty => ty,
        }
    }

    fn down(self, at: Place, facts: Facts<'_>) -> TensorType {
        use Mixture as M;
        let is_falcon = facts.arch == "falcon";
        match self {
            M::Q2_K => Q3_K,
            M::Q2_K_S if at.is_before(8) => Q4_K,
            M::IQ3_XXS if at.is_before(8) => Q4_K,
            M::IQ3_XXS => Q3_K,
            M::Q3_K_M if at.is_before(16) => Q5_K,
            M::Q3_K_M if is_falcon && !at.has_more_bits() => Q3_K,
            M::Q3_K_M => Q4_K,
            M::IQ3_M if at.is_before(8) || (facts.n_experts == 8 && at.has_more_bits()) => Q4_K,
            M::Q3_K_L if is_falcon => Q4_K,
            M::Q3_K_L => Q5_K,
            M::Q4_K_M if is_falcon && !at.is_before(16) && at.has_more_bits() => Q5_K,
            M::Q4_K_M if at.is_before(16) && is_falcon => Q6_K,
            M::Q4_K_M if is_falcon => Q4_K,
            M::Q4_K_M | M::Q5_K_M if at.has_more_bits() => Q6_K,
            M::IQ4_NL | M::IQ4_XS if at.is_before(8) => Q5_K,
            M::Q4_K_S if at.is_before(8) && !is_falcon => Q5_K,
            _ => self.bulk_type(),
        }
    }

    fn attention_output(self, facts: Facts<'_>) -> TensorType {
        use Mixture as M;
        let bulk = self.bulk_type();
        match self {
            M::Q3_K_L if facts.arch == "falcon" => Q4_K,
            _ if facts.arch == "falcon" => bulk,
            M::Q2_K
            | M::IQ3_XS
            | M::IQ3_XXS
            | M::Q3_K_S
            | M::Q3_K_M
            | M::IQ4_NL
            | M::Q4_K_S
            | M::Q4_K_M
            | M::IQ3_S
            | M::IQ3_M
            | M::IQ4_XS
                if facts.n_experts == 8 =>
            {
                Q5_K
            }
            _ if facts.n_experts == 8 => bulk,
            M::Q2_K => Q3_K,
            M::IQ3_XXS => IQ3_S,
            M::Q3_K_M | M::IQ3_M => Q4_K,
            M::Q3_K_L => Q5_K,
            _ => bulk,
        }
    }
}

/// The place of a tensor among those of its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    i: usize,
    n: usize,
}

impl Place {
    fn is_before(self, part: usize) -> bool {
        self.i < self.n / part
    }

    fn is_outer(self) -> bool {
        self.is_before(8) || self.i >= 7 * self.n / 8
    }

    /// The outer eighths, and every third between.
    fn has_more_bits(self) -> bool {
        self.is_outer() || (self.i - self.n / 8) % 3 == 2
    }
}

/// A type whose blocks fit into rows of `n_cols`.
fn fitting(ty: TensorType, n_cols: u64) -> TensorType {
    let fits = |ty: TensorType| n_cols.is_multiple_of(ty.block_len() as u64);
    if fits(ty) {
        return ty;
    }
    let smaller = match ty {
        IQ1_S | IQ1_M | IQ2_XXS | IQ2_XS | IQ2_S | IQ3_XXS | IQ3_S | IQ4_XS => IQ4_NL,
        Q2_K | Q3_K | TQ1_0 | TQ2_0 => Q4_0,
        Q4_K => Q5_0,
        Q5_K => Q5_1,
        Q6_K => Q8_0,
        other => other,
    };
    if fits(smaller) { smaller } else { F16 }
}

fn layer_of(name: &str) -> Option<usize> {
    name.strip_prefix("blk.")?.split('.').next()?.parse().ok()
}

fn part(name: &str) -> Part {
    match name {
        "output.weight" => return Part::Output,
        "token_embd.weight" | "per_layer_token_embd.weight" => return Part::Embedding,
        _ => {}
    }
    let parts = [
        ("attn_qkv.weight", Part::Values),
        ("attn_kv_b.weight", Part::Values),
        ("attn_v.weight", Part::Values),
        ("attn_k.weight", Part::Keys),
        ("attn_q.weight", Part::Queries),
        ("attn_output.weight", Part::AttentionOutput),
        ("ffn_up", Part::Up),
        ("ffn_gate", Part::Gate),
        ("ffn_down", Part::Down),
    ];
    parts.into_iter().find(|(text, _)| name.contains(text)).map_or(Part::Other, |(_, part)| part)
}

/// Whether a tensor is quantized at all.
fn is_quantized(name: &str, dims: &[u64]) -> bool {
    const NEVER: &[&str] = &[
        "_norm.weight",
        "ffn_gate_inp.weight",
        "altup",
        "laurel",
        "per_layer_model_proj",
        "position_embd.weight",
        "token_types.weight",
        "ssm_conv1d",
        "shortconv.conv.weight",
        "indexer.k_proj.weight",
        "indexer.q_proj.weight",
        "time_mix_first.weight",
        "time_mix_w",
        "time_mix_v0",
        "time_mix_v1",
        "time_mix_v2",
        "time_mix_a",
        "time_mix_g1",
        "time_mix_g2",
        "time_mix_decay_w",
        "time_mix_lerp_fused.weight",
        "attn_rel_b.weight",
    ];
    let n_dims = dims.len() - dims.iter().rev().take_while(|&&d| d == 1).count();
    n_dims >= 2 && name.ends_with("weight") && !NEVER.iter().any(|text| name.contains(text))
}
