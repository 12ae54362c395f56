//! `/api/tags`, `/api/ps`, `/api/show`, `/api/copy`, `/api/delete`, `/api/version`.

use std::time::Duration;

use ingle_chat::{KeepAlive, ModelEntry, ModelInfo, ModelState};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::refused::{Refused, check_empty};
use super::time::rfc3339;
use super::{VERSION, json as text, tagged};
use crate::fields::Fields;
use crate::{RequestError, parse_object};

/// Models stay until the operator ends the server: as long as Ollama's own "for ever", which is what its clients
/// know how to show.
const FOR_EVER: Duration = Duration::from_nanos(i64::MAX as u64);

/// What a request for one model's page can change of it there, and not here.
pub(super) const CHANGES: &[Refused] = &[
    Refused { name: "system", advice: "the page shows the model as it is" },
    Refused { name: "template", advice: "the page shows the model as it is" },
];

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "OllamaModelDetails")]
struct Details<'a> {
    /// What it was derived from: nobody says.
    parent_model: &'static str,
    format: &'static str,
    family: &'a str,
    families: Vec<&'a str>,
    parameter_size: String,
    quantization_level: &'a str,
    context_length: usize,
    embedding_length: usize,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "OllamaModel")]
pub(super) struct Tag<'a> {
    name: String,
    model: String,
    modified_at: String,
    size: u64,
    digest: &'a str,
    details: Details<'a>,
    capabilities: Vec<&'static str>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "OllamaRunningModel")]
pub(super) struct Running<'a> {
    name: String,
    model: String,
    size: u64,
    digest: &'a str,
    details: Details<'a>,
    expires_at: String,
    size_vram: u64,
    context_length: usize,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "OllamaModelPage")]
pub(super) struct Show<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    license: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    system: &'a str,
    modelfile: String,
    parameters: String,
    template: &'a str,
    details: Details<'a>,
    model_info: Map<String, Value>,
    capabilities: Vec<&'static str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    messages: Vec<Opening<'a>>,
    modified_at: String,
}

/// A message that opens each conversation with a model.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "OllamaOpeningMessage")]
struct Opening<'a> {
    role: &'a str,
    content: &'a str,
}

/// A model of the store, as lists show it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoredTag {
    /// Its name, with the tag.
    pub name: String,
    /// When it was put there, since the epoch.
    pub modified: Duration,
    /// Bytes of all its files.
    pub size: u64,
    /// Digest of its manifest, in hexadecimal.
    pub digest: String,
    /// The format of its weights.
    pub format: String,
    /// Its architecture.
    pub family: String,
    /// The architectures of its parts.
    pub families: Vec<String>,
    /// Its parameters, for readers.
    pub parameter_size: String,
    /// The type of most of its weights.
    pub quantization: String,
}

/// What the store has of a model beside its file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StoredPage {
    /// When it was put there, since the epoch.
    pub modified: Duration,
    /// Its licences.
    pub license: String,
    /// Its system message.
    pub system: String,
    /// Its template, where it is not that of the file.
    pub template: Option<String>,
    /// Its Modelfile, if it can be written.
    pub modelfile: Option<String>,
    /// Its parameters by name.
    pub parameters: Map<String, Value>,
    /// Role and text of the messages that open each conversation.
    pub messages: Vec<(String, String)>,
}

/// `/api/version`.
pub fn version() -> String {
    json!({ "version": VERSION }).to_string()
}

