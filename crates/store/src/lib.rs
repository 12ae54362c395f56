//! The models of this machine: names, content-addressed blobs, and manifests that say which blobs a model is.
//!
//! The layout on disk is the one of Ollama's store, so that what is pulled or pushed needs no translation:
//! `blobs/sha256-<64 hex>` and `manifests/<host>/<namespace>/<model>/<tag>`. Ours beside it are `tmp/` (files on their
//! way to `blobs/`, with the journals by which they resume), `sums/` (the digests of chunks) and `locks/`.
//!
//! | module | owns |
//! |---|---|
//! | `digest`, `name`, `reference`, `catalogue` | what a user may write, checked once and typed from there on |
//! | `file_name` | what names of GGUF files tell |
//! | `manifest`, `config` | what a model consists of, as bytes and as values |
//! | `files` | every operation on files, behind one trait, so that tests can cut the power at each of them |
//! | `staged`, `journal` | a file on its way: chunks, hashes, resumption, and the steps that make it a blob |
//! | `store`, `copy` | the whole: publish, find, copy |
//! | `shared` | places, locks, and the steps that others are made of |
//! | `prune`, `verify`, `sums` | removals, and what nobody needs any more; what is no longer what it was, from all bytes or a few |
//! | `installed`, `revision` | a model's files and texts, ready to be loaded; which revision it is of |
//! | `pull`, `peers`, `push` | models from hubs, registries and other nodes, and to registries; over `egress`, asynchronous |
//! | `bundle` | models in one file, for machines without a network |
//! | `modelfile` | what a model is made from, in Ollama's words, and making it |
//! | `foreign` | caches of Hugging Face's libraries and Ollama's stores, used where they stand, never written |
//!
//! **What holds after any crash.** A file with a digest as its name has that content. A manifest that can be seen has
//! all its blobs, with the right sizes. Models that were there before are the same, bit for bit. What is left over can
//! be resumed or is collected, and never blocks the next command. After a failed sync nothing is taken for durable.
//! The order that makes it so: write a temporary file, verify it, sync it, rename it, sync the folder; then the same for
//! the manifest; and for removals the manifest first, durably, then the blobs.
//!
//! **Who may do what at the same time.** All processes of a machine. One lock per blob says who writes it (exclusive) or
//! needs it although no manifest names it yet (shared); one lock of names is held while manifests change and while
//! blobs are removed. They are locks of the system: a process that dies gives them back.

pub mod bundle;
mod catalogue;
mod config;
mod copy;
mod digest;
mod entry;
mod error;
pub mod file_name;
pub mod files;
mod foreign;
mod header;
mod installed;
mod journal;
mod manifest;
pub mod modelfile;
mod name;
pub mod peers;
mod prune;
pub mod pull;
pub mod push;
mod reference;
mod revision;
mod shared;
mod staged;
mod store;
mod sums;
mod verify;

pub use catalogue::{Catalogue, CatalogueError};
pub use config::ModelConfig;
pub use digest::{Digest, DigestError, Hasher};
pub use entry::{Entry, Origin, Published, Removed, State, StoreConfig};
pub use error::StoreError;
pub use installed::{Installed, Message, Params, Template};
pub use journal::{CHUNK_BYTES, Journal, SourceId};
pub use manifest::{Layer, Manifest, ManifestError, MediaType, annotation};
pub use name::{DEFAULT_HOST, DEFAULT_NAMESPACE, DEFAULT_TAG, ModelName, NameError};
pub use prune::{Pruned, Unreadable};
pub use reference::{HUB_HOST, HubPick, HubRepo, Reference};
pub use staged::{Expect, Staged};
pub use store::Store;
pub use sums::check_sample;
pub use verify::{Finding, Verdict};
