//! A model that is here: which files to load, and what its makers say about how to use it.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::file_name::{is_gguf, is_projector, part};
use crate::files::Kind;
use crate::foreign::Found;
use crate::revision::Revision;
use crate::store::read_blob;
use crate::{
    Digest, HUB_HOST, HubPick, MediaType, ModelConfig, ModelName, Origin, Reference, State, Store, StoreError,
};

/// The quantization that is taken where a repository has several and none is named.
const QUANT_DEFAULT: &str = "Q4_K_M";
/// The most messages that open a conversation.
const MESSAGES_MAX: usize = 1000;

/// A chat template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Template {
    /// In Go's language, as Ollama's models have them.
    Go(String),
    /// In Jinja's language.
    Jinja(String),
}

/// Parameters by their names in Modelfiles: `temperature`, `num_ctx`, `stop`, ...
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Params(pub Map<String, Value>);

/// A message that opens each conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// Its text.
    pub content: String,
}

/// A model that is here.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Installed {
    /// Its name; a file of this machine has none.
    pub name: Option<ModelName>,
    /// Its weights: one file, or the parts of a split one in order.
    pub model: Vec<PathBuf>,
    /// Adapters that belong to it.
    pub adapters: Vec<PathBuf>,
    /// What makes images into embeddings.
    pub projector: Option<PathBuf>,
    /// Its chat template, where it is not that of the file.
    pub template: Option<Template>,
    /// Its system message.
    pub system: Option<String>,
    /// Its parameters.
    pub params: Params,
    /// Messages that open each conversation.
    pub messages: Vec<Message>,
    /// Licences' texts.
    pub licenses: Vec<String>,
    /// What its maker says that it is.
    pub config: Option<ModelConfig>,
    /// The digest of its manifest.
    pub digest: Option<Digest>,
}

/// What a reference means here.
pub(crate) fn open(store: &Store, reference: &Reference) -> Result<Option<Installed>, StoreError> {
    let found = match reference {
        Reference::Path(path) => return of_path(store, path).map(Some),
        Reference::Registry(name) => store.locate(name)?,
        Reference::Url(_) => match reference.name() {
            Some(name) => store.locate(&name)?,
            None => None,
        },
        Reference::Hub { repo, revision, pick } => {
            let named = match reference.name() {
                Some(name) => store.locate(&name)?,
                None => None,
            };
            let is_meant = |found: &Found| {
                let revised = |asked: &str| Revision::of(&store.shared, found).is_some_and(|is| is.is(asked));
                revision.as_deref().is_none_or(revised)
            };
            match (named, pick) {
                (Some(found), _) if !is_meant(&found) => other_revision(store, reference, found)?,
                (None, HubPick::Default) => any_of(store, repo.user(), repo.repo(), &is_meant)?,
                (named, _) => named,
            }
        }
    };
    found.map(|found| installed(store, &found)).transpose()
}

/// What is to be done with a model that has the name and is not of the revision that is asked for.
fn other_revision(store: &Store, reference: &Reference, found: Found) -> Result<Option<Found>, StoreError> {
    if found.entry.origin != Origin::Own {
        // The right one can stand in our store beside it.
        return Ok(None);
    }
    if matches!(found.entry.state, State::Broken(_)) {
        return Ok(Some(found));
    }
    let is = Revision::of(&store.shared, &found);
    let is = is.map_or_else(|| "one that nothing tells".to_owned(), |revision| revision.to_string());
    Err(StoreError::OtherRevision { name: Box::new(found.entry.name), is, asked: reference.to_string() })
}

/// What there is of a repository of which nothing in particular was asked for.
fn any_of(
    store: &Store,
    user: &str,
    repo: &str,
    is_meant: &dyn Fn(&Found) -> bool,
) -> Result<Option<Found>, StoreError> {
    let all = crate::foreign::all(&store.shared)?;
    let mut of_repo: Vec<Found> = all
        .into_iter()
        .filter(|found| {
            let name = &found.entry.name;
            name.host() == HUB_HOST
                && name.namespace() == user
                && name.model() == repo
                && found.entry.state == State::Ready
                && is_meant(found)
        })
        .collect();
    let at = of_repo.iter().position(|found| found.entry.name.tag() == QUANT_DEFAULT);
    match (at, of_repo.len()) {
        (Some(at), _) => Ok(Some(of_repo.swap_remove(at))),
        (None, 1) => Ok(of_repo.pop()),
        // None, or several of which none is meant more than the others.
        _ => Ok(None),
    }
}

