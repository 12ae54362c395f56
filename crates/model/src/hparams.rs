//! Hyperparameters: what a file's metadata say about a model's shape, checked once.
//!
//! A file is untrusted. [`HParams::from_gguf`] refuses every value that is zero, negative, not finite or beyond a
//! named limit, and every pair of values that do not fit together. What it returns can be multiplied and divided
//! without further thought: each width is at most [`WIDTH_MAX`], so products of two widths fit into 64 bits.

use ingle_gguf::{GgufFile, Metadata};

use crate::arch::{self, Architecture};
use crate::error::ModelError;
use crate::graph::NormKind;

/// Most layers that are believed.
pub const LAYERS_MAX: usize = 4096;
/// Widest row, vocabulary or stack of heads that is believed.
pub const WIDTH_MAX: usize = 1 << 24;
/// Largest head that is believed.
pub const HEAD_DIM_MAX: usize = 4096;
/// Most token types that are believed: real models have one or two.
pub const TOKEN_TYPES_MAX: usize = 256;
/// Longest context that is believed: positions fit an `f32`'s integers and a `u32` with room to spare.
pub const CONTEXT_MAX: usize = 1 << 28;

/// A model's shape and constants.
#[derive(Clone, Debug)]
pub struct HParams {
    /// How the model computes.
    pub arch: &'static Architecture,
    /// The context it was trained for.
    pub n_ctx_train: usize,
    /// Width of the residual stream.
    pub n_embd: usize,
    /// Rows of the embedding table; the tokenizer may know fewer.
    pub n_vocab: usize,
    /// Elements of a query or key head.
    pub k_dim: usize,
    /// Elements of a value head.
    pub v_dim: usize,
    /// Added to the mean square, or the variance, in norms.
    pub norm_eps: f32,
    /// Factor on attention scores; usually `1 / sqrt(k_dim)`.
    pub attn_scale: f32,
    /// How many latest positions a row sees, where the architecture has sliding windows.
    pub sliding_window: Option<usize>,
    /// Rotary embedding.
    pub rope: RopeParams,
    /// What may differ from layer to layer.
    pub layers: Vec<LayerHParams>,
    /// Rows of a table of token types; 0 if the file has none.
    pub n_token_types: usize,
    /// The head that classifies, in models that embed texts.
    pub classifier: Option<ClassifierHParams>,
}

/// A head that classifies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClassifierHParams {
    /// What it gives: one number if it ranks.
    pub n_labels: usize,
    /// Whether another layer with a tanh comes before it.
    pub has_dense: bool,
}

/// What may differ from layer to layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerHParams {
    /// Query heads: a multiple of `n_kv_heads`.
    pub n_heads: usize,
    /// Key and value heads.
    pub n_kv_heads: usize,
    /// Width of the feed-forward network.
    pub n_ff: usize,
}

/// Rotary embedding.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeParams {
    /// Elements of a head that rotate: even, at most `k_dim`.
    pub n_rot: usize,
    /// Base of the frequencies.
    pub base: f32,
    /// Multiplies sine and cosine, beside what the scaling does.
    pub attn_factor: f32,
    /// How longer contexts are reached.
    pub scaling: RopeScaling,
}

/// How contexts beyond the original training are reached.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// They are not (or by a tensor of factors alone, as in Llama 3).
    None,
    /// All positions are divided.
    Linear {
        /// The divisor.
        factor: f32,
    },
    /// YaRN (Peng et al. 2023): low frequencies are divided, high ones stay, with a ramp between; sine and cosine
    /// are multiplied by `1 + 0.1 ln(factor)`.
    Yarn {
        /// The divisor.
        factor: f32,
        /// The context of the original training.
        original_ctx: usize,
        /// Weight of the ramp; 0 divides all frequencies and multiplies nothing.
        ext_factor: f32,
        /// Rotations over the original context above which a frequency stays.
        beta_fast: f32,
        /// Rotations over the original context below which a frequency is divided.
        beta_slow: f32,
    },
    /// longrope: tensors of divisors for contexts up to and beyond the original one.
    LongRope {
        /// A divisor of all positions besides.
        factor: f32,
        /// The context of the original training.
        original_ctx: usize,
    },
}

