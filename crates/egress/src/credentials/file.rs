//! The file that credentials are kept in.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Credential, Credentials, Proof, Secret};
use crate::error::EgressError;
use crate::target::Origin;

/// The most bytes a file of credentials may have.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// One line of the file: a secret, with or without its user, or the path of a key.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved {
    origin: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    realm: Option<String>,
}

impl Saved {
    fn of(credential: &Credential) -> Self {
        let (user, secret, key) = match &credential.proof {
            Proof::Token(secret) => (None, Some(secret), None),
            Proof::Password { user, secret } => (Some(user.clone()), Some(secret), None),
            Proof::Key(path) => (None, None, Some(path.clone())),
        };
        Self {
            origin: credential.origin.to_string(),
            user,
            secret: secret.map(|secret| secret.reveal().to_owned()),
            key,
            realm: credential.realm.as_ref().map(Origin::to_string),
        }
    }

    fn credential(self) -> Result<Credential, String> {
        let parse = |text: &str| Origin::parse(text).map_err(|error| error.to_string());
        let origin = parse(&self.origin)?;
        let realm = self.realm.as_deref().map(parse).transpose()?;
        let proof = match (self.user, self.secret, self.key) {
            (None, Some(secret), None) => Proof::Token(Secret(secret)),
            (Some(user), Some(secret), None) => Proof::Password { user, secret: Secret(secret) },
            (None, None, Some(path)) => Proof::Key(path),
            _ => return Err(format!("{origin}: it has a `secret`, with or without a `user`, or a `key`")),
        };
        let credential = Credential::new(origin, proof).with_realm(realm);
        credential.check().map_err(|problem| format!("{}: {problem}", credential.origin))?;
        Ok(credential)
    }
}

impl Credentials {
    /// Reads a file that [`update`](Self::update) wrote; one that is not there holds none.
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
        let entries: Result<_, _> = saved.into_iter().map(Saved::credential).collect();
        Ok(Self { entries: entries.map_err(wrong)? })
    }

    /// Changes what a file holds, which only its owner may read, in one step. Who else changes it meanwhile waits, so
    /// that none of the changes is lost. Nothing is written if `edit` fails.
    ///
    /// # Errors
    /// What `edit` says, [`EgressError::Credentials`] with the system's reason, or as [`load`](Self::load).
    pub fn update<T, E: From<EgressError>>(
        path: &Path,
        edit: impl FnOnce(&mut Self) -> Result<T, E>,
    ) -> Result<T, E> {
        let wrong =
            |error: io::Error| EgressError::Credentials { path: path.to_owned(), problem: error.to_string() };
        fs::create_dir_all(folder(path)).map_err(wrong)?;
        // Held until this returns. The file stays: whoever removed it could not know who waits for it.
        let _lock = lock(&beside(path, ".lock")).map_err(wrong)?;
        let mut all = Self::load(path)?;
        let done = edit(&mut all)?;
        all.write(path).map_err(wrong)?;
        Ok(done)
    }

    /// Writes all. Nobody else does at the same time.
    fn write(&self, path: &Path) -> io::Result<()> {
        let saved: Vec<Saved> = self.entries.iter().map(Saved::of).collect();
        let text = serde_json::to_string_pretty(&saved)?;
        let staged = beside(path, ".tmp");
        let written = write_private(&staged, text.as_bytes()).and_then(|()| fs::rename(&staged, path));
        if let Err(error) = written {
            // Half a file of secrets is of no use.
            let _ = fs::remove_file(&staged);
            return Err(error);
        }
        if cfg!(unix) { File::open(folder(path))?.sync_all() } else { Ok(()) }
    }
}

/// The folder of a file.
fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A file beside this one.
fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(ending);
    name.into()
}

/// Waits for whoever has the lock. A file system without locks has none to wait for.
fn lock(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let file = options.open(path)?;
    match file.lock() {
        Err(error) if error.kind() != io::ErrorKind::Unsupported => Err(error),
        _ => Ok(file),
    }
}

