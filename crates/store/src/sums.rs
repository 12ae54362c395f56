//! Whether a blob is still what it was, told from a few of its chunks.
//!
//! To compare a blob with its digest all of it is read, which takes minutes for a large one. But the digests of its chunks
//! are known when it comes: they are kept in `sums/`, in the form of journals, and whoever loads the blob compares some of
//! them. What is found to be damaged in our own store is marked beside them (`.bad`): it counts as broken, and the next
//! pull fetches it again. The mark goes when the blob is replaced, or when all of it is read and found to be whole.
//!
//! Nothing depends on these files: one that is missing, torn or about another blob says nothing.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::error::Tried;
use crate::files::{Files, Kind, RealFiles};
use crate::journal::{JOURNAL_BYTES_MAX, Journal};
use crate::shared::Shared;
use crate::staged::{read_all, read_range};
use crate::{Digest, Hasher, StoreError};

/// Smaller blobs have none, as a share of a chunk: texts, which are verified whenever they are read.
const SHARE_MIN: u64 = 16;
/// Chunks that are compared beside the first and the last.
const FURTHER_CHUNKS: u64 = 2;

fn path(root: &Path, digest: &Digest) -> PathBuf {
    root.join("sums").join(digest.file_name())
}

fn mark_path(root: &Path, digest: &Digest) -> PathBuf {
    root.join("sums").join(format!("{}.bad", digest.file_name()))
}

/// The store and the digest that a blob's path stands for.
fn parts(blob: &Path) -> Option<(&Path, Digest)> {
    let digest = Digest::from_file_name(blob.file_name()?.to_str()?)?;
    Some((blob.parent()?.parent()?, digest))
}

/// Keeps the digests of the chunks of a blob that has come; `from` is its journal, where it has one as a file.
pub(crate) fn keep(shared: &Shared, digest: Digest, journal: Journal, from: Option<PathBuf>) -> bool {
    let files = &shared.files;
    // Whatever was marked before is replaced.
    if is_bad(&**files, shared.root(), &digest) {
        let _ = files.remove(&mark_path(shared.root(), &digest));
    }
    let Some(size) = journal.size.filter(|size| *size >= shared.chunk_bytes / SHARE_MIN) else {
        return false;
    };
    let is_complete = journal.chunks.len() as u64 == size.div_ceil(journal.chunk_bytes);
    if !is_complete || size == 0 {
        return false;
    }
    let to = path(shared.root(), &digest);
    if let Some(from) = from.filter(|_| journal.digest.is_some()) {
        return files.rename(&from, &to).is_ok();
    }
    let journal = Journal { digest: Some(digest), source: None, ..journal };
    let lines: String = journal.chunks().map(|(index, digest)| Journal::line(index, &digest)).collect();
    let text = journal.header() + &lines;
    if let Ok(file) = files.create(&to)
        && file.write_at(0, text.as_bytes()).is_err()
    {
        let _ = files.remove(&to);
    }
    false
}

/// Takes away what is known of a blob that goes.
pub(crate) fn forget(shared: &Shared, digest: &Digest) {
    for path in [path(shared.root(), digest), mark_path(shared.root(), digest)] {
        if shared.files.metadata(&path).is_ok() {
            let _ = shared.files.remove(&path);
        }
    }
}

/// Takes away what is known of blobs that are gone.
pub(crate) fn collect(shared: &Shared) {
    let folder = shared.root().join("sums");
    for name in shared.files.read_dir(&folder).unwrap_or_default() {
        let digest = Digest::from_file_name(name.strip_suffix(".bad").unwrap_or(&name));
        let is_gone = |digest| shared.files.metadata(&shared.blob_path(digest)).is_err();
        if digest.as_ref().is_some_and(is_gone) {
            let _ = shared.files.remove(&folder.join(name));
        }
    }
}

fn is_bad(files: &dyn Files, root: &Path, digest: &Digest) -> bool {
    files.metadata(&mark_path(root, digest)).is_ok_and(|found| found.kind == Kind::File)
}

/// Whether a blob's file is marked as damaged.
pub(crate) fn is_marked(files: &dyn Files, blob: &Path) -> bool {
    parts(blob).is_some_and(|(root, digest)| is_bad(files, root, &digest))
}

