//! Which revision of a repository of the hub a model is of.

use std::fmt;
use std::path::Path;

use crate::foreign::Found;
use crate::shared::Shared;
use crate::{Catalogue, Manifest, Origin, Reference, annotation};

/// The revision that is meant where none is named.
const DEFAULT_REVISION: &str = "main";
/// The fewest digits of a commit that stand for it.
const COMMIT_DIGITS_MIN: usize = 7;

/// What a model's place tells of its revision.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Revision {
    /// What was asked for when it was fetched: a branch, a tag or a commit.
    named: Option<String>,
    /// What that was then.
    commit: Option<String>,
}

impl Revision {
    /// That of a model, if its place tells.
    pub fn of(shared: &Shared, found: &Found) -> Option<Self> {
        match (&found.manifest, &found.entry.origin) {
            (Some(manifest), _) => Self::of_manifest(manifest),
            (None, Origin::HuggingFace) => {
                let snapshots = shared.config.hf_home.as_deref()?.join("hub");
                Some(Self::of_snapshot(&snapshots, &found.blobs.first()?.path)?)
            }
            (None, _) => None,
        }
    }

    /// That of a model that was pulled from the hub.
    pub fn of_manifest(manifest: &Manifest) -> Option<Self> {
        let commit = manifest.annotations.get(annotation::REVISION).cloned();
        let source = manifest.annotations.get(annotation::SOURCE);
        let source = source.and_then(|text| Reference::parse(text, &Catalogue::default()).ok());
        let named = match source {
            Some(Reference::Hub { revision, .. }) => Some(revision.unwrap_or(DEFAULT_REVISION.to_owned())),
            _ => None,
        };
        (named.is_some() || commit.is_some()).then_some(Self { named, commit })
    }

    /// That of a file of the cache of Hugging Face's libraries: `hub/models--USER--REPO/snapshots/COMMIT/FILE`.
    fn of_snapshot(hub: &Path, file: &Path) -> Option<Self> {
        let commit = file.strip_prefix(hub).ok()?.components().nth(2)?.as_os_str().to_str()?.to_owned();
        // The snapshot that is used is that of `main`.
        Some(Self { named: Some(DEFAULT_REVISION.to_owned()), commit: Some(commit) })
    }

    /// Whether this is what is asked for: by its name, or by its commit, which may be shortened.
    pub fn is(&self, asked: &str) -> bool {
        let is_commit = |commit: &str| {
            let head = commit.get(..asked.len());
            asked.len() >= COMMIT_DIGITS_MIN && head.is_some_and(|head| head.eq_ignore_ascii_case(asked))
        };
        self.named.as_deref() == Some(asked) || self.commit.as_deref().is_some_and(is_commit)
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match (&self.named, &self.commit) {
            (Some(named), Some(commit)) if named != commit => write!(f, "{named} (commit {commit})"),
            (_, Some(commit)) => f.write_str(commit),
            (Some(named), None) => f.write_str(named),
            (None, None) => f.write_str("which nothing tells"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for() {
        let check = |named: Option<&str>, commit: Option<&str>, asked: &str, expected: bool| {
            let own = |text: &str| text.to_owned();
            let revision = Revision { named: named.map(own), commit: commit.map(own) };
            assert_eq!(revision.is(asked), expected, "{revision}, {asked}");
        };
        let commit = Some("0123456789abcdef");
        check(Some("main"), commit, "main", true);
        check(Some("main"), commit, "Main", false);
        check(Some("main"), commit, "v2", false);
        check(Some("main"), commit, "0123456789abcdef", true);
        check(Some("main"), commit, "0123456789ABC", true);
        check(Some("main"), commit, "012345", false);
        check(Some("main"), commit, "0123456789abcdef0", false);
        check(Some("v1"), None, "v1", true);
        check(None, commit, "main", false);
        check(None, commit, "é1234567", false);
    }
}
