//! Credentials, each bound to the origin that it was saved for. It is sent nowhere else.

mod file;

use std::fmt;
use std::path::{Path, PathBuf};

use crate::error::EgressError;
use crate::key::RequestKey;
use crate::target::{Origin, Target};
use base64::prelude::{BASE64_STANDARD, Engine};
use file::read_private;

/// Where tokens of Hugging Face belong if nothing else is said.
const HUB: &str = "https://huggingface.co";

/// Something that is sent and never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Takes a token or password.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// What is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Proof {
    /// Bearer.
    Token(Secret),
    /// Basic.
    Password { user: String, secret: Secret },
    /// Requests are signed with the key in this file, which is read when it is needed.
    Key(PathBuf),
}

/// A proof of who asks, and the one origin that it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credential {
    origin: Origin,
    proof: Proof,
    /// The origin that gives tokens for ours, where the user has said that it is another.
    realm: Option<Origin>,
}

impl Credential {
    fn new(origin: Origin, proof: Proof) -> Self {
        Self { origin, proof, realm: None }
    }

    /// A token for an origin.
    pub fn bearer(origin: Origin, token: Secret) -> Self {
        Self::new(origin, Proof::Token(token))
    }

    /// User and password for an origin.
    pub fn basic(origin: Origin, user: impl Into<String>, password: Secret) -> Self {
        Self::new(origin, Proof::Password { user: user.into(), secret: password })
    }

    /// A key that signs requests to an origin; see [`RequestKey`].
    pub fn key(origin: Origin, file: impl Into<PathBuf>) -> Self {
        Self::new(origin, Proof::Key(file.into()))
    }

    /// The same, whose tokens are given by another origin: it is shown there, too, when its own asks for that.
    #[must_use]
    pub fn with_realm(self, realm: Option<Origin>) -> Self {
        let realm = realm.filter(|realm| *realm != self.origin);
        Self { realm, ..self }
    }

    /// Where it may be sent.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// The file of the key, if it is one.
    pub fn key_file(&self) -> Option<&Path> {
        match &self.proof {
            Proof::Key(path) => Some(path),
            Proof::Token(_) | Proof::Password { .. } => None,
        }
    }

    /// The credential for a realm that its origin names: itself, if the realm is of that origin or the one that its
    /// user named; else none. Any registry can name any realm, and would be given what that one answers.
    pub fn at_realm(&self, realm: &Origin) -> Option<Self> {
        let is_ours = *realm == self.origin || self.realm.as_ref() == Some(realm);
        is_ours.then(|| Self { origin: realm.clone(), proof: self.proof.clone(), realm: None })
    }

    /// What the header `Authorization` of a request says.
    pub(crate) fn header(&self, method: &str, url: &str, body: &[u8]) -> Result<String, EgressError> {
        Ok(match &self.proof {
            Proof::Token(secret) => format!("Bearer {}", secret.reveal()),
            Proof::Password { user, secret } => {
                format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{}", secret.reveal()).as_bytes()))
            }
            Proof::Key(path) => RequestKey::read(path)?.sign(method, url, body),
        })
    }

    /// Checks that it can stand in a header and in the file.
    fn check(&self) -> Result<(), String> {
        match &self.proof {
            Proof::Token(secret) => check_secret(secret.reveal()),
            Proof::Password { user, secret } => {
                if user.contains(':') || check_secret(user).is_err() {
                    return Err("a user name has no colon, no spaces and no control characters".into());
                }
                check_secret(secret.reveal())
            }
            Proof::Key(path) if path.is_absolute() && path.to_str().is_some() => Ok(()),
            Proof::Key(_) => Err("the key's file is named by its whole path, in UTF-8".into()),
        }
    }
}

/// All credentials that this process has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Credentials {
    entries: Vec<Credential>,
}

impl Credentials {
    /// Adds the token of Hugging Face's tools for the hub (`endpoint`, or huggingface.co): of `HF_TOKEN`, of the file at
    /// `HF_TOKEN_PATH`, or of `token` below `HF_HOME` or `~/.cache/huggingface`. What was saved for the origin by
    /// [`update`](Self::update) goes first.
    ///
    /// # Errors
    /// [`EgressError::Credentials`] if a file that is there cannot be read.
    pub fn add_hub_token(
        &mut self,
        endpoint: Option<&Origin>,
        var: impl Fn(&str) -> Option<String>,
    ) -> Result<(), EgressError> {
        let set = |name: &str| var(name).filter(|value| !value.trim().is_empty());
        let token = match set("HF_TOKEN").or_else(|| set("HUGGING_FACE_HUB_TOKEN")) {
            Some(token) => Some((token, PathBuf::from("HF_TOKEN"))),
            None => {
                let cache = || {
                    set("XDG_CACHE_HOME")
                        .map(PathBuf::from)
                        .or_else(|| Some(PathBuf::from(set("HOME")?).join(".cache")))
                };
                let home =
                    || set("HF_HOME").map(PathBuf::from).or_else(|| Some(cache()?.join("huggingface")));
                let path = set("HF_TOKEN_PATH").map(PathBuf::from).or_else(|| Some(home()?.join("token")));
                match path {
                    // Hugging Face's tools decide who may read their file.
                    Some(path) => read_private(&path, false)?.map(|token| (token, path)),
                    None => None,
                }
            }
        };
        let Some((token, path)) = token else { return Ok(()) };
        let token = token.trim();
        if token.is_empty() {
            return Ok(());
        }
        check_secret(token).map_err(|problem| EgressError::Credentials { path, problem })?;
        let origin = match endpoint {
            Some(origin) => origin.clone(),
            None => Origin::parse(HUB)?,
        };
        if self.of(&origin).is_none() {
            self.entries.push(Credential::bearer(origin, Secret::new(token)));
        }
        Ok(())
    }