fn installed(store: &Store, found: &Found) -> Result<Installed, StoreError> {
    let name = &found.entry.name;
    if let State::Broken(why) = &found.entry.state {
        return Err(StoreError::Broken { name: Box::new(name.clone()), why: why.clone() });
    }
    let mut model =
        Installed { name: Some(name.clone()), digest: found.entry.digest, ..Installed::default() };
    for blob in &found.blobs {
        let layer = |what, why| StoreError::Layer { name: name.to_string(), what, why };
        let read = |what: &'static str| {
            read_blob(&store.shared, &blob.path, blob.size, blob.digest).map_err(|error| match error {
                StoreError::WrongContent { .. } | StoreError::WrongSize { .. } => {
                    let why = "it is damaged; `ingle verify` finds what else is, and the model is pulled, created or \
                               imported again";
                    layer(what, why.into())
                }
                error => error,
            })
        };
        let text = |what: &'static str| {
            String::from_utf8(read(what)?).map_err(|_| layer(what, "it is not UTF-8".into()))
        };
        match blob.media_type {
            MediaType::Model => model.model.push(blob.path.clone()),
            MediaType::Adapter => model.adapters.push(blob.path.clone()),
            MediaType::Projector => model.projector = Some(blob.path.clone()),
            // A template in Jinja beside one in Go is what was made of it.
            MediaType::JinjaTemplate => model.template = Some(Template::Jinja(text("template")?)),
            MediaType::Template if model.template.is_none() => {
                model.template = Some(Template::Go(text("template")?))
            }
            MediaType::System => model.system = Some(text("system message")?),
            MediaType::License => model.licenses.push(text("licence")?),
            MediaType::Params => model.params = params(name, &read("parameters")?)?,
            MediaType::Messages => model.messages = messages(name, &read("messages")?)?,
            MediaType::Config => model.config = ModelConfig::parse(&read("configuration")?),
            MediaType::Template | MediaType::Other(_) => (),
        }
    }
    if model.model.is_empty() {
        let why = "it has no weights in a format that can be loaded; a model has a GGUF file".to_owned();
        return Err(StoreError::Broken { name: Box::new(name.clone()), why });
    }
    Ok(model)
}

fn params(name: &ModelName, bytes: &[u8]) -> Result<Params, StoreError> {
    match serde_json::from_slice(bytes) {
        Ok(Value::Object(params)) => Ok(Params(params)),
        _ => Err(StoreError::Layer {
            name: name.to_string(),
            what: "parameters",
            why: "they are no JSON object".into(),
        }),
    }
}

fn messages(name: &ModelName, bytes: &[u8]) -> Result<Vec<Message>, StoreError> {
    let wrong =
        |why: &str| StoreError::Layer { name: name.to_string(), what: "messages", why: why.to_owned() };
    let json: Value = serde_json::from_slice(bytes).map_err(|_| wrong("they are no JSON"))?;
    let list = json.as_array().ok_or_else(|| wrong("they are no JSON list"))?;
    if list.len() > MESSAGES_MAX {
        return Err(wrong("there are more than 1000"));
    }
    let message = |value: &Value| {
        let text = |key: &str| value[key].as_str().map(str::to_owned);
        Some(Message { role: text("role")?, content: text("content")? })
    };
    list.iter()
        .map(|value| message(value).ok_or_else(|| wrong("a message has `role` and `content`")))
        .collect()
}

/// A file, or a folder with one model.
fn of_path(store: &Store, path: &Path) -> Result<Installed, StoreError> {
    let files = &store.shared.files;
    let refused = |why: &str| StoreError::Path { path: path.to_owned(), why: why.to_owned() };
    let kind = match files.metadata(path) {
        Ok(found) => found.kind,
        Err(error) => return Err(StoreError::Io { what: "read", path: path.to_owned(), source: error }),
    };
    let model = match kind {
        Kind::File => vec![path.to_owned()],
        Kind::Other => return Err(StoreError::NotAFile(path.to_owned())),
        Kind::Dir => {
            let names = files.read_dir(path).unwrap_or_default();
            let models = names.iter().filter(|name| is_gguf(name) && !is_projector(name));
            let mut firsts: Vec<&String> =
                models.filter(|name| part(name).is_none_or(|part| part.number == 1)).collect();
            match (firsts.pop(), firsts.pop()) {
                (Some(only), None) => vec![path.join(only)],
                (Some(_), Some(_)) => {
                    return Err(refused("the folder has several models; name one of its files"));
                }
                _ if names.iter().any(|name| name.ends_with(".safetensors")) => {
                    return Err(refused(
                        "the folder has safetensors files; `ingle convert` makes a GGUF file of them",
                    ));
                }
                _ => return Err(refused("the folder has no GGUF file")),
            }
        }
    };
    Ok(Installed { model, ..Installed::default() })
}
