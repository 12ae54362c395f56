//! Files: the fields of an upload's form, the file object, lists of files.

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::json;

use super::json as text;
use crate::RequestError;
use crate::error::quoted;

/// What files can be for: those that are the input of batches, and those that are only kept.
pub(super) const PURPOSES: &[&str] = &["batch", "user_data"];
/// What files of OpenAI's can be for besides.
const PURPOSES_ELSEWHERE: &[&str] = &["assistants", "evals", "fine-tune", "vision"];
/// What this server makes itself.
const PURPOSE_OUTPUT: &str = "batch_output";
/// The longest name, in bytes.
const NAME_BYTES_MAX: usize = 512;
/// The most files on a page of a list, which is also how many there are if nothing is said.
const LIMIT_MAX: u32 = 10_000;
/// How long a file may be kept that goes by itself, in seconds.
pub(super) const TTL_S: std::ops::RangeInclusive<u64> = 3600..=30 * 24 * 3600;
/// The longest value of a field that is no file, in bytes.
pub const FIELD_BYTES_MAX: usize = 1024;

/// The fields of an upload, as they come: their order is the client's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UploadForm {
    purpose: Option<String>,
    anchor: Option<String>,
    seconds: Option<String>,
    name: Option<String>,
}

/// An upload, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UploadCall {
    /// What it is for.
    pub purpose: String,
    /// The name of the file.
    pub name: String,
    /// How long it is kept, in seconds; `None` is until it is deleted.
    pub ttl_s: Option<u64>,
}

impl UploadForm {
    /// Takes a field that is no file.
    ///
    /// # Errors
    /// If it is not known, or comes twice.
    pub fn field(&mut self, name: &str, value: String) -> Result<(), RequestError> {
        let place = match name {
            "purpose" => &mut self.purpose,
            "expires_after[anchor]" => &mut self.anchor,
            "expires_after[seconds]" => &mut self.seconds,
            _ => {
                let text = format!("unknown field {}: remove it", quoted(name));
                return Err(RequestError::field(crate::shown(name), text).with_code("unknown_field"));
            }
        };
        match place.replace(value) {
            None => Ok(()),
            Some(_) => Err(RequestError::field(name, format!("`{name}` is given twice"))),
        }
    }

    /// Takes the name of the file.
    ///
    /// # Errors
    /// If there is one already, or it is no name.
    pub fn file(&mut self, name: Option<&str>) -> Result<(), RequestError> {
        let fits = |name: &&str| {
            (1..=NAME_BYTES_MAX).contains(&name.len()) && !name.contains(|c: char| c.is_control() || c == '"')
        };
        let name = name.filter(fits).ok_or_else(|| {
            let text = format!(
                "`file` must have a file name of 1 to {NAME_BYTES_MAX} bytes, without quotes and control characters"
            );
            RequestError::field("file", text)
        })?;
        match self.name.replace(name.to_owned()) {
            None => Ok(()),
            Some(_) => Err(RequestError::field("file", "`file` is given twice; upload one file at a time")),
        }
    }

    /// Ends the form.
    ///
    /// # Errors
    /// If something is missing, or cannot be served.
    pub fn finish(self) -> Result<UploadCall, RequestError> {
        let missing = |name: &str| RequestError::field(name, format!("`{name}` is missing"));
        let purpose = self.purpose.ok_or_else(|| missing("purpose"))?;
        check_purpose(&purpose)?;
        let name = self.name.ok_or_else(|| missing("file"))?;
        const SECONDS: &str = "expires_after[seconds]";
        const ANCHOR: &str = "expires_after[anchor]";
        if self.anchor.as_deref().is_some_and(|anchor| anchor != "created_at") {
            return Err(RequestError::field(ANCHOR, format!("`{ANCHOR}` can only be \"created_at\"")));
        }
        let ttl_s = match (self.anchor, self.seconds) {
            (None, None) => None,
            (Some(_), None) => return Err(missing(SECONDS)),
            (None, Some(_)) => return Err(missing(ANCHOR)),
            (Some(_), Some(seconds)) => {
                let fits = |n: &u64| TTL_S.contains(n);
                Some(seconds.parse().ok().filter(fits).ok_or_else(|| {
                    let text = format!("`{SECONDS}` must be from {} to {}", TTL_S.start(), TTL_S.end());
                    RequestError::field(SECONDS, text)
                })?)
            }
        };
        Ok(UploadCall { purpose, name, ttl_s })
    }
}

