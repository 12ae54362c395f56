//! A model of the store, made from a recipe: layers that are there, files that were put into the store, and texts.

use ingle_chat::template::{ChatTemplate, Syntax, TemplateError, TemplateOptions};
use ingle_gguf::{GgufError, GgufFile};
use serde_json::{Map, Value, json};

use super::{Instruction, Modelfile, ParamProblem, Role, check_parameter, check_version};
use crate::manifest::LAYERS_MAX;
use crate::{
    Digest, Layer, Manifest, MediaType, Message, ModelConfig, ModelName, Published, Store, StoreError,
    annotation,
};

/// The most files that a model is made from.
const FILES_MAX: usize = 1024;
/// The most licences, and the most messages.
const TEXTS_MAX: usize = 1000;
/// The longest text of a layer, in bytes: what is read back as a whole.
const TEXT_BYTES_MAX: usize = 1 << 20;

/// A file that stands in the store as a blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// What it was called: parts of a split model are put in order by it. It names no place.
    pub name: String,
    /// Its content.
    pub digest: Digest,
}

impl Part {
    /// Its layer, which says what the file was called. The file of a blob, as `show --modelfile` prints it, has no name.
    fn layer(&self, media_type: MediaType, size: u64) -> Layer {
        let layer = Layer::new(media_type, self.digest, size);
        if Digest::from_file_name(&self.name).is_some() { layer } else { layer.with_file(&self.name) }
    }
}

/// What a model is made from.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Recipe {
    /// A model whose layers it has, as far as nothing else is said.
    pub base: Option<Manifest>,
    /// Where the weights come from, as the user named it.
    pub source: Option<String>,
    /// Files with weights, or with what makes images into embeddings.
    pub files: Vec<Part>,
    /// LoRA adapters.
    pub adapters: Vec<Part>,
    /// The chat template; an empty one takes that of the base away.
    pub template: Option<String>,
    /// The system message; an empty one takes that of the base away.
    pub system: Option<String>,
    /// Licences, behind those of the base.
    pub licenses: Vec<String>,
    /// Parameters, before those of the base.
    pub params: Map<String, Value>,
    /// Messages, instead of those of the base.
    pub messages: Vec<Message>,
    /// The least version of Ollama.
    pub requires: Option<String>,
    /// The code of Ollama's that makes prompts. Here the file's own chat template does.
    pub renderer: Option<String>,
    /// The code of Ollama's that reads answers. Here they are read as the chat template shows.
    pub parser: Option<String>,
}

/// How far making a model is, in Ollama's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// The headers of files are read.
    Parsing,
    /// A blob that was there already.
    Using(Digest),
    /// A new blob.
    Creating(Digest),
    /// A GGUF file is made of what is in another format: `model` or `adapter`.
    Converting(&'static str),
    /// Something that its user should know.
    Note(String),
    /// All blobs are there.
    WritingManifest,
    /// It is done.
    Success,
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Parsing => f.write_str("parsing GGUF"),
            Self::Using(digest) => write!(f, "using existing layer {digest}"),
            Self::Creating(digest) => write!(f, "creating new layer {digest}"),
            Self::Converting(what) => write!(f, "converting {what}"),
            Self::Note(text) => write!(f, "note: {text}"),
            Self::WritingManifest => f.write_str("writing manifest"),
            Self::Success => f.write_str("success"),
        }
    }
}

