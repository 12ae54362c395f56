//! The inner product: one group of 16 rows times one tile of up to 8 tokens, in the kernel that a type and an
//! instruction set have for it. Few tokens may take several groups together.
#![expect(
    unsafe_code,
    reason = "kernels are compiled for instruction sets and called after these were detected"
)]

use ingle_gguf::TensorType;

use crate::Isa;
use crate::activations::TILE;
use crate::layout::{Format, ROWS};
use crate::reference;

/// Weights and activations of one tile.
#[derive(Clone, Copy)]
pub(crate) struct TileInput<'a> {
    /// A row group, as `layout` describes it, or several of the same matrix, one after the other.
    pub w: &'a [u8],
    /// `[block][token]`, as `activations` describes it.
    pub x: &'a [u8],
    pub n_cols: usize,
    /// The weights that will be read after `w`, if caches should be told: `w` itself comes from memory, not from a
    /// cache, and so will they. Kernels of several groups don't ask: see [`WideKernel`].
    pub next: Option<&'a [u8]>,
}

/// `[token][row]`, of one group or of several: as many rows of 16 outputs are filled as there are groups times tokens.
pub(crate) type TileOut = [[f32; ROWS]; TILE];

/// Computes a tile's products: the entry for `n` tokens writes the first `n` of the output.
///
/// # Safety
/// The machine has the instructions; `w` is a group of the type (the kernel's number of groups, for a [`WideKernel`])
/// and `x` has `n` tokens, both of `n_cols` columns.
pub(crate) type TileFn = unsafe fn(TileInput<'_>, &mut TileOut);

/// A kernel that multiplies several groups by a tile of few tokens.
///
/// The outputs of one group and few tokens are too few chains to hide an operation's latency behind; those of several
/// groups are enough, and each chain stays what it is.
///
/// Each group is a stream of its own from memory. The hardware keeps up with them by itself, and better than when it is
/// asked as well: on a Zen 4 core, four groups at once take 42 ms for a token of 1.03 GB of Q8_0 without asking and 43
/// to 44 with it, 71 ms and 81 to 82 for 1.95 GB of F16, 73 ms and 84 to 86 of BF16; one group at a time, 48 to 55, 80
/// and 83 ms.
#[derive(Clone, Copy)]
pub(crate) struct WideKernel {
    pub n_groups: usize,
    pub run: TileFn,
}

/// The kernels of a weight type on an instruction set.
#[derive(Clone, Copy)]
pub(crate) struct TileKernel {
    format: &'static Format,
    /// By number of tokens, from 1.
    by_tokens: [TileFn; TILE],
    /// By number of tokens, from 1 to as many as gain by it.
    wide: &'static [WideKernel],
}

impl TileKernel {
    /// The kernels for a type that `Matrix` holds.
    pub(crate) fn new(format: &'static Format, isa: Isa) -> Self {
        let ty = format.ty;
        let isa = Isa::usable(isa);
        let by_tokens = match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => crate::arch::x86_64::avx512::kernels(ty),
            #[cfg(target_arch = "x86_64")]
            Isa::AvxVnni => crate::arch::x86_64::avx2::vnni::kernels(ty),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => crate::arch::x86_64::avx2::kernels(ty),
            _ => reference::kernels(ty),
        };
        let wide = match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => crate::arch::x86_64::avx512::wide_kernels(ty),
            #[cfg(target_arch = "x86_64")]
            Isa::AvxVnni | Isa::Avx2 => crate::arch::x86_64::avx2::wide_kernels(ty),
            _ => &[],
        };
        Self { format, by_tokens, wide }
    }

    /// How many groups to multiply together by a tile of `n_tokens`, where there are so many.
    pub(crate) fn n_groups(&self, n_tokens: usize) -> usize {
        self.wide(n_tokens).map_or(1, |wide| wide.n_groups)
    }

    /// Whether to ask for weights before they are read from memory. For one token the hardware keeps up by itself with the
    /// types whose kernels read one ascending stream and have the least to compute; asking as well is in its way then: a
    /// Zen 4 core takes 23 ms without it and 27 with it for a token of 0.55 GB of Q4_K, 28 and 33 for 0.67 GB of Q5_K, 32
    /// and 38 for 0.80 GB of Q6_K, 21 and 25 for 0.55 GB of Q4_0. On two cores it is the same with and without. The
    /// others need it: a token of 0.42 GB of Q3_K takes two cores 14 ms with it and 18 without.
    pub(crate) fn asks_ahead(&self, n_tokens: usize) -> bool {
        let alone = [TensorType::Q4_0, TensorType::Q4_K, TensorType::Q5_K, TensorType::Q6_K];
        n_tokens > 1 || !alone.contains(&self.format.ty)
    }

    /// Multiplies `n_groups`, which are one or [`Self::n_groups`], by a tile of `n_tokens`. Rows of `out` beyond their
    /// product are left as they are.
    #[inline]
    pub(crate) fn run(&self, input: TileInput<'_>, n_groups: usize, n_tokens: usize, out: &mut TileOut) {
        let group_bytes = (self.format.group_bytes)(input.n_cols);
        assert_eq!(input.w.len(), n_groups * group_bytes, "whole row groups");
        assert_eq!(input.x.len(), n_tokens * self.format.act_kind.row_bytes(input.n_cols), "one whole tile");
        let kernel = match n_groups {
            1 => self.by_tokens[n_tokens - 1],
            _ => {
                let wide = self.wide(n_tokens).filter(|wide| wide.n_groups == n_groups);
                wide.expect("one group, or as many as the kernel takes").run
            }
        };
        // SAFETY: `new` has made sure of the instructions, the assertions of the lengths.
        unsafe { kernel(input, out) }
    }

    fn wide(&self, n_tokens: usize) -> Option<&WideKernel> {
        self.wide.get(n_tokens.wrapping_sub(1))
    }
}

/// An array of a kernel for 1 to 8 tokens.
macro_rules! by_tokens {
    ($($kernel:tt)+) => {
        [
            $($kernel)+::<1>, $($kernel)+::<2>, $($kernel)+::<3>, $($kernel)+::<4>,
            $($kernel)+::<5>, $($kernel)+::<6>, $($kernel)+::<7>, $($kernel)+::<8>,
        ]
    };
}
pub(crate) use by_tokens;
