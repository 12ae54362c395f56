//! What a user may write where a model is meant.

use std::fmt;
use std::path::PathBuf;

use crate::file_name::{is_quant, stem};
use crate::name::sanitized;
use crate::{Catalogue, DEFAULT_HOST, DEFAULT_NAMESPACE, DEFAULT_TAG, Digest, ModelName, NameError};

/// The host of Hugging Face's repositories in names.
pub const HUB_HOST: &str = "hf.co";
/// The longest reference, in bytes.
const REFERENCE_BYTES_MAX: usize = 2048;
/// The longest path of a file in a repository, in bytes.
const FILE_BYTES_MAX: usize = 512;
/// The longest revision, in bytes.
const REVISION_BYTES_MAX: usize = 128;

/// A model as a user names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reference {
    /// A name in a registry that speaks Ollama's protocol: `llama3.1:8b`, `registry.example/team/model:tag`.
    Registry(ModelName),
    /// A repository of Hugging Face's hub: `hf.co/user/repo:Q4_K_M`, `hf.co/user/repo/file.gguf`, `hf://user/repo`.
    Hub {
        /// Whose repository, and which.
        repo: HubRepo,
        /// Branch, tag or commit; `main` if none is named. Written `user/repo@revision`.
        revision: Option<String>,
        /// What of it.
        pick: HubPick,
    },
    /// A file on a web server.
    Url(String),
    /// A file or a folder of this machine.
    Path(PathBuf),
}

/// A repository of the hub.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HubRepo {
    user: String,
    repo: String,
}

/// What of a repository is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HubPick {
    /// The files of this quantization, as `Q4_K_M`; names of GGUF's types are in upper case whatever was written.
    Quant(String),
    /// This file, by its path in the repository.
    File(String),
    /// What there is, or what is best of it.
    Default,
}

impl HubRepo {
    /// A repository by its two names.
    ///
    /// # Errors
    /// If one of them cannot be part of a name.
    pub fn new(user: &str, repo: &str) -> Result<Self, NameError> {
        ModelName::new(HUB_HOST, user, repo, DEFAULT_TAG)?;
        Ok(Self { user: user.to_owned(), repo: repo.to_owned() })
    }

    /// Whose it is.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// What it is called.
    pub fn repo(&self) -> &str {
        &self.repo
    }
}

impl fmt::Display for HubRepo {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}/{}", self.user, self.repo)
    }
}

impl Reference {
    /// Reads what a user wrote. Short names that the catalogue has are replaced by what it says.
    ///
    /// A path is what begins with `/`, `./`, `../` or `~/` (which is not expanded here), or ends with `.gguf` and names
    /// no host.
    ///
    /// # Errors
    /// If it is none, with what would be one. Nothing on disk is looked at.
    pub fn parse(text: &str, catalogue: &Catalogue) -> Result<Self, NameError> {
        let wrong = |why: &str| Err(NameError::Reference(why.to_owned()));
        if text.trim().is_empty() {
            return wrong("it is empty");
        }
        if text.len() > REFERENCE_BYTES_MAX {
            return wrong("it is longer than 2048 bytes");
        }
        if text.chars().any(char::is_control) {
            return wrong("it has control characters");
        }
        if let Some(rest) = text.strip_prefix("hf://") {
            return hub(rest);
        }
        for scheme in ["https://", "http://"] {
            if let Some(rest) = text.strip_prefix(scheme) {
                return url(text, rest);
            }
        }
        if let Some((scheme, _)) = text.split_once("://") {
            return match scheme.bytes().all(|b| b.is_ascii_alphanumeric()) {
                true => wrong(&format!(
                    "`{scheme}://` is not a scheme that models are fetched with; https:// and hf:// are"
                )),
                false => wrong("it has `://` without a scheme"),
            };
        }
        if is_path(text) {
            return Ok(Self::Path(PathBuf::from(text)));
        }
        for host in ["hf.co/", "huggingface.co/"] {
            if let Some(rest) = strip_host(text, host) {
                return hub(rest);
            }
        }
        if text.to_ascii_lowercase().ends_with(".gguf") {
            return Ok(Self::Path(PathBuf::from(text)));
        }
        let name: ModelName = text.parse()?;
        if let Some(reference) = catalogue.lookup(&name) {
            return Ok(reference.clone());
        }
        Ok(Self::Registry(catalogue.at_home(name)))
    }

