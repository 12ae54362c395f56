//! The store of models, as routes use it: off the threads that answer requests, and with errors that name no path of
//! this machine.

use std::time::{Duration, UNIX_EPOCH};

use ingle_api::ollama::models::{StoredPage, StoredTag};
use ingle_chat::ProviderError;
use ingle_store::modelfile::Modelfile;
use ingle_store::{Catalogue, Entry, ModelConfig, ModelName, Reference, State, Store, StoreError, Template};

use crate::error::Failure;

/// A store, and what short names mean in it.
#[derive(Clone, Debug)]
pub struct ModelStore {
    /// The models.
    pub store: Store,
    /// What short names mean.
    pub catalogue: Catalogue,
}

impl ModelStore {
    /// The name that a caller means. Paths are never meant: whether a file is there is nobody's business.
    fn name(&self, text: &str) -> Result<ModelName, StoreError> {
        match self.store.resolve(text, &self.catalogue)? {
            Reference::Path(_) => Ok(text.parse()?),
            reference => match reference.name() {
                Some(name) => Ok(name),
                None => Ok(text.parse()?),
            },
        }
    }

    /// All models that can be used, the newest first.
    pub(crate) async fn tags(self) -> Result<Vec<StoredTag>, Failure> {
        blocking(move || {
            let mut tags = Vec::new();
            for entry in self.store.list()? {
                let (State::Ready, Some(digest)) = (&entry.state, entry.digest) else { continue };
                // What is damaged is still there, and can be removed or pulled again.
                let config = self.store.describe(&entry.name).unwrap_or_else(|error| {
                    tracing::warn!(name = %entry.name, %error, "a model is listed without what its file of settings says");
                    None
                });
                let config = config.unwrap_or_default();
                let ModelConfig { model_format, model_family, model_families, model_type, file_type, .. } =
                    config;
                tags.push(StoredTag {
                    name: entry.name.to_string(),
                    modified: since_epoch(&entry),
                    size: entry.size.unwrap_or_default(),
                    digest: digest.hex(),
                    format: model_format,
                    family: model_family,
                    families: model_families,
                    parameter_size: model_type,
                    quantization: file_type,
                });
            }
            tags.sort_by_key(|tag| std::cmp::Reverse(tag.modified));
            Ok(tags)
        })
        .await
    }

    /// What the store has of a model beside its file; `None` if it is none of the store's.
    pub(crate) async fn page(self, model: &str) -> Result<Option<StoredPage>, Failure> {
        let Ok(name) = model.parse::<ModelName>() else { return Ok(None) };
        blocking(move || {
            let Some(entry) = self.store.find(&name)? else { return Ok(None) };
            let Some(installed) = self.store.open_model(&Reference::Registry(name))? else { return Ok(None) };
            let modelfile = Modelfile::upon(&entry.name.to_string(), &installed).to_text_with_gaps();
            let template = installed.template.map(|template| match template {
                Template::Go(text) | Template::Jinja(text) => text,
            });
            Ok(Some(StoredPage {
                modified: since_epoch(&entry),
                license: installed.licenses.join("\n\n"),
                system: installed.system.unwrap_or_default(),
                template,
                modelfile: Some(modelfile),
                parameters: installed.params.0,
                messages: installed
                    .messages
                    .into_iter()
                    .map(|message| (message.role, message.content))
                    .collect(),
            }))
        })
        .await
    }

    /// Gives a model a second name.
    pub(crate) async fn copy(self, source: String, destination: String) -> Result<(), Failure> {
        self.change(move |own| {
            let (from, to) = (own.name(&source)?, own.store.spelled(destination.parse()?)?);
            own.store.session().copy(&from, &to).map(drop)
        })
        .await
    }

    /// Takes a model away.
    pub(crate) async fn remove(self, model: String) -> Result<(), Failure> {
        self.change(move |own| {
            let name = own.name(&model)?;
            own.store.session().remove(&name).map(drop)
        })
        .await
    }

    /// Does what changes the store; whoever names no model of it is told which there are.
    async fn change(
        self,
        work: impl FnOnce(&Self) -> Result<(), StoreError> + Send + 'static,
    ) -> Result<(), Failure> {
        blocking(move || {
            Ok(match work(&self) {
                Err(StoreError::NotFound(name)) => Err(ProviderError::UnknownModel {
                    model: name.to_string(),
                    available: self.store.list()?.iter().map(|entry| entry.name.to_string()).collect(),
                }),
                done => Ok(done?),
            })
        })
        .await?
        .map_err(Failure::from)
    }
}

/// When a model was put there.
fn since_epoch(entry: &Entry) -> Duration {
    entry.modified.and_then(|at| at.duration_since(UNIX_EPOCH).ok()).unwrap_or_default()
}

/// Does what reads and writes files on a thread for that.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, Failure> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(failure),
        Err(_) => Err(Failure::Panicked),
    }
}

/// Whose fault it was. What names a path of this machine is told to the log alone.
fn failure(error: StoreError) -> Failure {
    let invalid = |message: String, param: &str| ProviderError::InvalidRequest {
        message,
        param: Some(param.to_owned()),
    };
    let error = match error {
        StoreError::NotFound(name) => {
            ProviderError::UnknownModel { model: name.to_string(), available: Vec::new() }
        }
        StoreError::Name(why) => invalid(why.to_string(), "model"),
        StoreError::ReadOnly { name, .. } => {
            invalid(format!("model `{name}` is in a store that this server only reads"), "model")
        }
        StoreError::Busy(_) | StoreError::NameChanged { .. } => ProviderError::Busy(told(&error)),
        StoreError::OtherRevision { .. } => invalid(told(&error), "model"),
        error if error.is_of_a_model() => ProviderError::Unusable(told(&error)),
        other => ProviderError::Internal(told(&other)),
    };
    Failure::Provider(error)
}

/// What a client is told of a refusal of the store: never a path of this machine, which the log has.
pub(crate) fn told(error: &StoreError) -> String {
    error.without_paths().unwrap_or_else(|| {
        tracing::error!(%error, "the store of models");
        "the store of models cannot do that now; the server's log says why".to_owned()
    })
}
