//! The fixed part of a bundle: the header before the index.
//!
//! ```text
//! 0   8  magic        89 'I' 'G' 'B' 0D 0A 1A 0A
//! 8   2  version      1, little-endian as all numbers
//! 10  2  signatures   0 or 1
//! 12  4  index bytes
//! 16  32 SHA-256 of the index
//! 48     the index; then, if there is one, the signature: public key (32), Ed25519 (64); then the blobs
//! ```
//!
//! Nothing stands between these and nothing after them, so that each byte of a bundle is a fixed value, hashed or
//! signed. `docs/bundle-format.md` describes all of it.

use super::error::BundleError;

/// What a bundle begins with: a byte that text never has, the name, and line ends that a copy as text would change.
pub const MAGIC: [u8; 8] = *b"\x89IGB\r\n\x1a\n";
/// The format that is written and read here.
pub const VERSION: u16 = 1;
/// Bytes of the header.
pub const HEADER_BYTES: usize = 48;
/// Bytes of a signature with its key.
pub const SIGNATURE_BYTES: usize = 96;
/// Most bytes of an index: enough for 8 TiB of blobs.
pub const INDEX_BYTES_MAX: u32 = 64 << 20;

/// What the header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Whether a signature follows the index.
    pub signed: bool,
    /// Bytes of the index.
    pub index_bytes: u32,
    /// SHA-256 of the index.
    pub index_sha256: [u8; 32],
}

impl Header {
    /// As it stands in the file.
    pub fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        out[..8].copy_from_slice(&MAGIC);
        out[8..10].copy_from_slice(&VERSION.to_le_bytes());
        out[10..12].copy_from_slice(&u16::from(self.signed).to_le_bytes());
        out[12..16].copy_from_slice(&self.index_bytes.to_le_bytes());
        out[16..].copy_from_slice(&self.index_sha256);
        out
    }

    /// Reads it.
    ///
    /// # Errors
    /// The magic, the version, the count of signatures or the size of the index is none that this format has.
    pub fn parse(bytes: &[u8; HEADER_BYTES]) -> Result<Self, BundleError> {
        let u16_at = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        if bytes[..8] != MAGIC {
            return Err(BundleError::NotABundle(if bytes[1..4] == MAGIC[1..4] {
                "its first bytes were changed, as a copy as text does; copy it as it is"
            } else {
                "it begins otherwise; `ingle export` writes bundles"
            }));
        }
        if u16_at(8) != VERSION {
            return Err(BundleError::Version(u16_at(8)));
        }
        let signed = match u16_at(10) {
            0 => false,
            1 => true,
            n => {
                return Err(BundleError::Invalid(format!("it claims {n} signatures, where one is the most")));
            }
        };
        let index_bytes = u32::from_le_bytes([bytes[12], bytes[13], bytes[14], bytes[15]]);
        if index_bytes > INDEX_BYTES_MAX {
            let text = format!("its index claims {index_bytes} bytes, where {INDEX_BYTES_MAX} is the most");
            return Err(BundleError::Invalid(text));
        }
        let mut index_sha256 = [0; 32];
        index_sha256.copy_from_slice(&bytes[16..]);
        Ok(Self { signed, index_bytes, index_sha256 })
    }

    /// Where the first blob begins.
    pub fn data_start(self) -> u64 {
        let signature = if self.signed { SIGNATURE_BYTES } else { 0 };
        (HEADER_BYTES + signature) as u64 + u64::from(self.index_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_come_back_and_others_are_refused() {
        let header = Header { signed: true, index_bytes: 77, index_sha256: [9; 32] };
        let bytes = header.to_bytes();
        assert_eq!(Header::parse(&bytes).unwrap(), header);
        assert_eq!(header.data_start(), 48 + 77 + 96);
        let refused: &[(usize, u8, &str)] = &[
            (0, 0x88, "as a copy as text does"),
            (4, b'\n', "as a copy as text does"),
            (1, b'X', "begins otherwise"),
            (8, 2, "format 2"),
            (9, 1, "format 257"),
            (10, 2, "claims 2 signatures"),
            (11, 1, "claims 257 signatures"),
            (15, 0xFF, "where 67108864 is the most"),
        ];
        for &(at, value, part) in refused {
            let mut changed = bytes;
            changed[at] = value;
            let error = Header::parse(&changed).unwrap_err().to_string();
            assert!(error.contains(part), "{at}: {error}");
        }
    }
}