fn check_purpose(purpose: &str) -> Result<(), RequestError> {
    if PURPOSES.contains(&purpose) {
        return Ok(());
    }
    let problem = match PURPOSES_ELSEWHERE.contains(&purpose) {
        true => "nothing here uses such files",
        false => "there is no such purpose",
    };
    let text = format!("`purpose` is {}: {problem}; it can be {}", quoted(purpose), PURPOSES.join(" or "));
    Err(RequestError::field("purpose", text).with_code("unsupported_value"))
}

/// Which of the files are shown, and in what order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileListOptions {
    /// Those for this.
    pub purpose: Option<String>,
    /// Those that come after this one.
    pub after: Option<String>,
    /// At most so many.
    pub limit: u32,
    /// The newest first, or the oldest.
    pub newest_first: bool,
}

impl FileListOptions {
    /// From the names and values of a query.
    ///
    /// # Errors
    /// The name or value that is not known.
    pub fn parse<'a>(query: impl Iterator<Item = (&'a str, &'a str)>) -> Result<Self, RequestError> {
        let mut options = Self { purpose: None, after: None, limit: LIMIT_MAX, newest_first: true };
        for (name, value) in query {
            match (name, value) {
                ("limit", n) => options.limit = limit(n, LIMIT_MAX)?,
                ("order", "asc") => options.newest_first = false,
                ("order", "desc") => options.newest_first = true,
                ("order", other) => {
                    let text = format!("`order` is {}; it can be asc or desc", quoted(other));
                    return Err(RequestError::field("order", text));
                }
                ("after", id) => options.after = Some(id.to_owned()),
                ("purpose", purpose) => {
                    if purpose != PURPOSE_OUTPUT && !PURPOSES_ELSEWHERE.contains(&purpose) {
                        check_purpose(purpose)?;
                    }
                    options.purpose = Some(purpose.to_owned());
                }
                (other, _) => return Err(unknown_parameter(other)),
            }
        }
        Ok(options)
    }
}

/// A `limit` of a query.
pub(super) fn limit(text: &str, max: u32) -> Result<u32, RequestError> {
    text.parse().ok().filter(|n| (1..=max).contains(n)).ok_or_else(|| {
        let text = format!("`limit` must be from 1 to {max}, not {}", quoted(text));
        RequestError::field("limit", text)
    })
}

/// The refusal of a query's parameter.
pub(super) fn unknown_parameter(name: &str) -> RequestError {
    let text = format!("unknown parameter {}: remove it", quoted(name));
    RequestError::field(crate::shown(name), text).with_code("unknown_field")
}

/// A file, as replies show it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(rename = "File")]
pub struct FileObject {
    /// Its id.
    pub id: String,
    /// `file`.
    pub object: &'static str,
    /// Its length.
    pub bytes: u64,
    /// When it was made, in seconds since the epoch.
    pub created_at: u64,
    /// When it goes.
    pub expires_at: Option<u64>,
    /// What its owner calls it.
    pub filename: String,
    /// What it is for.
    pub purpose: String,
    /// `processed`: there is nothing to wait for.
    pub status: &'static str,
    /// Nothing: no file is refused after its upload.
    pub status_details: Option<String>,
}

impl FileObject {
    /// A file that is there.
    pub fn new(id: String, filename: String, purpose: String, bytes: u64, created_at: u64) -> Self {
        Self {
            id,
            object: "file",
            bytes,
            created_at,
            expires_at: None,
            filename,
            purpose,
            status: "processed",
            status_details: None,
        }
    }

    /// As a reply body.
    pub fn into_json(self) -> String {
        text(&self)
    }
}

/// A page of a list.
#[derive(Serialize)]
pub(super) struct ListBody<'a, T> {
    object: &'static str,
    data: &'a [T],
    first_id: Option<&'a str>,
    last_id: Option<&'a str>,
    has_more: bool,
}

