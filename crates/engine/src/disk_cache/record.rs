//! One block in a file, and the names of blocks.
//!
//! ```text
//! magic and version   8    "INGLEKV1"
//! payload's length    8    little-endian, as all numbers
//! cost                8    what computing it again costs: see `worth`
//! key                32
//! parent             32    the key of the block before it, or of the root
//! tenant             32    whose it is
//! payload             n    as the executor exported it
//! MAC                32    over all of this
//! ```
//! Keys, tenants and MACs are HMAC-SHA-256 (RFC 2104) under a secret that lies in the folder for its owner alone. So names
//! tell nothing about texts, and nobody without the secret can make a file that is believed.

use ingle_step::TokenId;
use sha2::{Digest, Sha256};

/// Magic bytes and version: goes up with every change of the format.
pub(super) const MAGIC: &[u8; 8] = b"INGLEKV1";
/// Everything before the payload.
pub(super) const HEADER_BYTES: usize = 8 + 8 + 8 + 3 * KEY_BYTES;
/// The MAC behind the payload.
pub(super) const MAC_BYTES: usize = 32;

const KEY_BYTES: usize = 32;
/// Bytes that SHA-256 takes at a time.
const SHA_BLOCK: usize = 64;

/// The name of a block, a root or a tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(pub(super) [u8; KEY_BYTES]);

/// What a file says about its block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub key: Key,
    pub parent: Key,
    pub tenant: Key,
    pub cost: u64,
    pub n_bytes: u64,
}

/// The key of a folder, ready for use.
#[derive(Clone)]
pub(super) struct Secret {
    inner: Sha256,
    outer: Sha256,
}

impl Key {
    /// In hexadecimal.
    pub(super) fn name(self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The key of this name.
    pub(super) fn from_name(name: &str) -> Option<Self> {
        let mut key = [0; KEY_BYTES];
        let digits: Vec<u8> = name.chars().map(|c| c.to_digit(16).map(|d| d as u8)).collect::<Option<_>>()?;
        if digits.len() != 2 * KEY_BYTES {
            return None;
        }
        for (byte, [high, low]) in key.iter_mut().zip(digits.as_chunks().0) {
            *byte = high << 4 | low;
        }
        (Self(key).name() == name).then_some(Self(key))
    }
}

impl Secret {
    pub fn new(key: &[u8; 32]) -> Self {
        let pad = |with: u8| {
            let mut block = [with; SHA_BLOCK];
            block.iter_mut().zip(key).for_each(|(pad, key)| *pad ^= key);
            Sha256::new().chain_update(block)
        };
        Self { inner: pad(0x36), outer: pad(0x5C) }
    }

    /// The root of what a tenant computes on an arithmetic of a model.
    pub fn root(&self, identity: &str, tenant: &Key) -> Key {
        Key(self.mac(&[b"root", &(identity.len() as u64).to_le_bytes(), identity.as_bytes(), &tenant.0]))
    }

    /// What stands for a tenant.
    pub fn tenant(&self, name: &str) -> Key {
        Key(self.mac(&[b"tenant", name.as_bytes()]))
    }

    /// The block of these tokens after another.
    pub fn child(&self, parent: &Key, tokens: &[TokenId]) -> Key {
        let tokens: Vec<u8> = tokens.iter().flat_map(|token| token.0.to_le_bytes()).collect();
        Key(self.mac(&[b"block", &parent.0, &tokens]))
    }

