//! Tensor element types with their block sizes, as ggml defines them.

use std::fmt;

macro_rules! tensor_types {
    ($($(#[$doc:meta])* $name:ident = $id:literal, $elems:literal, $bytes:literal, $text:literal;)*) => {
        /// The element type of a tensor. Quantized types store blocks of [`block_len`](Self::block_len) elements
        /// in [`block_bytes`](Self::block_bytes) bytes; a row is a whole number of blocks.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[expect(non_camel_case_types, reason = "the names are the format's own")]
        pub enum TensorType { $($(#[$doc])* $name = $id,)* }

        impl TensorType {
            /// All types, in the order of their ids.
            pub const ALL: &'static [TensorType] = &[$(TensorType::$name),*];

            /// The type with this id in the file format, if there is one.
            pub fn from_id(id: u32) -> Option<Self> {
                match id { $($id => Some(Self::$name),)* _ => None }
            }

            /// Elements in a block; 1 for plain types.
            pub const fn block_len(self) -> usize {
                match self { $(Self::$name => $elems,)* }
            }

            /// Bytes of a block.
            pub const fn block_bytes(self) -> usize {
                match self { $(Self::$name => $bytes,)* }
            }

            /// The name that tools of the field print, such as `Q4_K`.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

tensor_types! {
    /// IEEE single precision.
    F32 = 0, 1, 4, "F32";
    /// IEEE half precision.
    F16 = 1, 1, 2, "F16";
    /// 4 bits, one scale per 32.
    Q4_0 = 2, 32, 18, "Q4_0";
    /// 4 bits, scale and minimum per 32.
    Q4_1 = 3, 32, 20, "Q4_1";
    /// 5 bits, one scale per 32.
    Q5_0 = 6, 32, 22, "Q5_0";
    /// 5 bits, scale and minimum per 32.
    Q5_1 = 7, 32, 24, "Q5_1";
    /// 8 bits, one scale per 32.
    Q8_0 = 8, 32, 34, "Q8_0";
    /// 8 bits with sums, for activations only.
    Q8_1 = 9, 32, 36, "Q8_1";
    /// 2 bits, super-blocks of 256.
    Q2_K = 10, 256, 84, "Q2_K";
    /// 3 bits, super-blocks of 256.
    Q3_K = 11, 256, 110, "Q3_K";
    /// 4 bits, super-blocks of 256.
    Q4_K = 12, 256, 144, "Q4_K";
    /// 5 bits, super-blocks of 256.
    Q5_K = 13, 256, 176, "Q5_K";
    /// 6 bits, super-blocks of 256.
    Q6_K = 14, 256, 210, "Q6_K";
    /// 8 bits with sums, super-blocks of 256, for activations only.
    Q8_K = 15, 256, 292, "Q8_K";
    /// 2.06 bits by codebook.
    IQ2_XXS = 16, 256, 66, "IQ2_XXS";
    /// 2.31 bits by codebook.
    IQ2_XS = 17, 256, 74, "IQ2_XS";
    /// 3.06 bits by codebook.
    IQ3_XXS = 18, 256, 98, "IQ3_XXS";
    /// 1.56 bits by codebook.
    IQ1_S = 19, 256, 50, "IQ1_S";
    /// 4 bits through a fixed non-linear table, one scale per 32.
    IQ4_NL = 20, 32, 18, "IQ4_NL";
    /// 3.44 bits by codebook.
    IQ3_S = 21, 256, 110, "IQ3_S";
    /// 2.56 bits by codebook.
    IQ2_S = 22, 256, 82, "IQ2_S";
    /// 4.25 bits through a fixed non-linear table.
    IQ4_XS = 23, 256, 136, "IQ4_XS";
    /// 8-bit integers.
    I8 = 24, 1, 1, "I8";
    /// 16-bit integers.
    I16 = 25, 1, 2, "I16";
    /// 32-bit integers.
    I32 = 26, 1, 4, "I32";
    /// 64-bit integers.
    I64 = 27, 1, 8, "I64";
    /// IEEE double precision.
    F64 = 28, 1, 8, "F64";
    /// 1.75 bits by codebook.
    IQ1_M = 29, 256, 56, "IQ1_M";
    /// The upper half of an F32.
    BF16 = 30, 1, 2, "BF16";
    /// Ternary, 1.69 bits.
    TQ1_0 = 34, 256, 54, "TQ1_0";
    /// Ternary, 2.06 bits.
    TQ2_0 = 35, 256, 66, "TQ2_0";
    /// OCP microscaling FP4, power-of-two scale per 32.
    MXFP4 = 39, 32, 17, "MXFP4";
    /// FP4 with E4M3 scales per 16 and a tensor scale.
    NVFP4 = 40, 64, 36, "NVFP4";
    /// One bit, one scale per 128.
    Q1_0 = 41, 128, 18, "Q1_0";
    /// Two bits, one scale per 64.
    Q2_0 = 42, 64, 18, "Q2_0";
}

impl TensorType {
    /// Bytes of a row of `n` elements, or `None` if `n` is no whole number of blocks or the product overflows.
    pub fn row_bytes(self, n: u64) -> Option<u64> {
        let len = self.block_len() as u64;
        if !n.is_multiple_of(len) {
            return None;
        }
        (n / len).checked_mul(self.block_bytes() as u64)
    }

    /// Why an id that [`from_id`](Self::from_id) does not know is refused, in words for the user.
    pub(crate) fn unknown_id(id: u32) -> String {
        match id {
            4 | 5 | 31..=33 | 36..=38 => {
                format!("tensor type {id} was removed from the format: quantize the model again")
            }
            _ => format!("tensor type {id} is unknown: the file may be newer than this program"),
        }
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