/// A model that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// There is nothing to make it from.
    #[error("there is nothing to make a model from: name a model, or give files with weights")]
    Nothing,
    /// There is too much of something.
    #[error("a model has at most {max} {what}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How much.
        max: usize,
    },
    /// A blob that was named is not there.
    #[error("the blob {digest} of {name} is not in the store: send it first")]
    NoBlob {
        /// The file that it is.
        name: String,
        /// The blob.
        digest: Digest,
    },
    /// A file that is no GGUF file, or a bad one.
    #[error("{name}: {source}; a model is made from GGUF files (`ingle convert` makes some of safetensors)")]
    File {
        /// The file.
        name: String,
        /// Why.
        source: GgufError,
    },
    /// A file in the wrong place.
    #[error("{name} {problem}")]
    Kind {
        /// The file.
        name: String,
        /// What it is, and where it belongs.
        problem: &'static str,
    },
    /// A chat template that is none.
    #[error("TEMPLATE: {0}")]
    Template(TemplateError),
    /// A parameter that cannot be set so.
    #[error("PARAMETER: {0}")]
    Parameter(#[from] ParamProblem),
    /// No version.
    #[error("REQUIRES: {0}")]
    Version(String),
    /// A renderer that is not here, and nothing in its place.
    #[error(
        "RENDERER `{0}` is a part of Ollama itself; the model's file has no chat template that could take its place: \
         give a TEMPLATE, and leave RENDERER out"
    )]
    Renderer(String),
    /// An instruction that is refused.
    #[error("{0}")]
    Refused(&'static str),
    /// The store refuses.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What DRAFT is told.
const NO_DRAFT: &str = "DRAFT is not available: name the draft model where the model is served (`ingle serve \
                        --draft-model FILE`)";

impl Recipe {
    /// What a Modelfile says, but for FROM and ADAPTER, which name things that the caller has to find.
    ///
    /// # Errors
    /// If it has an instruction that is not available.
    pub fn of(modelfile: &Modelfile) -> Result<Self, CreateError> {
        let mut recipe = Self::default();
        for instruction in &modelfile.instructions {
            match instruction.clone() {
                Instruction::From(_) | Instruction::Adapter(_) => {}
                Instruction::Template(text) => recipe.template = Some(text),
                Instruction::System(text) => recipe.system = Some(text),
                Instruction::License(text) => recipe.licenses.push(text),
                Instruction::Message(role, content) => {
                    recipe.messages.push(Message { role: role.name().to_owned(), content });
                }
                Instruction::Parameter(name, value) => match recipe.params.get_mut(&name) {
                    Some(Value::Array(values)) => values.push(value),
                    _ => {
                        let value = if name == "stop" { Value::Array(vec![value]) } else { value };
                        recipe.params.insert(name, value);
                    }
                },
                Instruction::Requires(version) => recipe.requires = Some(version),
                Instruction::Renderer(name) => recipe.renderer = Some(name),
                Instruction::Parser(name) => recipe.parser = Some(name),
                Instruction::Draft(_) => return Err(CreateError::Refused(NO_DRAFT)),
            }
        }
        Ok(recipe)
    }

    /// Makes the model and gives it its name. Until that is done nothing of it can be seen.
    ///
    /// # Errors
    /// If something of the recipe cannot be used, or the store refuses.
    pub fn make(
        &self,
        store: &Store,
        name: &ModelName,
        status: &mut dyn FnMut(Status),
    ) -> Result<Published, CreateError> {
        self.check()?;
        let mut layers = self.base.as_ref().map(|base| base.layers.clone()).unwrap_or_default();
        let new = self.weights(store, status)?;
        if new.iter().any(|layer| layer.media_type == MediaType::Model) {
            layers.retain(|layer| layer.media_type != MediaType::Model);
        }
        layers.splice(0..0, new);
        layers.extend(self.adapter_layers(store, status)?);
        let first = layers.iter().find(|layer| layer.media_type == MediaType::Model);
        let first = first.ok_or(CreateError::Nothing)?;
        let header = open(store, &Part { name: "the model".into(), digest: first.digest })?.0;
        let config = self.config(store, &header)?;
        self.texts(store, &mut layers, status)?;
        if layers.len() > LAYERS_MAX {
            return Err(CreateError::TooMany { what: "layers", max: LAYERS_MAX });
        }
        if let Some(renderer) = config.further.get("renderer").and_then(Value::as_str) {
            let has_own = header.metadata().opt_str("tokenizer.chat_template").ok().flatten().is_some();
            if !has_own && self.template.as_ref().is_none_or(String::is_empty) {
                return Err(CreateError::Renderer(renderer.to_owned()));
            }
            status(Status::Note(format!(
                "RENDERER {renderer} is a part of Ollama itself: prompts are made by the file's own chat template"
            )));
        }
        if let Some(parser) = config.further.get("parser").and_then(Value::as_str) {
            status(Status::Note(format!(
                "PARSER {parser} is a part of Ollama itself: answers are read as the chat template shows"
            )));
        }
        let bytes = config.to_bytes(&layers);
        let config = put(store, MediaType::Config, &bytes, status)?;
        let mut manifest = Manifest::new(config, layers);
        if let Some(source) = &self.source {
            manifest.annotations.insert(annotation::SOURCE.to_owned(), source.clone());
        }
        status(Status::WritingManifest);
        let published = store.publish(name, &manifest)?;
        status(Status::Success);
        Ok(published)
    }

    /// Checks what needs no file.
    fn check(&self) -> Result<(), CreateError> {
        if self.base.is_none() && self.files.is_empty() {
            return Err(CreateError::Nothing);
        }
        let counts = [
            ("files", self.files.len() + self.adapters.len(), FILES_MAX),
            ("licences", self.licenses.len() + self.base_licenses(), TEXTS_MAX),
            ("messages", self.messages.len(), TEXTS_MAX),
        ];
        let sizes = [
            ("bytes of licence", self.licenses.iter().map(String::len).max().unwrap_or(0)),
            ("bytes of messages", self.messages.iter().map(|m| m.content.len() + 64).sum()),
            ("bytes of system message", self.system.as_ref().map_or(0, String::len)),
            ("bytes of template", self.template.as_ref().map_or(0, String::len)),
        ];
        let sizes = sizes.map(|(what, n)| (what, n, TEXT_BYTES_MAX));
        if let Some((what, _, max)) = counts.into_iter().chain(sizes).find(|(_, n, max)| n > max) {
            return Err(CreateError::TooMany { what, max });
        }
        if let Some(template) = self.template.as_deref().filter(|t| !t.is_empty()) {
            ChatTemplate::with_syntax(template, Syntax::of(template), TemplateOptions::default())
                .map_err(CreateError::Template)?;
        }
        for (name, value) in &self.params {
            check_parameter(name, value)?;
        }
        for message in &self.messages {
            if Role::named(&message.role).is_none() {
                return Err(CreateError::Refused("a message is said by system, user or assistant"));
            }
        }
        if let Some(version) = &self.requires {
            check_version(version).map_err(CreateError::Version)?;
        }
        Ok(())
    }

    /// How many licences the base brings.
    fn base_licenses(&self) -> usize {
        self.base.as_ref().map_or(0, |base| base.of_type(&MediaType::License).count())
    }

    /// The layers of files: weights in the order of their parts, then projectors.
    pub(super) fn weights(
        &self,
        store: &Store,
        status: &mut dyn FnMut(Status),
    ) -> Result<Vec<Layer>, CreateError> {
        let mut models: Vec<(u64, u64, &Part, Layer)> = Vec::new();
        let mut projectors = Vec::new();
        for part in &self.files {
            status(Status::Parsing);
            let (header, size) = open(store, part)?;
            let metadata = header.metadata();
            let text = |key: &str| metadata.opt_str(key).ok().flatten();
            let kind = text("general.type").unwrap_or("model");
            let layer = |media_type| part.layer(media_type, size);
            status(Status::Using(part.digest));
            match (kind, text("general.architecture")) {
                ("adapter", _) => {
                    let problem =
                        "is a LoRA adapter: name it with ADAPTER, and the model that it is for with FROM";
                    return Err(CreateError::Kind { name: part.name.clone(), problem });
                }
                ("mmproj", _) | (_, Some("clip")) => projectors.push(layer(MediaType::Projector)),
                _ => {
                    let number = |key: &str| metadata.opt_u64(key).ok().flatten();
                    let (no, count) =
                        (number("split.no").unwrap_or(0), number("split.count").unwrap_or(1).max(1));
                    models.push((no, count, part, layer(MediaType::Model)));
                }
            }
        }
        models.sort_by_key(|(no, ..)| *no);
        for (at, (no, count, part, _)) in models.iter().enumerate() {
            if *no != at as u64 || *count != models.len() as u64 {
                let problem = match count {
                    1 => "is a second model: a model is made from one, or from all parts of a split one",
                    _ => "is a part of a split model: give all of its parts, each once",
                };
                return Err(CreateError::Kind { name: part.name.clone(), problem });
            }
        }
        Ok(models.into_iter().map(|(.., layer)| layer).chain(projectors).collect())
    }

    fn adapter_layers(
        &self,
        store: &Store,
        status: &mut dyn FnMut(Status),
    ) -> Result<Vec<Layer>, CreateError> {
        let mut layers = Vec::new();
        for part in &self.adapters {
            status(Status::Parsing);
            let (header, size) = open(store, part)?;
            if header.metadata().opt_str("general.type").ok().flatten() != Some("adapter") {
                let problem = "is no LoRA adapter: name a model with FROM";
                return Err(CreateError::Kind { name: part.name.clone(), problem });
            }
            status(Status::Using(part.digest));
            layers.push(part.layer(MediaType::Adapter, size));
        }
        Ok(layers)
    }

    /// What the config blob says: what the header says, and what the base said besides.
    fn config(&self, store: &Store, header: &GgufFile) -> Result<ModelConfig, CreateError> {
        let mut config = ModelConfig::of_gguf(header);
        if let Some(base) = &self.base
            && let Some(of_base) = ModelConfig::parse(&store.read_small(&base.config)?)
        {
            if self.files.is_empty() {
                config.model_type = of_base.model_type;
                config.file_type = of_base.file_type;
            }
            config.further = of_base.further;
        }
        let further = [("requires", &self.requires), ("renderer", &self.renderer), ("parser", &self.parser)];
        for (key, value) in further {
            if let Some(value) = value {
                config.further.insert(key.to_owned(), json!(value));
            }
        }
        Ok(config)
    }

    /// The layers that are texts.
    fn texts(
        &self,
        store: &Store,
        layers: &mut Vec<Layer>,
        status: &mut dyn FnMut(Status),
    ) -> Result<(), CreateError> {
        if let Some(template) = &self.template {
            layers.retain(|l| !matches!(l.media_type, MediaType::Template | MediaType::JinjaTemplate));
            if !template.is_empty() {
                let media_type = match Syntax::of(template) {
                    Syntax::Go => MediaType::Template,
                    Syntax::Jinja => MediaType::JinjaTemplate,
                };
                layers.push(put(store, media_type, template.as_bytes(), status)?);
            }
        }
        if let Some(system) = &self.system {
            layers.retain(|l| l.media_type != MediaType::System);
            if !system.is_empty() {
                layers.push(put(store, MediaType::System, system.as_bytes(), status)?);
            }
        }
        for license in self.licenses.iter().filter(|text| !text.is_empty()) {
            layers.push(put(store, MediaType::License, license.as_bytes(), status)?);
        }
        let mut params = self.params.iter().try_fold(Map::new(), |mut params, (name, value)| {
            params.insert(name.clone(), check_parameter(name, value)?);
            Ok::<_, CreateError>(params)
        })?;
        if !params.is_empty() {
            for layer in layers.iter().filter(|l| l.media_type == MediaType::Params) {
                if let Ok(Value::Object(of_base)) = serde_json::from_slice(&store.read_small(layer)?) {
                    for (name, value) in of_base {
                        params.entry(name).or_insert(value);
                    }
                }
            }
            layers.retain(|l| l.media_type != MediaType::Params);
            let bytes = Value::Object(params).to_string().into_bytes();
            layers.push(put(store, MediaType::Params, &bytes, status)?);
        }
        if !self.messages.is_empty() {
            layers.retain(|l| l.media_type != MediaType::Messages);
            let messages = self.messages.iter().map(|m| json!({"role": m.role, "content": m.content}));
            let bytes = Value::from_iter(messages).to_string().into_bytes();
            layers.push(put(store, MediaType::Messages, &bytes, status)?);
        }
        Ok(())
    }
}

/// Keeps a text as a blob, if it is one that is read back.
fn put(
    store: &Store,
    media_type: MediaType,
    bytes: &[u8],
    status: &mut dyn FnMut(Status),
) -> Result<Layer, CreateError> {
    if bytes.len() > TEXT_BYTES_MAX {
        let what = match media_type {
            MediaType::Params => "bytes of parameters",
            MediaType::Messages => "bytes of messages",
            MediaType::Config => "bytes of description",
            _ => "bytes of a text",
        };
        return Err(CreateError::TooMany { what, max: TEXT_BYTES_MAX });
    }
    let digest = Digest::of(bytes);
    let was_there = store.blob(&digest)?.is_some();
    let digest = store.put_bytes(bytes)?;
    status(if was_there { Status::Using(digest) } else { Status::Creating(digest) });
    Ok(Layer::new(media_type, digest, bytes.len() as u64))
}

/// The header of a blob, and its size.
fn open(store: &Store, part: &Part) -> Result<(GgufFile, u64), CreateError> {
    let Part { name, digest } = part;
    // It stays until the model has its name.
    let path = store.pin(digest, None)?;
    let path = path.ok_or_else(|| CreateError::NoBlob { name: name.clone(), digest: *digest })?;
    // Its errors say nothing about where the store is.
    let header = store.shared.header(&path, name);
    let header = header.map_err(|source| CreateError::File { name: name.clone(), source })?;
    let size = header.n_bytes();
    Ok((header, size))
}