    /// The credential for an origin.
    pub fn of(&self, origin: &Origin) -> Option<&Credential> {
        self.entries.iter().find(|credential| credential.origin == *origin)
    }

    /// The credential for where a URL points.
    pub fn for_target(&self, target: &Target) -> Option<&Credential> {
        self.of(&target.origin())
    }

    /// The origins that have one.
    pub fn origins(&self) -> impl Iterator<Item = &Origin> {
        self.entries.iter().map(Credential::origin)
    }

    /// Puts one in the place of the one that the origin has.
    ///
    /// # Errors
    /// [`EgressError::Setting`] if it cannot stand in a header, or would go over the network unencrypted.
    pub fn insert(&mut self, credential: Credential) -> Result<(), EgressError> {
        let refuse = |problem| EgressError::Setting { name: "credential", problem };
        credential.check().map_err(refuse)?;
        self.entries.retain(|known| known.origin != credential.origin);
        self.entries.push(credential);
        Ok(())
    }

    /// Takes away what an origin has; whether there was any.
    pub fn remove(&mut self, origin: &Origin) -> bool {
        let before = self.entries.len();
        self.entries.retain(|known| known.origin != *origin);
        self.entries.len() < before
    }
}

/// What cannot stand in a header must not come into one.
fn check_secret(text: &str) -> Result<(), String> {
    match text {
        "" => Err("it is empty".into()),
        _ if text.len() > 16 << 10 => Err("it is longer than 16 KiB".into()),
        _ if !text.bytes().all(|b| b.is_ascii_graphic()) => {
            Err("it holds spaces, control characters or letters beyond ASCII".into())
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn origin(text: &str) -> Origin {
        Origin::parse(text).expect("an origin")
    }

    pub(super) fn header(credential: &Credential) -> String {
        credential.header("GET", "https://a.example/", b"").unwrap()
    }

    /// V61: a realm is anybody's to name.
    #[test]
    fn realms_that_are_meant() {
        let registry = origin("https://registry.example");
        let check = |named: Option<&str>, realm: &str, expected: bool| {
            let credential = Credential::bearer(registry.clone(), Secret::new("t"));
            let found = credential.with_realm(named.map(origin)).at_realm(&origin(realm));
            assert_eq!(found.map(|c| c.origin), expected.then(|| origin(realm)), "{named:?} {realm}");
        };
        let accounts = Some("https://accounts.example");
        check(None, "https://registry.example", true);
        check(None, "https://accounts.example", false);
        check(None, "http://registry.example", false);
        check(None, "https://registry.example:444", false);
        check(accounts, "https://accounts.example", true);
        check(accounts, "https://registry.example", true);
        check(accounts, "https://other.example", false);
        check(accounts, "http://accounts.example", false);
    }

    #[test]
    fn the_hubs_token_is_bound_to_the_hub() {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().to_str().unwrap().to_owned();
        std::fs::write(folder.path().join("token"), "from-file\n").unwrap();
        let elsewhere = folder.path().join("elsewhere");
        std::fs::write(&elsewhere, "from-path").unwrap();
        let check = |vars: &[(&str, &str)], endpoint: Option<&str>, expected: Option<(&str, &str)>| {
            let mut all = Credentials::default();
            let endpoint = endpoint.map(origin);
            let var = |name: &str| vars.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
            all.add_hub_token(endpoint.as_ref(), var).unwrap();
            let found = all.entries.first().map(|c| (c.origin.to_string(), header(c)));
            assert_eq!(found, expected.map(|(o, t)| (o.to_owned(), format!("Bearer {t}"))), "{vars:?}");
        };
        let hub = "https://huggingface.co";
        check(&[], None, None);
        check(&[("HF_TOKEN", " hf_x\n")], None, Some((hub, "hf_x")));
        check(&[("HF_TOKEN", ""), ("HF_HOME", &home)], None, Some((hub, "from-file")));
        check(
            &[("HF_TOKEN_PATH", elsewhere.to_str().unwrap()), ("HF_HOME", &home)],
            None,
            Some((hub, "from-path")),
        );
        check(&[("HF_TOKEN", "hf_x")], Some("http://127.0.0.1:9"), Some(("http://127.0.0.1:9", "hf_x")));
        let mut all = Credentials::default();
        let hostile = |name: &str| (name == "HF_TOKEN").then(|| "a\r\nX: y".to_owned());
        assert!(all.add_hub_token(None, hostile).is_err());
    }
}
