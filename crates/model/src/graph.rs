//! What a model computes, as data: the same description for every device.
//!
//! An architecture file makes a [`Graph`] from [`HParams`](crate::HParams). It names each tensor with the shape it
//! must have and says what is done with it; it holds no weights and knows no device. The residual stream `x` of
//! `n_embd` runs through
//!
//! ```text
//! x = token_embd[token]
//! for each layer:  x += attention(norm(x))    x += ffn(norm(x))
//! logits = head · norm(x)
//! ```
//!
//! in models that generate, and in those that embed texts, by the order of their norms ([`NormOrder`]),
//!
//! ```text
//! x = norm(token_embd[token] + token_types[type] + position_embd[position])
//! for each layer:  x = norm(x + attention(x))    x = norm(x + ffn(x))
//! labels = output · tanh(dense · x)      where there is a head that classifies
//! ```

use ingle_kernels::{KvLayout, RopeStyle};
use ingle_step::KvType;

/// A whole model.
#[derive(Clone, Debug, PartialEq)]
pub struct Graph {
    /// `(n_vocab, n_embd)`
    pub token_embd: Weight,
    /// `(n_token_types, n_embd)`: added by the part of the text that a token belongs to.
    pub token_types: Option<Weight>,
    /// `(n_ctx_train, n_embd)`: added by position.
    pub position_embd: Option<Weight>,
    /// Of the sum of all embeddings.
    pub embd_norm: Option<Norm>,
    /// Which elements of a head rotate together, in every layer; `None` if positions are not in rope.
    pub rope_style: Option<RopeStyle>,
    /// Whether a row sees only itself and rows before it.
    pub causal: bool,
    /// In order.
    pub layers: Vec<Layer>,
    /// Before the head.
    pub output_norm: Option<Norm>,
    /// From the residual stream to logits.
    pub head: Head,
    /// From the residual stream to a number for each label.
    pub classifier: Option<Classifier>,
}

/// A matrix `(n_out, n_in)`: `n_out` outputs from `n_in` inputs. Its dimensions in a file are `[n_in, n_out]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Weight {
    /// The tensor.
    pub name: String,
    /// Inputs.
    pub n_in: usize,
    /// Outputs.
    pub n_out: usize,
}

/// Whether a [`Linear`] has a bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bias {
    /// Never.
    None,
    /// Always: without one the file is incomplete.
    Required,
    /// In the files that have the tensor.
    IfPresent,
}

/// A matrix and the bias that goes with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Linear {
    /// `NAME.weight`
    pub weight: Weight,
    /// `NAME.bias`, `(n_out,)`
    pub bias: Bias,
}

/// What a norm divides by, and what comes after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormKind {
    /// The root of the mean square.
    Rms,
    /// The deviation, after the mean is taken off; a bias is added.
    Layer,
}

/// A norm.
#[derive(Clone, Debug, PartialEq)]
pub struct Norm {
    /// The tensor; the bias that goes with it has the same stem.
    pub name: String,
    /// Elements of the weight.
    pub n: usize,
    /// Added to the mean square, or to the variance.
    pub eps: f32,
    /// Which one.
    pub kind: NormKind,
}

/// Where a layer's norms stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormOrder {
    /// `x += f(norm(x))`
    Pre,
    /// `x = norm(x + f(x))`
    Post,
}

/// A block of the residual stream.
#[derive(Clone, Debug, PartialEq)]
pub struct Layer {
    /// Where the norms stand.
    pub norm_order: NormOrder,
    /// Of what attention takes or makes.
    pub attn_norm: Norm,
    /// Mixes positions.
    pub attention: Attention,
    /// Of what the feed-forward network takes or makes.
    pub ffn_norm: Norm,
    /// Works on each position alone.
    pub ffn: Ffn,
}

/// Attention with grouped heads.
#[derive(Clone, Debug, PartialEq)]
pub struct Attention {
    /// To `n_heads * k_dim`.
    pub q: Linear,
    /// To `n_kv_heads * k_dim`.
    pub k: Linear,
    /// To `n_kv_heads * v_dim`.
    pub v: Linear,
    /// Of each query head, before rope.
    pub q_norm: Option<Norm>,
    /// Of each key head, before rope.
    pub k_norm: Option<Norm>,
    /// From `n_heads * v_dim`.
    pub output: Linear,
    /// Query heads.
    pub n_heads: usize,
    /// Key and value heads.
    pub n_kv_heads: usize,
    /// Elements of a query or key head.
    pub k_dim: usize,
    /// Elements of a value head.
    pub v_dim: usize,
    /// Factor on scores.
    pub scale: f32,
    /// How many latest positions a row sees, itself included.
    pub window: Option<usize>,
}

