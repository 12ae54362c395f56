//! Bundles of models.

use ingle_store::Digest;
use ingle_store::bundle::{Head, Stream, read_head, verify};

/// Any bytes behind an even byte: an error, or a bundle of which each byte counts. Behind an odd one they are an index
/// (behind its length, two bytes) and blobs, to which a header is made: a fuzzer finds no hash by itself.
pub fn bundle(data: &[u8]) {
    let Some((&mode, rest)) = data.split_first() else { return };
    let whole = if mode % 2 == 0 { rest.to_vec() } else { with_header(rest) };
    let Some(head) = read(&whole) else { return };
    assert_eq!(head.total_bytes, whole.len() as u64, "each byte belongs to something");
    let blobs: u64 = head.index.blobs.iter().map(|blob| blob.size).sum();
    assert_eq!(blobs, head.index.data_bytes(), "blobs lie one behind the other");
    for model in &head.index.models {
        for layer in model.manifest.blobs() {
            let blob = head.index.blobs.iter().find(|blob| blob.digest == layer.digest);
            assert_eq!(blob.map(|blob| blob.size), Some(layer.size), "{} has all its blobs", model.name);
        }
    }
    let mut changed = whole;
    let at = usize::from(mode) * changed.len() / 256;
    changed[at] ^= 1 << (mode % 8);
    assert!(read(&changed).is_none(), "a bit changed at {at}, and nobody saw it");
}

fn read(bytes: &[u8]) -> Option<Head> {
    let mut input = Stream::new(bytes);
    let head = read_head(&mut input).ok()?;
    verify(&mut input, &head, &mut |_, _| {}).ok()?;
    Some(head)
}

fn with_header(rest: &[u8]) -> Vec<u8> {
    let Some((length, rest)) = rest.split_first_chunk::<2>() else { return Vec::new() };
    let (index, blobs) = rest.split_at(usize::from(u16::from_le_bytes(*length)).min(rest.len()));
    let mut out = b"\x89IGB\r\n\x1a\n\x01\0\0\0".to_vec();
    out.extend((index.len() as u32).to_le_bytes());
    out.extend(Digest::of(index).as_bytes());
    out.extend(index);
    out.extend(blobs);
    out
}