/// `/api/tags`: the models of the store, and all that are served, under each of their names.
pub fn tags(stored: &[StoredTag], models: &[(String, ModelInfo)]) -> String {
    let of_store = |tag: &StoredTag| {
        let tag = Tag {
            name: tag.name.clone(),
            model: tag.name.clone(),
            modified_at: rfc3339(tag.modified),
            size: tag.size,
            digest: &tag.digest,
            details: Details {
                parent_model: "",
                format: "gguf",
                family: &tag.family,
                families: tag.families.iter().map(String::as_str).collect(),
                parameter_size: tag.parameter_size.clone(),
                quantization_level: &tag.quantization,
                context_length: 0,
                embedding_length: 0,
            },
            // Nobody has opened it yet.
            capabilities: Vec::new(),
        };
        serde_json::to_value(tag).expect("a plain struct")
    };
    let tag = |(name, info): &'_ (String, ModelInfo)| {
        let tag = Tag {
            name: tagged(name),
            model: tagged(name),
            modified_at: rfc3339(Duration::from_secs(info.created)),
            size: info.size_bytes,
            digest: &info.details.digest,
            details: details(info),
            capabilities: capabilities(info),
        };
        serde_json::to_value(tag).expect("a plain struct")
    };
    let all = stored.iter().map(of_store).chain(models.iter().map(tag));
    json!({ "models": all.collect::<Vec<_>>() }).to_string()
}

/// `/api/ps`: those of the models that are in memory. `now` is the time since the epoch.
pub fn running(models: &[ModelEntry], now: Duration) -> String {
    let running = |entry: &ModelEntry| {
        let info = &entry.info;
        let expires_at = match entry.expires_in {
            Some(KeepAlive::For(time)) => now.saturating_add(time.min(FOR_EVER)),
            // While it answers nobody knows how long that will take.
            Some(KeepAlive::Always) | None => Duration::from_secs(info.created) + FOR_EVER,
        };
        let running = Running {
            name: tagged(&info.id),
            model: tagged(&info.id),
            size: if entry.is_managed { entry.memory_bytes } else { info.size_bytes },
            digest: &info.details.digest,
            details: details(info),
            expires_at: rfc3339(expires_at),
            size_vram: 0,
            context_length: info.n_ctx,
        };
        serde_json::to_value(running).expect("a plain struct")
    };
    let in_memory = models.iter().filter(|entry| is_in_memory(entry));
    json!({ "models": in_memory.map(running).collect::<Vec<_>>() }).to_string()
}

/// One that cannot be managed takes requests already while it loads.
fn is_in_memory(entry: &ModelEntry) -> bool {
    entry.state == ModelState::Loaded || !entry.is_managed
}

/// A request for one model's page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShowCall {
    /// Which model.
    pub model: String,
    /// Lists too.
    pub verbose: bool,
}

impl ShowCall {
    /// Reads a body.
    pub fn parse(body: &[u8]) -> Result<Self, RequestError> {
        let mut fields = Fields::new(parse_object(body)?);
        check_empty(&mut fields, &[CHANGES])?;
        if fields.object("options")?.is_some_and(|options| !options.is_empty()) {
            return Err(fields
                .error("options", "`options` is not supported: the page shows the model as it is")
                .with_code("unsupported_field"));
        }
        let verbose = fields.bool("verbose")?.unwrap_or(false);
        let model = named(&mut fields)?;
        fields.finish()?;
        Ok(Self { model, verbose })
    }
}

/// A request to give a model a second name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyCall {
    /// The model.
    pub source: String,
    /// Its second name.
    pub destination: String,
}

impl CopyCall {
    /// Reads a body.
    pub fn parse(body: &[u8]) -> Result<Self, RequestError> {
        let mut fields = Fields::new(parse_object(body)?);
        let mut name = |field: &'static str| {
            let text = fields.string(field)?.filter(|name| !name.is_empty());
            text.ok_or_else(|| {
                fields.error(field, format!("`{field}` is missing: it is the name of a model"))
            })
        };
        let (source, destination) = (name("source")?, name("destination")?);
        fields.finish()?;
        Ok(Self { source, destination })
    }
}

/// A request to take a model away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeleteCall {
    /// Which model.
    pub model: String,
}

impl DeleteCall {
    /// Reads a body.
    pub fn parse(body: &[u8]) -> Result<Self, RequestError> {
        let mut fields = Fields::new(parse_object(body)?);
        let model = named(&mut fields)?;
        fields.finish()?;
        Ok(Self { model })
    }
}

/// The model of a body. Old clients say `name`, some say both, one of them empty.
fn named(fields: &mut Fields) -> Result<String, RequestError> {
    let (model, name) = (fields.string("model")?, fields.string("name")?);
    let model = [model, name].into_iter().flatten().find(|name| !name.is_empty());
    model.ok_or_else(|| fields.error("model", "`model` is missing: name the model"))
}