/// Marks a blob of our own store as damaged, or takes the mark away; stores of others are not written.
pub(crate) fn mark(shared: &Shared, blob: &Path, is_damaged: bool) {
    let Some((root, digest)) = parts(blob).filter(|(root, _)| *root == shared.root()) else { return };
    let mark = mark_path(root, &digest);
    if is_damaged {
        shared.forget_verified(&digest);
        // A store that cannot be written has no marks.
        let _ = shared.files.create(&mark);
    } else if is_bad(&*shared.files, root, &digest) {
        let _ = shared.files.remove(&mark);
    }
}

/// The stores that this process has opened as its own: what loads a file knows no more of it than its path, and marks
/// belong into no other store.
static OWN: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// A store is opened.
pub(crate) fn own(root: &Path) {
    OWN.lock().unwrap_or_else(PoisonError::into_inner).insert(root.to_owned());
}

/// Compares some chunks of a blob with what they were when it came: the first, the last and two others, 64 MiB together.
/// A file that is no blob of a store, or of which no digests are known, is not looked at. One of a store that this process
/// has opened is marked if it is damaged.
///
/// # Errors
/// [`StoreError::Damaged`] if a chunk is another.
pub fn check_sample(blob: &Path) -> Result<(), StoreError> {
    let checked = check_some(&RealFiles, blob);
    if let (Err(StoreError::Damaged { digest, .. }), Some((root, _))) = (&checked, parts(blob))
        && OWN.lock().unwrap_or_else(PoisonError::into_inner).contains(root)
    {
        // A store that cannot be written has no marks.
        let _ = RealFiles.create(&mark_path(root, digest));
    }
    checked
}

/// The same in any file system.
pub(crate) fn check_some(files: &dyn Files, blob: &Path) -> Result<(), StoreError> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    sample(files, blob, u64::from(now.subsec_nanos()) / 1000)
}

