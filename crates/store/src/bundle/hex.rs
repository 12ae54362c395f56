//! Bytes as text: lower-case hexadecimal.

use crate::Digest;

/// 32 bytes as 64 lower-case digits: digests and keys are spelled alike.
pub fn encode(bytes: &[u8; 32]) -> String {
    Digest::from_bytes(*bytes).hex()
}

/// 32 bytes of exactly 64 lower-case digits.
pub fn decode(text: &str) -> Option<[u8; 32]> {
    Digest::from_hex(text).map(|digest| *digest.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_has_one_spelling() {
        let bytes: [u8; 32] = std::array::from_fn(|i| (i * 37) as u8);
        let text = encode(&bytes);
        assert_eq!(decode(&text), Some(bytes));
        for other in [&text[1..], &text.to_uppercase(), &format!("{text}0"), &text.replace('4', "g"), ""] {
            assert_eq!(decode(other), None, "{other}");
        }
    }
}
