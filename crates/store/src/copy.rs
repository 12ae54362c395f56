//! Giving a model a second name, wherever it is.

use crate::foreign::{Blob, Found};
use crate::{Layer, Manifest, MediaType, ModelConfig, ModelName, Published, State, Store, StoreError};

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
                    store.put_file(&blob.path, &mut |_, _| ())?;
                }
            }
            return Ok(manifest.clone());
        }
        let put = |blob: &Blob| -> Result<Layer, StoreError> {
            let (digest, size) = store.put_file(&blob.path, &mut |_, _| ())?;
            let layer = Layer::new(blob.media_type.clone(), digest, size);
            Ok(match &blob.file {
                Some(file) => layer.with_file(file),
                None => layer,
            })
        };
        let layers: Vec<Layer> = self.blobs.iter().map(put).collect::<Result<_, _>>()?;
        let first = self.blobs.iter().find(|blob| blob.media_type == MediaType::Model);
        let file = first.and_then(|blob| ingle_gguf::GgufFile::open(&blob.path).ok());
        let config = file.map(|file| ModelConfig::of_gguf(&file)).unwrap_or_default().to_bytes(&layers);
        let digest = store.put_bytes(&config)?;
        Ok(Manifest::new(Layer::new(MediaType::Config, digest, config.len() as u64), layers))
    }
}
