//! Bundles as they are, as damage makes them and as an enemy would write them.

mod damage;
mod import;
mod index;
mod keys;
mod parts;

use super::format::{HEADER_BYTES, Header};
use super::index::BundledModel;
use super::reader::{Head, Trust, read_head, verify};
use super::sign::SecretKey;
use super::writer::{BlobSource, Imprint, Plan, Source};
use super::{BundleError, Stream};
use crate::{Digest, Layer, Manifest, MediaType};

/// Bytes that repeat late.
pub fn noise(seed: u8, n: usize) -> Vec<u8> {
    let mut state = u32::from(seed).wrapping_mul(0x9E37_79B9) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        (state >> 11) as u8
    };
    (0..n).map(|_| next()).collect()
}

pub fn layer(media_type: MediaType, bytes: &[u8]) -> Layer {
    Layer::new(media_type, Digest::of(bytes), bytes.len() as u64)
}

pub fn model(name: &str, parts: &[&[u8]], licences: &[&str]) -> BundledModel {
    let layers = parts[1..].iter().map(|bytes| layer(MediaType::Model, bytes)).collect();
    BundledModel {
        name: name.parse().expect("a name"),
        manifest: Manifest::new(layer(MediaType::Config, parts[0]), layers),
        licences: licences.iter().map(|&name| name.to_owned()).collect(),
    }
}

pub fn sources(parts: &[&[u8]]) -> Vec<BlobSource> {
    let source =
        |bytes: &&[u8]| BlobSource::new(Digest::of(bytes), bytes.len() as u64, Source::Bytes(bytes.to_vec()));
    parts.iter().map(source).collect()
}

pub fn imprint() -> Imprint {
    Imprint { creator: "ingle 0.1.0".into(), created: "2026-03-14T15:09:26Z".into() }
}

/// Two models that share a blob, over several chunks, with an empty blob among them.
pub fn plan() -> Plan {
    let (config, other) = (b"{\"model_format\":\"gguf\"}".as_slice(), b"{}".as_slice());
    let (shared, long) = (noise(1, 700), noise(2, 4_500));
    let mut models = vec![
        model("zeta:8b", &[config, &shared, &long], &["MIT"]),
        model("alpha", &[other, &shared, b""], &[]),
    ];
    let mut blobs = sources(&[config, other, &shared, &long, b"", &shared]);
    Plan::with_chunks(&mut models, &mut blobs, &imprint(), 4096, &mut |_, _| {}).expect("it can be planned")
}

pub fn written(plan: &Plan, key: Option<&SecretKey>) -> Vec<u8> {
    let mut out = Vec::new();
    plan.write(&mut out, key, &mut |_, _| {}).expect("it can be written");
    out
}

/// Reads all of a bundle.
pub fn read(bytes: &[u8]) -> Result<Head, BundleError> {
    let mut input = Stream::new(bytes);
    let head = read_head(&mut input)?;
    verify(&mut input, &head, &mut |_, _| {})?;
    Ok(head)
}

/// A bundle of this index, with a header that fits it.
pub fn with_index(index: &[u8], data: &[u8]) -> Vec<u8> {
    let header = Header {
        signed: false,
        index_bytes: index.len() as u32,
        index_sha256: *Digest::of(index).as_bytes(),
    };
    [&header.to_bytes(), index, data].concat()
}

pub fn index_of(bundle: &[u8]) -> (String, Vec<u8>) {
    let header = Header::parse(bundle[..HEADER_BYTES].try_into().expect("a header")).expect("a header");
    let end = HEADER_BYTES + header.index_bytes as usize;
    let text = std::str::from_utf8(&bundle[HEADER_BYTES..end]).expect("the index is text");
    (text.to_owned(), bundle[header.data_start() as usize..].to_vec())
}

