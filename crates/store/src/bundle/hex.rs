//! Bytes as text: lower-case hexadecimal, and base64 as PEM has it.

use crate::Digest;

/// 32 bytes as 64 lower-case digits: digests and keys are spelled alike.
pub fn encode(bytes: &[u8; 32]) -> String {
    Digest::from_bytes(*bytes).hex()
}

/// 32 bytes of exactly 64 lower-case digits.
pub fn decode(text: &str) -> Option<[u8; 32]> {
    Digest::from_hex(text).map(|digest| *digest.as_bytes())
}

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Base64 with padding (RFC 4648, section 4).
pub fn encode_base64(bytes: &[u8]) -> String {
    let mut out = String::new();
    for group in bytes.chunks(3) {
        let at = |i: usize| u32::from(group.get(i).copied().unwrap_or(0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for i in 0..4 {
            let digit = char::from(BASE64[(bits >> (18 - 6 * i)) as usize & 63]);
            out.push(if i <= group.len() { digit } else { '=' });
        }
    }
    out
}

/// What base64 with padding stands for; `None` for every other spelling, so that bytes have one spelling only.
pub fn decode_base64(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    let digits = text.trim_end_matches('=').as_bytes();
    for group in digits.chunks(4) {
        let mut bits = 0;
        for i in 0..4 {
            let value = group.get(i).map_or(Some(0), |d| BASE64.iter().position(|known| known == d))?;
            bits = bits << 6 | value as u32;
        }
        out.extend_from_slice(&bits.to_be_bytes()[1..group.len().max(1)]);
    }
    (encode_base64(&out) == text).then_some(out)
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

    /// The vectors of RFC 4648, section 10.
    #[test]
    fn base64_is_the_rfc_s() {
        let vectors = [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ];
        for (plain, text) in vectors {
            assert_eq!(encode_base64(plain.as_bytes()), text);
            assert_eq!(decode_base64(text).as_deref(), Some(plain.as_bytes()), "{text}");
        }
        for wrong in ["Z", "Zg", "Zg=", "Zh==", "Zm9", "Zm9v=", "Zm 9v", "====", "Zm9v\n", "é"] {
            assert_eq!(decode_base64(wrong), None, "{wrong}");
        }
    }
}
