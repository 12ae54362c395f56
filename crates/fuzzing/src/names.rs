//! What people and strangers write where a model, a digest or an address is meant.

use std::path::Component;

use ingle_egress::{HostRule, Origin, Target};
use ingle_store::{Catalogue, Digest, Manifest, ModelName, Reference};

/// A text is refused, or means the same when it is written down and read again; and a name is four plain parts, whatever
/// it came from.
pub fn names(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(name) = text.parse::<ModelName>() {
        check_name(&name);
    }
    if let Ok(digest) = text.parse::<Digest>() {
        assert_eq!(digest.to_string(), text, "a digest has one spelling");
    }
    if let Ok(reference) = Reference::parse(text, &Catalogue::default()) {
        let shown = reference.to_string();
        let again = Reference::parse(&shown, &Catalogue::default());
        assert_eq!(again.as_ref(), Ok(&reference), "{shown:?}");
        if let Some(name) = reference.name() {
            check_name(&name);
        }
    }
    if let Ok(target) = Target::parse(text) {
        assert!(target.as_str().is_ascii() && !target.host().is_empty(), "{target}");
        assert_eq!(Target::parse(target.as_str()).as_ref(), Ok(&target), "{target}");
        let origin = target.origin();
        assert_eq!(Origin::parse(&origin.to_string()).as_ref(), Ok(&origin), "{origin}");
        // A redirect to itself, by every kind of reference that there is, is what it was.
        assert_eq!(target.join(target.as_str()).as_ref(), Ok(&target), "{target}");
    }
    // Only that it ends, and does not panic.
    let _ = HostRule::parse(text);
}

fn check_name(name: &ModelName) {
    let path = name.path();
    assert_eq!(path.components().count(), 4, "{name}");
    assert!(path.components().all(|part| matches!(part, Component::Normal(_))), "{name}");
    assert_eq!(name.to_string().parse().as_ref(), Ok(name));
}

/// A manifest is refused, or written down it is the same manifest.
pub fn manifest(data: &[u8]) {
    let Ok(manifest) = Manifest::parse(data) else { return };
    let bytes = manifest.to_bytes();
    assert_eq!(Manifest::parse(&bytes).as_ref(), Ok(&manifest));
    assert_eq!(manifest.digest(), Digest::of(&bytes));
    assert!(manifest.size() >= manifest.config.size);
}
