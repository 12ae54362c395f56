//! `/api/create`: a model of the store from another one, which is pulled if it is not here, or from blobs that were sent
//! before. No path that a client writes is ever looked for on this machine.

use std::path::PathBuf;
use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::routing::post;
use ingle_api::RequestError;
use ingle_api::ollama::create::CreateCall;
use ingle_api::ollama::transfer::status_line;
use ingle_chat::ProviderError;
use ingle_store::modelfile::{CreateError, Part, Recipe, Status};
use ingle_store::pull::{Event, PullOptions};
use ingle_store::{Catalogue, Digest, Message, ModelName, NameError, Reference, Store, StoreError};

use super::models::check_scope;
use super::ollama::no_store;
use super::steps::{Lines, reply};
use super::table::Routes;
use super::{Context, Reply, pull};
use crate::App;
use crate::body::{parse, read_any_json};
use crate::error::Failure;
use crate::importer::ImportError;
use crate::phase::Phase;
use crate::store::told;
use crate::transfers::Transfers;

/// The route.
pub(super) fn routes() -> Routes {
    Routes::default().route("/api/create", post(create))
}

async fn create(
    State(app): State<Arc<App>>,
    Extension(context): Extension<Context>,
    headers: HeaderMap,
    body: Body,
) -> Reply {
    check_scope(&app, &context.principal)?;
    let store = app.config.store.clone().ok_or_else(no_store)?;
    let transfers = app.config.transfers.clone();
    let body = read_any_json(&app, &headers, body).await?;
    let call = parse(body, CreateCall::parse).await?;
    let wrong = |error: NameError| RequestError::field("model", format!("`model`: {error}"));
    let name: ModelName = call.model.parse().map_err(wrong)?;
    let ending = app.phases.reached(Phase::Ending);
    reply(call.stream, |lines| async move {
        // What is put into the store stays there until the model has its name.
        let making = Making { store: store.store.session(), catalogue: store.catalogue, transfers, lines };
        let mut recipe = Recipe {
            template: call.template,
            system: call.system,
            licenses: call.licenses,
            params: call.parameters,
            messages: call.messages.into_iter().map(|(role, content)| Message { role, content }).collect(),
            requires: call.requires,
            renderer: call.renderer,
            parser: call.parser,
            ..Recipe::default()
        };
        if let Some(from) = &call.from {
            recipe = tokio::select! {
                recipe = making.upon(from, recipe) => recipe?,
                () = ending => return Err(Failure::ShuttingDown),
            };
        }
        let lines = making.lines.clone();
        let make = move || making.make(&name, recipe, call.files, call.adapters);
        tokio::task::spawn_blocking(make).await.map_err(|_| Failure::Panicked)??;
        let _ = lines.send(status_line(&Status::Success.to_string())).await;
        Ok(())
    })
    .await
}

/// A model that is being made.
struct Making {
    store: Store,
    catalogue: Catalogue,
    transfers: Option<Arc<Transfers>>,
    lines: Lines,
}

impl Making {
    /// Adds what the model brings that the new one is made from, which is fetched if it is not here.
    async fn upon(&self, from: &str, recipe: Recipe) -> Result<Recipe, Failure> {
        let wrong = |text: String| Failure::from(RequestError::field("from", text));
        let reference = self.store.resolve(from, &self.catalogue).map_err(|error| match error {
            StoreError::Name(why) => wrong(format!("`from`: {why}")),
            error => stored(error),
        })?;
        if let Reference::Path(_) = reference {
            let text = "`from` names a model; files of yours are sent to /api/blobs and named in `files`";
            return Err(wrong(text.to_owned()));
        }
        let (recipe, is_here) = self.found(&reference, recipe).await?;
        if is_here {
            return Ok(recipe);
        }
        self.pull(&reference).await?;
        match self.found(&reference, recipe).await? {
            (recipe, true) => Ok(recipe),
            _ => Err(missing(&reference)),
        }
    }

