//! Modelfiles.

use ingle_store::modelfile::Modelfile;

/// An error with its place, or instructions that are written and read as the same.
pub fn modelfile(data: &[u8]) {
    let read = match Modelfile::parse(data) {
        Ok(read) => read,
        Err(error) => {
            assert!(error.line >= 1 && error.column >= 1, "{error}");
            assert!(error.to_string().len() < 2000, "{error}");
            return;
        }
    };
    // Some values have no spelling but the one that they came with.
    let Ok(text) = read.to_text() else { return };
    assert_eq!(Modelfile::parse(text.as_bytes()).as_ref(), Ok(&read), "{text}");
}
