//! What FROM brings: the layers of a model of the store, or the files and texts of one that stands elsewhere.

use std::path::{Path, PathBuf};

use super::{CreateError, Part, Recipe};
use crate::{Installed, MediaType, ModelName, Reference, Store, StoreError, Template};

/// Tells how much of a file is copied: its path, bytes that are done, all bytes.
pub type Copying<'a> = &'a mut dyn FnMut(&Path, u64, u64);

impl Recipe {
    /// Takes what a model that is here brings, beneath what the recipe says already; whether it is here. What is taken
    /// stays in the store while the session `store` lives.
    ///
    /// # Errors
    /// If the model is here and cannot be used.
    pub fn upon(
        &mut self,
        store: &Store,
        reference: &Reference,
        copying: Copying<'_>,
    ) -> Result<bool, StoreError> {
        let Some(model) = store.open_model(reference)? else { return Ok(false) };
        self.source = Some(match reference {
            // What stands behind `?` may be a signature: it is not kept.
            Reference::Url(url) => url.split(['?', '#']).next().unwrap_or_default().to_owned(),
            other => other.to_string(),
        });
        let name = model.name.clone().or_else(|| reference.name());
        if let Some(manifest) = name.as_ref().map(|name| store.manifest(name)).transpose()?.flatten() {
            let mut is_here = true;
            for layer in manifest.blobs() {
                is_here &= store.pin(&layer.digest, Some(layer.size))?.is_some();
            }
            if is_here {
                self.base = Some(manifest);
                return Ok(true);
            }
        }
        self.take(model, name.as_ref(), store, copying)?;
        Ok(true)
    }

    /// The parts of a model that stands in another program's store.
    fn take(
        &mut self,
        model: Installed,
        name: Option<&ModelName>,
        store: &Store,
        copying: Copying<'_>,
    ) -> Result<(), StoreError> {
        let mut put = |path: &PathBuf| {
            let mut progress = |done, total| copying(path, done, total);
            let (digest, _) = match name {
                Some(name) => store.take_in(name, path, &mut progress)?,
                None => store.put_file(path, &mut progress)?,
            };
            Ok::<_, StoreError>(Part { name: file_name(path), digest })
        };
        let files =
            model.model.iter().chain(&model.projector).map(&mut put).collect::<Result<Vec<_>, _>>()?;
        let adapters = model.adapters.iter().map(&mut put).collect::<Result<Vec<_>, _>>()?;
        self.files.extend(files);
        self.adapters.splice(0..0, adapters);
        if let (None, Some(Template::Go(text) | Template::Jinja(text))) = (&self.template, model.template) {
            self.template = Some(text);
        }
        self.system = self.system.take().or(model.system);
        self.licenses.splice(0..0, model.licenses);
        for (name, value) in model.params.0 {
            self.params.entry(name).or_insert(value);
        }
        if self.messages.is_empty() {
            self.messages = model.messages;
        }
        let further = model.config.map(|config| config.further).unwrap_or_default();
        for (key, slot) in
            [("requires", &mut self.requires), ("renderer", &mut self.renderer), ("parser", &mut self.parser)]
        {
            let said = further.get(key).and_then(|value| value.as_str()).map(str::to_owned);
            *slot = slot.take().or(said);
        }
        Ok(())
    }

    /// The files with the weights of the model that is made, in the order of its parts: what adapters are checked
    /// against.
    ///
    /// # Errors
    /// If there are none, or they do not fit together.
    pub fn model_files(&self, store: &Store) -> Result<Vec<PathBuf>, CreateError> {
        let mut layers = self.weights(store, &mut |_| {})?;
        layers.retain(|layer| layer.media_type == MediaType::Model);
        if layers.is_empty() {
            let of_base = self.base.iter().flat_map(|base| base.of_type(&MediaType::Model));
            layers.extend(of_base.cloned());
        }
        if layers.is_empty() {
            return Err(CreateError::Nothing);
        }
        let path = |layer: &crate::Layer| {
            let path = store.pin(&layer.digest, Some(layer.size))?;
            path.ok_or(CreateError::Store(StoreError::MissingBlob(layer.digest)))
        };
        layers.iter().map(path).collect()
    }
}

/// The name of a file, as a model's page shows it. Blobs have none.
pub fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}
