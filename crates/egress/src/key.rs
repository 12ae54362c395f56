//! Keys that sign requests: how registries of Ollama's kind know an account.
//!
//! A key is an Ed25519 key in OpenSSH's format (`PROTOCOL.key` of OpenSSH), unencrypted, as Ollama keeps its own at
//! `~/.ollama/id_ed25519`. A request is signed as `METHOD,URL,HASH`, where `HASH` is the base64 of the hexadecimal
//! SHA-256 of the body; the header `Authorization` has the public key and the signature, in base64 and parted by a colon.
//! As the URL is signed with its host, a signature is of no use anywhere else.

use std::fmt;
use std::io::{Read, Write};
use std::path::Path;

use base64::prelude::{BASE64_STANDARD, Engine};
use ed25519_dalek::{Signer, SigningKey};
use sha2::{Digest, Sha256};

use crate::error::EgressError;

/// What OpenSSH calls keys of this kind.
const KIND: &[u8] = b"ssh-ed25519";
/// What a file's bytes begin with.
const MAGIC: &[u8] = b"openssh-key-v1\0";
const BEGIN: &str = "-----BEGIN OPENSSH PRIVATE KEY-----";
const END: &str = "-----END OPENSSH PRIVATE KEY-----";
/// Most bytes of a file with a key: one has some 400.
const FILE_BYTES_MAX: u64 = 64 << 10;
/// Letters of a line of the file.
const LINE_LETTERS: usize = 70;

/// A key that signs requests. It is never printed, and forgotten where it was when it goes.
pub struct RequestKey(SigningKey);

impl RequestKey {
    /// A new key, of the system's random bytes.
    ///
    /// # Errors
    /// [`EgressError::Setting`] if the system has none.
    pub fn generate() -> Result<Self, EgressError> {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(|error| EgressError::Setting {
            name: "key",
            problem: format!("the system gives no random bytes: {error}"),
        })?;
        Ok(Self(SigningKey::from_bytes(&seed)))
    }

