//! What must hold whatever happened: I1 to I4.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ingle_store::{Digest, Manifest, annotation};

/// All files, by path.
pub type Tree = BTreeMap<PathBuf, Vec<u8>>;

/// A model as it can be seen.
#[derive(Clone, Debug)]
pub struct Model {
    /// The manifest, bit for bit.
    manifest: Digest,
    /// What it means: the manifest without the time and the place that it was fetched at, and the blobs.
    meaning: Vec<Digest>,
}

impl PartialEq for Model {
    fn eq(&self, other: &Self) -> bool {
        self.meaning == other.meaning
    }
}

/// All files below a folder of this machine.
pub fn tree(root: &Path) -> Tree {
    let mut files = Tree::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten() {
            let path = entry.expect("the folder can be read").path();
            match std::fs::symlink_metadata(&path).expect("it is there") {
                about if about.is_dir() => folders.push(path),
                about if about.is_symlink() => {
                    let target = std::fs::read_link(&path).expect("a link");
                    files.insert(path, target.into_os_string().into_encoded_bytes());
                }
                _ => {
                    let bytes = std::fs::read(&path).expect("it can be read");
                    files.insert(path, bytes);
                }
            }
        }
    }
    files
}

/// The models that can be seen. Panics if a blob's name is not its content (I1), or a manifest names what is not there
/// (I2).
pub fn models(tree: &Tree, root: &Path) -> BTreeMap<String, Model> {
    let store = root.join("store");
    for (path, bytes) in tree {
        if path.parent() == Some(&store.join("blobs")) {
            let digest = path.file_name().and_then(|name| Digest::from_file_name(name.to_str()?));
            assert_eq!(digest, Some(Digest::of(bytes)), "I1: {}", path.display());
        }
    }
    let mut models = BTreeMap::new();
    for (path, bytes) in tree {
        let Ok(name) = path.strip_prefix(store.join("manifests")) else { continue };
        let mut manifest =
            Manifest::parse(bytes).unwrap_or_else(|error| panic!("I2: {}: {error}", path.display()));
        let mut meaning = Vec::new();
        for layer in manifest.blobs() {
            let blob = tree.get(&store.join("blobs").join(layer.digest.file_name()));
            let blob = blob.unwrap_or_else(|| panic!("I2: {} lacks {}", path.display(), layer.digest));
            assert_eq!(blob.len() as u64, layer.size, "I2: {}", path.display());
            meaning.push(Digest::of(blob));
        }
        for varies in [annotation::PULLED, annotation::SOURCE] {
            manifest.annotations.remove(varies);
        }
        meaning.push(manifest.digest());
        models.insert(shown(name), Model { manifest: Digest::of(bytes), meaning });
    }
    models
}

/// A short name; the hub's port is another each time.
fn shown(name: &Path) -> String {
    let parts: Vec<&str> = name.iter().map(|part| part.to_str().expect("UTF-8")).collect();
    match parts[..] {
        ["registry.ollama.ai", "library", model, tag] => format!("{model}:{tag}"),
        [host, _, model, tag] if host.starts_with("127.0.0.1") => format!("here:{model}:{tag}"),
        _ => parts.join(":"),
    }
}

/// I3: every model is what it was before, but for the target, which is what it was or what it was to become.
pub fn unchanged(
    before: &BTreeMap<String, Model>,
    after: &BTreeMap<String, Model>,
    now: &BTreeMap<String, Model>,
    target: Option<&str>,
) {
    for name in before.keys().chain(after.keys()).chain(now.keys()) {
        let found = now.get(name);
        // What a pull replaces is kept beside it.
        let is_target = target.is_some_and(|target| target == name.trim_end_matches(".before"));
        let is_same = match (found, before.get(name)) {
            (Some(found), Some(before)) => found.manifest == before.manifest && found == before,
            (found, before) => found.is_none() && before.is_none(),
        };
        let is_kept = is_same || (is_target && found == after.get(name));
        assert!(is_kept, "I3: {name} is neither what it was nor what it was to become");
    }
}

/// What has no place in a store when nobody is at work.
pub fn leftovers(tree: &Tree, root: &Path) -> Vec<PathBuf> {
    tree.keys().filter(|path| path.starts_with(root.join("store/tmp"))).cloned().collect()
}