impl<'a, T: Serialize> ListBody<'a, T> {
    pub fn new(data: &'a [T], id: impl Fn(&'a T) -> &'a str, has_more: bool) -> Self {
        let (first_id, last_id) = (data.first().map(&id), data.last().map(&id));
        Self { object: "list", data, first_id, last_id, has_more }
    }
}

/// A page of files, as a reply body.
pub fn list(files: &[FileObject], has_more: bool) -> String {
    text(&ListBody::new(files, |file| &file.id, has_more))
}

/// The reply to a deletion.
pub fn deleted(id: &str) -> String {
    json!({ "id": id, "object": "file", "deleted": true }).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(fields: &[(&str, &str)], name: Option<&str>, expected: Result<(&str, Option<u64>), &str>) {
        let mut form = UploadForm::default();
        let read = fields.iter().try_for_each(|(name, value)| form.field(name, (*value).to_owned()));
        let read = read.and_then(|()| match name {
            Some(name) => form.file(Some(name)),
            None => Ok(()),
        });
        match (read.and_then(|()| form.finish()), expected) {
            (Ok(call), Ok((purpose, ttl_s))) => {
                assert_eq!((call.purpose.as_str(), call.ttl_s), (purpose, ttl_s), "{fields:?}");
            }
            (Err(e), Err(part)) => assert!(e.message.contains(part) && e.param.is_some(), "{fields:?}: {e}"),
            (got, _) => panic!("{fields:?}: {got:?}"),
        }
    }

    #[test]
    fn forms() {
        let file = Some("a.jsonl");
        let batch = ("purpose", "batch");
        check(&[batch], file, Ok(("batch", None)));
        check(&[("purpose", "user_data")], file, Ok(("user_data", None)));
        let anchor = ("expires_after[anchor]", "created_at");
        check(&[batch, anchor, ("expires_after[seconds]", "3600")], file, Ok(("batch", Some(3600))));
        check(&[batch, anchor, ("expires_after[seconds]", "3599")], file, Err("from 3600 to 2592000"));
        check(&[batch, anchor, ("expires_after[seconds]", "x")], file, Err("from 3600"));
        check(&[batch, anchor], file, Err("`expires_after[seconds]` is missing"));
        check(&[batch, ("expires_after[seconds]", "3600")], file, Err("`expires_after[anchor]` is missing"));
        check(&[batch, ("expires_after[anchor]", "now")], file, Err("created_at"));
        check(&[batch], None, Err("`file` is missing"));
        check(&[batch], Some(""), Err("1 to 512 bytes"));
        check(&[batch], Some("a\"b"), Err("without quotes"));
        check(&[], file, Err("`purpose` is missing"));
        check(&[batch, batch], file, Err("given twice"));
        check(&[("purpose", "fine-tune")], file, Err("nothing here uses"));
        check(&[("purpose", "x")], file, Err("no such purpose"));
        check(&[batch, ("color", "red")], file, Err("unknown field `color`"));
    }

    #[test]
    fn queries() {
        let check = |query: &[(&str, &str)], expected: Result<FileListOptions, &str>| match (
            FileListOptions::parse(query.iter().copied()),
            expected,
        ) {
            (Ok(got), Ok(expected)) => assert_eq!(got, expected),
            (Err(e), Err(part)) => assert!(e.message.contains(part), "{e}"),
            (got, _) => panic!("{query:?}: {got:?}"),
        };
        let all = FileListOptions { purpose: None, after: None, limit: 10_000, newest_first: true };
        check(&[], Ok(all.clone()));
        check(
            &[("purpose", "batch_output"), ("limit", "3"), ("after", "x"), ("order", "asc")],
            Ok(FileListOptions {
                purpose: Some("batch_output".into()),
                after: Some("x".into()),
                limit: 3,
                newest_first: false,
            }),
        );
        check(&[("purpose", "vision")], Ok(FileListOptions { purpose: Some("vision".into()), ..all }));
        check(&[("purpose", "nonsense")], Err("no such purpose"));
        check(&[("limit", "0")], Err("from 1 to 10000"));
        check(&[("order", "up")], Err("asc or desc"));
        check(&[("before", "x")], Err("unknown parameter"));
    }
}
