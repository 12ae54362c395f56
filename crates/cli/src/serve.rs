//! `ingle serve`: models behind the APIs of OpenAI, Anthropic and Ollama.

mod catalogue;

use std::ffi::OsString;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use ingle_api::record::Record;
use ingle_ledger::{FileLimits, Files, RecordLimits, Records, Responses, Retention};
use ingle_runtime::outlook::Outlook;
use ingle_runtime::{Engine, LoadError, LoadOptions, ModelSpec, Models, ModelsConfig, Source};
use ingle_server::{
    Alias, ModelStore, ProviderSlot, RecordSink, Scope, ServeError, Server, ServerConfig, Transfers, WEIGHTS,
};

pub use self::catalogue::budget as memory_budget;
use crate::models::{self, chosen};
use crate::network;
use crate::progress::LoadProgress;
use crate::run::{load_options, say_notices};
use crate::settings::compat::Facts;
use crate::settings::{Commands, Settings, Usage, parse};
use crate::signals::stop_requested;

pub const USAGE: Usage = Usage {
    name: "serve",
    about: "Serve models over HTTP with the APIs of OpenAI, Anthropic and Ollama.\n\n\
            Several models (--model several times, --models-dir, [[models]] in the configuration file) share one \
            memory (--memory-budget) and are loaded when they are asked for.\n\n\
            It listens on 127.0.0.1:8080 unless told otherwise, and beyond loopback only with a key (or --no-auth). \
            Clients of Ollama find it without any setting at --listen 127.0.0.1:11434; OLLAMA_HOST is read too.",
    command: Commands::SERVE,
    positional: &[(
        "MODEL",
        "GGUF file to serve, perhaps as NAME=FILE [default: the model that ships with Ingle]",
    )],
};

/// Several models, or one that comes and goes.
type Catalogue = (Vec<ModelSpec>, ModelsConfig);

pub const HOST_DEFAULT: &str = "127.0.0.1";
pub const PORT_DEFAULT: u16 = 8080;

