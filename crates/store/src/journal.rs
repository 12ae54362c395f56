//! What is known of a file that is on its way: which chunks are there, and where they come from.
//!
//! The journal stands beside the file and is only appended to: a first line of JSON says what the file will be, and each
//! further line names a chunk that is complete and durable, with its SHA-256. A line that was torn is none. Whoever takes
//! the file up again reads each chunk and compares, so that a journal that lies costs a chunk and never a model.
//!
//! Of a file whose digest nobody knew before, a last line says which blob it has become, so that it is found again when
//! its process died before a manifest named it; that journal stays until one does.

use std::collections::BTreeMap;
use std::ops::Range;

use serde_json::{Value, json};

use crate::Digest;

/// The size of a chunk: what is lost at most, per stream, when a transfer is cut.
pub const CHUNK_BYTES: u64 = 16 << 20;

/// What begins the line of the blob that a file has become.
const BLOB: &str = "blob";
/// The version of the form.
const VERSION: u64 = 1;
/// The largest journal that is read.
pub(crate) const JOURNAL_BYTES_MAX: u64 = 16 << 20;
/// The most chunks of a file that can be taken up: three terabytes. Their lines, of at most 72 bytes, fit the journal.
pub(crate) const CHUNKS_MAX: u64 = 200_000;

/// Where a file comes from, and which version of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceId {
    /// Its address, without what changes from day to day (signatures).
    pub url: String,
    /// What the source calls this version (an ETag); without one a file whose digest is not known is never resumed.
    pub version: Option<String>,
}

/// Which parts of a file are there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Journal {
    pub(crate) digest: Option<Digest>,
    pub(crate) size: Option<u64>,
    pub(crate) source: Option<SourceId>,
    pub(crate) chunk_bytes: u64,
    pub(crate) chunks: BTreeMap<u64, Digest>,
    /// The blob that it has become, if its digest was not known before.
    pub(crate) blob: Option<Digest>,
}

impl Journal {
    /// The whole file's size in bytes, if it is known.
    pub fn size(&self) -> Option<u64> {
        self.size
    }

    /// Where the bytes come from.
    pub fn source(&self) -> Option<&SourceId> {
        self.source.as_ref()
    }

    /// The size of a chunk in bytes; the last one may be shorter.
    pub fn chunk_bytes(&self) -> u64 {
        self.chunk_bytes
    }

    /// The chunks that are complete, by their number, with their digests.
    pub fn chunks(&self) -> impl Iterator<Item = (u64, Digest)> + '_ {
        self.chunks.iter().map(|(index, digest)| (*index, *digest))
    }

    /// Bytes that are there.
    pub fn done_bytes(&self) -> u64 {
        self.chunks.keys().map(|index| self.range(*index)).map(|range| range.end - range.start).sum()
    }

    /// What is still to be fetched: one range of bytes for each chunk, in order. Without a size it is nothing: such a
    /// file is written from its beginning to its end.
    pub fn missing(&self) -> Vec<Range<u64>> {
        let n_chunks = self.size.unwrap_or(0).div_ceil(self.chunk_bytes);
        (0..n_chunks)
            .filter(|index| !self.chunks.contains_key(index))
            .map(|index| self.range(index))
            .collect()
    }

    /// The bytes of a chunk.
    pub(crate) fn range(&self, index: u64) -> Range<u64> {
        // Saturated only beyond the end of any file.
        let start = index.saturating_mul(self.chunk_bytes);
        let end = start.saturating_add(self.chunk_bytes);
        start..self.size.map_or(end, |size| size.min(end))
    }

    /// The first line.
    pub(crate) fn header(&self) -> String {
        let source =
            self.source.as_ref().map(|source| json!({ "url": source.url, "version": source.version }));
        let digest = self.digest.map(|digest| digest.to_string());
        let json = json!({
            "journal": VERSION,
            "digest": digest,
            "size": self.size,
            "chunk_bytes": self.chunk_bytes,
            "source": source,
        });
        format!("{json}\n")
    }

    /// The line of a chunk.
    pub(crate) fn line(index: u64, digest: &Digest) -> String {
        format!("{index} {}\n", digest.hex())
    }

    /// The line of the blob that it becomes.
    pub(crate) fn blob_line(digest: &Digest) -> String {
        format!("{BLOB} {}\n", digest.hex())
    }

    /// Reads a journal; also how many of its bytes are whole lines. `None` if not even the first line can be read.
    pub(crate) fn parse(bytes: &[u8]) -> Option<(Self, u64)> {
        let mut lines = bytes.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n"));
        let first = lines.next()?;
        let mut journal = Self::parse_header(first)?;
        let mut end = first.len() as u64;
        for line in lines {
            let Some((what, digest)) = parse_line(line) else { break };
            if what == BLOB {
                journal.blob = Some(digest);
                end += line.len() as u64;
                continue;
            }
            let Ok(index) = what.parse::<u64>() else { break };
            let size = journal.size.unwrap_or(i64::MAX as u64);
            let is_inside = index < size.div_ceil(journal.chunk_bytes);
            if !is_inside {
                break;
            }
            journal.chunks.insert(index, digest);
            end += line.len() as u64;
        }
        Some((journal, end))
    }

    fn parse_header(line: &[u8]) -> Option<Self> {
        let json: Value = serde_json::from_slice(line).ok()?;
        if json["journal"].as_u64() != Some(VERSION) {
            return None;
        }
        let digest = match &json["digest"] {
            Value::Null => None,
            digest => Some(digest.as_str()?.parse().ok()?),
        };
        let source = match &json["source"] {
            Value::Null => None,
            source => Some(SourceId {
                url: source["url"].as_str()?.to_owned(),
                version: source["version"].as_str().map(str::to_owned),
            }),
        };
        let chunk_bytes = json["chunk_bytes"].as_u64().filter(|n| (1..=1 << 30).contains(n))?;
        let size = json["size"].as_u64().filter(|size| *size <= i64::MAX as u64);
        Some(Self { digest, size, source, chunk_bytes, chunks: BTreeMap::new(), blob: None })
    }
}

