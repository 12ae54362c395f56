//! Reading a bundle from its first byte to its last.
//!
//! The index comes first and is checked, with its signature, before a blob is read: who is not trusted writes nothing,
//! and how much room is needed is known. Each chunk is handed on only when its hash is right.

use std::io;

use super::error::BundleError;
use super::format::{HEADER_BYTES, Header, SIGNATURE_BYTES};
use super::index::{BundledBlob, Index};
use super::parts::Input;
use super::sign::{self, PublicKey, TrustedKeys};
use crate::{Digest, Hasher};

/// What stands before the blobs, checked.
#[derive(Debug)]
pub struct Head {
    /// What is in the bundle.
    pub index: Index,
    /// SHA-256 of the index, which names the bundle: it covers all of its contents.
    pub digest: Digest,
    /// Whose signature the index bears; it is a right one, which does not make the key trusted.
    pub signed_by: Option<PublicKey>,
    /// Bytes of the whole bundle.
    pub total_bytes: u64,
}

/// Whose bundles are taken.
#[derive(Clone, Debug, Default)]
pub struct Trust {
    /// Keys that may sign.
    pub keys: TrustedKeys,
    /// Whether a bundle is also taken that bears no signature, or that of another key.
    pub allow_unsigned: bool,
}

impl Trust {
    /// Whether a bundle with this signature is taken.
    ///
    /// # Errors
    /// It is not: [`BundleError::Unsigned`] or [`BundleError::UntrustedKey`].
    pub fn check(&self, signed_by: Option<&PublicKey>) -> Result<(), BundleError> {
        match signed_by {
            Some(key) if self.keys.contains(key) => Ok(()),
            _ if self.allow_unsigned => Ok(()),
            Some(key) => Err(BundleError::UntrustedKey(*key)),
            None => Err(BundleError::Unsigned),
        }
    }
}

/// Reads and checks header, index and signature.
///
/// # Errors
/// The input is no bundle, damaged, cut, or not what the format allows; its signature is a wrong one.
pub fn read_head(input: &mut dyn Input) -> Result<Head, BundleError> {
    read_envelope(input)?.open(input)
}

/// The same of a bundle that is trusted: the index of another is not looked into.
///
/// # Errors
/// As [`read_head`] and [`Trust::check`].
pub fn read_trusted_head(input: &mut dyn Input, trust: &Trust) -> Result<Head, BundleError> {
    let envelope = read_envelope(input)?;
    trust.check(envelope.signed_by.as_ref())?;
    envelope.open(input)
}

/// What can be told of a bundle without looking into its index.
struct Envelope {
    header: Header,
    /// What the checksum of the header fits.
    index_bytes: Vec<u8>,
    signed_by: Option<PublicKey>,
}

fn read_envelope(input: &mut dyn Input) -> Result<Envelope, BundleError> {
    if input.total() == Some(0) {
        return Err(BundleError::NotABundle("it is empty"));
    }
    let mut bytes = [0; HEADER_BYTES];
    read(input, &mut bytes, 0, None)?;
    let header = Header::parse(&bytes)?;
    let index_bytes = read_index(input, header)?;
    if *Digest::of(&index_bytes).as_bytes() != header.index_sha256 {
        let why = input.total().and_then(|n| input.missing(n)).map(BundleError::MissingPart);
        let text = "its index has another checksum than its header says";
        return Err(why.unwrap_or_else(|| BundleError::Damaged(text.into())));
    }
    let signed_by = if header.signed {
        let mut signature = [0; SIGNATURE_BYTES];
        read(input, &mut signature, HEADER_BYTES as u64 + u64::from(header.index_bytes), None)?;
        Some(sign::check(&signature, &header.index_sha256)?)
    } else {
        None
    };
    Ok(Envelope { header, index_bytes, signed_by })
}

impl Envelope {
    fn open(self, input: &dyn Input) -> Result<Head, BundleError> {
        let Self { header, index_bytes, signed_by } = self;
        let index = Index::parse(&index_bytes)?;
        let total_bytes = header.data_start() + index.data_bytes();
        match input.total() {
            Some(n) if n < total_bytes => return Err(cut(input, n, total_bytes)),
            Some(n) if n > total_bytes => return Err(too_long()),
            _ => {}
        }
        Ok(Head { index, digest: Digest::from_bytes(header.index_sha256), signed_by, total_bytes })
    }
}

/// Reads what the header claims, without believing in the claim before the bytes are there.
fn read_index(input: &mut dyn Input, header: Header) -> Result<Vec<u8>, BundleError> {
    const STEP: usize = 1 << 20;
    let mut bytes = Vec::new();
    let mut left = header.index_bytes as usize;
    while left > 0 {
        let (start, n) = (bytes.len(), left.min(STEP));
        bytes.resize(start + n, 0);
        read(input, &mut bytes[start..], (HEADER_BYTES + start) as u64, None)?;
        left -= n;
    }
    Ok(bytes)
}

