//! Files and batches, described: see [`crate::openapi`].

use serde_json::Value;

use super::batches::{BatchObject, Endpoint};
use super::files::{self, FileObject, TTL_S};
use super::responses::schema::metadata;
use crate::openapi::Components;
use crate::openapi::schema::{
    Object, Schema, boolean, integer, list, matching, nullable, string, word, words,
};

/// From 1 to 720 hours.
const WINDOW: &str = "([1-9]|[1-9][0-9]|[1-6][0-9]{2}|7[01][0-9]|720)h";

/// How long files are kept.
fn seconds() -> Schema {
    integer((*TTL_S.start()).into(), (*TTL_S.end()).into())
}

/// The form of an upload.
pub(crate) fn upload_form() -> Schema {
    Object::new()
        .must("purpose", words(files::PURPOSES), "What it is for.")
        .must(
            "file",
            string().with("contentMediaType", "application/octet-stream"),
            "The file, with its name.",
        )
        .optional("expires_after[anchor]", word("created_at"), "")
        .optional("expires_after[seconds]", seconds(), "How long it is kept.")
        .schema()
}

/// The body of a batch.
pub(crate) fn body() -> Object {
    let endpoints: Vec<&str> = Endpoint::ALL.iter().map(|endpoint| endpoint.url()).collect();
    let expiry = Object::new().must("anchor", word("created_at"), "").must(
        "seconds",
        seconds(),
        "How long its results are kept.",
    );
    Object::new()
        .must("input_file_id", string(), "A file whose lines are the requests.")
        .must("endpoint", words(&endpoints), "Where all lines go.")
        .must("completion_window", matching(WINDOW), "How long it may take.")
        .field("metadata", metadata(), "Stored and repeated.")
        .field("output_expires_after", expiry.schema(), "")
}

/// A file.
pub(crate) fn file(components: &mut Components) -> Value {
    components.derived::<FileObject>()
}

/// A page of the list of files.
pub(crate) fn file_list(components: &mut Components) -> Value {
    let entry = components.derived::<FileObject>();
    components.put("FileList", || page(entry))
}

/// A batch.
pub(crate) fn batch(components: &mut Components) -> Value {
    components.derived::<BatchObject>()
}

/// A page of the list of batches.
pub(crate) fn batch_list(components: &mut Components) -> Value {
    let entry = components.derived::<BatchObject>();
    components.put("BatchList", || page(entry))
}

fn page(entry: Value) -> Schema {
    Object::new()
        .must("object", word("list"), "")
        .must("data", list(Schema::of(entry)), "")
        .must("first_id", nullable(string()), "")
        .must("last_id", nullable(string()), "")
        .must("has_more", boolean(), "")
        .schema()
}

/// What is left of a file.
pub(crate) fn deleted() -> Schema {
    Object::new()
        .must("id", string(), "")
        .must("object", word("file"), "")
        .must("deleted", boolean(), "")
        .schema()
}
