//! Bundles between stores.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ingle_gguf::{GgufWriter, TensorType, Value};

use super::super::import::{ImportOptions, Imported, Outcome, arrivals, import};
use super::super::writer::Plan;
use super::super::{Asked, BundleError, Input, Stream, Trust, plan, read_head};
use super::{imprint, index_of, layer, noise, with_index, written};
use crate::files::RealFiles;
use crate::{Layer, Manifest, MediaType, ModelName, Reference, Store, StoreConfig};

pub const CHUNK: u64 = 4096;

pub struct Place {
    pub folder: tempfile::TempDir,
    pub store: Store,
}

/// A store in a folder of its own, `store`, with small chunks.
pub fn place() -> Place {
    let folder = tempfile::tempdir().unwrap();
    let config = StoreConfig { root: folder.path().join("store"), ..StoreConfig::default() };
    let store = Store::with_chunks(config, Arc::new(RealFiles), CHUNK).unwrap();
    Place { folder, store }
}

pub fn name(text: &str) -> ModelName {
    text.parse().unwrap()
}

/// A model file with some metadata.
pub fn gguf(seed: u8, n_bytes: usize, license: &str) -> Vec<u8> {
    let mut file = GgufWriter::default();
    file.set("general.architecture", Value::String("llama".into()));
    file.set("general.license", Value::String(license.into()));
    file.tensor("output.weight", TensorType::F32, &[(n_bytes / 4) as u64], noise(seed, n_bytes));
    file.to_bytes()
}

pub fn put(store: &Store, model: &str, layers: &[(MediaType, &[u8])]) -> Manifest {
    let config = b"{\"model_format\":\"gguf\"}";
    store.put_bytes(config).unwrap();
    let put = |(media_type, bytes): &(MediaType, &[u8])| -> Layer {
        store.put_bytes(bytes).unwrap();
        layer(media_type.clone(), bytes)
    };
    let mut manifest = Manifest::new(layer(MediaType::Config, config), layers.iter().map(put).collect());
    manifest.annotations.insert(crate::annotation::SOURCE.into(), format!("as asked: {model}"));
    store.publish(&name(model), &manifest).unwrap();
    manifest
}

/// Two models with shared weights, one with all that a model can have.
pub fn filled() -> Place {
    let place = place();
    let weights = gguf(1, 20_000, "apache-2.0");
    let licence = b"\n  MIT License  \n\nCopyright ...\n".as_slice();
    put(&place.store, "alpha:8b", &[(MediaType::Model, &weights), (MediaType::License, licence)]);
    let projector = noise(4, 5000);
    put(
        &place.store,
        "hf.co/user/Beta:Q4_K_M",
        &[
            (MediaType::Model, &weights),
            (MediaType::Projector, &projector),
            (MediaType::Template, b"{{ .Prompt }}"),
            (MediaType::Params, b"{\"temperature\":0.5}"),
            (MediaType::Other("application/vnd.later".into()), b""),
        ],
    );
    place
}

pub const NAMES: [&str; 2] = ["alpha:8b", "hf.co/user/Beta:Q4_K_M"];

/// All models of a store in a bundle with small chunks.
pub fn bundle(place: &Place) -> Vec<u8> {
    let asked: Vec<Asked> = NAMES.iter().map(|text| Asked::Stored(name(text))).collect();
    written(&small_plan(&place.store, &asked), None)
}

fn small_plan(store: &Store, asked: &[Asked]) -> Plan {
    let whole = plan(store, asked, &imprint(), &mut |_, _| {}).unwrap();
    let mut models = whole.index().models.clone();
    let source = |blob: &crate::bundle::BundledBlob| {
        let path = store.blob(&blob.digest).unwrap().expect("it is in the store");
        crate::bundle::BlobSource::new(blob.digest, blob.size, crate::bundle::Source::File(path))
    };
    let mut blobs = whole.index().blobs.iter().map(source).collect();
    Plan::with_chunks(&mut models, &mut blobs, &imprint(), CHUNK as u32, &mut |_, _| {}).unwrap()
}

