//! GPT-2's byte alphabet: each byte is written as one printable character, so that pieces are valid text.
//!
//! Printable Latin-1 characters stand for their own code; the other 68 bytes, in order, are U+0100 onwards.

use std::sync::LazyLock;

fn is_printable(byte: u8) -> bool {
    matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF)
}

/// From a character's code to its byte; real codes are below U+0144.
static BYTES: LazyLock<[Option<u8>; 0x144]> = LazyLock::new(|| {
    let mut table = [None; 0x144];
    let mut next = 0x100;
    for byte in 0..=255u8 {
        if is_printable(byte) {
            table[usize::from(byte)] = Some(byte);
        } else {
            table[next] = Some(byte);
            next += 1;
        }
    }
    table
});

/// The bytes that a piece spells, or `None` if it has a character outside the alphabet.
pub(crate) fn decode(piece: &[u8]) -> Option<Vec<u8>> {
    let table = &*BYTES;
    std::str::from_utf8(piece).ok()?.chars().map(|c| table.get(c as usize).copied().flatten()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_one_character() {
        for (piece, expected) in [
            ("Ġthe", Some(&b" the"[..])),
            ("Ċ", Some(b"\n")),
            ("Ã©", Some("é".as_bytes())),
            ("ł", Some(&[0xa0])),
            ("Ń", Some(&[0xad])),
            ("a b", None),
            ("▁", None),
        ] {
            assert_eq!(decode(piece.as_bytes()).as_deref(), expected, "{piece}");
        }
        assert_eq!(BYTES.iter().flatten().count(), 256);
    }
}
