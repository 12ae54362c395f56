//! Bundles: one file that carries models to a machine without a network, with their manifests, the hash of every chunk,
//! and a signature.
//!
//! `docs/bundle-format.md` describes the file. Here is who does what with it: [`plan`] gathers models and checks their
//! files, [`Plan::write`] writes them; [`read_head`] reads what stands before the blobs, [`verify`] checks all the rest,
//! and [`import`] takes it into a store.

mod error;
mod export;
mod format;
mod hex;
mod import;
mod index;
mod partial;
mod parts;
mod reader;
mod sign;
mod writer;

#[cfg(test)]
mod tests;

pub use error::BundleError;
pub use export::{Asked, plan};
pub use import::{Arrival, ImportOptions, Imported, Outcome, admit, arrivals, import};
pub use index::{BundledBlob, BundledModel, Index};
pub use parts::{Input, PART_BYTES_MIN, PartWriter, Parts, Stream};
pub use reader::{Head, Sink, Trust, read_blobs, read_head, read_trusted_head, verify};
pub use sign::{PublicKey, SecretKey, TrustedKeys};
pub use writer::{BlobSource, Imprint, Plan, Source};
