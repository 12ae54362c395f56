//! Floats to the types of weights, as the file has them.

use half::f16;
use ingle_gguf::TensorType;

use crate::error::ConvertError;

/// The type of a file's matrices. Vectors, and tables that are only added, stay F32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WeightType {
    /// 4 bytes a weight: as good as the source.
    F32,
    /// 2 bytes a weight.
    #[default]
    F16,
    /// 8.5 bits a weight; F16 for matrices whose rows are no multiple of 32.
    Q8_0,
}

impl WeightType {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::F32, Self::F16, Self::Q8_0];

    /// The name that the command takes.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Q8_0 => "q8_0",
        }
    }

    /// The type of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|ty| ty.name().eq_ignore_ascii_case(name))
    }

    /// The number in `general.file_type`.
    pub(crate) fn file_type(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q8_0 => 7,
        }
    }

    /// The type of a matrix with rows of `n_cols`.
    pub(crate) fn of_matrix(self, n_cols: usize) -> TensorType {
        match self {
            Self::F32 => TensorType::F32,
            Self::Q8_0 if n_cols.is_multiple_of(Q8_BLOCK) => TensorType::Q8_0,
            Self::F16 | Self::Q8_0 => TensorType::F16,
        }
    }
}

/// Weights that share a scale in Q8_0.
const Q8_BLOCK: usize = 32;

/// The bytes of `values` in a type of [`WeightType`]. Rows are whole blocks.
///
/// # Errors
/// If a value is not finite, or too large for the type.
pub(crate) fn encode(name: &str, ty: TensorType, values: &[f32]) -> Result<Vec<u8>, ConvertError> {
    let bad = |what: String| ConvertError::BadTensor { name: name.to_owned(), what };
    if let Some(x) = values.iter().find(|x| !x.is_finite()) {
        return Err(bad(format!("it has the value {x}: the weights are damaged")));
    }
    let half = |x: f32| -> Result<[u8; 2], ConvertError> {
        let rounded = f16::from_f32(x);
        if rounded.is_finite() {
            Ok(rounded.to_le_bytes())
        } else {
            Err(bad(format!("{x} is too large for F16: choose f32")))
        }
    };
    let mut out = Vec::new();
    match ty {
        TensorType::F32 => out.extend(values.iter().flat_map(|x| x.to_le_bytes())),
        TensorType::F16 => {
            for &x in values {
                out.extend(half(x)?);
            }
        }
        TensorType::Q8_0 => {
            for block in values.chunks(Q8_BLOCK) {
                let largest = block.iter().fold(0.0f32, |m, x| m.max(x.abs()));
                let scale = largest / 127.0;
                let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
                out.extend(half(scale)?);
                out.extend(block.iter().map(|x| (x * inverse).round() as i8 as u8));
            }
        }
        other => return Err(bad(format!("nothing here writes {other}"))),
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_and_their_bytes() {
        let of = |ty, values: &[f32]| encode("x", ty, values).expect("finite");
        assert_eq!(of(TensorType::F32, &[1.5]), 1.5f32.to_le_bytes());
        assert_eq!(of(TensorType::F16, &[-2.0, 0.1]), [0x00, 0xC0, 0x66, 0x2E]);
        let mut block = [0.0; 32];
        (block[0], block[1], block[31]) = (12.7, -6.35, 0.04);
        let bytes = of(TensorType::Q8_0, &block);
        assert_eq!(&bytes[..2], f16::from_f32(0.1).to_le_bytes());
        assert_eq!((bytes[2], bytes[3] as i8, bytes[33], bytes.len()), (127, -64, 0, 34));
        assert_eq!(of(TensorType::Q8_0, &[0.0; 32]), [0; 34]);
        for (ty, x, expected) in
            [(TensorType::F16, 70_000.0, "choose f32"), (TensorType::F32, f32::NAN, "damaged")]
        {
            let error = encode("x", ty, &[x]).expect_err("refused").to_string();
            assert!(error.contains(expected) && error.contains("`x`"), "{error}");
        }
    }

    #[test]
    fn types() {
        for ty in WeightType::ALL {
            assert_eq!(WeightType::from_name(ty.name()), Some(ty));
        }
        assert_eq!(WeightType::from_name("q4_0"), None);
        assert_eq!(WeightType::Q8_0.of_matrix(48), TensorType::F16);
        assert_eq!(WeightType::Q8_0.of_matrix(64), TensorType::Q8_0);
    }
}