/// Writes a file that only its owner may read, and makes it durable.
fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    // Made anew, so that it never had other permissions. One that is there is left of a process that was killed.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// The text of a file, `None` if it is not there. With `is_ours` nobody else may be able to read it.
pub(super) fn read_private(path: &Path, is_ours: bool) -> Result<Option<String>, EgressError> {
    let wrong = |problem: String| EgressError::Credentials { path: path.to_owned(), problem };
    let metadata = match fs::metadata(path) {
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
    fs::read_to_string(path).map(Some).map_err(|error| wrong(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credentials::tests::{header, origin};

    fn save(path: &Path, all: &Credentials) {
        Credentials::update(path, |saved| {
            *saved = all.clone();
            Ok::<_, EgressError>(())
        })
        .unwrap();
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
        let key = Credential::key(origin("https://signed.example"), "/keys/id_ed25519");
        all.insert(key.with_realm(Some(origin("https://accounts.example")))).unwrap();
        for bad in [
            Credential::key(origin("https://a.example"), "relative"),
            Credential::bearer(origin("https://a.example"), Secret::new("a b")),
            Credential::basic(origin("https://a.example"), "a:b", Secret::new("x")),
        ] {
            assert!(all.insert(bad).is_err());
        }
        save(&path, &all);
        let read = Credentials::load(&path).unwrap();
        assert_eq!(read, all);
        assert_eq!(header(read.of(&origin("https://hub.example")).unwrap()), "Bearer t-2");
        assert_eq!(header(read.of(&origin("https://registry.example:5000")).unwrap()), "Basic bWU6cGFzcw==");
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
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
            fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
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
            r#"[{"origin":"https://a"}]"#,
            r#"[{"origin":"https://a","secret":"s3cret","key":"/x"}]"#,
            r#"[{"origin":"https://a","user":"me","key":"/x"}]"#,
            r#"[{"origin":"https://a","key":"x"}]"#,
            r#"[{"origin":"https://a","secret":"s3cret","realm":"https://b/c"}]"#,
        ] {
            let mut all = Credentials::default();
            let path = folder.path().join("c.json");
            all.insert(Credential::bearer(origin("https://a"), Secret::new("x"))).unwrap();
            save(&path, &all);
            fs::write(&path, text).unwrap();
            let error = Credentials::load(&path).unwrap_err().to_string();
            assert!(!error.contains("s3cret"), "{error}");
            fs::remove_file(&path).unwrap();
        }
    }

    #[test]
    fn changes_at_the_same_time_are_all_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("credentials.tmp");
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let path = &path;
                scope.spawn(move || {
                    for i in 0..5 {
                        let origin = origin(&format!("https://h{thread}-{i}.example"));
                        let credential = Credential::bearer(origin, Secret::new("t"));
                        Credentials::update(path, |all| all.insert(credential)).unwrap();
                    }
                });
            }
        });
        assert_eq!(Credentials::load(&path).unwrap().origins().count(), 20);
    }

    #[test]
    fn what_fails_changes_nothing_and_leaves_no_secret() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("credentials.json");
        let mut all = Credentials::default();
        all.insert(Credential::bearer(origin("https://a.example"), Secret::new("x"))).unwrap();
        save(&path, &all);
        let error = Credentials::update(&path, |all| {
            all.remove(&origin("https://a.example"));
            Err::<(), _>(EgressError::Setting { name: "x", problem: "y".into() })
        });
        assert!(matches!(error, Err(EgressError::Setting { .. })));
        assert_eq!(Credentials::load(&path).unwrap(), all);
        // Nothing can be renamed to what is a folder.
        fs::remove_file(&path).unwrap();
        fs::create_dir_all(path.join("full")).unwrap();
        all.write(&path).unwrap_err();
        let left = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
        let mut left: Vec<_> = left.collect();
        left.sort();
        assert_eq!(left, ["credentials.json", "credentials.json.lock"]);
    }
}
