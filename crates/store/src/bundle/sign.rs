//! Who made a bundle: Ed25519 keys, the signature over an index, and the keys that are trusted.
//!
//! Keys are kept as OpenSSL keeps them (PEM of PKCS #8 and of SubjectPublicKeyInfo, RFC 8410), so that a site may make
//! its keys with its own tools. A public key is also written as one word, `ed25519:` and 64 digits.

use base64::prelude::{BASE64_STANDARD, Engine};
use std::fmt;
use std::io::{Read, Write};
use std::path::Path;

use ed25519_dalek::{Signature as Ed25519, Signer, SigningKey, VerifyingKey};

use super::error::BundleError;
use super::format::SIGNATURE_BYTES;
use super::hex;

/// What is signed: this, then the SHA-256 of the index. No other use of a key signs what begins so.
const CONTEXT: &[u8] = b"ingle bundle 1\n";
/// Most bytes of a file with keys.
const KEY_FILE_BYTES_MAX: u64 = 1 << 20;
/// What stands before the 32 bytes of a secret key in PKCS #8 (RFC 8410, section 7).
const PKCS8_HEAD: [u8; 16] = *b"\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20";
/// What stands before the 32 bytes of a public key in SubjectPublicKeyInfo (RFC 8410, section 4).
const SPKI_HEAD: [u8; 12] = *b"\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00";

/// A key that signatures are checked with: a point of the curve, compressed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// The key of these 32 bytes.
    ///
    /// # Errors
    /// They are no point of the curve, or one of those few that every signature fits.
    pub fn from_bytes(bytes: &[u8; 32]) -> Result<Self, BundleError> {
        match VerifyingKey::from_bytes(bytes) {
            Ok(key) if !key.is_weak() => Ok(Self(*bytes)),
            _ => Err(BundleError::Key(format!("ed25519:{} is no public key", hex::encode(bytes)))),
        }
    }

    /// The key that a word spells: `ed25519:` and 64 lower-case hexadecimal digits.
    ///
    /// # Errors
    /// It spells none.
    pub fn parse(text: &str) -> Result<Self, BundleError> {
        let digits = text.strip_prefix("ed25519:").and_then(hex::decode).ok_or_else(|| {
            BundleError::Key(format!(
                "`{}` is no public key; one is `ed25519:` and 64 lower-case hexadecimal digits",
                text.escape_debug()
            ))
        })?;
        Self::from_bytes(&digits)
    }

    /// As it stands in a bundle.
    pub fn to_bytes(self) -> [u8; 32] {
        self.0
    }

    /// Writes the key, as a word, to a new file.
    ///
    /// # Errors
    /// The file is there already, or cannot be written.
    pub fn write_new(self, path: &Path) -> Result<(), BundleError> {
        write_new(path, &format!("{self}\n"), 0o666)
    }

    /// As OpenSSL reads it.
    pub fn to_pem(self) -> String {
        pem("PUBLIC KEY", &[&SPKI_HEAD[..], &self.to_bytes()].concat())
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ed25519:{}", hex::encode(&self.to_bytes()))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// A key that signs. It is never printed, and forgotten where it was when it goes.
pub struct SecretKey(SigningKey);

impl SecretKey {
    /// A new key, of the system's random bytes.
    ///
    /// # Errors
    /// The system has none.
    pub fn generate() -> Result<Self, BundleError> {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed)
            .map_err(|error| BundleError::Key(format!("the system gives no random bytes: {error}")))?;
        Ok(Self::from_seed(&seed))
    }

    /// The key that belongs to 32 secret bytes.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    /// What checks its signatures.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key().to_bytes())
    }

    /// Reads a key file.
    ///
    /// # Errors
    /// It cannot be read, others than its owner may read it, or it holds no Ed25519 key.
    pub fn read(path: &Path) -> Result<Self, BundleError> {
        let wrong = |why: &str| BundleError::Key(format!("{} {why}", path.display()));
        let text = read_text(path)?;
        // First: a public key is no secret, whoever may read it.
        if text.contains("PUBLIC KEY") || PublicKey::parse(text.trim()).is_ok() {
            return Err(wrong("is a public key; sign with the secret one, whose file has no `.pub`"));
        }
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let meta = std::fs::metadata(path)
                .map_err(BundleError::io(format!("cannot read the key {}", path.display())))?;
            if meta.permissions().mode() & 0o077 != 0 {
                return Err(wrong("may be read by others than its owner; say `chmod 600` to it first"));
            }
        }
        if text.contains("ENCRYPTED") {
            return Err(wrong("is encrypted; decrypt it for this use (`openssl pkey -in KEY -out PLAIN`)"));
        }
        let der = unpem("PRIVATE KEY", &text)
            .ok_or_else(|| wrong("is no secret key in PEM; `ingle keygen FILE` makes one"))?;
        let seed = der.strip_prefix(&PKCS8_HEAD[..]).and_then(|seed| <&[u8; 32]>::try_from(seed).ok());
        Ok(Self::from_seed(seed.ok_or_else(|| wrong("holds a key of another kind than Ed25519"))?))
    }

    /// Writes the key to a new file that only its owner may read.
    ///
    /// # Errors
    /// The file is there already, or cannot be written.
    pub fn write_new(&self, path: &Path) -> Result<(), BundleError> {
        let text = pem("PRIVATE KEY", &[&PKCS8_HEAD[..], self.0.as_bytes()].concat());
        write_new(path, &text, 0o600)
    }

    /// Signs the SHA-256 of an index: key and signature, as they stand in a bundle.
    pub fn sign(&self, index_sha256: &[u8; 32]) -> [u8; SIGNATURE_BYTES] {
        let mut out = [0; SIGNATURE_BYTES];
        out[..32].copy_from_slice(&self.public().to_bytes());
        out[32..].copy_from_slice(&self.0.sign(&signed_bytes(index_sha256)).to_bytes());
        out
    }
}