/// Takes the blobs of a bundle, in their order.
pub trait Sink {
    /// A blob begins.
    ///
    /// # Errors
    /// It cannot be taken.
    fn begin(&mut self, blob: &BundledBlob) -> Result<(), BundleError>;
    /// Whether a chunk of the current blob was taken earlier and need not be read again.
    fn has(&self, blob: &BundledBlob, chunk: usize) -> bool;
    /// A chunk of the current blob, whose hash is right.
    ///
    /// # Errors
    /// It cannot be taken.
    fn chunk(&mut self, offset: u64, bytes: &[u8]) -> Result<(), BundleError>;
    /// The current blob is complete; its digest is still to be checked.
    ///
    /// # Errors
    /// It is not what its digest says, or cannot be kept.
    fn end(&mut self, blob: &BundledBlob) -> Result<(), BundleError>;
}

/// Reads all blobs after [`read_head`], and makes sure that the input ends there. `progress` is told how many bytes of
/// the bundle are done, and how many there are.
///
/// # Errors
/// The input is cut, damaged or too long, or the sink has failed.
pub fn read_blobs(
    input: &mut dyn Input,
    head: &Head,
    sink: &mut dyn Sink,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(), BundleError> {
    let total = head.total_bytes;
    let mut done = total - head.index.data_bytes();
    let mut buf = Vec::new();
    progress(done, total);
    for blob in &head.index.blobs {
        sink.begin(blob)?;
        let mut offset = 0;
        for (chunk, hash) in blob.chunks.iter().enumerate() {
            let n = (blob.size - offset).min(u64::from(head.index.chunk_bytes));
            if sink.has(blob, chunk) {
                input.skip(n).map_err(|error| read_error(input, error, done, Some(total)))?;
            } else {
                buf.resize(n as usize, 0);
                read(input, &mut buf, done, Some(total))?;
                if Digest::of(&buf) != *hash {
                    return Err(BundleError::Damaged(format!(
                        "bytes {done} to {} are not what its index says (blob {}, from {offset})",
                        done + n,
                        blob.digest
                    )));
                }
                sink.chunk(offset, &buf)?;
            }
            offset += n;
            done += n;
            progress(done, total);
        }
        sink.end(blob)?;
    }
    match input.is_at_end() {
        Ok(true) => Ok(()),
        Ok(false) => Err(too_long()),
        Err(error) => Err(read_error(input, error, done, Some(total))),
    }
}

/// Reads all of a bundle and checks every byte, and keeps nothing.
///
/// # Errors
/// As [`read_blobs`].
pub fn verify(
    input: &mut dyn Input,
    head: &Head,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(), BundleError> {
    read_blobs(input, head, &mut Check::default(), progress)
}

/// Checks digests and keeps nothing.
#[derive(Default)]
pub(super) struct Check(Hasher);

impl Sink for Check {
    fn begin(&mut self, _: &BundledBlob) -> Result<(), BundleError> {
        self.0 = Hasher::new();
        Ok(())
    }

    fn has(&self, _: &BundledBlob, _: usize) -> bool {
        false
    }

    fn chunk(&mut self, _: u64, bytes: &[u8]) -> Result<(), BundleError> {
        self.0.update(bytes);
        Ok(())
    }

    fn end(&mut self, blob: &BundledBlob) -> Result<(), BundleError> {
        let found = std::mem::take(&mut self.0).finish();
        if found == blob.digest {
            return Ok(());
        }
        // Each chunk was what the index says: it is the index that contradicts itself.
        Err(BundleError::Invalid(format!("blob {} has the digest {found}", blob.digest)))
    }
}

fn read(input: &mut dyn Input, buf: &mut [u8], at: u64, total: Option<u64>) -> Result<(), BundleError> {
    input.read_exact(buf).map_err(|error| read_error(input, error, at, total))
}

fn read_error(input: &dyn Input, error: io::Error, at: u64, total: Option<u64>) -> BundleError {
    match (error.kind(), input.total(), total) {
        (io::ErrorKind::UnexpectedEof, Some(n), Some(total)) => cut(input, n, total),
        (io::ErrorKind::UnexpectedEof, Some(n), None) => {
            BundleError::Damaged(format!("it ends after {n} bytes"))
        }
        (io::ErrorKind::UnexpectedEof, None, total) => match (input.n_read(), total) {
            (0, _) => BundleError::NotABundle("it is empty"),
            (n, Some(total)) => BundleError::Damaged(format!("it ends after {n} bytes of {total}")),
            (n, None) => BundleError::Damaged(format!("it ends after {n} bytes, and more was to come")),
        },
        _ => BundleError::io(format!("cannot read the bundle at byte {at}"))(error),
    }
}

fn cut(input: &dyn Input, found: u64, total: u64) -> BundleError {
    match input.missing(total) {
        Some(text) => BundleError::MissingPart(text),
        None => BundleError::Damaged(format!("it has {found} bytes of {total}")),
    }
}

fn too_long() -> BundleError {
    BundleError::Damaged("bytes follow its end".into())
}