impl RopeScaling {
    /// The same, if all of its numbers can be meant: for scalings that don't come from a file.
    ///
    /// # Errors
    /// [`ModelError::Options`] with what is wrong.
    pub fn checked(&self) -> Result<Self, ModelError> {
        let positive = |x: f32| x.is_finite() && x > 0.0;
        let fits = |original_ctx: usize| (1..=CONTEXT_MAX).contains(&original_ctx);
        let ok = match *self {
            Self::None => true,
            Self::Linear { factor } => positive(factor),
            Self::Yarn { factor, original_ctx, ext_factor, beta_fast, beta_slow } => {
                let ramp =
                    ext_factor.is_finite() && ext_factor >= 0.0 && positive(beta_fast) && positive(beta_slow);
                positive(factor) && fits(original_ctx) && ramp
            }
            Self::LongRope { factor, original_ctx } => positive(factor) && fits(original_ctx),
        };
        if ok {
            Ok(self.clone())
        } else {
            Err(ModelError::Options(format!("rope scaling {self:?}: factors and contexts must be above 0")))
        }
    }
}

impl HParams {
    /// Reads and checks a file's hyperparameters.
    ///
    /// # Errors
    /// If the architecture is unknown, or any value is missing or cannot be; the key is named.
    pub fn from_gguf(file: &GgufFile) -> Result<Self, ModelError> {
        let md = file.metadata();
        let name = md.str("general.architecture")?;
        let arch = arch::find(name).ok_or_else(|| ModelError::UnsupportedArchitecture {
            name: name.to_owned(),
            supported: arch::ARCHITECTURES.iter().map(|a| a.name).collect::<Vec<_>>().join(", "),
        })?;
        let keys = Keys { md, arch };
        keys.refuse_unsupported()?;

        let n_ctx_train = keys.size("context_length", CONTEXT_MAX)?;
        let n_embd = keys.size("embedding_length", WIDTH_MAX)?;
        let n_layers = keys.size("block_count", LAYERS_MAX)?;
        if n_layers > file.tensors().len() {
            let what = format!("{n_layers} layers, but the file has only {} tensors", file.tensors().len());
            return Err(ModelError::bad(keys.key("block_count"), what));
        }
        let embd = file.tensor("token_embd.weight").ok_or_else(|| ModelError::MissingTensor {
            name: "token_embd.weight".into(),
            expected: vec![n_embd as u64],
        })?;
        let n_vocab = embd.n_rows();
        if n_vocab > WIDTH_MAX {
            let what = format!("{n_vocab} tokens, at most {WIDTH_MAX} are read");
            return Err(ModelError::bad("token_embd.weight", what));
        }
        if let Some(tokens) = md.opt_strings("tokenizer.ggml.tokens")?
            && tokens.len() > n_vocab
        {
            let what = format!("{} tokens, but `token_embd.weight` has {n_vocab} rows", tokens.len());
            return Err(ModelError::bad("tokenizer.ggml.tokens", what));
        }

        let layers = keys.layers(n_layers)?;
        let (k_dim, v_dim) = keys.head_dims(n_embd, &layers)?;
        let rope = keys.rope(k_dim, n_ctx_train)?;
        let norm_eps = keys.norm_eps()?;
        let attn_scale = match md.opt_f32(&keys.key("attention.scale"))? {
            None | Some(0.0) => (1.0 / (k_dim as f64).sqrt()) as f32,
            Some(scale) if scale > 0.0 => scale,
            Some(scale) => {
                return Err(ModelError::bad(keys.key("attention.scale"), format!("{scale} is negative")));
            }
        };
        let sliding_window = match md.opt_u64(&keys.key("attention.sliding_window"))? {
            None | Some(0) => None,
            // A window as long as any context hides nothing.
            Some(window) => Some(usize::try_from(window).unwrap_or(CONTEXT_MAX).min(CONTEXT_MAX)),
        };
        Ok(Self {
            arch,
            n_ctx_train,
            n_embd,
            n_vocab,
            k_dim,
            v_dim,
            norm_eps,
            attn_scale,
            sliding_window,
            rope,
            layers,
            n_token_types: keys.token_types(file)?,
            classifier: keys.classifier(file)?,
        })
    }
}

