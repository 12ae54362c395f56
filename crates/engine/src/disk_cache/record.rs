//! One block in a file, and the names of blocks.
//!
//! ```text
//! magic and version   8    "INGLEKV2"
//! payload's length    8    little-endian, as all numbers
//! tokens              8    how many of the block's slots are filled
//! cost                8    what computing it again costs: see `worth`
//! key                32
//! parent             32    the key of the block before it, or of the root
//! tenant             32    whose it is
//! tokens' ids        4t    under a mask
//! payload             n    as the executor exported it
//! MAC                32    over all of this
//! ```
//! Keys, tenants and MACs are HMAC-SHA-256 (RFC 2104) under a secret that lies in the folder for its owner alone. So names
//! tell nothing about texts, and nobody without the secret can make a file that is believed.
//!
//! The tokens of a block are there so that a text is found that parts from it within. Their mask is HMACs of the block's
//! key, which is another one for other tokens or another beginning: no mask hides two texts.

use std::sync::Arc;

use ingle_step::TokenId;
use sha2::{Digest, Sha256};

/// Magic bytes and version: goes up with every change of the format.
pub(super) const MAGIC: &[u8; 8] = b"INGLEKV2";
/// Everything before the tokens.
pub(super) const HEADER_BYTES: usize = 4 * 8 + 3 * KEY_BYTES;
/// The MAC behind the payload.
pub(super) const MAC_BYTES: usize = 32;

const KEY_BYTES: usize = 32;
/// Bytes that SHA-256 takes at a time.
const SHA_BLOCK: usize = 64;
/// A file that says it has more tokens is none.
const TOKENS_MAX: u64 = 1 << 12;
const TOKEN_BYTES: usize = 4;

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
    /// What fills its first slots; one at least.
    pub tokens: Arc<[TokenId]>,
    pub n_bytes: u64,
}

