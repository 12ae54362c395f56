//! Which arithmetic computed a result. Two runs on the same path give the same bits.

use std::fmt;

/// How keys and values are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KvType {
    /// 32-bit floats: for goldens.
    F32,
    /// IEEE half precision.
    F16,
    /// bfloat16.
    BF16,
    /// 8-bit integers, one scale per 32.
    Q8_0,
    /// 4-bit integers, one scale per 32: a quarter of F16's memory, at a loss that shows.
    Q4_0,
}

impl KvType {
    /// All types.
    pub const ALL: [Self; 5] = [Self::F32, Self::F16, Self::BF16, Self::Q8_0, Self::Q4_0];

    /// The name that flags and reports use.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::BF16 => "bf16",
            Self::Q8_0 => "q8_0",
            Self::Q4_0 => "q4_0",
        }
    }

    /// The type of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|t| t.name() == name)
    }
}

/// The identity of an arithmetic: replay and disk caches refuse another one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NumericPath {
    /// Goes up whenever any result's bits change.
    pub numerics_version: u32,
    /// The class of kernels: all CPU instruction sets give the same bits, so this is `cpu` for all of them.
    pub kernel_class: &'static str,
    /// How keys and values are stored.
    pub kv_type: KvType,
    /// The context the rope factors were made for.
    pub n_ctx: usize,
}

impl fmt::Display for NumericPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}-n{}-kv_{}-ctx{}",
            self.kernel_class,
            self.numerics_version,
            self.kv_type.name(),
            self.n_ctx
        )
    }
}