/// A feed-forward network.
#[derive(Clone, Debug, PartialEq)]
pub enum Ffn {
    /// `down · (silu(gate · x) * (up · x))`
    SwiGlu {
        /// To `n_ff`.
        gate: Weight,
        /// To `n_ff`.
        up: Weight,
        /// From `n_ff`.
        down: Linear,
    },
    /// `down · gelu(up · x)`, with the exact error function
    Gelu {
        /// To `n_ff`.
        up: Linear,
        /// From `n_ff`.
        down: Linear,
    },
}

/// From the residual stream to logits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Head {
    /// This matrix if the file has it, else the embedding table.
    UntiedIfPresent(Weight),
    /// There are no logits: the model embeds texts.
    None,
}

/// `output · tanh(dense · x)`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Classifier {
    /// To `n_embd`; left out with its tanh where the model has none.
    pub dense: Option<Linear>,
    /// To the labels.
    pub output: Linear,
}

impl Weight {
    /// The matrix of this name.
    pub fn new(name: impl Into<String>, n_in: usize, n_out: usize) -> Self {
        Self { name: name.into(), n_in, n_out }
    }
}

impl Linear {
    /// `STEM.weight`, perhaps with `STEM.bias`.
    pub fn new(stem: &str, n_in: usize, n_out: usize, bias: Bias) -> Self {
        Self { weight: Weight::new(format!("{stem}.weight"), n_in, n_out), bias }
    }

    /// The name that a bias has.
    pub fn bias_name(&self) -> String {
        let stem = self.weight.name.strip_suffix(".weight").unwrap_or(&self.weight.name);
        format!("{stem}.bias")
    }
}

impl Norm {
    /// The RMS norm whose weight is this tensor.
    pub fn rms(name: impl Into<String>, n: usize, eps: f32) -> Self {
        Self { name: name.into(), n, eps, kind: NormKind::Rms }
    }

    /// The layer norm `STEM.weight` with `STEM.bias`.
    pub fn layer(stem: &str, n: usize, eps: f32) -> Self {
        Self { name: format!("{stem}.weight"), n, eps, kind: NormKind::Layer }
    }

    /// The name of the bias, if the norm has one.
    pub fn bias_name(&self) -> Option<String> {
        let stem = self.name.strip_suffix(".weight").unwrap_or(&self.name);
        (self.kind == NormKind::Layer).then(|| format!("{stem}.bias"))
    }
}

impl Graph {
    /// All matrices but the head, the embedding tables first.
    pub fn weights(&self) -> impl Iterator<Item = &Weight> {
        let gates = self.layers.iter().flat_map(|layer| match &layer.ffn {
            Ffn::SwiGlu { gate, up, .. } => vec![gate, up],
            Ffn::Gelu { .. } => Vec::new(),
        });
        let tables = [Some(&self.token_embd), self.token_types.as_ref(), self.position_embd.as_ref()];
        tables.into_iter().flatten().chain(self.linears().map(|linear| &linear.weight)).chain(gates)
    }

    /// All matrices that may have a bias.
    pub fn linears(&self) -> impl Iterator<Item = &Linear> {
        let layers = self.layers.iter().flat_map(|layer| {
            let Attention { q, k, v, output, .. } = &layer.attention;
            let ffn = match &layer.ffn {
                Ffn::SwiGlu { down, .. } => vec![down],
                Ffn::Gelu { up, down } => vec![up, down],
            };
            [q, k, v, output].into_iter().chain(ffn)
        });
        let classifier = self.classifier.iter().flat_map(|c| c.dense.iter().chain([&c.output]));
        layers.chain(classifier)
    }

    /// All norms.
    pub fn norms(&self) -> impl Iterator<Item = &Norm> {
        let layers = self.layers.iter().flat_map(|layer| {
            let Attention { q_norm, k_norm, .. } = &layer.attention;
            [Some(&layer.attn_norm), q_norm.as_ref(), k_norm.as_ref(), Some(&layer.ffn_norm)]
                .into_iter()
                .flatten()
        });
        self.embd_norm.iter().chain(layers).chain(&self.output_norm)
    }

    /// The shape of each layer's K/V memory.
    pub fn kv_layouts(&self, kv_type: KvType, block_size: usize) -> impl Iterator<Item = KvLayout> {
        self.layers.iter().map(move |layer| KvLayout {
            kv_type,
            n_kv_heads: layer.attention.n_kv_heads,
            k_dim: layer.attention.k_dim,
            v_dim: layer.attention.v_dim,
            block_size,
        })
    }
}
