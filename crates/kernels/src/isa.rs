//! Which instruction set runs, decided once at run time.

/// An instruction-set level that has kernels of its own. Ordered: later ones include earlier ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isa {
    /// The portable twins, which the compiler vectorizes as it can.
    Scalar,
    /// AVX2, FMA and F16C.
    Avx2,
    /// AVX2 and products of bytes in registers of 256 bits: AVX-VNNI, or AVX-512 VNNI with VL.
    AvxVnni,
    /// AVX-512 F, BW, VL, DQ and VNNI (BF16 used where there is one).
    Avx512,
}

impl Isa {
    /// The best level of this machine, or what `INGLE_KERNELS_ISA` (`scalar`, `avx2`, `avxvnni`, `avx512`) names if the
    /// machine has it.
    pub fn detect() -> Self {
        let wanted = std::env::var("INGLE_KERNELS_ISA").ok();
        let named = Self::available().find(|isa| wanted.as_deref() == Some(isa.name()));
        named.unwrap_or_else(Self::best)
    }

    /// All levels that this machine has, scalar first.
    pub fn available() -> impl Iterator<Item = Self> {
        let best = Self::best();
        [Self::Scalar, Self::Avx2, Self::AvxVnni, Self::Avx512].into_iter().filter(move |&isa| isa <= best)
    }

    /// Whether this machine has it.
    pub fn is_available(self) -> bool {
        self <= Self::best()
    }

    /// `wanted` if this machine has it.
    ///
    /// # Panics
    /// If it has not: the code that follows would be executed by a processor that does not know it.
    pub(crate) fn usable(wanted: Self) -> Self {
        assert!(wanted.is_available(), "this machine has no {} instructions", wanted.name());
        wanted
    }

    /// The name in reports and in the environment variable.
    pub fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Avx2 => "avx2",
            Self::AvxVnni => "avxvnni",
            Self::Avx512 => "avx512",
        }
    }

    #[cfg(target_arch = "x86_64")]
    fn best() -> Self {
        let avx2 = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        let avx512 = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vnni");
        match (avx2, avx512) {
            (true, true) => Self::Avx512,
            (true, false) if is_x86_feature_detected!("avxvnni") => Self::AvxVnni,
            (true, false) => Self::Avx2,
            _ => Self::Scalar,
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn best() -> Self {
        Self::Scalar
    }
}
