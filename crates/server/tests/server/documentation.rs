//! The documentation names what the code knows.

use ingle_api::openai::refused::{
    HARMLESS, HARMLESS_CHAT, HARMLESS_COMPLETION, REFUSED, REFUSED_CHAT, REFUSED_COMPLETION,
};
use ingle_api::openai::sampling::numeric_fields;

#[test]
fn every_field_is_documented() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/api.md");
    let page = std::fs::read_to_string(path).expect("docs/api.md");
    let refused = [REFUSED, REFUSED_CHAT, REFUSED_COMPLETION].concat();
    let harmless = [HARMLESS, HARMLESS_CHAT, HARMLESS_COMPLETION].concat();
    let names = refused.iter().map(|f| f.name).chain(harmless.iter().map(|f| f.name));
    for name in names.chain(numeric_fields().map(|f| f.0)) {
        assert!(page.contains(&format!("`{name}`")), "`{name}` is not in docs/api.md");
    }
}