#[test]
fn what_is_written_is_read() {
    let key = SecretKey::from_seed(&[7; 32]);
    let plan = plan();
    for key in [None, Some(&key)] {
        let bytes = written(&plan, key);
        let head = read(&bytes).expect("it is whole");
        assert_eq!(&head.index, plan.index());
        assert_eq!(head.total_bytes, bytes.len() as u64);
        assert_eq!(head.signed_by, key.map(SecretKey::public));
        assert_eq!(written(&plan, key), bytes, "the same bytes again");
    }
    let names: Vec<String> = plan.index().models.iter().map(|model| model.name.to_string()).collect();
    assert_eq!(names, ["alpha:latest", "zeta:8b"]);
    assert_eq!(plan.index().blobs.len(), 5, "shared blobs are there once");
    assert_eq!(plan.index().models[1].licences, ["MIT"]);
}

#[test]
fn progress_counts_every_byte() {
    let bytes = written(&plan(), None);
    let (mut last, mut total) = (0, 0);
    let mut input = Stream::new(&bytes[..]);
    let head = read_head(&mut input).unwrap();
    verify(&mut input, &head, &mut |done, of| {
        assert!(done >= last);
        (last, total) = (done, of);
    })
    .unwrap();
    assert_eq!((last, total), (bytes.len() as u64, bytes.len() as u64));
}

#[test]
fn who_is_trusted() {
    let (mine, other) = (SecretKey::from_seed(&[1; 32]), SecretKey::from_seed(&[2; 32]));
    let mut keys = super::TrustedKeys::default();
    keys.add(&mine.public().to_string()).unwrap();
    let check = |allow_unsigned: bool, key: Option<&SecretKey>, expected: Option<&str>| {
        let trust = Trust { keys: keys.clone(), allow_unsigned };
        let head = read(&written(&plan(), key)).unwrap();
        let found = trust.check(head.signed_by.as_ref()).err().map(|error| error.to_string());
        match expected {
            None => assert_eq!(found, None),
            Some(part) => assert!(found.as_ref().is_some_and(|text| text.contains(part)), "{found:?}"),
        }
    };
    check(false, Some(&mine), None);
    check(true, Some(&mine), None);
    check(false, None, Some("--allow-unsigned"));
    check(true, None, None);
    check(false, Some(&other), Some(&format!("--trust {}", other.public())));
    check(true, Some(&other), None);
}

#[test]
fn sources_that_are_not_what_they_should_be_are_not_bundled() {
    let plan = |blobs: &[BlobSource], models: &[BundledModel]| {
        Plan::new(models.to_vec(), blobs.to_vec(), &imprint(), &mut |_, _| {}).map(|_| ())
    };
    let good = sources(&[b"{}", b"weights"]);
    let models = [model("a", &[b"{}", b"weights"], &[])];
    plan(&good, &models).unwrap();
    let check = |blobs: &[BlobSource], models: &[BundledModel], part: &str| {
        let error = plan(blobs, models).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    };
    let mut damaged = good.clone();
    damaged[1].source = Source::Bytes(b"weighst".into());
    check(&damaged, &models, "is damaged");
    let mut gone = good.clone();
    gone[1].source = Source::File("/nonexistent/blob".into());
    check(&gone, &models, "cannot read /nonexistent/blob");
    check(&good[..1], &models, "lacks its blob");
    let twice = [models[0].clone(), model("a", &[b"{}"], &[])];
    check(&good, &twice, "there twice");
    check(&[], &[], "it has 0 models");
    // A file that changes after it was hashed.
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), b"weights").unwrap();
    let mut moving = good;
    moving[1].source = Source::File(file.path().to_owned());
    let plan = Plan::new(models.to_vec(), moving, &imprint(), &mut |_, _| {}).unwrap();
    for other in [b"WEIGHTS".as_slice(), b"weight", b""] {
        std::fs::write(file.path(), other).unwrap();
        let error = plan.write(&mut Vec::new(), None, &mut |_, _| {}).unwrap_err().to_string();
        assert!(error.contains("changed while it was exported"), "{error}");
    }
}