/// Checks a signature as it stands in a bundle, and says whose it is.
///
/// # Errors
/// [`BundleError::WrongSignature`]: it is none over this index.
pub fn check(signature: &[u8; SIGNATURE_BYTES], index_sha256: &[u8; 32]) -> Result<PublicKey, BundleError> {
    let mut key = [0; 32];
    key.copy_from_slice(&signature[..32]);
    let mut rest = [0; 64];
    rest.copy_from_slice(&signature[32..]);
    // Strictly: no key that every signature fits, and of all spellings only the one that signers write.
    VerifyingKey::from_bytes(&key)
        .and_then(|key| key.verify_strict(&signed_bytes(index_sha256), &Ed25519::from_bytes(&rest)))
        .map_err(|_| BundleError::WrongSignature)?;
    Ok(PublicKey(key))
}

fn signed_bytes(index_sha256: &[u8; 32]) -> Vec<u8> {
    [CONTEXT, index_sha256].concat()
}

/// The keys whose bundles are taken.
#[derive(Clone, Debug, Default)]
pub struct TrustedKeys(Vec<PublicKey>);

impl TrustedKeys {
    /// Adds what a person names: a key as a word, or a file with keys.
    ///
    /// # Errors
    /// It is neither.
    pub fn add(&mut self, word_or_file: &str) -> Result<(), BundleError> {
        if word_or_file.starts_with("ed25519:") {
            self.0.push(PublicKey::parse(word_or_file)?);
            return Ok(());
        }
        self.add_file(Path::new(word_or_file))
    }

    /// Adds the keys of a file: a public key in PEM, or lines of `ed25519:… whose it is`, where `#` begins a remark.
    ///
    /// # Errors
    /// It cannot be read, or a line holds no key: the file and the line are named.
    pub fn add_file(&mut self, path: &Path) -> Result<(), BundleError> {
        let text = read_text(path)?;
        // Some editors put a mark before text in UTF-8.
        let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
        if text.contains("-----BEGIN") {
            let der = unpem("PUBLIC KEY", text);
            let key = der.as_deref().and_then(|der| der.strip_prefix(&SPKI_HEAD[..]));
            let key = key.and_then(|key| <&[u8; 32]>::try_from(key).ok()).ok_or_else(|| {
                BundleError::Key(format!("{} holds no public key of kind Ed25519", path.display()))
            })?;
            self.0.push(PublicKey::from_bytes(key)?);
            return Ok(());
        }
        for (at, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default();
            let Some(word) = line.split_whitespace().next() else { continue };
            self.0.push(PublicKey::parse(word).map_err(|error| {
                BundleError::Key(format!("{}, line {}: {error}", path.display(), at + 1))
            })?);
        }
        Ok(())
    }

    /// Whether a key is one of them.
    pub fn contains(&self, key: &PublicKey) -> bool {
        self.0.contains(key)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn read_text(path: &Path) -> Result<String, BundleError> {
    let what = || format!("cannot read the key {}", path.display());
    let file = std::fs::File::open(path).map_err(BundleError::io(what()))?;
    let mut text = String::new();
    file.take(KEY_FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(BundleError::io(what()))?;
    if text.len() as u64 > KEY_FILE_BYTES_MAX {
        return Err(BundleError::Key(format!("{} is too long for a file with keys", path.display())));
    }
    Ok(text)
}

/// Writes a file that must not be there yet, with these permissions at most. Nothing is left of one that cannot be
/// written to its end: it would be in the way of the next attempt.
fn write_new(path: &Path, text: &str, mode: u32) -> Result<(), BundleError> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, mode);
    #[cfg(not(unix))]
    let _ = mode;
    let what = || format!("cannot write the key {}", path.display());
    let mut file = options.open(path).map_err(|error| match error.kind() {
        // Somebody else was faster.
        std::io::ErrorKind::AlreadyExists => {
            BundleError::Key(format!("{} is there already; choose another name", path.display()))
        }
        _ => BundleError::io(what())(error),
    })?;
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    drop(file);
    written.inspect_err(|_| drop(std::fs::remove_file(path))).map_err(BundleError::io(what()))
}

fn pem(label: &str, der: &[u8]) -> String {
    // One line holds it: these keys have 44 and 48 bytes.
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", BASE64_STANDARD.encode(der))
}

fn unpem(label: &str, text: &str) -> Option<Vec<u8>> {
    let (_, rest) = text.split_once(&format!("-----BEGIN {label}-----"))?;
    let (body, _) = rest.split_once(&format!("-----END {label}-----"))?;
    let body: String = body.split_ascii_whitespace().collect();
    BASE64_STANDARD.decode(&body).ok()
}
