//! AVX-VNNI: the sources of AVX2 with `vpdpbusd` of 256 bits, in both of its encodings.

use ingle_gguf::TensorType;

use crate::tile::{TileFn, TileInput, TileOut, by_tokens};

/// The kernels of a type.
pub(crate) fn kernels(ty: TensorType) -> [TileFn; 8] {
    let kernels = if is_x86_feature_detected!("avxvnni") { vex::kernels(ty) } else { evex::kernels(ty) };
    kernels.unwrap_or_else(|| super::kernels(ty))
}

macro_rules! encoding {
    ($(#[$doc:meta])* $name:ident, $dot:ident, $features:literal) => {
        $(#[$doc])*
        mod $name {
            use super::super::dot::$dot;
            use super::super::iq4::{iq4_nl, iq4_xs, mxfp4};
            use super::super::k_quants::{q4_k, q6_k};
            use super::super::k_quants_low::{q2_k, q3_k};
            use super::super::q_blocks::{q4_0, q8_0};
            use super::super::q_blocks_5::{q4_1, q5_0, q5_1};
            use super::super::tiles;
            use super::{TensorType, TileFn, TileInput, TileOut, by_tokens};

            /// The kernels of a type that has products of bytes.
            pub(super) fn kernels(ty: TensorType) -> Option<[TileFn; 8]> {
                match ty {
                    TensorType::Q8_0 => Some(by_tokens!(q8_0_tile)),
                    TensorType::Q4_0 => Some(by_tokens!(q4_0_tile)),
                    TensorType::Q2_K => Some(by_tokens!(q2_k_tile)),
                    TensorType::Q3_K => Some(by_tokens!(q3_k_tile)),
                    TensorType::Q4_1 => Some(by_tokens!(q4_1_tile)),
                    TensorType::Q5_0 => Some(by_tokens!(q5_0_tile)),
                    TensorType::Q5_1 => Some(by_tokens!(q5_1_tile)),
                    TensorType::Q4_K => Some(by_tokens!(q4_k_tile)),
                    TensorType::Q6_K => Some(by_tokens!(q6_k_tile)),
                    TensorType::IQ4_NL => Some(by_tokens!(iq4_nl_tile)),
                    TensorType::IQ4_XS => Some(by_tokens!(iq4_xs_tile)),
                    TensorType::MXFP4 => Some(by_tokens!(mxfp4_tile)),
                    _ => None,
                }
            }

            tiles!(
                $features,
                q8_0_tile: q8_0[$dot],
                q4_0_tile: q4_0[$dot],
                q2_k_tile: q2_k[$dot],
                q3_k_tile: q3_k[$dot],
                q4_1_tile: q4_1[$dot],
                q5_0_tile: q5_0[$dot],
                q5_1_tile: q5_1[$dot],
                q4_k_tile: q4_k[$dot],
                q6_k_tile: q6_k[$dot],
                iq4_nl_tile: iq4_nl[$dot],
                iq4_xs_tile: iq4_xs[$dot],
                mxfp4_tile: mxfp4[$dot],
            );
        }
    };
}

encoding!(
    /// Processors with AVX-VNNI.
    vex,
    VnniVex,
    "avx2,fma,f16c,avxvnni"
);
encoding!(
    /// Processors with AVX-512 VNNI only.
    evex,
    VnniEvex,
    "avx2,fma,f16c,avx512vl,avx512vnni"
);