    /// The name under which the model stands in the store once it is there; a path has none.
    pub fn name(&self) -> Option<ModelName> {
        match self {
            Self::Registry(name) => Some(name.clone()),
            Self::Hub { repo, pick, .. } => {
                let tag = match pick {
                    HubPick::Quant(quant) => quant.clone(),
                    HubPick::File(file) => sanitized(stem(file)),
                    HubPick::Default => DEFAULT_TAG.to_owned(),
                };
                ModelName::new(HUB_HOST, &repo.user, &repo.repo, &tag).ok()
            }
            Self::Url(url) => url_name(url),
            Self::Path(_) => None,
        }
    }
}

impl Reference {
    /// What is pulled under a name: on the hub's host a repository is meant, elsewhere a registry. A tag is a
    /// quantization, unless it is the name of the model's own `file`.
    pub(crate) fn of_name(name: &ModelName, file: Option<&str>) -> Self {
        if name.host() != HUB_HOST {
            return Self::Registry(name.clone());
        }
        let repo = HubRepo { user: name.namespace().to_owned(), repo: name.model().to_owned() };
        let tag = name.tag();
        let is_stem = |file: &&str| {
            stem(file) != *file
                && sanitized(stem(file)) == tag
                && check_path("file", file, FILE_BYTES_MAX).is_ok()
        };
        let pick = match file.filter(is_stem) {
            Some(file) => HubPick::File(file.to_owned()),
            None if tag == DEFAULT_TAG => HubPick::Default,
            // As it is written: the store has it by this name.
            None => HubPick::Quant(tag.to_owned()),
        };
        Self::Hub { repo, revision: None, pick }
    }

    /// The same with nothing left out that a short name leaves out: which host is asked, and for what.
    pub fn in_full(&self) -> String {
        match self {
            Self::Registry(name) => {
                format!("{}/{}/{}:{}", name.host(), name.namespace(), name.model(), name.tag())
            }
            other => other.to_string(),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Registry(name) => write!(f, "{name}"),
            Self::Hub { repo, revision, pick } => {
                write!(f, "{HUB_HOST}/{repo}")?;
                if let Some(revision) = revision {
                    write!(f, "@{revision}")?;
                }
                match pick {
                    HubPick::Quant(quant) => write!(f, ":{quant}"),
                    HubPick::File(file) => write!(f, "/{file}"),
                    HubPick::Default => Ok(()),
                }
            }
            Self::Url(url) => f.write_str(url),
            Self::Path(path) => write!(f, "{}", path.display()),
        }
    }
}

/// What follows a host; hosts have no capital letters.
fn strip_host<'a>(text: &'a str, host: &str) -> Option<&'a str> {
    let (head, rest) = text.split_at_checked(host.len())?;
    head.eq_ignore_ascii_case(host).then_some(rest)
}

fn is_path(text: &str) -> bool {
    let bytes = text.as_bytes();
    let has_drive = bytes.len() > 2
        && bytes[0].is_ascii_alphabetic()
        && bytes[1] == b':'
        && matches!(bytes[2], b'\\' | b'/');
    matches!(text, "." | ".." | "~")
        || ["/", "./", "../", "~/", ".\\", "..\\", "\\"].iter().any(|start| text.starts_with(start))
        || has_drive
}

/// `user/repo[@revision][:QUANT]`, `user/repo[@revision]/path/file.gguf`, or a page's or a download's address:
/// `user/repo/{blob,resolve}/revision/file`, `user/repo/tree/revision`.
fn hub(text: &str) -> Result<Reference, NameError> {
    let wrong = |why: &str| NameError::Reference(why.to_owned());
    let text = text.split(['?', '#']).next().unwrap_or_default().trim_end_matches('/');
    let (user, rest) = text
        .split_once('/')
        .ok_or_else(|| wrong("of a repository both names are needed: hf.co/user/repo"))?;
    let (head, file) = match rest.split_once('/') {
        Some((head, file)) => (head, Some(file)),
        None => (rest, None),
    };
    let (head, quant) = match head.split_once(':') {
        Some((head, quant)) => (head, Some(quant)),
        None => (head, None),
    };
    let (repo, mut at) = match head.split_once('@') {
        Some((repo, revision)) => (repo, Some(revision)),
        None => (head, None),
    };
    let repo = HubRepo::new(user, repo)?;
    let page = file
        .and_then(|file| file.split_once('/'))
        .filter(|(kind, _)| matches!(*kind, "blob" | "resolve" | "tree"));
    let file = match page {
        Some((kind, rest)) if at.is_none() => {
            let (revision, file) =
                rest.split_once('/').map_or((rest, None), |(revision, file)| (revision, Some(file)));
            at = Some(revision).filter(|revision| *revision != "main");
            if kind != "tree" && file.is_none() {
                return Err(wrong("the address of a file ends with the file's name"));
            }
            file
        }
        _ => file,
    };
    if let Some(revision) = at {
        check_path("revision", revision, REVISION_BYTES_MAX)?;
    }
    let pick = match (quant, file) {
        (Some(_), Some(_)) => return Err(wrong("name a quantization or a file, not both")),
        (Some(quant), None) => {
            ModelName::new(HUB_HOST, user, repo.repo(), quant)?;
            HubPick::Quant(canonical_quant(quant))
        }
        (None, Some(file)) => {
            check_path("file", file, FILE_BYTES_MAX)?;
            if stem(file) == file {
                return Err(wrong(
                    "a file of a repository is a GGUF file (NAME.gguf); without a file the repository is meant",
                ));
            }
            HubPick::File(file.to_owned())
        }
        (None, None) => HubPick::Default,
    };
    Ok(Reference::Hub { repo, revision: at.map(str::to_owned), pick })
}