pub fn unsigned() -> ImportOptions {
    ImportOptions { trust: Trust { allow_unsigned: true, ..Trust::default() }, replace: false }
}

pub fn take(store: &Store, input: &mut dyn Input, options: &ImportOptions) -> Result<Imported, BundleError> {
    let head = read_head(input)?;
    import(store, input, &head, options, &mut |_, _| {})
}

fn outcomes(imported: &Imported) -> Vec<Outcome> {
    imported.models.iter().map(|model| model.outcome).collect()
}

/// Every file below a folder with its content, in order.
pub fn tree(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    let Ok(entries) = std::fs::read_dir(folder) else { return files };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.push((path.clone(), Vec::new()));
            files.extend(tree(&path));
        } else {
            files.push((path.clone(), std::fs::read(&path).unwrap()));
        }
    }
    files.sort();
    files
}

/// Whether every model and every blob is what its name says.
pub fn is_sound(store: &Store) -> bool {
    store.verify(&[], &|_, _| {}).unwrap().iter().all(|verdict| verdict.findings.is_empty())
}

#[test]
fn models_come_through_unchanged() {
    let (here, there) = (filled(), place());
    let bytes = bundle(&here);
    let imported = take(&there.store, &mut Stream::new(&bytes[..]), &unsigned()).unwrap();
    assert_eq!(outcomes(&imported), [Outcome::New; 2]);
    assert_eq!((imported.blobs_new, imported.blobs_present), (7, 0), "shared blobs come once");
    for text in NAMES {
        let (before, after) = (here.store.manifest(&name(text)), there.store.manifest(&name(text)));
        assert_eq!(before.unwrap(), after.unwrap(), "{text}");
    }
    assert!(is_sound(&there.store));
    assert_eq!(bundle(&there), bytes, "what comes out again is the same");
    let files = |place: &Place| tree(&place.folder.path().join("store").join("blobs")).len();
    assert_eq!(files(&there), files(&here));
    assert!(tree(&there.folder.path().join("store").join("tmp")).is_empty(), "nothing is left over");
    let licences: Vec<_> = read_head(&mut Stream::new(&bytes[..]))
        .unwrap()
        .index
        .models
        .into_iter()
        .map(|model| model.licences)
        .collect();
    assert_eq!(licences, [vec!["apache-2.0"], vec!["apache-2.0", "MIT License"]], "in the order of names");
    // Once more: nothing is new.
    let again = take(&there.store, &mut Stream::new(&bytes[..]), &unsigned()).unwrap();
    assert_eq!(outcomes(&again), [Outcome::Unchanged; 2]);
    assert_eq!((again.blobs_new, again.blobs_present), (0, 7));
}

#[test]
fn names_that_are_taken_need_to_be_told() {
    let (here, there) = (filled(), place());
    let bytes = bundle(&here);
    let mine = put(&there.store, "alpha:8b", &[(MediaType::Model, b"mine")]);
    let before = tree(there.folder.path());
    let head = read_head(&mut Stream::new(&bytes[..])).unwrap();
    let found = arrivals(&there.store, &head.index).unwrap();
    assert_eq!(found.iter().map(|a| a.outcome).collect::<Vec<_>>(), [Outcome::New, Outcome::Replaced]);
    let error = take(&there.store, &mut Stream::new(&bytes[..]), &unsigned()).unwrap_err().to_string();
    assert!(error.contains("alpha:8b is here with other contents") && error.contains("--replace"), "{error}");
    assert_eq!(tree(there.folder.path()), before, "nothing was written");
    assert_eq!(there.store.manifest(&name("alpha:8b")).unwrap(), Some(mine));
    let replace = ImportOptions { replace: true, ..unsigned() };
    let imported = take(&there.store, &mut Stream::new(&bytes[..]), &replace).unwrap();
    assert_eq!(outcomes(&imported), [Outcome::New, Outcome::Replaced]);
    assert_eq!(
        there.store.manifest(&name("alpha:8b")).unwrap(),
        here.store.manifest(&name("alpha:8b")).unwrap()
    );
    // The same contents, fetched at another time: no other model.
    let mut other = here.store.manifest(&name("alpha:8b")).unwrap().unwrap();
    other.annotations.insert(crate::annotation::PULLED.into(), "2026-01-01T00:00:00Z".into());
    there.store.publish(&name("alpha:8b"), &other).unwrap();
    let imported = take(&there.store, &mut Stream::new(&bytes[..]), &unsigned()).unwrap();
    assert_eq!(outcomes(&imported), [Outcome::Unchanged; 2]);
    assert_eq!(there.store.manifest(&name("alpha:8b")).unwrap(), Some(other));
}