/// What a line is about, and the digest that it gives.
fn parse_line(line: &[u8]) -> Option<(&str, Digest)> {
    let text = std::str::from_utf8(line).ok()?.strip_suffix('\n')?;
    let (what, hex) = text.split_once(' ')?;
    Some((what, Digest::from_hex(hex)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Journal {
        let source = SourceId { url: "https://h/x".into(), version: Some("\"v1\"".into()) };
        Journal {
            digest: Some(Digest::of(b"x")),
            size: Some(25),
            source: Some(source),
            chunk_bytes: 10,
            chunks: BTreeMap::new(),
            blob: None,
        }
    }

    #[test]
    fn what_is_missing() {
        let mut journal = sample();
        assert_eq!(journal.missing(), [0..10, 10..20, 20..25]);
        journal.chunks.insert(1, Digest::of(b""));
        assert_eq!(journal.missing(), [0..10, 20..25]);
        journal.chunks.insert(2, Digest::of(b""));
        assert_eq!(journal.done_bytes(), 15);
        journal.size = None;
        assert_eq!(journal.missing(), []);
    }

    #[test]
    fn torn_journals() {
        let mut journal = sample();
        let mut text = journal.header().into_bytes();
        assert_eq!(Journal::parse(&text), Some((journal.clone(), text.len() as u64)));
        assert_eq!(Journal::parse(&text[..text.len() - 1]), None, "no first line");
        let whole = text.len();
        let line = Journal::line(1, &Digest::of(b"chunk"));
        text.extend_from_slice(line.as_bytes());
        for cut in whole..text.len() {
            assert_eq!(Journal::parse(&text[..cut]), Some((journal.clone(), whole as u64)), "cut at {cut}");
        }
        let end = text.len() as u64;
        journal.chunks.insert(1, Digest::of(b"chunk"));
        text.extend_from_slice(b"\0\0\0\n2 abc\n");
        assert_eq!(
            Journal::parse(&text),
            Some((journal.clone(), end)),
            "what follows a torn line is not read"
        );
        text.truncate(end as usize);
        let mut become_blob = text.clone();
        become_blob.extend_from_slice(Journal::blob_line(&Digest::of(b"whole")).as_bytes());
        let expected = Journal { blob: Some(Digest::of(b"whole")), ..journal.clone() };
        assert_eq!(Journal::parse(&become_blob), Some((expected, become_blob.len() as u64)));
        text.extend_from_slice(Journal::line(3, &Digest::of(b"beyond")).as_bytes());
        assert_eq!(Journal::parse(&text), Some((journal, end)), "there are three chunks");
        // Of no known size: no chunk is beyond what a file can have.
        let unknown = Journal { size: None, chunks: BTreeMap::new(), ..sample() };
        for index in [u64::MAX, u64::MAX / 10, i64::MAX as u64] {
            let mut text = unknown.header() + &Journal::line(1, &Digest::of(b"chunk"));
            text += &Journal::line(index, &Digest::of(b"beyond"));
            let (found, _) = Journal::parse(text.as_bytes()).expect("its first line is whole");
            assert_eq!((found.chunks.len(), found.done_bytes()), (1, 10), "{index}");
        }
        for text in ["", "\n", "{}\n", "{\"journal\":2}\n", "null\n"] {
            assert_eq!(Journal::parse(text.as_bytes()), None);
        }
    }
}
