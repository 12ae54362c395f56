//! Writing a bundle: each blob is read twice, once to learn its hashes and once to copy it.
//!
//! That makes the index stand before the blobs, where a reader needs it, and makes sure that only sound files are
//! signed; what changes between the two is found.

use std::fs::File;
use std::io::{Read, Write};
use std::path::PathBuf;

use super::error::BundleError;
use super::format::Header;
use super::index::{BundledBlob, BundledModel, CHUNK_BYTES, Index, full_name};
use super::sign::SecretKey;
use crate::{Digest, Hasher, Store};

/// Where the bytes of a blob are.
#[derive(Clone, Debug)]
pub enum Source {
    /// In a file.
    File(PathBuf),
    /// Here.
    Bytes(Vec<u8>),
}

/// A blob to write: what it must be, and where its bytes are.
#[derive(Clone, Debug)]
pub struct BlobSource {
    /// Its SHA-256.
    pub digest: Digest,
    /// How many bytes it has.
    pub size: u64,
    /// Where they are.
    pub source: Source,
    /// The digests of its chunks, if it has been read.
    chunks: Option<Vec<Digest>>,
}

impl BlobSource {
    /// A blob whose digest somebody vouches for; it is checked before it is written.
    pub fn new(digest: Digest, size: u64, source: Source) -> Self {
        Self { digest, size, source, chunks: None }
    }

    /// A blob whose digest nobody knows yet. `read` is told of each chunk's bytes.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read(source: Source, read: &mut dyn FnMut(u64)) -> Result<Self, BundleError> {
        let Hashed { digest, size, chunks } = hash(&source, CHUNK_BYTES, read)?;
        Ok(Self { digest, size, source, chunks: Some(chunks) })
    }
}

/// A bundle that is ready to be written.
#[derive(Debug)]
pub struct Plan {
    index: Index,
    /// One for each blob of the index, in its order.
    sources: Vec<Source>,
    /// Keeps the blobs of a store from being removed before they are written.
    _session: Option<Store>,
}

/// Who writes, and when.
#[derive(Clone, Debug)]
pub struct Imprint {
    /// Program and version.
    pub creator: String,
    /// RFC 3339 in UTC, whole seconds.
    pub created: String,
}

/// Hashes a file, chunk by chunk. `read` is told of each chunk's bytes.
fn hash(source: &Source, chunk_bytes: u32, read: &mut dyn FnMut(u64)) -> Result<Hashed, BundleError> {
    let mut reader = open(source)?;
    let (mut whole, mut chunks, mut size) = (Hasher::new(), Vec::new(), 0u64);
    let mut buf = vec![0; chunk_bytes as usize];
    loop {
        let n = fill(&mut reader, &mut buf, source)?;
        if n == 0 {
            break;
        }
        whole.update(&buf[..n]);
        chunks.push(Digest::of(&buf[..n]));
        size += n as u64;
        read(n as u64);
    }
    Ok(Hashed { digest: whole.finish(), size, chunks })
}

struct Hashed {
    digest: Digest,
    size: u64,
    chunks: Vec<Digest>,
}