    async fn found(&self, reference: &Reference, mut recipe: Recipe) -> Result<(Recipe, bool), Failure> {
        let (store, reference) = (self.store.clone(), reference.clone());
        let find = move || {
            let is_here = recipe.upon(&store, &reference, &mut |_, _, _| {})?;
            Ok::<_, StoreError>((recipe, is_here))
        };
        tokio::task::spawn_blocking(find).await.map_err(|_| Failure::Panicked)?.map_err(stored)
    }

    async fn pull(&self, reference: &Reference) -> Result<(), Failure> {
        let transfers = self.transfers.as_deref().ok_or_else(|| missing(reference))?;
        let _turn = pull::turn(transfers)?;
        let watch = |event: &Event| pull::tell(&self.lines, "pulling", event);
        let pulled = transfers.puller().pull(reference, PullOptions::default(), &watch).await;
        let Err(error) = pulled else { return Ok(()) };
        tracing::info!(%error, "a model to make another from was not pulled");
        let why = pull::words(&error);
        let message = format!("`from`: the model {reference} is not here, and cannot be pulled: {why}");
        Err(match pull::failure(&error) {
            Failure::NoSuchModel(_) => Failure::NoSuchModel(message),
            Failure::ShuttingDown => Failure::ShuttingDown,
            Failure::Provider(ProviderError::Forbidden { .. }) => ProviderError::Forbidden { message }.into(),
            Failure::Provider(ProviderError::Upstream(_)) => ProviderError::Upstream(message).into(),
            Failure::Provider(ProviderError::Busy(_)) => ProviderError::Busy(message).into(),
            Failure::Provider(ProviderError::Unusable(_)) => ProviderError::Unusable(message).into(),
            _ => RequestError::field("from", message).into(),
        })
    }

    /// Makes the model, on a thread that may wait for disks.
    fn make(
        &self,
        name: &ModelName,
        mut recipe: Recipe,
        files: Blobs,
        adapters: Blobs,
    ) -> Result<(), Failure> {
        // Nobody need listen: the model is made all the same. The last line is told when all is done.
        let mut tell = |status: Status| match status {
            Status::Success => {}
            status => drop(self.lines.blocking_send(status_line(&status.to_string()))),
        };
        let name = &self.store.spelled(name.clone()).map_err(stored)?;
        let importing = Importing { store: &self.store, transfers: self.transfers.as_deref() };
        recipe.files.extend(importing.files(files, &mut tell)?);
        recipe.adapters.extend(importing.adapters(adapters, &recipe, &mut tell)?);
        recipe.make(&self.store, name, &mut tell).map_err(refused)?;
        self.release_uploads(name);
        if let Some(importer) = importing.transfers.and_then(Transfers::importer) {
            let remarks = importer.remarks(&self.store, name);
            remarks.iter().for_each(|remark| drop(self.lines.blocking_send(status_line(remark))));
        }
        Ok(())
    }
}

impl Making {
    /// What was sent for this model is kept by its name from now on.
    fn release_uploads(&self, name: &ModelName) {
        let (Some(transfers), Ok(Some(manifest))) = (&self.transfers, self.store.manifest(name)) else {
            return;
        };
        let digests: Vec<Digest> = manifest.blobs().map(|layer| layer.digest).collect();
        transfers.uploads().release(&digests);
    }
}

/// Names of files and their digests, as a client writes them.
type Blobs = Vec<(String, String)>;

fn missing(reference: &Reference) -> Failure {
    ProviderError::UnknownModel { model: reference.to_string(), available: Vec::new() }.into()
}

fn refused(error: CreateError) -> Failure {
    match error {
        CreateError::Store(error) => stored(error),
        error => RequestError::body(error.to_string()).into(),
    }
}

/// Blobs that clients name, as GGUF files.
struct Importing<'a> {
    store: &'a Store,
    transfers: Option<&'a Transfers>,
}