/// A name that another gives while the bundle is read is not taken from it.
#[test]
fn names_that_are_given_meanwhile_are_kept() {
    let here = filled();
    let bytes = bundle(&here);
    for replace in [false, true] {
        let there = place();
        let head = read_head(&mut Stream::new(&bytes[..])).unwrap();
        let mut input = Stream::new(&bytes[bytes.len() - head.index.data_bytes() as usize..]);
        let options = ImportOptions { replace, ..unsigned() };
        let mut mine = None;
        let taken = import(&there.store, &mut input, &head, &options, &mut |done, total| {
            if done == total && mine.is_none() {
                mine = Some(put(&there.store, "hf.co/user/Beta:Q4_K_M", &[(MediaType::Model, b"mine")]));
            }
        });
        let found = |text: &str| there.store.manifest(&name(text)).unwrap();
        if replace {
            assert_eq!(outcomes(&taken.unwrap()), [Outcome::Replaced, Outcome::New]);
            assert_ne!(found("hf.co/user/Beta:Q4_K_M"), mine);
        } else {
            let error = taken.unwrap_err().to_string();
            assert!(error.contains("Beta:Q4_K_M is here with other contents"), "{error}");
            assert_eq!(found("hf.co/user/Beta:Q4_K_M"), mine);
            assert_eq!(found("alpha:8b"), None, "all or none");
        }
    }
}

/// Whatever is wrong with a bundle: the models stay as they were, and nothing outside the store is touched.
#[test]
fn what_is_refused_shows_nothing() {
    let (here, there) = (filled(), place());
    let bytes = bundle(&here);
    let mine = put(&there.store, "mine", &[(MediaType::Model, b"mine")]);
    std::fs::write(there.folder.path().join("outside"), "untouched").unwrap();
    let refuse = |bytes: &[u8], options: &ImportOptions| {
        take(&there.store, &mut Stream::new(bytes), options).expect_err("it is refused");
        let names: Vec<String> =
            there.store.list().unwrap().iter().map(|entry| entry.name.to_string()).collect();
        assert_eq!(names, ["mine:latest"]);
        assert_eq!(there.store.manifest(&name("mine")).unwrap().as_ref(), Some(&mine));
    };
    refuse(&bytes, &ImportOptions::default());
    let (text, data) = index_of(&bytes);
    let start = bytes.len() - data.len();
    for at in (0..start).step_by(997).chain((start..bytes.len()).step_by(1013)).chain([bytes.len() - 1]) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1 << (at % 8);
        refuse(&damaged, &unsigned());
        refuse(&bytes[..at], &unsigned());
    }
    // The chunks are right, and the digest of the blob is not theirs.
    let digest = read_head(&mut Stream::new(&bytes[..])).unwrap().index.blobs[6].digest.to_string();
    refuse(
        &with_index(text.replace(&digest, &format!("sha256:{}", "f".repeat(64))).as_bytes(), &data),
        &unsigned(),
    );
    let outside: Vec<PathBuf> =
        std::fs::read_dir(there.folder.path()).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(outside.len(), 2, "{outside:?}");
    assert_eq!(std::fs::read(there.folder.path().join("outside")).unwrap(), b"untouched");
    // What is left over is resumed or collected.
    take(&there.store, &mut Stream::new(&bytes[..]), &unsigned()).unwrap();
    assert!(is_sound(&there.store));
}