    /// The whole file.
    pub fn encode(&self, header: &Header, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES + payload.len() + MAC_BYTES);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&header.n_bytes.to_le_bytes());
        bytes.extend_from_slice(&header.cost.to_le_bytes());
        for key in [header.key, header.parent, header.tenant] {
            bytes.extend_from_slice(&key.0);
        }
        bytes.extend_from_slice(payload);
        let mac = self.mac(&[b"file", &bytes]);
        bytes.extend_from_slice(&mac);
        bytes
    }

    /// The payload of a file, if all of it is what was written under this key. The file's bytes are used up.
    pub fn decode(&self, key: Key, mut bytes: Vec<u8>) -> Option<Vec<u8>> {
        let header = Header::parse(bytes.first_chunk()?)?;
        let end = HEADER_BYTES.checked_add(usize::try_from(header.n_bytes).ok()?)?;
        if header.key != key || bytes.len().checked_sub(MAC_BYTES) != Some(end) {
            return None;
        }
        let (signed, mac) = bytes.split_at(end);
        // In constant time: who could measure it might learn a MAC byte by byte.
        let difference = self.mac(&[b"file", signed]).iter().zip(mac).fold(0, |sum, (a, b)| sum | (a ^ b));
        if difference != 0 {
            return None;
        }
        bytes.truncate(end);
        bytes.drain(..HEADER_BYTES);
        Some(bytes)
    }

    fn mac(&self, parts: &[&[u8]]) -> [u8; 32] {
        let mut inner = self.inner.clone();
        parts.iter().for_each(|part| inner.update(part));
        self.outer.clone().chain_update(inner.finalize()).finalize().into()
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

impl Header {
    /// Reads it, without a look at the rest of the file.
    pub fn parse(bytes: &[u8; HEADER_BYTES]) -> Option<Self> {
        let rest = bytes.strip_prefix(MAGIC)?;
        let (n_bytes, rest) = rest.split_first_chunk()?;
        let (cost, rest) = rest.split_first_chunk()?;
        let (keys, _) = rest.as_chunks::<KEY_BYTES>();
        let &[key, parent, tenant] = keys else { return None };
        Some(Self {
            key: Key(key),
            parent: Key(parent),
            tenant: Key(tenant),
            cost: u64::from_le_bytes(*cost),
            n_bytes: u64::from_le_bytes(*n_bytes),
        })
    }

    /// Bytes of the whole file.
    pub fn file_bytes(&self) -> u64 {
        self.n_bytes.saturating_add((HEADER_BYTES + MAC_BYTES) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 4231, test case 2, with the key padded as HMAC pads it.
    #[test]
    fn is_hmac_sha_256() {
        let mut key = [0; 32];
        key[..4].copy_from_slice(b"Jefe");
        let mac = Secret::new(&key).mac(&[b"what do ya want ", b"for nothing?"]);
        assert_eq!(Key(mac).name(), "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    }

    #[test]
    fn names_depend_on_everything_before() {
        let secret = Secret::new(&[7; 32]);
        let tokens = |t: &[u32]| t.iter().map(|&t| TokenId(t)).collect::<Vec<_>>();
        let (ann, bob) = (secret.tenant("ann"), secret.tenant("bob"));
        let root = secret.root("model", &ann);
        let keys = [
            root,
            ann,
            secret.root("model", &bob),
            secret.root("model2", &ann),
            secret.child(&root, &tokens(&[1, 2])),
            secret.child(&root, &tokens(&[2, 1])),
            secret.child(&secret.child(&root, &tokens(&[1])), &tokens(&[2])),
            Secret::new(&[8; 32]).child(&root, &tokens(&[1, 2])),
        ];
        for (i, key) in keys.iter().enumerate() {
            assert!(!keys[..i].contains(key), "key {i} is another's");
            assert_eq!(Key::from_name(&key.name()), Some(*key));
        }
        assert_eq!(Key::from_name(&keys[0].name().to_uppercase()), None);
        assert_eq!(Key::from_name("0"), None);
        assert_eq!(Key::from_name(&"ä".repeat(32)), None);
    }

    #[test]
    fn a_file_with_any_byte_changed_or_missing_is_refused() {
        let secret = Secret::new(&[7; 32]);
        let tenant = secret.tenant("ann");
        let parent = secret.root("model", &tenant);
        let key = secret.child(&parent, &[TokenId(5)]);
        let header = Header { key, parent, tenant, cost: 1024, n_bytes: 5 };
        let bytes = secret.encode(&header, b"K and");
        assert_eq!(bytes.len() as u64, header.file_bytes());
        assert_eq!(Header::parse(bytes.first_chunk().unwrap()), Some(header));
        assert_eq!(secret.decode(key, bytes.clone()), Some(b"K and".to_vec()));
        for i in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[i] ^= 1 << (i % 8);
            assert_eq!(secret.decode(key, damaged), None, "byte {i} was changed");
            assert_eq!(secret.decode(key, bytes[..i].to_vec()), None, "cut at byte {i}");
        }
        assert_eq!(secret.decode(key, [&bytes[..], &[0]].concat()), None);
        assert_eq!(secret.decode(parent, bytes.clone()), None, "another's name");
        assert_eq!(Secret::new(&[8; 32]).decode(key, bytes), None, "another secret");
    }
}