impl Plan {
    /// Reads and checks everything that is to be written. `progress` is told of bytes read and bytes in all.
    ///
    /// # Errors
    /// A file is not what its digest says or cannot be read, or the models are too many or contradict each other.
    pub fn new(
        mut models: Vec<BundledModel>,
        mut blobs: Vec<BlobSource>,
        imprint: &Imprint,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Self, BundleError> {
        Self::with_chunks(&mut models, &mut blobs, imprint, CHUNK_BYTES, progress)
    }

    /// The same with chunks of another size, for tests.
    #[doc(hidden)]
    pub fn with_chunks(
        models: &mut Vec<BundledModel>,
        blobs: &mut Vec<BlobSource>,
        imprint: &Imprint,
        chunk_bytes: u32,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Self, BundleError> {
        // Told before hours of reading.
        for model in models.iter() {
            model.manifest.check_fit().map_err(|why| {
                BundleError::Source(format!(
                    "{} cannot be exported: no store would take it: {why}",
                    model.name
                ))
            })?;
        }
        models.sort_by_key(|model| full_name(&model.name));
        models.dedup();
        blobs.sort_by_key(|blob| blob.digest);
        blobs.dedup_by(|a, b| a.digest == b.digest);
        let unread = blobs.iter().filter(|blob| blob.chunks.is_none());
        let total = unread.map(|blob| blob.size).fold(0, u64::saturating_add);
        let (mut done, mut offset) = (0, 0);
        let mut index = Index {
            creator: imprint.creator.clone(),
            created: imprint.created.clone(),
            chunk_bytes,
            models: std::mem::take(models),
            blobs: Vec::with_capacity(blobs.len()),
        };
        let mut sources = Vec::with_capacity(blobs.len());
        for blob in blobs.drain(..) {
            let hashed = match blob.chunks {
                Some(chunks) => Hashed { digest: blob.digest, size: blob.size, chunks },
                None => hash(&blob.source, chunk_bytes, &mut |n| {
                    done += n;
                    progress(done, total);
                })?,
            };
            if (&hashed.digest, hashed.size) != (&blob.digest, blob.size) {
                return Err(BundleError::Source(format!(
                    "{} is damaged: it should have {} bytes with {} and has {} with {}; get that model again",
                    place(&blob.source),
                    blob.size,
                    blob.digest,
                    hashed.size,
                    hashed.digest
                )));
            }
            index.blobs.push(BundledBlob {
                digest: blob.digest,
                size: blob.size,
                offset,
                chunks: hashed.chunks,
            });
            offset += hashed.size;
            sources.push(blob.source);
        }
        index.check()?;
        Index::check_bytes(&index.to_bytes())?;
        Ok(Self { index, sources, _session: None })
    }

    /// The same, which keeps what this session keeps until it is dropped.
    #[must_use]
    pub(super) fn keeping(self, session: Store) -> Self {
        Self { _session: Some(session), ..self }
    }

    /// What will be in the bundle.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// Bytes of the bundle, signed or not.
    pub fn total_bytes(&self, signed: bool) -> u64 {
        let index_bytes = self.index.to_bytes().len() as u32;
        Header { signed, index_bytes, index_sha256: [0; 32] }.data_start() + self.index.data_bytes()
    }

    /// Writes the bundle; its digest comes back. `progress` is told of bytes written and bytes in all.
    ///
    /// # Errors
    /// A file has changed since it was hashed, or the output cannot be written.
    pub fn write(
        &self,
        out: &mut dyn Write,
        key: Option<&SecretKey>,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Digest, BundleError> {
        let failed = || BundleError::io("cannot write the bundle");
        let index = self.index.to_bytes();
        let digest = Digest::of(&index);
        let sha256 = *digest.as_bytes();
        let index_bytes = u32::try_from(index.len()).expect("the plan checked it");
        let header = Header { signed: key.is_some(), index_bytes, index_sha256: sha256 };
        out.write_all(&header.to_bytes()).map_err(failed())?;
        out.write_all(&index).map_err(failed())?;
        if let Some(key) = key {
            out.write_all(&key.sign(&sha256)).map_err(failed())?;
        }
        let mut done = header.data_start();
        let total = done + self.index.data_bytes();
        let mut buf = vec![0; self.index.chunk_bytes as usize];
        for (blob, source) in self.index.blobs.iter().zip(&self.sources) {
            let mut reader = open(source)?;
            for hash in &blob.chunks {
                let n = fill(&mut reader, &mut buf, source)?;
                if Digest::of(&buf[..n]) != *hash {
                    return Err(changed(source));
                }
                out.write_all(&buf[..n]).map_err(failed())?;
                done += n as u64;
                progress(done, total);
            }
        }
        if done != total {
            return Err(BundleError::Source("a file changed while it was exported; export again".into()));
        }
        out.flush().map_err(failed())?;
        Ok(digest)
    }
}

fn changed(source: &Source) -> BundleError {
    BundleError::Source(format!("{} changed while it was exported; export again", place(source)))
}

fn place(source: &Source) -> String {
    match source {
        Source::File(path) => path.display().to_string(),
        Source::Bytes(_) => "a part of the manifest".into(),
    }
}

fn open(source: &Source) -> Result<Box<dyn Read + '_>, BundleError> {
    Ok(match source {
        Source::File(path) => {
            let file =
                File::open(path).map_err(BundleError::io(format!("cannot read {}", path.display())))?;
            Box::new(file)
        }
        Source::Bytes(bytes) => Box::new(&bytes[..]),
    })
}

/// Reads until the buffer is full or the file ends.
fn fill(reader: &mut dyn Read, buf: &mut [u8], source: &Source) -> Result<usize, BundleError> {
    let mut n = 0;
    while n < buf.len() {
        match reader.read(&mut buf[n..]) {
            Ok(0) => break,
            Ok(more) => n += more,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(BundleError::io(format!("cannot read {}", place(source)))(error)),
        }
    }
    Ok(n)
}
