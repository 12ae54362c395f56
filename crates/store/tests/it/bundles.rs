//! Imports of bundles, to be stopped at each of their operations.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ingle_store::bundle::{
    BlobSource, BundledModel, ImportOptions, Imprint, Plan, Source, Stream, Trust, import, read_head,
};
use ingle_store::files::RealFiles;
use ingle_store::{Digest, Expect, Layer, Manifest, MediaType};
use ingle_testkit::sim_files::Disk;

use crate::scenarios::{CHUNK_BYTES, Context, Outcome, content, name};

/// A bundle of one model, whose licence is that of the models that are there before.
fn bundle(model: &str, seeds: &[&str], n_bytes: usize) -> Vec<u8> {
    let config = format!("{{\"model_format\":\"gguf\",\"model_type\":\"{model}\"}}").into_bytes();
    let weights = seeds.iter().map(|seed| (MediaType::Model, content(seed, n_bytes)));
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

fn take(context: &Context, bytes: &[u8], replace: bool) -> Outcome {
    let mut input = Stream::new(bytes);
    let head = read_head(&mut input).expect("the bundle is sound");
    let options = ImportOptions { trust: Trust { allow_unsigned: true, ..Trust::default() }, replace };
    import(&context.store, &mut input, &head, &options, &mut |_, _| ())?;
    Ok(())
}

/// A model that is new, in two parts.
pub fn new(context: &Context) -> Outcome {
    take(context, &bundle("imported:1", &["part one", "part two"], 2500), false)
}

/// One that is too large for a small disk.
pub fn large(context: &Context) -> Outcome {
    take(context, &bundle("imported:1", &["part one"], crate::small_disk::LARGE_BYTES), false)
}

/// One that takes the place of another.
pub fn over(context: &Context) -> Outcome {
    take(context, &bundle("old:1", &["a newer one"], 2500), true)
}

/// Two who take in the same bundle: the second waits for the first, and goes on where that one stopped.
#[test]
fn whoever_comes_second_waits() {
    let dir = tempfile::tempdir().expect("a folder");
    let context = Context::new(dir.path(), Arc::new(RealFiles), None);
    let bytes = bundle("imported:1", &["part one"], 2500);
    let digest = Some(Digest::of(&content("part one", 2500)));
    let first = context.store.session();
    let held = first.stage(Expect { digest, size: Some(2500), ..Expect::default() }).expect("nobody has it");
    std::thread::scope(|scope| {
        let second = scope.spawn(|| take(&context, &bytes, false));
        std::thread::sleep(Duration::from_millis(300));
        assert!(!second.is_finished(), "it waits");
        drop(held);
        second.join().expect("it does not panic").expect("it goes on");
    });
}

#[test]
fn without_room_nothing_is_begun() {
    let disk = Disk::new();
    let context = Context::new(Path::new("/home"), disk.process(), None);
    let bytes = bundle("imported:1", &["part one", "part two"], 2500);
    let room = read_head(&mut Stream::new(&bytes[..])).expect("the bundle is sound").index.data_bytes();
    // As much again stays free.
    disk.set_capacity(Some(2 * room - 1));
    let error = take(&context, &bytes, false).expect_err("a byte is missing");
    assert!(error.is_no_space && error.text.contains(&format!("{room} are needed")), "{error}");
    assert!(disk.files().values().all(Vec::is_empty), "nothing was begun");
    // What is written beside blobs needs room too: journals, and the manifest.
    disk.set_capacity(Some(2 * room + 8192));
    take(&context, &bytes, false).expect("there is room");
}