#[test]
fn a_damaged_blob_of_the_store_is_put_right() {
    let (here, there) = (filled(), place());
    let bytes = bundle(&here);
    take(&there.store, &mut Stream::new(&bytes[..]), &unsigned()).unwrap();
    let weights = here.store.manifest(&name("alpha:8b")).unwrap().unwrap().layers[0].digest;
    let path = there.store.blob(&weights).unwrap().unwrap();
    let mut content = std::fs::read(&path).unwrap();
    content[700] ^= 1;
    std::fs::write(&path, content).unwrap();
    assert!(!is_sound(&there.store));
    let imported = take(&there.store, &mut Stream::new(&bytes[..]), &unsigned()).unwrap();
    assert_eq!((imported.blobs_new, imported.blobs_present), (1, 6));
    assert!(is_sound(&there.store));
}

/// An input that ends early, as a stick that is pulled out, and counts what is read of it.
struct Cut<'a> {
    bytes: &'a [u8],
    at: usize,
    end: usize,
    read: usize,
}

impl<'a> Cut<'a> {
    fn new(bytes: &'a [u8], end: usize) -> Self {
        Self { bytes, at: 0, end, read: 0 }
    }
}

impl Input for Cut<'_> {
    fn read_exact(&mut self, buf: &mut [u8]) -> std::io::Result<()> {
        if self.at + buf.len() > self.end {
            return Err(std::io::Error::other("the stick was pulled out"));
        }
        buf.copy_from_slice(&self.bytes[self.at..self.at + buf.len()]);
        self.at += buf.len();
        self.read += buf.len();
        Ok(())
    }

    fn skip(&mut self, n: u64) -> std::io::Result<()> {
        self.at += n as usize;
        Ok(())
    }

    fn is_at_end(&mut self) -> std::io::Result<bool> {
        Ok(self.at == self.end)
    }

    fn total(&self) -> Option<u64> {
        Some(self.bytes.len() as u64)
    }
}

#[test]
fn an_import_goes_on_where_it_was() {
    let here = filled();
    let bytes = bundle(&here);
    let (_, data) = index_of(&bytes);
    for share in [3, 2] {
        let there = place();
        let end = bytes.len() - data.len() / share;
        let error = take(&there.store, &mut Cut::new(&bytes, end), &unsigned()).unwrap_err().to_string();
        assert!(error.contains("the stick was pulled out"), "{error}");
        assert!(there.store.list().unwrap().is_empty());
        let mut again = Cut::new(&bytes, bytes.len());
        let imported = take(&there.store, &mut again, &unsigned()).unwrap();
        assert!(imported.bytes_resumed >= CHUNK, "{imported:?}");
        assert_eq!(again.read as u64 + imported.bytes_resumed, bytes.len() as u64, "nothing is read in vain");
        assert!(is_sound(&there.store));
        assert_eq!(bundle(&there), bytes);
    }
}

/// An earlier attempt that staged other bytes, which fit its own journal.
#[test]
fn chunks_of_another_truth_are_not_taken_over() {
    let (here, there) = (filled(), place());
    let bytes = bundle(&here);
    let head = read_head(&mut Stream::new(&bytes[..])).unwrap();
    let blob = head.index.blobs.iter().max_by_key(|blob| blob.size).unwrap();
    let expect = crate::Expect { digest: Some(blob.digest), size: Some(blob.size), ..Default::default() };
    let staged = there.store.stage(expect).unwrap();
    staged.write_at(0, &vec![7; CHUNK as usize]).unwrap();
    drop(staged);
    let imported = take(&there.store, &mut Stream::new(&bytes[..]), &unsigned()).unwrap();
    assert_eq!(imported.bytes_resumed, 0);
    assert!(is_sound(&there.store));
}

