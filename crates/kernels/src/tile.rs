//! The inner product: one group of 16 rows times one tile of up to 8 tokens, in the kernel that a type and an
//! instruction set have for it.
#![expect(
    unsafe_code,
    reason = "kernels are compiled for instruction sets and called after these were detected"
)]

use crate::Isa;
use crate::activations::TILE;
use crate::layout::{Format, ROWS};
use crate::reference;

/// Weights and activations of one tile.
#[derive(Clone, Copy)]
pub(crate) struct TileInput<'a> {
    /// A row group, as `layout` describes it.
    pub w: &'a [u8],
    /// `[block][token]`, as `activations` describes it.
    pub x: &'a [u8],
    pub n_cols: usize,
    /// The weights that will be read after `w`, if caches should be told: `w` itself comes from memory, not from a
    /// cache, and so will they.
    pub next: Option<&'a [u8]>,
}

/// `[token][row]`
pub(crate) type TileOut = [[f32; ROWS]; TILE];

/// Computes a tile's products: the entry for `n` tokens writes the first `n` of the output.
///
/// # Safety
/// The machine has the instructions; `w` is a group of the type and `x` has `n` tokens, both of `n_cols` columns.
pub(crate) type TileFn = unsafe fn(TileInput<'_>, &mut TileOut);

/// The kernels of a weight type on an instruction set.
#[derive(Clone, Copy)]
pub(crate) struct TileKernel {
    format: &'static Format,
    /// By number of tokens, from 1.
    by_tokens: [TileFn; TILE],
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
        Self { format, by_tokens }
    }

    /// Multiplies a group by a tile of `n_tokens`. Rows of `out` beyond them are left as they are.
    #[inline]
    pub(crate) fn run(&self, input: TileInput<'_>, n_tokens: usize, out: &mut TileOut) {
        assert_eq!(input.w.len(), (self.format.group_bytes)(input.n_cols), "one whole row group");
        assert_eq!(input.x.len(), n_tokens * self.format.act_kind.row_bytes(input.n_cols), "one whole tile");
        // SAFETY: `new` has made sure of the instructions, the assertions of the lengths.
        unsafe { self.by_tokens[n_tokens - 1](input, out) }
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