    /// Reads a file.
    ///
    /// # Errors
    /// [`EgressError::Credentials`] if it cannot be read, others than its owner may read it, or it holds no such key.
    pub fn read(path: &Path) -> Result<Self, EgressError> {
        let wrong = |problem: String| EgressError::Credentials { path: path.to_owned(), problem };
        let file = std::fs::File::open(path).map_err(|error| wrong(error.to_string()))?;
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = file.metadata().map_err(|error| wrong(error.to_string()))?.permissions().mode();
            if mode & 0o077 != 0 {
                return Err(wrong("others may read this key; run `chmod 600` on it".into()));
            }
        }
        let mut text = String::new();
        file.take(FILE_BYTES_MAX).read_to_string(&mut text).map_err(|error| wrong(error.to_string()))?;
        Self::parse(&text).map_err(|problem| wrong(problem.to_owned()))
    }

    fn parse(text: &str) -> Result<Self, &'static str> {
        const OTHER: &str =
            "it holds no private key in OpenSSH's format; `ssh-keygen -t ed25519 -N ''` makes one";
        const DAMAGED: &str = "the key in it is damaged";
        let body = text.split_once(BEGIN).and_then(|(_, rest)| rest.split_once(END)).ok_or(OTHER)?.0;
        let body: String = body.split_ascii_whitespace().collect();
        let bytes = BASE64_STANDARD.decode(&body).ok().ok_or(DAMAGED)?;
        let mut fields = Fields(bytes.strip_prefix(MAGIC).ok_or(DAMAGED)?);
        if fields.text().ok_or(DAMAGED)? != b"none" {
            return Err("the key in it has a passphrase; give one without (`ssh-keygen -p -f COPY -N ''`)");
        }
        if [fields.text(), fields.text()] != [Some(&b"none"[..]), Some(b"")] {
            return Err(DAMAGED);
        }
        if fields.number() != Some(1) {
            return Err("it holds several keys; give a file with one");
        }
        let public = fields.text().ok_or(DAMAGED)?;
        let mut private = Fields(fields.text().ok_or(DAMAGED)?);
        if private.number().ok_or(DAMAGED)? != private.number().ok_or(DAMAGED)? {
            return Err(DAMAGED);
        }
        if private.text() != Some(KIND) {
            return Err(
                "it holds a key of another kind than Ed25519; `ssh-keygen -t ed25519 -N ''` makes one",
            );
        }
        let (half, secret) = private.text().zip(private.text()).ok_or(DAMAGED)?;
        let seed = secret.first_chunk::<32>().filter(|_| secret.len() == 64).ok_or(DAMAGED)?;
        let key = Self(SigningKey::from_bytes(seed));
        // The public half stands there three times.
        let known = key.0.verifying_key().to_bytes();
        if public != key.public_blob() || half != known || secret[32..] != known {
            return Err(DAMAGED);
        }
        Ok(key)
    }

    /// Writes the key to a new file that only its owner may read.
    ///
    /// # Errors
    /// [`EgressError::Credentials`] if the file is there already, or cannot be written.
    pub fn write_new(&self, path: &Path) -> Result<(), EgressError> {
        let wrong = |error: std::io::Error| EgressError::Credentials {
            path: path.to_owned(),
            problem: error.to_string(),
        };
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(wrong)?;
        }
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(path).map_err(wrong)?;
        file.write_all(self.to_pem().as_bytes()).and_then(|()| file.sync_all()).map_err(|error| {
            // Half a key would stand in the way of a whole one.
            let _ = std::fs::remove_file(path);
            wrong(error)
        })
    }

    fn to_pem(&self) -> String {
        let public = self.0.verifying_key().to_bytes();
        // Two equal numbers show that a passphrase was right; without one they are any.
        let mut private = vec![0; 8];
        for field in [KIND, &public, &[&self.0.to_bytes()[..], &public].concat(), b"ingle"] {
            put(&mut private, field);
        }
        private.extend((1..).take(private.len().next_multiple_of(8) - private.len()));
        let mut bytes = MAGIC.to_vec();
        for field in [&b"none"[..], b"none", b""] {
            put(&mut bytes, field);
        }
        bytes.extend(1u32.to_be_bytes());
        put(&mut bytes, &self.public_blob());
        put(&mut bytes, &private);
        let body = BASE64_STANDARD.encode(bytes);
        let lines = body.as_bytes().chunks(LINE_LETTERS).map(String::from_utf8_lossy);
        format!("{BEGIN}\n{}\n{END}\n", lines.collect::<Vec<_>>().join("\n"))
    }

    /// The public half, as SSH writes it.
    fn public_blob(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        put(&mut bytes, KIND);
        put(&mut bytes, &self.0.verifying_key().to_bytes());
        bytes
    }

    /// The public half as one line, as an account is told of it: `ssh-ed25519 AAAA...`.
    pub fn public_line(&self) -> String {
        format!("ssh-ed25519 {}", BASE64_STANDARD.encode(self.public_blob()))
    }

    /// What the header `Authorization` says of a request.
    pub(crate) fn sign(&self, method: &str, url: &str, body: &[u8]) -> String {
        let hash: String = Sha256::digest(body).iter().map(|b| format!("{b:02x}")).collect();
        let signed = format!("{method},{url},{}", BASE64_STANDARD.encode(hash.as_bytes()));
        let signature = self.0.sign(signed.as_bytes()).to_bytes();
        format!("{}:{}", BASE64_STANDARD.encode(self.public_blob()), BASE64_STANDARD.encode(signature))
    }
}

impl fmt::Debug for RequestKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RequestKey({})", self.public_line())
    }
}

/// SSH's fields: a length of four bytes, and so many bytes (RFC 4251, section 5).
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn number(&mut self) -> Option<u32> {
        let (number, rest) = self.0.split_first_chunk::<4>()?;
        self.0 = rest;
        Some(u32::from_be_bytes(*number))
    }

    fn text(&mut self) -> Option<&'a [u8]> {
        let n = self.number()? as usize;
        let (text, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(text)
    }
}