pub fn main(args: &[OsString]) -> Result<()> {
    let (parsed, m) = parse(USAGE, &[], args, &Facts::default())?;
    let mut settings = parsed.settings;
    if let Some(model) = parsed.positional.first() {
        if m.contains_id("model") {
            bail!("there are two models: `{model}` and the one of --model");
        }
        settings.model = vec![PathBuf::from(model)];
    }
    // llama.cpp parts aliases by commas.
    settings.served_names = split_commas(&settings.served_names);
    for note in &parsed.notes {
        say!("note: {note}");
    }
    let variables = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    for note in crate::settings::ollama::unheeded(variables) {
        say!("note: {note}");
    }
    let mut config = server_config(&settings)?;
    let store = catalogue::store(&settings, &parsed.models)?;
    config.store =
        store.clone().map(|models::Models { store, catalogue, .. }| ModelStore { store, catalogue });
    let models = match catalogue::is_managed(&settings, &parsed.models) {
        true => Some(catalogue::catalogue(&settings, &parsed.models, store, config.api_keys.len() > 1)?),
        false => None,
    };
    if models.is_none() {
        chosen(&settings)?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let result = runtime.block_on(serve(settings, models, config));
    // Not the drop, which would wait for a model that is still being loaded.
    runtime.shutdown_background();
    result
}

async fn serve(settings: Settings, models: Option<Catalogue>, mut config: ServerConfig) -> Result<()> {
    let folder = data_dir(&settings);
    let (mut responses, mut files) = (None, None);
    if let Some(folder) = &folder {
        responses = open_responses(folder, &settings).await;
        files = open_files(folder, &settings).await;
    }
    if let Some(folder) = &settings.record {
        config.records = Some(open_records(folder, &settings)?);
    }
    config.transfers = transfers(&settings)?.map(Arc::new);
    config.responses.clone_from(&responses);
    config.files.clone_from(&files);
    let served = serve_with(settings, models, config).await;
    if let Some(responses) = responses {
        responses.close().await;
    }
    if let Some(files) = files {
        files.close().await;
    }
    served
}

/// The store of models and its way out, where there is a folder for one.
fn transfers(settings: &Settings) -> Result<Option<Transfers>> {
    let Ok(models::Models { store, catalogue, .. }) = models::Models::open(settings) else { return Ok(None) };
    let transfers = Transfers::new(network::puller(settings, store, None)?, catalogue);
    let transfers = transfers.with_importer(Arc::new(models::OfClients::default()));
    let Ok(memory) = catalogue::budget(settings) else { return Ok(Some(transfers)) };
    Ok(Some(transfers.foreseeing(Box::new(move |puller, reference, options| {
        Box::pin(async move {
            let outlook = Outlook::of(&puller, &reference, options, memory).await.ok()?;
            outlook.problem.as_ref()?;
            Some(outlook.to_string())
        })
    }))))
}

/// Where data are kept, if they are.
fn data_dir(settings: &Settings) -> Option<PathBuf> {
    match &settings.data_dir {
        Some(folder) if folder.as_os_str().is_empty() => None,
        Some(folder) => Some(folder.clone()),
        None => {
            let folder = default_data_dir();
            if folder.is_none() {
                say!("warning: no folder for data is known (--data-dir names one): nothing is stored");
            }
            folder
        }
    }
}

/// Files and batches. A server that cannot keep them serves all the same, and says so.
async fn open_files(folder: &Path, settings: &Settings) -> Option<Arc<Files>> {
    let default = FileLimits::default();
    let bytes = |mb: Option<u32>, default: u64| mb.map_or(default, |mb| u64::from(mb) << 20);
    let limits = FileLimits {
        file_bytes_max: bytes(settings.max_file_mb, default.file_bytes_max),
        bytes_max: bytes(settings.store_files_mb, default.bytes_max),
        ..default
    };
    match Files::open(&folder.join("files.sqlite"), limits).await {
        Ok(files) => Some(Arc::new(files)),
        Err(error) => {
            say!("warning: there are no files and batches, and no responses in the background: {error}");
            None
        }
    }
}

/// The folder of records. Who asks for one wants it: a server that cannot write there does not start.
fn open_records(folder: &Path, settings: &Settings) -> Result<Arc<dyn RecordSink>> {
    let default = RecordLimits::default();
    if [settings.record_mb, settings.record_days].contains(&Some(0)) {
        bail!("--record-mb and --record-days must be more than 0; to record nothing, leave out --record");
    }
    let limits = RecordLimits {
        bytes_max: settings.record_mb.map_or(default.bytes_max, |mb| u64::from(mb) << 20),
        age_max: settings
            .record_days
            .map_or(default.age_max, |days| Duration::from_secs(u64::from(days) * 86_400)),
        ..default
    };
    let records = Records::open(folder, limits, Box::new(|problem| say!("warning: {problem}")))
        .context("--record: requests cannot be recorded")?;
    say!(
        "WARNING: every request is recorded in {}: prompts and answers are there for whoever can read that folder",
        folder.display()
    );
    Ok(Arc::new(Recorder(records)))
}

/// The folder of records, as the server sees it.
#[derive(Debug)]
struct Recorder(Records);

impl RecordSink for Recorder {
    fn put(&self, record: Record) {
        let (id, n_bytes) = (record.id.clone(), record.n_bytes());
        self.0.put(&id, n_bytes, move || record.to_text());
    }

    fn counts(&self) -> (u64, u64) {
        self.0.counts()
    }
}

/// The stored responses. A server that cannot keep them serves all the same, and says so.
async fn open_responses(folder: &Path, settings: &Settings) -> Option<Arc<Responses>> {
    if [settings.store_days, settings.store_count, settings.store_mb].contains(&Some(0)) {
        return None;
    }
    let default = Retention::default();
    let retention = Retention {
        age_max: settings
            .store_days
            .map_or(default.age_max, |days| Duration::from_secs(u64::from(days) * 86_400)),
        count_max: settings.store_count.unwrap_or(default.count_max),
        bytes_max: settings.store_mb.map_or(default.bytes_max, |mb| u64::from(mb) << 20),
    };
    match Responses::open(&folder.join("responses.sqlite"), retention).await {
        Ok(responses) => Some(Arc::new(responses)),
        Err(error) => {
            say!("warning: responses are not stored: {error}");
            None
        }
    }
}

/// Where the system keeps users' data.
pub fn default_data_dir() -> Option<PathBuf> {
    let var = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = if cfg!(windows) {
        var("LOCALAPPDATA")
    } else {
        var("XDG_DATA_HOME").or_else(|| Some(var("HOME")?.join(".local").join("share")))
    };
    base.map(|base| base.join("ingle"))
}

async fn serve_with(settings: Settings, models: Option<Catalogue>, config: ServerConfig) -> Result<()> {
    let slot = ProviderSlot::loading();
    let n_keys = config.api_keys.len();
    let server = match Server::bind(config, slot.clone()).await {
        Ok(server) => server,
        Err(error @ ServeError::Exposed { .. }) => {
            return Err(error)
                .context("give a key with --api-key, --api-key-file or INGLE_API_KEY, or --no-auth");
        }
        Err(error) => return Err(error.into()),
    };
    for address in server.local_addrs() {
        say!("listening on http://{address}");
    }
    // The port is open while the model loads, so that probes can tell 'loading' from 'down'.
    let place = slot.clone();
    let loading = tokio::task::spawn_blocking(move || match models {
        None => load(&settings, n_keys, &place).map(Some),
        Some(catalogue) => manage(catalogue, n_keys, &place).map(|()| None),
    });
    let mut running = tokio::spawn(server.run(async {
        stop_requested().await;
        say!("stopping: streams may finish; a second signal stops at once");
        tokio::spawn(async {
            stop_requested().await;
            std::process::exit(130);
        });
    }));
    let loaded = tokio::select! {
        loaded = loading => loaded,
        // Stopped before there is a model: nobody waits for it any more.
        stopped = &mut running => return stopped.context("the server failed"),
    };
    let engine = match loaded.context("loading the model failed")? {
        Ok(engine) => engine,
        Err(error) => {
            running.abort();
            return Err(error);
        }
    };
    if let Some(engine) = &engine {
        let info = engine.info();
        say!("{} is ready: context {}, fingerprint {}", info.id, info.n_ctx, info.fingerprint);
    }
    running.await.context("the server failed")
}

/// Looks at the models' files, and begins to load those that are to be there from the beginning.
fn manage((mut specs, config): Catalogue, n_keys: usize, slot: &ProviderSlot) -> Result<()> {
    specs.iter_mut().for_each(|spec| spec.options.is_shared = n_keys > 1);
    let (n, budget, default) = (specs.len(), config.memory_budget, specs[0].name.clone());
    // Those of the store that nobody has asked for yet.
    let stored = config.finder.as_ref().map(|finder| finder.list().len());
    let models = Models::new(specs, config)?;
    models.preload();
    slot.set_ready(Arc::new(models));
    let budget = crate::commands::bytes(budget);
    let counted = |n: usize| format!("{n} model{}", if n == 1 { "" } else { "s" });
    let stored = stored.map(|n| format!(" and {} of the store", counted(n))).unwrap_or_default();
    say!("{}{stored} within {budget} of memory; `{default}` is the default", counted(n));
    Ok(())
}

fn load(settings: &Settings, n_keys: usize, slot: &ProviderSlot) -> Result<Engine> {
    let chosen = chosen(settings)?;
    let options = chosen.options(load_options(settings)?);
    let (source, name) = (chosen.source, chosen.shown);
    if source == Source::Shipped {
        say!("note: no model was named; this is the small one that ships with Ingle");
    }
    let options = LoadOptions { is_shared: n_keys > 1, ..options };
    let progress = LoadProgress::new(&name);
    let load = || -> Result<Engine, LoadError> {
        let engine = Engine::start(&source, &options)?;
        say_notices(&engine);
        // Requests are taken from here on, and start as layers arrive; the health page says so.
        slot.set_ready(engine.provider());
        engine.wait_until_loaded(&mut |done, total| progress.report(done, total))?;
        Ok(engine)
    };
    load().with_context(|| format!("cannot load {name}"))
}

/// Names as given one by one or parted by commas, as llama.cpp parts aliases.
pub fn split_commas(list: &[String]) -> Vec<String> {
    list.iter().flat_map(|text| text.split(',')).map(str::to_owned).collect()
}

/// Origins as given one by one, parted by commas (llama.cpp) or as a JSON list (vLLM).
fn origins(list: &[String]) -> Result<Vec<String>> {
    let mut origins = Vec::new();
    for text in list {
        if text.trim_start().starts_with('[') {
            let json: Vec<String> = serde_json::from_str(text)
                .with_context(|| format!("--cors-origin: `{text}` is no JSON list of origins"))?;
            origins.extend(json);
        } else {
            origins.extend(text.split(',').map(str::trim).map(str::to_owned));
        }
    }
    for pattern in origins.iter().filter(|origin| origin.contains('*') && *origin != "*") {
        say!(
            "warning: --cors-origin: `{pattern}` allows nothing: patterns are not known; name whole origins, or `*`"
        );
    }
    Ok(origins)
}

fn server_config(s: &Settings) -> Result<ServerConfig> {
    let listen = listen(s)?;
    let mut api_keys = split_commas(&s.api_key);
    let (mut scopes, mut weights) = (Vec::new(), Vec::new());
    if let Some(path) = &s.api_key_file {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("--api-key-file: cannot read {}", path.display()))?;
        let of_file = keys_of_file(&text).with_context(|| format!("--api-key-file: {}", path.display()))?;
        if of_file.is_empty() {
            bail!("--api-key-file: {} has no key; one a line is expected", path.display());
        }
        for FileKey { key, scopes: of_key, weight } in of_file {
            scopes.extend(of_key.into_iter().map(|scope| (key.clone(), scope)));
            weights.extend(weight.map(|weight| (key.clone(), weight)));
            api_keys.push(key);
        }
    }
    if api_keys.iter().any(|k| k.trim().is_empty()) {
        bail!("--api-key: a key is empty");
    }
    Ok(ServerConfig {
        listen,
        api_keys,
        scopes,
        weights,
        no_auth: s.no_auth,
        allowed_hosts: s.allowed_hosts.clone(),
        cors_origins: origins(&s.cors_origins)?,
        aliases: s
            .served_names
            .iter()
            .skip(1)
            .map(|name| Alias { name: name.clone(), model: None })
            .collect(),
        body_bytes_max: s
            .max_body_mb
            .map_or(ServerConfig::default().body_bytes_max, |mb| (mb as usize) << 20),
        shutdown_grace: s
            .shutdown_grace_s
            .map_or(ServerConfig::default().shutdown_grace, |s| Duration::from_secs(s.into())),
        ..ServerConfig::default()
    })
}