/// Names of quantizations are written in upper case; any other tag stays as it is.
fn canonical_quant(quant: &str) -> String {
    let upper = quant.to_ascii_uppercase();
    if is_quant(&upper) { upper } else { quant.to_owned() }
}

/// A path of plain names, parted by `/`.
fn check_path(part: &'static str, path: &str, bytes_max: usize) -> Result<(), NameError> {
    let is_plain = |name: &str| {
        !name.is_empty()
            && !matches!(name, "." | "..")
            && name.chars().all(|c| !c.is_control() && !r#"\:*?"<>|#%@"#.contains(c))
    };
    if path.len() > bytes_max || !path.split('/').all(is_plain) {
        let why = format!("at most {bytes_max} bytes: plain names parted by `/`");
        return Err(NameError::Part { part, why });
    }
    Ok(())
}

/// An address; those of known hosts are what they show.
fn url(text: &str, rest: &str) -> Result<Reference, NameError> {
    let wrong = |why: &str| Err(NameError::Reference(why.to_owned()));
    if text.chars().any(|c| c.is_whitespace() || c == '\\') {
        return wrong("an address has no blanks and no backslashes");
    }
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if host.is_empty() {
        return wrong("the address names no host");
    }
    if host.contains('@') {
        return wrong("an address must not carry a user or a password; a token belongs into the settings");
    }
    for hub_host in ["huggingface.co/", "hf.co/", "www.huggingface.co/"] {
        if let Some(rest) = strip_host(rest, hub_host) {
            return hub(rest);
        }
    }
    for library in ["ollama.com/", "www.ollama.com/"] {
        if let Some(rest) = strip_host(rest, library) {
            let path = rest.split(['?', '#']).next().unwrap_or_default().trim_end_matches('/');
            let path = path.strip_prefix("library/").unwrap_or(path);
            if path.matches('/').count() > 1 {
                return wrong("an address of ollama.com is https://ollama.com/library/model:tag");
            }
            return Ok(Reference::Registry(path.parse()?));
        }
    }
    Ok(Reference::Url(text.to_owned()))
}

/// The host, a namespace that tells addresses apart, and the file's name.
fn url_name(url: &str) -> Option<ModelName> {
    let rest = url.split_once("://")?.1;
    let path = rest.split(['?', '#']).next()?;
    let (host, file) = (path.split('/').next()?, path.rsplit('/').next()?);
    let namespace = format!("url-{}", &Digest::of(url.as_bytes()).short()[..8]);
    // An address in brackets (IPv6) has characters that no name has.
    let host = match ModelName::new(host, DEFAULT_NAMESPACE, "m", DEFAULT_TAG) {
        Ok(_) => host.to_owned(),
        Err(_) => sanitized(host),
    };
    let model = if file == path { "model".to_owned() } else { sanitized(stem(file)) };
    ModelName::new(&host, &namespace, &model, DEFAULT_TAG).ok()
}

/// The default host and namespace as one text.
pub(crate) fn default_registry() -> String {
    format!("{DEFAULT_HOST}/{DEFAULT_NAMESPACE}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, shown: &str, name: Option<&str>) {
        let reference =
            Reference::parse(text, &Catalogue::default()).unwrap_or_else(|e| panic!("{text}: {e}"));
        assert_eq!(reference.to_string(), shown, "{text}");
        assert_eq!(reference.name().map(|name| name.to_string()).as_deref(), name, "{text}");
        // What it shows is the same reference.
        assert_eq!(Reference::parse(shown, &Catalogue::default()), Ok(reference), "{text}");
    }

    #[test]
    fn what_a_user_may_write() {
        check("llama3.1", "llama3.1:latest", Some("llama3.1:latest"));
        check("llama3.1:8b", "llama3.1:8b", Some("llama3.1:8b"));
        check("reg.example:5000/a/b:c", "reg.example:5000/a/b:c", Some("reg.example:5000/a/b:c"));
        check("https://ollama.com/library/llama3.1:8b", "llama3.1:8b", Some("llama3.1:8b"));
        check("https://ollama.com/me/mine", "me/mine:latest", Some("me/mine:latest"));
        check("hf.co/u/r", "hf.co/u/r", Some("hf.co/u/r:latest"));
        check("HF.co/U/r", "hf.co/U/r", Some("hf.co/U/r:latest"));
        check("https://HuggingFace.co/u/r", "hf.co/u/r", Some("hf.co/u/r:latest"));
        check("huggingface.co/u/r:q4_k_m", "hf.co/u/r:Q4_K_M", Some("hf.co/u/r:Q4_K_M"));
        check("hf://u/r:ud-q2_k_xl", "hf.co/u/r:UD-Q2_K_XL", Some("hf.co/u/r:UD-Q2_K_XL"));
        check("hf.co/u/r@v2", "hf.co/u/r@v2", Some("hf.co/u/r:latest"));
        check("hf.co/u/r@v1:Q8_0", "hf.co/u/r@v1:Q8_0", Some("hf.co/u/r:Q8_0"));
        check("hf.co/u/r/x-Q4_0.gguf", "hf.co/u/r/x-Q4_0.gguf", Some("hf.co/u/r:x-Q4_0"));
        check("hf.co/u/r/Q4/x.gguf", "hf.co/u/r/Q4/x.gguf", Some("hf.co/u/r:Q4-x"));
        check("https://huggingface.co/u/r", "hf.co/u/r", Some("hf.co/u/r:latest"));
        check("https://huggingface.co/u/r/tree/main", "hf.co/u/r", Some("hf.co/u/r:latest"));
        check("https://huggingface.co/u/r/blob/main/x.gguf", "hf.co/u/r/x.gguf", Some("hf.co/u/r:x"));
        check(
            "https://hf.co/u/r/resolve/abc/d/x.gguf?download=true",
            "hf.co/u/r@abc/d/x.gguf",
            Some("hf.co/u/r:d-x"),
        );
        check("./x.gguf", "./x.gguf", None);
        check("models/x.gguf", "models/x.gguf", None);
        check("/abs/folder", "/abs/folder", None);
        check("~/x", "~/x", None);
        check(r"C:\m\x.gguf", r"C:\m\x.gguf", None);
        let url = "https://m.example:8443/a/x-Q4.gguf?sig=1";
        check(url, url, Some("m.example:8443/url-9168060a/x-Q4:latest"));
    }

    /// What a name stands for has that name.
    #[test]
    fn names_and_what_they_stand_for() {
        let check = |name: &str, file: Option<&str>, shown: &str| {
            let name: ModelName = name.parse().unwrap_or_else(|e| panic!("{name}: {e}"));
            let reference = Reference::of_name(&name, file);
            assert_eq!(reference.to_string(), shown);
            assert_eq!(reference.name(), Some(name), "{shown}");
        };
        check("m:1", None, "m:1");
        check("reg.example/a/b:c", Some("c.gguf"), "reg.example/a/b:c");
        check("hf.co/u/r", None, "hf.co/u/r");
        check("hf.co/u/r:Q4_K_M", Some("x-Q4_K_M.gguf"), "hf.co/u/r:Q4_K_M");
        check("hf.co/u/r:q4_k_m", None, "hf.co/u/r:q4_k_m");
        check("hf.co/u/r:x-Q4_0", Some("x-Q4_0.gguf"), "hf.co/u/r/x-Q4_0.gguf");
        check("hf.co/u/r:Q4-x", Some("Q4/x.gguf"), "hf.co/u/r/Q4/x.gguf");
        check("hf.co/u/r:x", Some("../x.gguf"), "hf.co/u/r:x");
    }

    #[test]
    fn what_is_refused() {
        for text in [
            "",
            " ",
            "a\0b",
            "a\nb",
            "ftp://h/x.gguf",
            "file:///etc/passwd",
            "https://",
            "https://u:p@h/x.gguf",
            "https://h\\@evil/x",
            "https://h/ x",
            "hf.co/u",
            "hf.co/u/..",
            "hf.co/../r",
            "hf.co/u/r/../x.gguf",
            "hf.co/u/r/x.bin",
            "hf.co/u/r:a/x.gguf",
            "hf.co/u/r@../..:Q4",
            "hf.co//r",
            "hf.co/u/r//x.gguf",
            "a/b/c/d",
            "a:b:c",
            "-x",
            "a b",
            "https://ollama.com/library/a/b/c",
            &"x".repeat(3000),
        ] {
            assert!(Reference::parse(text, &Catalogue::default()).is_err(), "{text:?}");
        }
    }
}
