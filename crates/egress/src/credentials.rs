//! Credentials, each bound to the origin that it was saved for. It is sent nowhere else.

use std::fmt;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::EgressError;
use crate::target::{Origin, Target};

/// The most bytes a file of credentials may have.
const FILE_BYTES_MAX: u64 = 1 << 20;
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

/// A secret and the one origin that it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credential {
    origin: Origin,
    /// With it the secret is a password (Basic), without it a token (Bearer).
    user: Option<String>,
    secret: Secret,
}

impl Credential {
    /// A token for an origin.
    pub fn bearer(origin: Origin, token: Secret) -> Self {
        Self { origin, user: None, secret: token }
    }

    /// User and password for an origin.
    pub fn basic(origin: Origin, user: impl Into<String>, password: Secret) -> Self {
        Self { origin, user: Some(user.into()), secret: password }
    }

    /// Where it may be sent.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// What the header `Authorization` says.
    pub(crate) fn header(&self) -> String {
        match &self.user {
            None => format!("Bearer {}", self.secret.reveal()),
            Some(user) => format!("Basic {}", base64(format!("{user}:{}", self.secret.reveal()).as_bytes())),
        }
    }
}

/// One line of the file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved {
    origin: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    secret: String,
}

/// All credentials that this process has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Credentials {
    entries: Vec<Credential>,
}

impl Credentials {
    /// Reads a file that [`save`](Self::save) wrote; one that is not there holds none.
    ///
    /// # Errors
    /// [`EgressError::Credentials`] if it cannot be read, others may read it, or it is no such file.
    pub fn load(path: &Path) -> Result<Self, EgressError> {
        let Some(text) = read_private(path, true)? else { return Ok(Self::default()) };
        let wrong = |problem: String| EgressError::Credentials { path: path.to_owned(), problem };
        // What serde says of a syntax error holds no value, but that of a type error does: only the place is told.
        let saved: Vec<Saved> = serde_json::from_str(&text).map_err(|error| {
            wrong(format!("line {}, column {}: not what `ingle login` writes", error.line(), error.column()))
        })?;
        let entry = |saved: Saved| {
            let origin = Origin::parse(&saved.origin).map_err(|error| wrong(error.to_string()))?;
            check_secret(&saved.secret).map_err(|problem| wrong(format!("{origin}: {problem}")))?;
            Ok(Credential { origin, user: saved.user, secret: Secret(saved.secret) })
        };
        Ok(Self { entries: saved.into_iter().map(entry).collect::<Result<_, _>>()? })
    }

    /// Adds the token of Hugging Face's tools for the hub (`endpoint`, or huggingface.co): of `HF_TOKEN`, of the file at
    /// `HF_TOKEN_PATH`, or of `token` below `HF_HOME` or `~/.cache/huggingface`. What was saved for the origin by
    /// [`save`](Self::save) goes first.
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
        let refuse = |problem: String| EgressError::Setting { name: "credential", problem };
        check_secret(credential.secret.reveal()).map_err(refuse)?;
        if credential.user.as_ref().is_some_and(|user| user.contains(':') || check_secret(user).is_err()) {
            return Err(refuse("a user name has no colon, no spaces and no control characters".into()));
        }
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

    /// Writes all to a file that only its owner may read, in one step.
    ///
    /// # Errors
    /// [`EgressError::Credentials`] with the system's reason.
    pub fn save(&self, path: &Path) -> Result<(), EgressError> {
        let wrong = |error: std::io::Error| EgressError::Credentials {
            path: path.to_owned(),
            problem: error.to_string(),
        };
        let saved: Vec<Saved> = self
            .entries
            .iter()
            .map(|credential| Saved {
                origin: credential.origin.to_string(),
                user: credential.user.clone(),
                secret: credential.secret.reveal().to_owned(),
            })
            .collect();
        let text = serde_json::to_string_pretty(&saved).map_err(|error| wrong(error.into()))?;
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(wrong)?;
        }
        let staged = path.with_extension("tmp");
        // Made anew, so that it never had other permissions.
        match std::fs::remove_file(&staged) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(wrong(error)),
            _ => {}
        }
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(&staged).map_err(wrong)?;
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(wrong)?;
        std::fs::rename(&staged, path).map_err(wrong)
    }
}

