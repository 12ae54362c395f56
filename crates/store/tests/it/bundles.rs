//! Imports of bundles, to be stopped at each of their operations.

use std::path::Path;

use ingle_store::bundle::{
    BlobSource, BundleError, BundledModel, ImportOptions, Imprint, Plan, Source, Stream, Trust, import,
    read_head,
};
use ingle_store::{Digest, Layer, Manifest, MediaType, StoreError};
use ingle_testkit::sim_files::Disk;

use crate::scenarios::{CHUNK_BYTES, Context, content, name};

/// A bundle of one model, whose licence is that of the models that are there before.
fn bundle(model: &str, seeds: &[&str]) -> Vec<u8> {
    let config = format!("{{\"model_format\":\"gguf\",\"model_type\":\"{model}\"}}").into_bytes();
    let weights = seeds.iter().map(|seed| (MediaType::Model, content(seed, 2500)));
    let licence = (MediaType::License, b"the licence of both".to_vec());
    let parts: Vec<(MediaType, Vec<u8>)> = weights.chain([licence]).collect();
    let layer =
        |kind: &MediaType, bytes: &[u8]| Layer::new(kind.clone(), Digest::of(bytes), bytes.len() as u64);
    let layers = parts.iter().map(|(kind, bytes)| layer(kind, bytes)).collect();
    let manifest = Manifest::new(layer(&MediaType::Config, &config), layers);
    let blob = |bytes: &Vec<u8>| {
        BlobSource::new(Digest::of(bytes), bytes.len() as u64, Source::Bytes(bytes.clone()))
    };
    let mut blobs: Vec<BlobSource> =
        parts.iter().map(|(_, bytes)| blob(bytes)).chain([blob(&config)]).collect();
    let mut models = vec![BundledModel { name: name(model), manifest, licences: Vec::new() }];
    let imprint = Imprint { creator: "ingle".into(), created: "2026-03-14T15:09:26Z".into() };
    let plan = Plan::with_chunks(&mut models, &mut blobs, &imprint, CHUNK_BYTES as u32, &mut |_, _| ());
    let mut bytes = Vec::new();
    plan.and_then(|plan| plan.write(&mut bytes, None, &mut |_, _| ())).expect("the bundle is sound");
    bytes
}

fn take(context: &Context, bytes: &[u8], replace: bool) -> Result<(), StoreError> {
    let mut input = Stream(bytes);
    let head = read_head(&mut input).expect("the bundle is sound");
    let options = ImportOptions { trust: Trust { allow_unsigned: true, ..Trust::default() }, replace };
    match import(&context.store, &mut input, &head, &options, &mut |_, _| ()) {
        Ok(_) => Ok(()),
        Err(BundleError::Store(error)) => Err(*error),
        Err(other) => panic!("the bundle is sound: {other}"),
    }
}

/// A model that is new, in two parts.
pub fn new(context: &Context) -> Result<(), StoreError> {
    take(context, &bundle("imported:1", &["part one", "part two"]), false)
}

/// One that takes the place of another.
pub fn over(context: &Context) -> Result<(), StoreError> {
    take(context, &bundle("old:1", &["a newer one"]), true)
}

#[test]
fn without_room_nothing_is_begun() {
    let disk = Disk::new();
    let context = Context::new(Path::new("/home"), disk.process());
    let bytes = bundle("imported:1", &["part one", "part two"]);
    let room = read_head(&mut Stream(&bytes[..])).expect("the bundle is sound").index.data_bytes();
    let spare = 64 << 20;
    disk.set_capacity(Some(spare + room - 1));
    let error = take(&context, &bytes, false).expect_err("a byte is missing");
    assert!(matches!(error, StoreError::NoSpace { needed, .. } if needed == room), "{error}");
    assert!(disk.files().values().all(Vec::is_empty), "nothing was begun");
    // What is written beside blobs needs room too: journals, and the manifest.
    disk.set_capacity(Some(spare + room + 8192));
    take(&context, &bytes, false).expect("there is room");
}