/// Where to listen: `--listen`, `--host` and `--port`; else the server's address in Ollama's form; else the default.
fn listen(s: &Settings) -> Result<Vec<SocketAddr>> {
    let mut listen = s.listen.clone();
    let is_named = s.host.is_some() || s.port.is_some();
    match &s.server {
        Some(address) if listen.is_empty() && !is_named => {
            if address.is_https || !address.path.is_empty() {
                bail!(
                    "--server (or OLLAMA_HOST): `{address}` is no address to listen on: give HOST:PORT, and put a proxy in front for https"
                );
            }
            listen = resolve(&address.host, address.port).context("--server (or OLLAMA_HOST)")?;
        }
        _ if listen.is_empty() || is_named => {
            listen
                .extend(resolve(s.host.as_deref().unwrap_or(HOST_DEFAULT), s.port.unwrap_or(PORT_DEFAULT))?);
        }
        _ => {}
    }
    Ok(listen)
}

/// A line of a file of keys.
#[derive(Debug, PartialEq)]
struct FileKey {
    key: String,
    scopes: Vec<Scope>,
    /// Its part of the machine.
    weight: Option<u32>,
}

/// The keys in a file, one a line, each with its scopes and its weight behind it.
fn keys_of_file(text: &str) -> Result<Vec<FileKey>> {
    let mut keys = Vec::new();
    let lines = text.lines().enumerate().map(|(i, line)| (i + 1, line.trim()));
    for (number, line) in lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')) {
        let mut words = line.split_whitespace();
        let key = words.next().expect("the line is not empty").to_owned();
        let mut found = FileKey { key, scopes: Vec::new(), weight: None };
        for word in words {
            if let Some(weight) = word.strip_prefix("weight=") {
                let weight = weight.parse().ok().filter(|weight| WEIGHTS.contains(weight));
                let wrong =
                    || format!("line {number}: a weight is a whole number from 1 to {}", WEIGHTS.end());
                found.weight = Some(weight.with_context(wrong)?);
                continue;
            }
            let known = || Scope::ALL.map(Scope::name).join(", ");
            let scope = Scope::ALL.into_iter().find(|scope| scope.name() == word);
            // The word is not repeated: it may be the rest of a key with a blank in it.
            found.scopes.push(scope.with_context(|| {
                let text = "what follows the key is neither a scope nor `weight=N`; scopes are";
                format!("line {number}: {text}: {}", known())
            })?);
        }
        keys.push(found);
    }
    Ok(keys)
}