/// The text of a file, `None` if it is not there. With `is_ours` nobody else may be able to read it.
fn read_private(path: &Path, is_ours: bool) -> Result<Option<String>, EgressError> {
    let wrong = |problem: String| EgressError::Credentials { path: path.to_owned(), problem };
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(wrong(error.to_string())),
    };
    #[cfg(unix)]
    if is_ours && std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o077 != 0 {
        return Err(wrong("others may read it; run `chmod 600` on it".into()));
    }
    if metadata.len() > FILE_BYTES_MAX {
        return Err(wrong("it is larger than 1 MiB".into()));
    }
    std::fs::read_to_string(path).map(Some).map_err(|error| wrong(error.to_string()))
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

/// RFC 4648 with padding.
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let word = group.iter().fold(0u32, |word, b| (word << 8) | u32::from(*b)) << (8 * (3 - group.len()));
        for i in 0..4 {
            let letter = LETTERS[(word >> (18 - 6 * i)) as usize & 63] as char;
            text.push(if i <= group.len() { letter } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(text: &str) -> Origin {
        Origin::parse(text).expect("an origin")
    }

    #[test]
    fn a_file_keeps_what_was_saved_and_only_its_owner_reads_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/credentials.json");
        assert_eq!(Credentials::load(&path).unwrap(), Credentials::default());
        let mut all = Credentials::default();
        all.insert(Credential::bearer(origin("https://hub.example"), Secret::new("t-1"))).unwrap();
        all.insert(Credential::basic(origin("registry.example:5000"), "me", Secret::new("pass"))).unwrap();
        all.insert(Credential::bearer(origin("https://hub.example:443"), Secret::new("t-2"))).unwrap();
        all.save(&path).unwrap();
        let read = Credentials::load(&path).unwrap();
        assert_eq!(read, all);
        assert_eq!(read.of(&origin("https://hub.example")).unwrap().header(), "Bearer t-2");
        assert_eq!(read.of(&origin("https://registry.example:5000")).unwrap().header(), "Basic bWU6cGFzcw==");
        for other in [
            "http://hub.example",
            "https://hub.example:8443",
            "https://x.hub.example",
            "https://registry.example",
        ] {
            assert_eq!(read.of(&origin(other)), None, "{other}");
        }
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
            let error = Credentials::load(&path).unwrap_err().to_string();
            assert!(error.contains("chmod 600"), "{error}");
        }
        let shown = format!("{all:?}");
        assert!(!shown.contains("t-2") && !shown.contains("pass"), "{shown}");
    }

    #[test]
    fn damaged_files_are_refused_without_showing_secrets() {
        let folder = tempfile::tempdir().unwrap();
        for text in [
            "{",
            r#"{"origin":"s3cret"}"#,
            r#"[{"origin":"https://a/b","secret":"s3cret"}]"#,
            r#"[{"origin":"https://a","secret":"s3cret\n"}]"#,
            r#"[{"origin":"https://a","secret":5,"s3cret":1}]"#,
            r#"[{"origin":"https://a","secret":""}]"#,
        ] {
            let mut all = Credentials::default();
            let path = folder.path().join("c.json");
            all.insert(Credential::bearer(origin("https://a"), Secret::new("x"))).unwrap();
            all.save(&path).unwrap();
            std::fs::write(&path, text).unwrap();
            let error = Credentials::load(&path).unwrap_err().to_string();
            assert!(!error.contains("s3cret"), "{error}");
        }
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
            let found = all.entries.first().map(|c| (c.origin.to_string(), c.header()));
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

    #[test]
    fn base64_pads() {
        for (bytes, text) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")]
        {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }
}