#[test]
fn every_place_and_plain_files_are_exported() {
    let own = filled();
    let outer = own.folder.path();
    let (shared, ollama, hub) = (outer.join("shared"), outer.join("ollama"), outer.join("hf"));
    let put_in = |root: &Path, model: &str, bytes: &[u8]| {
        let config = StoreConfig { root: root.to_owned(), ..StoreConfig::default() };
        put(&Store::open(config).unwrap(), model, &[(MediaType::Model, bytes)]);
    };
    put_in(&shared, "from-shared", &gguf(5, 400, "mit"));
    put_in(&ollama, "from-ollama", &gguf(6, 400, "mit"));
    let revision = "0123456789abcdef0123456789abcdef01234567";
    let repo = hub.join("hub").join("models--user--repo");
    let snapshot = repo.join("snapshots").join(revision);
    std::fs::create_dir_all(&snapshot).unwrap();
    std::fs::create_dir_all(repo.join("refs")).unwrap();
    std::fs::write(repo.join("refs").join("main"), revision).unwrap();
    std::fs::write(snapshot.join("repo.Q4_0.gguf"), gguf(7, 400, "gemma")).unwrap();
    let plain = outer.join("My model.Q8_0.gguf");
    std::fs::write(&plain, gguf(8, 400, "cc-by-4.0")).unwrap();
    let config = StoreConfig {
        root: own.store.config().root.clone(),
        shared: vec![shared],
        hf_home: Some(hub),
        ollama: Some(ollama),
    };
    let store = Store::open(config).unwrap();
    let hf = store.list().unwrap().into_iter().find(|entry| entry.origin == crate::Origin::HuggingFace);
    let hf = hf.expect("the cache is listed").name;
    let mut asked: Vec<Asked> =
        ["alpha:8b", "from-shared", "from-ollama"].iter().map(|text| Asked::Stored(name(text))).collect();
    asked.push(Asked::Stored(hf.clone()));
    asked.push(Asked::new(&Reference::Path(plain.clone()), None).unwrap());
    asked.push(Asked::new(&Reference::Path(plain), Some(&name("named:v1"))).unwrap());
    let bytes = written(&plan(&store, &asked, &imprint(), &mut |_, _| {}).unwrap(), None);
    let there = place();
    take(&there.store, &mut Stream::new(&bytes[..]), &unsigned()).unwrap();
    let names: Vec<String> = there.store.list().unwrap().iter().map(|entry| entry.name.to_string()).collect();
    let mut expected =
        ["alpha:8b", "from-shared:latest", "from-ollama:latest", "My-model.Q8_0:latest", "named:v1"]
            .map(str::to_owned)
            .to_vec();
    expected.push(hf.to_string());
    let sorted = |mut names: Vec<String>| {
        names.sort();
        names
    };
    assert_eq!(sorted(names), sorted(expected));
    assert!(is_sound(&there.store));
    let plain = there.store.manifest(&name("My-model.Q8_0")).unwrap().unwrap();
    assert_eq!(plain.layers[0].annotations[crate::annotation::FILE], "My model.Q8_0.gguf");
    let installed = there.store.open_model(&Reference::Registry(name("named:v1"))).unwrap().unwrap();
    assert!(ingle_gguf::GgufFile::open(&installed.model[0]).is_ok());
}

#[test]
fn what_cannot_be_exported_is_named() {
    let place = filled();
    let fails = |asked: Asked, part: &str| {
        let error = plan(&place.store, &[asked], &imprint(), &mut |_, _| {}).unwrap_err().to_string();
        assert!(error.contains(part), "wanted `{part}`, got `{error}`");
    };
    fails(Asked::Stored(name("nobody")), "there is no model `nobody:latest` here");
    let no_gguf = place.folder.path().join("x.gguf");
    std::fs::write(&no_gguf, "text").unwrap();
    let file = |path: &Path| Asked::File { path: path.to_owned(), name: name("x") };
    fails(file(&no_gguf), "x.gguf cannot be exported");
    fails(file(Path::new("/nonexistent.gguf")), "/nonexistent.gguf cannot be exported");
    let weights = place.store.manifest(&name("alpha:8b")).unwrap().unwrap().layers[0].digest;
    let path = place.store.blob(&weights).unwrap().unwrap();
    let mut content = std::fs::read(&path).unwrap();
    content[700] ^= 1;
    std::fs::write(&path, &content).unwrap();
    fails(Asked::Stored(name("alpha:8b")), "is damaged");
    std::fs::write(&path, &content[1..]).unwrap();
    fails(Asked::Stored(name("alpha:8b")), "alpha:8b");
    std::fs::remove_file(&path).unwrap();
    fails(Asked::Stored(name("alpha:8b")), "alpha:8b");
}