fn put(out: &mut Vec<u8>, field: &[u8]) {
    let n = u32::try_from(field.len()).expect("fields of keys are short");
    out.extend(n.to_be_bytes());
    out.extend(field);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made by `ssh-keygen -t ed25519 -N '' -C someone@example.org`, for these tests only.
    const FILE: &str = include_str!("../tests/data/id_ed25519");
    const PUBLIC: &str = include_str!("../tests/data/id_ed25519.pub");

    #[test]
    fn files_of_openssh_are_read_and_written() {
        let key = RequestKey::parse(FILE).unwrap();
        assert!(PUBLIC.starts_with(&key.public_line()), "{}", key.public_line());
        let again = RequestKey::parse(&key.to_pem()).unwrap();
        assert_eq!(again.0.to_bytes(), key.0.to_bytes());
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/id_ed25519");
        let new = RequestKey::generate().unwrap();
        new.write_new(&path).unwrap();
        assert_eq!(RequestKey::read(&path).unwrap().public_line(), new.public_line());
        assert!(new.write_new(&path).is_err(), "no key is written over another");
        let shown = format!("{key:?}");
        assert!(shown.contains("ssh-ed25519") && !shown.contains(&FILE[60..90]), "{shown}");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
            assert!(RequestKey::read(&path).unwrap_err().to_string().contains("chmod 600"));
        }
    }

    #[test]
    fn what_is_signed() {
        use ed25519_dalek::{Signature, Verifier};
        let key = RequestKey::parse(FILE).unwrap();
        let header = key.sign("GET", "https://registry.example/token?ts=1", b"");
        let (public, signature) = header.split_once(':').unwrap();
        assert_eq!(format!("ssh-ed25519 {public}"), key.public_line());
        let signature = Signature::from_slice(&BASE64_STANDARD.decode(signature).unwrap()).unwrap();
        let verify = |text: &str| key.0.verifying_key().verify(text.as_bytes(), &signature).is_ok();
        // The SHA-256 of nothing, in hexadecimal digits, in base64.
        let hash = "ZTNiMGM0NDI5OGZjMWMxNDlhZmJmNGM4OTk2ZmI5MjQyN2FlNDFlNDY0OWI5MzRjYTQ5NTk5MWI3ODUyYjg1NQ==";
        assert!(verify(&format!("GET,https://registry.example/token?ts=1,{hash}")));
        assert!(!verify(&format!("GET,https://registry.example/token?ts=2,{hash}")));
    }

    #[test]
    fn files_that_are_refused() {
        let body = FILE.trim_start_matches(BEGIN).trim_end().trim_end_matches(END);
        let bytes = BASE64_STANDARD.decode(body.split_ascii_whitespace().collect::<String>()).unwrap();
        let file = |bytes: &[u8]| format!("{BEGIN}\n{}\n{END}\n", BASE64_STANDARD.encode(bytes));
        let check = |text: &str, expected: &str| {
            let error = RequestKey::parse(text).expect_err(expected);
            assert!(error.contains(expected), "{error}");
        };
        check("", "no private key");
        check("-----BEGIN PRIVATE KEY-----\nMC4=\n-----END PRIVATE KEY-----", "no private key");
        check(&file(b"openssh-key-v1"), "damaged");
        check(&file(&[MAGIC, b"\0\0\0\x0aaes256-ctr"].concat()), "passphrase");
        // Any byte that is another, or missing, is found, but for those of the comment and the padding.
        let comment = bytes.windows(7).position(|w| w == b"someone").unwrap() - 4;
        for at in 0..comment {
            let mut bad = bytes.clone();
            bad[at] ^= 1;
            assert!(RequestKey::parse(&file(&bad)).is_err(), "byte {at}");
            assert!(RequestKey::parse(&file(&bytes[..at])).is_err(), "{at} bytes");
        }
    }
}