/// The same, with the number from which chunks are chosen.
fn sample(files: &dyn Files, blob: &Path, seed: u64) -> Result<(), StoreError> {
    let Some((root, digest)) = parts(blob) else { return Ok(()) };
    let sums = files.open(&path(root, &digest)).and_then(|file| read_all(&*file, JOURNAL_BYTES_MAX));
    let Some((journal, _)) = sums.ok().and_then(|bytes| Journal::parse(&bytes)) else { return Ok(()) };
    if journal.digest != Some(digest) || journal.chunks.is_empty() {
        return Ok(());
    }
    let chunks: Vec<(u64, Digest)> = journal.chunks().collect();
    let n = chunks.len() as u64;
    let further = (0..FURTHER_CHUNKS).map(|i| (seed + i * (n / FURTHER_CHUNKS).max(1)) % n);
    let mut picked: Vec<u64> = [0, n - 1].into_iter().chain(further).collect();
    picked.sort_unstable();
    picked.dedup();
    let file = files.open(blob).tried("read", blob)?;
    for i in picked {
        let (index, expected) = chunks[i as usize];
        let range = journal.range(index);
        let mut hasher = Hasher::new();
        let read = read_range(&*file, range.start, range.end, &mut |bytes| hasher.update(bytes));
        if read.is_err() || hasher.finish() != expected {
            return Err(StoreError::Damaged { digest, start: range.start, end: range.end });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{Expect, Layer, Manifest, MediaType, State, Store, StoreConfig};

    const CHUNK: u64 = 1024;

    fn store(root: &Path) -> Store {
        let config = StoreConfig { root: root.join("store"), ..StoreConfig::default() };
        Store::with_chunks(config, Arc::new(RealFiles), CHUNK).expect("it has a folder")
    }

    fn bytes() -> Vec<u8> {
        (0..10 * CHUNK + 100).map(|i| (i / 7) as u8 ^ (i / 1000) as u8).collect()
    }

    /// A model whose weights came as a download does, or as a file of this machine does.
    fn put(store: &Store, root: &Path, is_download: bool) -> PathBuf {
        let store = store.session();
        let bytes = bytes();
        let digest = Digest::of(&bytes);
        if is_download {
            let size = Some(bytes.len() as u64);
            let staged = store.stage(Expect { digest: Some(digest), size, source: None }).expect("room");
            staged.write_at(0, &bytes).expect("room");
            staged.commit().expect("it is whole");
        } else {
            let file = root.join("file.gguf");
            std::fs::write(&file, &bytes).expect("writable");
            store.put_file(&file, &mut |_, _| ()).expect("room");
        }
        let config = store.put_bytes(b"{}").expect("room");
        let layers = vec![Layer::new(MediaType::Model, digest, bytes.len() as u64)];
        let manifest = Manifest::new(Layer::new(MediaType::Config, config, 2), layers);
        store.publish(&"m:1".parse().expect("a name"), &manifest).expect("all is there");
        store.blob(&digest).expect("readable").expect("it is there")
    }

    fn flip(path: &Path, at: u64) {
        let mut bytes = std::fs::read(path).expect("readable");
        bytes[at as usize] ^= 4;
        std::fs::write(path, bytes).expect("writable");
    }

    #[test]
    fn damage_is_found_told_and_mended() {
        for is_download in [true, false] {
            let dir = tempfile::tempdir().expect("a temporary folder");
            let store = store(dir.path());
            let name = "m:1".parse().expect("a name");
            let blob = put(&store, dir.path(), is_download);
            check_sample(&blob).expect("it is whole");
            for at in [0, 5, 10 * CHUNK + 99] {
                flip(&blob, at);
                let error = check_sample(&blob).expect_err("the first and the last are always compared");
                assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
                assert!(is_marked(&RealFiles, &blob), "who loads it tells the store");
                let verify = || store.verify(std::slice::from_ref(&name), &|_, _| ()).expect("readable");
                assert_eq!(verify()[0].findings.len(), 1);
                let state = || store.find(&name).expect("readable").expect("it is there").state;
                assert!(matches!(state(), State::Broken(why) if why.contains("damaged")));
                let digest = Digest::of(&bytes());
                assert!(
                    !store.session().holds(&digest, None).expect("readable"),
                    "who pulls fetches it again"
                );
                // All of it is read, and it is whole after all.
                flip(&blob, at);
                assert_eq!(verify()[0].findings, []);
                assert_eq!(state(), State::Ready);
            }
            flip(&blob, 5);
            store.verify(std::slice::from_ref(&name), &|_, _| ()).expect("readable");
            assert!(is_marked(&RealFiles, &blob));
            put(&store, dir.path(), true);
            assert!(!is_marked(&RealFiles, &blob), "the blob was replaced");
            check_sample(&blob).expect("it is whole");
            store.remove(&name).expect("it is there");
            assert_eq!(std::fs::read_dir(dir.path().join("store/sums")).expect("a folder").count(), 0);
        }
    }

    #[test]
    fn stores_of_others_get_no_marks() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let blob = put(&store(dir.path()), dir.path(), true);
        let other = dir.path().join("other");
        std::fs::rename(dir.path().join("store"), &other).expect("it can be moved");
        let blob = other.join("blobs").join(blob.file_name().expect("it has a name"));
        flip(&blob, 0);
        check_sample(&blob).expect_err("it is damaged");
        assert!(!is_marked(&RealFiles, &blob));
    }

    #[test]
    fn a_damaged_text_is_marked_when_it_is_read() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let store = store(dir.path());
        put(&store, dir.path(), true);
        let (name, config) = ("m:1".parse().expect("a name"), Digest::of(b"{}"));
        let blob = store.blob(&config).expect("readable").expect("it is there");
        std::fs::write(&blob, b"[]").expect("writable");
        assert!(matches!(store.describe(&name), Err(StoreError::WrongContent { .. })));
        let state = store.find(&name).expect("readable").expect("it is there").state;
        assert!(matches!(state, State::Broken(why) if why.contains("damaged")));
        assert!(!store.session().seems_whole(&config, 2).expect("readable"), "who pulls fetches it again");
    }

    #[test]
    fn every_chunk_is_chosen_some_time() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let blob = put(&store(dir.path()), dir.path(), true);
        for index in 0..11 {
            flip(&blob, index * CHUNK + 50);
            let found = (0..11).filter(|seed| sample(&RealFiles, &blob, *seed).is_err()).count();
            assert!(found >= 2, "chunk {index}: {found}");
            flip(&blob, index * CHUNK + 50);
        }
    }

    #[test]
    fn sums_that_say_nothing() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let blob = put(&store(dir.path()), dir.path(), true);
        let (root, digest) = parts(&blob).expect("a blob");
        let sums = path(root, &digest);
        let text = std::fs::read_to_string(&sums).expect("text");
        let other = text.replace(&digest.to_string(), &Digest::of(b"x").to_string());
        flip(&blob, 0);
        for useless in ["", "\0\0\0\0\n", "{}\n", &text[..20], &other] {
            std::fs::write(&sums, useless).expect("writable");
            check_sample(&blob).expect("nothing is known");
        }
        std::fs::write(&sums, &text[..text.len() - 10]).expect("writable");
        check_sample(&blob).expect_err("a torn line takes only its own chunk");
        check_sample(&dir.path().join("file.gguf")).expect("no blob");
        check_sample(Path::new("/")).expect("no blob");
    }
}