impl Importing<'_> {
    fn files(&self, blobs: Blobs, tell: &mut dyn FnMut(Status)) -> Result<Vec<Part>, Failure> {
        let parts = parts(blobs, "files")?;
        if !has_safetensors(&parts) {
            return Ok(parts.into_iter().map(plain).collect());
        }
        let (importer, files) = (self.importer("files")?, self.paths(&parts)?);
        tell(Status::Converting("model"));
        let mut note = |text| tell(Status::Note(text));
        Ok(vec![importer.model(&files, self.store, &mut note).map_err(|error| imported("files", error))?])
    }

    fn adapters(
        &self,
        blobs: Blobs,
        recipe: &Recipe,
        tell: &mut dyn FnMut(Status),
    ) -> Result<Vec<Part>, Failure> {
        let parts = parts(blobs, "adapters")?;
        if !has_safetensors(&parts) {
            return Ok(parts.into_iter().map(plain).collect());
        }
        let (importer, files) = (self.importer("adapters")?, self.paths(&parts)?);
        let model = recipe.model_files(self.store).map_err(refused)?;
        tell(Status::Converting("adapter"));
        let made = importer.adapter(&files, &model, self.store);
        Ok(vec![made.map_err(|error| imported("adapters", error))?])
    }

    fn importer(&self, field: &'static str) -> Result<&dyn crate::Importer, Failure> {
        let importer = self.transfers.and_then(Transfers::importer);
        importer.ok_or_else(|| {
            RequestError::field(field, format!("`{field}`: this server takes GGUF files only")).into()
        })
    }

    /// Where the blobs are; they stay while this session does.
    fn paths(&self, parts: &[Part]) -> Result<Vec<(String, PathBuf)>, Failure> {
        let path = |part: &Part| match self.store.pin(&part.digest, None) {
            Ok(Some(path)) => Ok((part.name.clone(), path)),
            Ok(None) => Err(stored(StoreError::MissingBlob(part.digest))),
            Err(error) => Err(stored(error)),
        };
        parts.iter().map(path).collect()
    }
}

fn imported(field: &'static str, error: ImportError) -> Failure {
    match error {
        ImportError::Files(text) => RequestError::field(field, format!("`{field}`: {text}")).into(),
        ImportError::Store(error) => stored(error),
    }
}

fn has_safetensors(parts: &[Part]) -> bool {
    parts.iter().any(|part| part.name.to_ascii_lowercase().ends_with(".safetensors"))
}

/// The part by its own name, without folders.
fn plain(part: Part) -> Part {
    let name = part.name.rsplit('/').next().unwrap_or_default().to_owned();
    Part { name, ..part }
}

fn parts(blobs: Blobs, field: &'static str) -> Result<Vec<Part>, Failure> {
    let part = |(name, digest): (String, String)| match digest.parse::<Digest>() {
        Ok(digest) => Ok(Part { name, digest }),
        Err(error) => Err(RequestError::field(field, format!("`{field}`: {error}")).into()),
    };
    blobs.into_iter().map(part).collect()
}

/// What the store refuses, without a path of this machine, which the log has.
fn stored(error: StoreError) -> Failure {
    match error {
        StoreError::NotFound(name) => {
            ProviderError::UnknownModel { model: name.to_string(), available: Vec::new() }.into()
        }
        StoreError::MissingBlob(digest) => {
            RequestError::body(format!("the blob {digest} is not here: send it to /api/blobs first")).into()
        }
        StoreError::Busy(digest) => {
            ProviderError::Busy(format!("{digest} is being written; try again when it is done")).into()
        }
        error if error.is_of_a_model() => ProviderError::Unusable(told(&error)).into(),
        StoreError::WrongContent { .. }
        | StoreError::WrongSize { .. }
        | StoreError::TooLarge { .. }
        | StoreError::OtherRevision { .. }
        | StoreError::Unfit { .. } => RequestError::body(told(&error)).into(),
        error => ProviderError::Internal(told(&error)).into(),
    }
}