/// `/api/show`: one model's page. What the store has wins over what the file says.
pub fn show(name: &str, info: &ModelInfo, stored: Option<&StoredPage>, verbose: bool) -> String {
    let details = &info.details;
    let none = StoredPage { modified: Duration::from_secs(info.created), ..StoredPage::default() };
    let page = stored.unwrap_or(&none);
    let template = page.template.as_deref().or(details.template.as_deref()).unwrap_or_default();
    let of_file = details.metadata.get("general.license").and_then(Value::as_str).unwrap_or_default();
    text(&Show {
        license: if page.license.is_empty() { of_file } else { &page.license },
        system: &page.system,
        modelfile: match &page.modelfile {
            Some(modelfile) => modelfile.clone(),
            None => format!("FROM {}\nTEMPLATE \"\"\"{template}\"\"\"\n", tagged(name)),
        },
        parameters: parameters(info, &page.parameters),
        template,
        details: self::details(info),
        model_info: model_info(info, verbose),
        capabilities: capabilities(info),
        messages: page.messages.iter().map(|(role, content)| Opening { role, content }).collect(),
        modified_at: rfc3339(page.modified),
    })
}

/// One parameter a line; lists have a line for each of their values.
fn parameters(info: &ModelInfo, of_store: &Map<String, Value>) -> String {
    let line = |key: &str, value: &Value| format!("{key:<30} {value}");
    let context = line("num_ctx", &info.n_ctx.into());
    let others = of_store.iter().filter(|(key, _)| *key != "num_ctx").flat_map(|(key, value)| match value {
        Value::Array(values) => values.iter().map(|value| line(key, value)).collect::<Vec<_>>(),
        value => vec![line(key, value)],
    });
    std::iter::once(context).chain(others).collect::<Vec<_>>().join("\n")
}

fn details(info: &ModelInfo) -> Details<'_> {
    let family = info.details.architecture.as_str();
    Details {
        parent_model: "",
        format: "gguf",
        family,
        families: vec![family],
        parameter_size: human_count(info.n_params),
        quantization_level: &info.details.quantization,
        context_length: info.n_ctx,
        embedding_length: info.n_embd,
    }
}

fn capabilities(info: &ModelInfo) -> Vec<&'static str> {
    // As Ollama tells models apart: one whose file says how to pool is there to embed.
    let pools = info.details.metadata.contains_key(&format!("{}.pooling_type", info.details.architecture));
    let all = [
        ("completion", !pools),
        ("tools", info.details.has_tools),
        ("thinking", info.details.has_reasoning),
        ("insert", info.details.has_infill),
        ("embedding", pools),
    ];
    all.into_iter().filter(|(_, has)| *has).map(|(name, _)| name).collect()
}

/// The file's pairs, with two that clients look for whatever the file says: how many parameters there are, and how
/// long a prompt may be, which is the context that runs rather than the one that was trained.
fn model_info(info: &ModelInfo, verbose: bool) -> Map<String, Value> {
    let mut pairs = info.details.metadata.clone();
    // It is the page's `template`, or another was chosen.
    pairs.shift_remove("tokenizer.chat_template");
    if !verbose {
        pairs.values_mut().filter(|v| v.is_array()).for_each(|v| *v = Value::Null);
    }
    pairs.insert("general.parameter_count".into(), info.n_params.into());
    pairs.insert(format!("{}.context_length", info.details.architecture), info.n_ctx.into());
    pairs
}

/// A number of parameters for people, such as `1.2B`.
pub(super) fn human_count(n: u64) -> String {
    let (unit, name, decimals) = match n {
        1_000_000_000.. => (1e9, "B", 1),
        1_000_000.. => (1e6, "M", 2),
        1_000.. => (1e3, "K", 0),
        _ => return n.to_string(),
    };
    let number = n as f64 / unit;
    let decimals = if number.fract() == 0.0 { 0 } else { decimals };
    format!("{number:.decimals$}{name}")
}