/// Models that stand in stores that are only read: what an import brings has a name of ours, or is not brought at all.
#[test]
fn models_that_stand_elsewhere_are_imported_for_good() {
    use Outcome::{New, Replaced, Unchanged};
    let here = filled();
    let bytes = bundle(&here);
    let weights = here.store.manifest(&name("alpha:8b")).unwrap().unwrap().layers[0].digest;
    // Whose store, what is done to it before, what becomes of `alpha:8b`, and whether the model is ours then.
    for (is_shared, damage, outcome, is_ours) in [
        (false, None, New, true),
        (true, None, Unchanged, false),
        (true, Some("lost"), Unchanged, true),
        (true, Some("damaged"), Unchanged, true),
        (false, Some("another"), Replaced, true),
    ] {
        let there = place();
        let other = there.folder.path().join("other");
        let root = there.store.config().root.clone();
        let config = StoreConfig { root: other.clone(), ..StoreConfig::default() };
        let others = Store::with_chunks(config, Arc::new(RealFiles), CHUNK).unwrap();
        take(&others, &mut Stream::new(&bytes[..]), &unsigned()).unwrap();
        let path = others.blob(&weights).unwrap().unwrap();
        match damage {
            Some("lost") => std::fs::remove_file(&path).unwrap(),
            Some("damaged") => {
                std::fs::write(&path, noise(9, path.metadata().unwrap().len() as usize)).unwrap()
            }
            Some(_) => drop(put(&others, "alpha:8b", &[(MediaType::Model, b"another")])),
            None => {}
        }
        let (shared, ollama) = if is_shared { (vec![other], None) } else { (vec![], Some(other)) };
        let config = StoreConfig { root, shared, ollama, hf_home: None };
        let store = Store::with_chunks(config, Arc::new(RealFiles), CHUNK).unwrap();
        let options = ImportOptions { replace: outcome == Replaced, ..unsigned() };
        let imported = take(&store, &mut Stream::new(&bytes[..]), &options).unwrap();
        let case = format!("{is_shared} {damage:?}");
        assert_eq!(imported.models[1].outcome, outcome, "{case}");
        assert_eq!(imported.blobs_new > 0, is_ours, "{case}: what nobody names would not be kept");
        store.session().prune(false).unwrap();
        let alpha = store.find(&name("alpha:8b")).unwrap().unwrap();
        assert_eq!(
            (alpha.origin == crate::Origin::Own, alpha.state),
            (is_ours, crate::State::Ready),
            "{case}"
        );
        let bytes = std::fs::read(store.shared.find_blob(&weights, None).unwrap()).unwrap();
        assert_eq!(crate::Digest::of(&bytes), weights, "{case}");
    }
}

/// What is exported stays until it is written, whatever other processes remove.
#[test]
fn what_is_planned_can_be_written() {
    let place = filled();
    let asked = [Asked::Stored(name("alpha:8b"))];
    let planned = plan(&place.store, &asked, &imprint(), &mut |_, _| {}).unwrap();
    let blobs = || tree(&place.store.config().root.join("blobs")).len();
    let before = blobs();
    let config = place.store.config().clone();
    // All that ours holds since it was filled is let go.
    let other = Store::open(config).unwrap();
    drop(place.store);
    for model in NAMES {
        other.remove(&name(model)).unwrap();
    }
    let bytes = written(&planned, None);
    drop(planned);
    take(&super::import::place().store, &mut Stream::new(&bytes[..]), &unsigned()).unwrap();
    other.prune(false).unwrap();
    assert!(before > 0 && tree(&other.config().root.join("blobs")).is_empty(), "then they go");
}