/// What stands before a file's tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Head {
    key: Key,
    parent: Key,
    tenant: Key,
    cost: u64,
    n_tokens: u64,
    n_bytes: u64,
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
        Key(self.mac(&[b"block", &parent.0, &bytes_of(tokens)]))
    }

    /// Puts the mask of a block on its tokens' ids, or takes it off.
    fn mask(&self, key: &Key, ids: &mut [u8]) {
        for (i, part) in (0u64..).zip(ids.chunks_mut(KEY_BYTES)) {
            let mask = self.mac(&[b"tokens", &key.0, &i.to_le_bytes()]);
            part.iter_mut().zip(mask).for_each(|(byte, mask)| *byte ^= mask);
        }
    }

    /// The whole file.
    pub fn encode(&self, header: &Header, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(usize::try_from(header.file_bytes()).unwrap_or(0));
        bytes.extend_from_slice(MAGIC);
        for number in [header.n_bytes, header.tokens.len() as u64, header.cost] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        for key in [header.key, header.parent, header.tenant] {
            bytes.extend_from_slice(&key.0);
        }
        let mut ids = bytes_of(&header.tokens);
        self.mask(&header.key, &mut ids);
        bytes.extend_from_slice(&ids);
        bytes.extend_from_slice(payload);
        let mac = self.mac(&[b"file", &bytes]);
        bytes.extend_from_slice(&mac);
        bytes
    }

    /// What a file says, from the bytes of its tokens' ids; `None` if its name is not that of these tokens.
    pub fn header(&self, head: &Head, mut ids: Vec<u8>) -> Option<Header> {
        self.mask(&head.key, &mut ids);
        let tokens: Arc<[TokenId]> =
            ids.as_chunks().0.iter().map(|&id| TokenId(u32::from_le_bytes(id))).collect();
        let Head { key, parent, tenant, cost, n_bytes, .. } = *head;
        let is_whole = tokens.len() as u64 == head.n_tokens && self.child(&parent, &tokens) == key;
        is_whole.then_some(Header { key, parent, tenant, cost, tokens, n_bytes })
    }

    /// The payload of a file, if all of it is what was written under this key. The file's bytes are used up.
    pub fn decode(&self, key: Key, mut bytes: Vec<u8>) -> Option<Vec<u8>> {
        let head = Head::parse(bytes.first_chunk()?)?;
        let file_bytes = usize::try_from(head.file_bytes()).ok()?;
        if head.key != key || bytes.len() != file_bytes {
            return None;
        }
        let end = file_bytes - MAC_BYTES;
        let (signed, mac) = bytes.split_at(end);
        // In constant time: who could measure it might learn a MAC byte by byte.
        let difference = self.mac(&[b"file", signed]).iter().zip(mac).fold(0, |sum, (a, b)| sum | (a ^ b));
        if difference != 0 {
            return None;
        }
        bytes.truncate(end);
        bytes.drain(..HEADER_BYTES + head.ids_bytes());
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

impl Head {
    /// Reads it, without a look at the rest of the file.
    pub fn parse(bytes: &[u8; HEADER_BYTES]) -> Option<Self> {
        let rest = bytes.strip_prefix(MAGIC)?;
        let (numbers, rest) = rest.split_first_chunk::<24>()?;
        let (keys, _) = rest.as_chunks::<KEY_BYTES>();
        let &[key, parent, tenant] = keys else { return None };
        let &[n_bytes, n_tokens, cost] = numbers.as_chunks().0 else { return None };
        let n_tokens = u64::from_le_bytes(n_tokens);
        (1..=TOKENS_MAX).contains(&n_tokens).then_some(Self {
            key: Key(key),
            parent: Key(parent),
            tenant: Key(tenant),
            cost: u64::from_le_bytes(cost),
            n_tokens,
            n_bytes: u64::from_le_bytes(n_bytes),
        })
    }

    /// Whose file it is.
    pub fn key(&self) -> Key {
        self.key
    }

    /// Bytes of its tokens' ids.
    pub fn ids_bytes(&self) -> usize {
        self.n_tokens as usize * TOKEN_BYTES
    }

    /// Bytes of the whole file.
    pub fn file_bytes(&self) -> u64 {
        file_bytes(self.n_tokens, self.n_bytes)
    }
}

impl Header {
    /// Bytes of the whole file.
    pub fn file_bytes(&self) -> u64 {
        file_bytes(self.tokens.len() as u64, self.n_bytes)
    }
}

fn file_bytes(n_tokens: u64, n_bytes: u64) -> u64 {
    n_bytes.saturating_add((HEADER_BYTES + MAC_BYTES) as u64 + n_tokens * TOKEN_BYTES as u64)
}

fn bytes_of(tokens: &[TokenId]) -> Vec<u8> {
    tokens.iter().flat_map(|token| token.0.to_le_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(ids: &[u32]) -> Vec<TokenId> {
        ids.iter().map(|&id| TokenId(id)).collect()
    }

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
        let (ann, bob) = (secret.tenant("ann"), secret.tenant("bob"));
        let root = secret.root("model", &ann);
        let keys = [
            root,
            ann,
            secret.root("model", &bob),
            secret.root("model2", &ann),
            secret.child(&root, &tokens(&[1, 2])),
            secret.child(&root, &tokens(&[2, 1])),
            secret.child(&root, &tokens(&[1])),
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

    fn header(secret: &Secret, ids: &[u32]) -> Header {
        let tenant = secret.tenant("ann");
        let parent = secret.root("model", &tenant);
        let key = secret.child(&parent, &tokens(ids));
        Header { key, parent, tenant, cost: 1024, tokens: tokens(ids).into(), n_bytes: 5 }
    }

    #[test]
    fn a_file_with_any_byte_changed_or_missing_is_refused() {
        let secret = Secret::new(&[7; 32]);
        let header = header(&secret, &[5, 6, 7]);
        let (key, parent) = (header.key, header.parent);
        let bytes = secret.encode(&header, b"K and");
        assert_eq!(bytes.len() as u64, header.file_bytes());
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

    #[test]
    fn tokens_are_told_to_who_has_the_secret() {
        let secret = Secret::new(&[7; 32]);
        let read = |secret: &Secret, bytes: &[u8]| {
            let head = Head::parse(bytes.first_chunk().unwrap())?;
            secret.header(&head, bytes[HEADER_BYTES..][..head.ids_bytes()].to_vec())
        };
        // More of them than one mask covers.
        let ids: Vec<u32> = (0..33).map(|i| i * 1000).collect();
        for ids in [&ids[..1], &ids] {
            let header = header(&secret, ids);
            let bytes = secret.encode(&header, b"K and");
            assert_eq!(read(&secret, &bytes), Some(header.clone()));
            assert_eq!(read(&Secret::new(&[8; 32]), &bytes), None);
            let plain = bytes_of(&header.tokens);
            assert_ne!(bytes[HEADER_BYTES..][..plain.len()], plain, "they are not legible");
            // Number, parent, name and tokens belong together.
            for i in (16..17).chain(32..64).chain(64..96).chain(HEADER_BYTES..HEADER_BYTES + plain.len()) {
                let mut damaged = bytes.clone();
                damaged[i] ^= 1;
                assert_eq!(read(&secret, &damaged), None, "byte {i}");
            }
        }
        let mut bytes = secret.encode(&header(&secret, &[1]), b"K and");
        for n_tokens in [0, TOKENS_MAX + 1, u64::MAX] {
            bytes[16..24].copy_from_slice(&n_tokens.to_le_bytes());
            assert_eq!(Head::parse(bytes.first_chunk().unwrap()), None, "{n_tokens} tokens");
        }
        bytes[16..24].copy_from_slice(&1u64.to_le_bytes());
        bytes[8..16].fill(255);
        assert_eq!(Head::parse(bytes.first_chunk().unwrap()).unwrap().file_bytes(), u64::MAX);
    }
}