/// The addresses of a host, or of several parted by commas; `localhost` may have two.
fn resolve(host: &str, port: u16) -> Result<Vec<SocketAddr>> {
    let mut addresses: Vec<SocketAddr> = Vec::new();
    for host in host.split(',').map(|h| h.trim().trim_start_matches('[').trim_end_matches(']')) {
        let found = (host, port).to_socket_addrs();
        addresses.extend(found.with_context(|| format!("--host: `{host}` is no address of this machine"))?);
    }
    addresses.sort();
    addresses.dedup();
    // Port 0 would pick two different ones.
    if port == 0 {
        addresses.truncate(1);
    }
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_to_listen_on() {
        use crate::settings::TABLE;
        let check = |said: &[(&str, &str)], expected: &str| {
            let mut settings = Settings::default();
            for (key, value) in said {
                let setting = TABLE.iter().find(|s| s.key == *key).expect("a setting");
                (setting.set)(&mut settings, value).expect("a value");
            }
            let found = listen(&settings)
                .map(|all| all.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "));
            assert_eq!(found.unwrap_or_else(|error| error.to_string()), expected, "{said:?}");
        };
        check(&[], "127.0.0.1:8080");
        check(&[("port", "1")], "127.0.0.1:1");
        check(&[("listen", "127.0.0.1:2")], "127.0.0.1:2");
        check(&[("listen", "127.0.0.1:2"), ("port", "1")], "127.0.0.1:2 127.0.0.1:1");
        check(&[("server", "127.0.0.1")], "127.0.0.1:11434");
        check(&[("server", "http://127.0.0.1:3")], "127.0.0.1:3");
        check(&[("server", "127.0.0.1"), ("port", "1")], "127.0.0.1:1");
        check(&[("server", "127.0.0.1"), ("listen", "127.0.0.1:2")], "127.0.0.1:2");
        let error = "--server (or OLLAMA_HOST): `https://x:443` is no address to listen on: give HOST:PORT, and put a proxy in front for https";
        check(&[("server", "https://x")], error);
    }

    #[test]
    fn keys_and_their_scopes() {
        let text = "# ours\none\n\n  two control-tokens weight=3 \nthree priority\n";
        let key = |key: &str, scopes, weight| FileKey { key: key.to_owned(), scopes, weight };
        let expected = [
            key("one", vec![], None),
            key("two", vec![Scope::ControlTokens], Some(3)),
            key("three", vec![Scope::Priority], None),
        ];
        assert_eq!(keys_of_file(text).expect("valid"), expected);
        for weight in ["0", "1001", "x", "-1"] {
            let error = keys_of_file(&format!("one weight={weight}")).expect_err("no weight").to_string();
            assert!(error.contains("from 1 to 1000"), "{error}");
        }
        let error = keys_of_file("one\ntwo secret-rest").expect_err("no scope").to_string();
        assert!(error.starts_with("line 2") && error.contains("control-tokens"), "{error}");
        assert!(!error.contains("secret-rest"), "{error}");
    }
}