/// Access to the keys of one architecture.
struct Keys<'a> {
    md: &'a Metadata,
    arch: &'static Architecture,
}

impl Keys<'_> {
    fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.arch.name)
    }

    /// A size from 1 to `max`.
    fn size(&self, key: &str, max: usize) -> Result<usize, ModelError> {
        let key = self.key(key);
        check_size(&key, self.md.u64(&key)?, max)
    }

    fn opt_size(&self, key: &str, max: usize) -> Result<Option<usize>, ModelError> {
        let key = self.key(key);
        self.md.opt_u64(&key)?.map(|v| check_size(&key, v, max)).transpose()
    }

    /// A size for each layer, from one number or an array.
    fn sizes(&self, key: &str, n_layers: usize, max: usize) -> Result<Option<Vec<usize>>, ModelError> {
        let key = self.key(key);
        match self.md.get(&key) {
            None => Ok(None),
            Some(ingle_gguf::Value::Array(array)) => {
                let values = array
                    .to_u64s()
                    .ok_or_else(|| ModelError::bad(&key, "not all elements are non-negative integers"))?;
                if values.len() != n_layers {
                    let what = format!("{} elements for {n_layers} layers", values.len());
                    return Err(ModelError::bad(&key, what));
                }
                values.into_iter().map(|v| check_size(&key, v, max)).collect::<Result<_, _>>().map(Some)
            }
            Some(_) => Ok(Some(vec![check_size(&key, self.md.u64(&key)?, max)?; n_layers])),
        }
    }

    /// A float above 0.
    fn positive(&self, key: &str) -> Result<Option<f32>, ModelError> {
        let key = self.key(key);
        match self.md.opt_f32(&key)? {
            Some(value) if value <= 0.0 => Err(ModelError::bad(key, format!("{value} is not above 0"))),
            other => Ok(other),
        }
    }

    fn norm_eps(&self) -> Result<f32, ModelError> {
        let key = match self.arch.norm {
            NormKind::Rms => "attention.layer_norm_rms_epsilon",
            NormKind::Layer => "attention.layer_norm_epsilon",
        };
        let missing = || ModelError::Gguf(ingle_gguf::GgufError::MissingKey(self.key(key)));
        let eps = self.positive(key)?.ok_or_else(missing)?;
        if eps >= 1.0 {
            return Err(ModelError::bad(self.key(key), format!("{eps} is no small number")));
        }
        Ok(eps)
    }

    /// Rows of the table of token types, which the vocabulary may count too.
    fn token_types(&self, file: &GgufFile) -> Result<usize, ModelError> {
        const COUNT: &str = "tokenizer.ggml.token_type_count";
        let Some(table) = file.tensor("token_types.weight") else { return Ok(0) };
        let n = check_size("token_types.weight", table.n_rows() as u64, TOKEN_TYPES_MAX)?;
        match self.md.opt_u64(COUNT)? {
            Some(count) if count != n as u64 => {
                Err(ModelError::bad(COUNT, format!("{count}, but `token_types.weight` has {n} rows")))
            }
            _ => Ok(n),
        }
    }

    /// The head that classifies: what its tensors and its labels say.
    fn classifier(&self, file: &GgufFile) -> Result<Option<ClassifierHParams>, ModelError> {
        let key = self.key("classifier.output_labels");
        let labels = self.md.opt_strings(&key)?.map(|labels| labels.len());
        let Some(output) = file.tensor("cls.output.weight") else {
            return match labels {
                None => Ok(None),
                Some(n) => {
                    Err(ModelError::bad(key, format!("{n} labels, but there is no `cls.output.weight`")))
                }
            };
        };
        let n_labels = check_size("cls.output.weight", output.n_rows() as u64, WIDTH_MAX)?;
        match labels {
            Some(n) if n != n_labels => {
                Err(ModelError::bad(key, format!("{n} labels, but `cls.output.weight` gives {n_labels}")))
            }
            _ => Ok(Some(ClassifierHParams { n_labels, has_dense: file.tensor("cls.weight").is_some() })),
        }
    }

    fn layers(&self, n_layers: usize) -> Result<Vec<LayerHParams>, ModelError> {
        let needed = |key: &str, values: Option<Vec<usize>>| {
            values.ok_or_else(|| ingle_gguf::GgufError::MissingKey(self.key(key)))
        };
        let heads = self.sizes("attention.head_count", n_layers, WIDTH_MAX)?;
        let heads = needed("attention.head_count", heads)?;
        let kv_heads = self.sizes("attention.head_count_kv", n_layers, WIDTH_MAX)?;
        let kv_heads = kv_heads.unwrap_or_else(|| heads.clone());
        let ff = self.sizes("feed_forward_length", n_layers, WIDTH_MAX)?;
        let ff = needed("feed_forward_length", ff)?;
        let mut layers = Vec::with_capacity(n_layers);
        for ((&n_heads, &n_kv_heads), &n_ff) in heads.iter().zip(&kv_heads).zip(&ff) {
            if n_heads % n_kv_heads != 0 {
                let what = format!("{n_heads} query heads do not divide into groups for {n_kv_heads} heads");
                return Err(ModelError::bad(self.key("attention.head_count_kv"), what));
            }
            layers.push(LayerHParams { n_heads, n_kv_heads, n_ff });
        }
        Ok(layers)
    }

    /// Key and value dimensions of a head; both default to the embedding's share.
    fn head_dims(&self, n_embd: usize, layers: &[LayerHParams]) -> Result<(usize, usize), ModelError> {
        let n_heads = layers.iter().map(|l| l.n_heads).max().expect("`size` allows no model without layers");
        let dim = |key: &str| -> Result<usize, ModelError> {
            let dim = match self.opt_size(key, HEAD_DIM_MAX)? {
                Some(dim) => dim,
                None if !n_embd.is_multiple_of(n_heads) => {
                    let what =
                        format!("{n_heads} heads do not divide {n_embd}, and `{}` is missing", self.key(key));
                    return Err(ModelError::bad(self.key("attention.head_count"), what));
                }
                None => check_size(&self.key(key), (n_embd / n_heads) as u64, HEAD_DIM_MAX)?,
            };
            if n_heads * dim > WIDTH_MAX {
                let what = format!("{n_heads} heads of {dim} are more than {WIDTH_MAX} elements");
                return Err(ModelError::bad(self.key(key), what));
            }
            Ok(dim)
        };
        Ok((dim("attention.key_length")?, dim("attention.value_length")?))
    }

    fn rope(&self, k_dim: usize, n_ctx_train: usize) -> Result<RopeParams, ModelError> {
        let n_rot = self.opt_size("rope.dimension_count", HEAD_DIM_MAX)?.unwrap_or(k_dim);
        if n_rot > k_dim || n_rot % 2 != 0 {
            let what = format!("{n_rot} is not an even number up to the head's {k_dim}");
            return Err(ModelError::bad(self.key("rope.dimension_count"), what));
        }
        let base = self.positive("rope.freq_base")?.unwrap_or(10_000.0);
        if base < 1.0 {
            return Err(ModelError::bad(self.key("rope.freq_base"), format!("{base} is below 1")));
        }
        let scaling = self.rope_scaling(n_ctx_train)?;
        let mut attn_factor = self.positive("rope.scaling.attn_factor")?.unwrap_or(1.0);
        // YaRN's ramp brings a factor of its own in place of this key's.
        if !matches!(scaling, RopeScaling::Yarn { ext_factor, .. } if ext_factor != 0.0) {
            attn_factor *= self.positive("rope.scaling.yarn_attn_factor")?.unwrap_or(1.0);
        }
        Ok(RopeParams { n_rot, base, attn_factor, scaling })
    }

    fn rope_scaling(&self, n_ctx_train: usize) -> Result<RopeScaling, ModelError> {
        // 0 stands for "not scaled" in old files, and so does `rope.scale_linear`, their only kind of scaling.
        let non_zero = |key: &str| -> Result<Option<f32>, ModelError> {
            match self.md.opt_f32(&self.key(key))? {
                Some(0.0) => Ok(None),
                _ => self.positive(key),
            }
        };
        let factor = match non_zero("rope.scaling.factor")? {
            Some(factor) => factor,
            None => non_zero("rope.scale_linear")?.unwrap_or(1.0),
        };
        let original_ctx = self.opt_size("rope.scaling.original_context_length", CONTEXT_MAX)?;
        let original_ctx = original_ctx.unwrap_or(n_ctx_train);
        // A negative weight of the ramp stands for the default.
        let ext_factor = self.md.opt_f32(&self.key("rope.scaling.yarn_ext_factor"))?;
        let ext_factor = ext_factor.filter(|&f| f >= 0.0).unwrap_or(1.0);
        Ok(match self.md.opt_str(&self.key("rope.scaling.type"))? {
            Some("none") => RopeScaling::None,
            None | Some("linear") if factor == 1.0 => RopeScaling::None,
            None | Some("linear") => RopeScaling::Linear { factor },
            Some("yarn") => RopeScaling::Yarn {
                factor,
                original_ctx,
                ext_factor,
                beta_fast: self.positive("rope.scaling.yarn_beta_fast")?.unwrap_or(32.0),
                beta_slow: self.positive("rope.scaling.yarn_beta_slow")?.unwrap_or(1.0),
            },
            Some("longrope") => RopeScaling::LongRope { factor, original_ctx },
            Some(other) => {
                let what = format!("`{other}` is unknown (none, linear, yarn and longrope are known)");
                return Err(ModelError::bad(self.key("rope.scaling.type"), what));
            }
        })
    }

    /// Keys that would change results if they were passed over in silence.
    fn refuse_unsupported(&self) -> Result<(), ModelError> {
        let refuse = |key: &str, what: &str| {
            let (key, what) = (self.key(key), what.to_owned());
            Err(ModelError::UnsupportedFeature { key, what, arch: self.arch.name })
        };
        if self.md.opt_u64(&self.key("expert_count"))?.unwrap_or(0) > 0 {
            return refuse("expert_count", "a mixture of experts");
        }
        let causal = self.md.opt_bool(&self.key("attention.causal"))?;
        if causal.is_some_and(|causal| causal != self.arch.causal) {
            let what =
                if self.arch.causal { "attention in both directions" } else { "attention to the left only" };
            return refuse("attention.causal", what);
        }
        for key in ["attn_logit_softcapping", "final_logit_softcapping", "attention.clamp_kqv"] {
            if self.md.opt_f32(&self.key(key))?.unwrap_or(0.0) != 0.0 {
                return refuse(key, "a cap on scores or logits");
            }
        }
        for key in ["logit_scale", "residual_scale", "embedding_scale"] {
            if !matches!(self.md.opt_f32(&self.key(key))?, None | Some(0.0 | 1.0)) {
                return refuse(key, "a scale of the residual stream or the logits");
            }
        }
        if self.md.get(&self.key("rope.dimension_sections")).is_some() {
            return refuse("rope.dimension_sections", "rope over several axes");
        }
        if !matches!(self.md.opt_f32(&self.key("rope.scaling.yarn_log_multiplier"))?, None | Some(0.0)) {
            return refuse("rope.scaling.yarn_log_multiplier", "DeepSeek's form of YaRN");
        }
        Ok(())
    }
}

/// Checks that a size lies in `1..=max`.
fn check_size(key: &str, value: u64, max: usize) -> Result<usize, ModelError> {
    match usize::try_from(value) {
        Ok(v) if (1..=max).contains(&v) => Ok(v),
        _ => Err(ModelError::bad(key, format!("{value} is not between 1 and {max}"))),
    }
}
