//! The cache of Hugging Face's libraries, used where it stands.
//!
//! `hub/models--USER--REPO/` has `refs/BRANCH` (a commit), `snapshots/COMMIT/FILE` (links) and `blobs/ETAG`, where the
//! ETag of a large file is its SHA-256. Each GGUF file of the current snapshot is a model, split ones once, named
//! `hf.co/USER/REPO:QUANT`. Layout: the page "Understand caching" of huggingface_hub's documentation.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::{Blob, Found, MODELS_MAX};
use crate::file_name::{is_gguf, is_projector, part, quant, stem};
use crate::files::Kind;
use crate::name::sanitized;
use crate::shared::Shared;
use crate::staged::read_all;
use crate::{Digest, Entry, HUB_HOST, MediaType, ModelName, Origin, State};

/// The most files of a snapshot that are looked at.
const FILES_MAX: usize = 10_000;
/// How deep folders of a snapshot may lie in one another.
const DEPTH_MAX: usize = 4;
/// The longest commit, in bytes.
const COMMIT_BYTES_MAX: u64 = 256;

/// All models of the cache.
pub(super) fn all(shared: &Shared, home: &Path) -> Vec<Found> {
    let hub = home.join("hub");
    let repos = shared.files.read_dir(&hub).unwrap_or_default();
    let repos = repos.iter().filter_map(|folder| Some((folder, repo_of(folder)?)));
    repos
        .flat_map(|(folder, (user, repo))| models(shared, &hub.join(folder), user, &repo))
        .take(MODELS_MAX)
        .collect()
}

/// The model of a name in the cache: by its quantization or by its file's name.
pub(super) fn find(shared: &Shared, home: &Path, name: &ModelName) -> Option<Found> {
    let folder = home.join("hub").join(format!("models--{}--{}", name.namespace(), name.model()));
    let mut models = models(shared, &folder, name.namespace(), name.model());
    let by_file = |found: &Found| {
        let file = found.blobs.first().and_then(|blob| blob.file.as_deref());
        file.is_some_and(|file| sanitized(stem(file)) == name.tag())
    };
    let at = models
        .iter()
        .position(|found| found.entry.name == *name)
        .or_else(|| models.iter().position(by_file))?;
    let mut found = models.swap_remove(at);
    found.entry.name = name.clone();
    Some(found)
}

/// User and repository of a folder of the hub's cache.
fn repo_of(folder: &str) -> Option<(&str, String)> {
    let (user, repo) = folder.strip_prefix("models--")?.split_once("--")?;
    Some((user, repo.to_owned()))
}

/// The models of a repository's current snapshot.
fn models(shared: &Shared, folder: &Path, user: &str, repo: &str) -> Vec<Found> {
    let Some(snapshot) = snapshot(shared, folder) else { return Vec::new() };
    let mut files = Vec::new();
    walk(shared, &snapshot, "", DEPTH_MAX, &mut files);
    let projector = files.iter().filter(|file| is_projector(file)).min().cloned();
    let mut groups = BTreeMap::<String, Vec<String>>::new();
    for file in files.iter().filter(|file| !is_projector(file)) {
        let key = part(file).map_or_else(|| stem(file).to_owned(), |part| part.stem);
        groups.entry(key).or_default().push(file.clone());
    }
    let mut found = Vec::<Found>::new();
    for (key, files) in groups {
        let by_quant = quant(&files[0]).unwrap_or_else(|| sanitized(&key));
        let is_taken = found.iter().any(|found| found.entry.name.tag() == by_quant);
        let tag = if is_taken { sanitized(&key) } else { by_quant };
        let Ok(name) = ModelName::new(HUB_HOST, user, repo, &tag) else { continue };
        found.push(model(shared, &snapshot, name, &files, projector.as_deref()));
    }
    found
}

/// The folder of the commit that `main` stands for; without a `main`, of the commit that is there alone.
fn snapshot(shared: &Shared, folder: &Path) -> Option<PathBuf> {
    let snapshots = folder.join("snapshots");
    let main = shared.files.open(&folder.join("refs").join("main"));
    let commit = main.ok().and_then(|file| read_all(&*file, COMMIT_BYTES_MAX).ok());
    let commit = commit.and_then(|bytes| String::from_utf8(bytes).ok()).map(|text| text.trim().to_owned());
    let is_commit = |text: &String| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric());
    if let Some(commit) = commit.filter(is_commit) {
        return Some(snapshots.join(commit));
    }
    let mut all = shared.files.read_dir(&snapshots).ok()?;
    (all.len() == 1).then(|| snapshots.join(all.remove(0)))
}

/// The GGUF files below a folder, as paths parted by `/`.
fn walk(shared: &Shared, folder: &Path, prefix: &str, depth: usize, files: &mut Vec<String>) {
    for name in shared.files.read_dir(folder).unwrap_or_default() {
        if files.len() >= FILES_MAX {
            return;
        }
        let path = folder.join(&name);
        let shown = if prefix.is_empty() { name.clone() } else { format!("{prefix}/{name}") };
        let is_folder = shared.files.metadata(&path).is_ok_and(|found| found.kind == Kind::Dir);
        if is_folder && depth > 1 {
            walk(shared, &path, &shown, depth - 1, files);
        } else if !is_folder && is_gguf(&name) {
            files.push(shown);
        }
    }
}

fn model(
    shared: &Shared,
    snapshot: &Path,
    name: ModelName,
    files: &[String],
    projector: Option<&str>,
) -> Found {
    let mut why = missing_parts(files);
    let mut modified = None;
    let mut blobs = Vec::new();
    let typed = files.iter().map(|file| (file.as_str(), MediaType::Model));
    for (file, media_type) in typed.chain(projector.map(|file| (file, MediaType::Projector))) {
        let path = snapshot.join(file);
        match shared.files.metadata(&path) {
            Ok(about) if about.kind == Kind::File => {
                modified = modified.max(Some(about.modified));
                let digest = shared.files.real_path(&path).ok().and_then(|real| digest_of(&real));
                blobs.push(Blob { media_type, path, size: about.len, digest, file: Some(file.to_owned()) });
            }
            Ok(_) => why = Some(format!("{file} is no regular file")),
            Err(error) => why = Some(format!("{file} cannot be read: {error}")),
        }
    }
    // There is no manifest; what is the same files has the same number.
    let listing: Vec<String> =
        blobs.iter().map(|blob| format!("{:?} {} {:?}\n", blob.file, blob.size, blob.digest)).collect();
    let entry = Entry {
        name,
        origin: Origin::HuggingFace,
        digest: (!blobs.is_empty()).then(|| Digest::of(listing.concat().as_bytes())),
        size: (!blobs.is_empty()).then(|| blobs.iter().map(|blob| blob.size).fold(0, u64::saturating_add)),
        modified,
        state: why.map_or(State::Ready, State::Broken),
    };
    Found { entry, manifest: None, blobs }
}

/// The SHA-256 that a blob's file name is.
fn digest_of(real: &Path) -> Option<Digest> {
    Digest::from_hex(real.file_name()?.to_str()?)
}

fn missing_parts(files: &[String]) -> Option<String> {
    let first = part(files.first()?)?;
    let numbers = files.iter().filter_map(|file| part(file)).map(|part| part.number);
    // Whoever names a file claims any count: nothing is made for each part of it.
    let is_whole = numbers.clone().eq(1..=first.count);
    (!is_whole).then(|| format!("{} of its {} parts are there", numbers.count(), first.count))
}
