//! Giving a model a second name, wherever it is, and taking in files of others.

use std::io::{self, BufWriter, Write};
use std::path::Path;

use crate::error::Tried;
use crate::foreign::{Blob, Found};
use crate::{
    Digest, Expect, Layer, Manifest, MediaType, ModelConfig, ModelName, Published, Staged, State, Store,
    StoreError,
};

/// How much is gathered before it is written.
const WRITE_BYTES: usize = 1 << 20;

impl Store {
    /// Gives a model a second name; its blobs are shared. A model of a store that is only read is copied into ours.
    ///
    /// # Errors
    /// If there is no such model, or the system refuses.
    pub fn copy(&self, from: &ModelName, to: &ModelName) -> Result<Published, StoreError> {
        let found = self.locate(from)?.ok_or_else(|| StoreError::NotFound(Box::new(from.clone())))?;
        if let State::Broken(why) = found.entry.state {
            return Err(StoreError::Broken { name: Box::new(from.clone()), why });
        }
        let manifest = found.manifest(self)?;
        self.publish(to, &manifest)
    }

    /// Keeps what `write` writes, so many bytes, as a blob. There is no other file of it meanwhile.
    ///
    /// # Errors
    /// If there is no room, it is not so many bytes, or the system refuses.
    pub fn put_written(
        &self,
        size: u64,
        write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<Digest, StoreError> {
        let staged = self.stage(Expect { size: Some(size), ..Expect::default() })?;
        let mut out = StagedWriter { staged: &staged, at: 0, error: None };
        let written = {
            let mut buffer = BufWriter::with_capacity(WRITE_BYTES, &mut out);
            write(&mut buffer).and_then(|()| buffer.flush())
        };
        match (out.error, written) {
            (Some(error), _) => Err(error),
            (None, Err(error)) => Err(error).tried("write", self.shared.root()),
            (None, Ok(())) => staged.commit(),
        }
    }

    /// Copies a file of the model `name` into the store, if its content is what its place says it is: in other stores
    /// and caches the name of a file is its digest.
    ///
    /// # Errors
    /// If it is damaged, or as of [`Self::put_file`].
    pub(crate) fn take_in(
        &self,
        name: &ModelName,
        path: &Path,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<(Digest, u64), StoreError> {
        let (found, size) = self.put_file(path, progress)?;
        let real = self.shared.files.real_path(path).unwrap_or_else(|_| path.to_owned());
        let file = real.file_name().and_then(|file| file.to_str()).unwrap_or_default();
        match Digest::from_file_name(file).or_else(|| Digest::from_hex(file)) {
            Some(expected) if expected != found => {
                let why = format!("its file {expected} is damaged: what is there has the digest {found}");
                Err(StoreError::Broken { name: Box::new(name.clone()), why })
            }
            _ => Ok((found, size)),
        }
    }
}

/// A staged file that is written in order.
struct StagedWriter<'a> {
    staged: &'a Staged,
    at: u64,
    /// Why it cannot go on.
    error: Option<StoreError>,
}

impl Write for StagedWriter<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let refused = || io::Error::other("the store refuses");
        // A buffer tries once more when it is dropped: the first reason counts.
        if self.error.is_some() {
            return Err(refused());
        }
        self.staged.write_at(self.at, buf).map_err(|error| {
            self.error = Some(error);
            refused()
        })?;
        self.at += buf.len() as u64;
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Found {
    /// A manifest for our own store; what is not a blob of ours yet becomes one.
    fn manifest(&self, store: &Store) -> Result<Manifest, StoreError> {
        if let Some(manifest) = &self.manifest {
            for blob in &self.blobs {
                let is_here = match blob.digest {
                    Some(digest) => store.pin(&digest, Some(blob.size))?.is_some(),
                    None => false,
                };
                if !is_here {
                    store.take_in(&self.entry.name, &blob.path, &mut |_, _| ())?;
                }
            }
            return Ok(manifest.clone());
        }
        let put = |blob: &Blob| -> Result<Layer, StoreError> {
            let (digest, size) = store.take_in(&self.entry.name, &blob.path, &mut |_, _| ())?;
            let layer = Layer::new(blob.media_type.clone(), digest, size);
            Ok(match &blob.file {
                Some(file) => layer.with_file(file),
                None => layer,
            })
        };
        let layers: Vec<Layer> = self.blobs.iter().map(put).collect::<Result<_, _>>()?;
        let models = self.blobs.iter().filter(|blob| blob.media_type == MediaType::Model);
        let models: Vec<_> =
            models.map(|blob| (blob.path.clone(), blob.file.clone().unwrap_or_default())).collect();
        let file = store.shared.headers(&models).ok();
        let config = file.map(|file| ModelConfig::of_gguf(&file)).unwrap_or_default().to_bytes(&layers);
        let digest = store.put_bytes(&config)?;
        Ok(Manifest::new(Layer::new(MediaType::Config, digest, config.len() as u64), layers))
    }
}
