//! What a model elsewhere is, before any of it is fetched: ranges of its files, and nothing more.

use ingle_egress::{Class, Client, Request};

use super::layers::{From, Remote};
use super::pick::choices;
use super::{Attempts, PullError, PullOptions, Puller, hub};
use crate::{HubRepo, MediaType, ModelName, Reference};

/// The files of a model elsewhere.
#[derive(Clone)]
pub struct RemoteModel {
    /// The name under which it would stand in the store.
    pub name: ModelName,
    /// Its weights: one file, or the parts of a split one in order.
    pub model: Vec<RemoteFile>,
    /// Adapters that belong to it.
    pub adapters: Vec<RemoteFile>,
    /// What makes images into embeddings.
    pub projector: Option<RemoteFile>,
}

/// A file elsewhere.
#[derive(Clone)]
pub struct RemoteFile {
    client: Client,
    remote: Remote,
}

impl std::fmt::Debug for RemoteFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RemoteFile")
            .field("label", &self.remote.label)
            .field("n_bytes", &self.remote.size)
            .finish()
    }
}

/// All that a repository of the hub has.
pub struct RemoteRepo {
    client: Client,
    target: ingle_egress::Target,
    repo: HubRepo,
    found: hub::Repo,
}

/// A model of a repository: one of its quantizations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteChoice {
    /// What its name says of its quantization, else the whole name.
    pub quant: String,
    /// Bytes of its files, where the hub says of all of them.
    pub n_bytes: Option<u64>,
    /// Its files in order, as paths in the repository.
    pub files: Vec<String>,
}

impl RemoteRepo {
    /// The GGUF models that it has, in the order of their names.
    pub fn choices(&self) -> Vec<RemoteChoice> {
        let all = choices(&self.found.files).into_iter();
        all.map(|(quant, n_bytes, files)| RemoteChoice {
            quant,
            n_bytes,
            files: files.iter().map(|file| file.path.clone()).collect(),
        })
        .collect()
    }

    /// Paths of all its files.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.found.files.iter().map(|file| file.path.as_str())
    }

    /// One of its files, if it has it.
    ///
    /// # Errors
    /// If its size is not known and cannot be asked for.
    pub async fn file(&self, path: &str) -> Result<Option<RemoteFile>, PullError> {
        let Some(file) = self.found.files.iter().find(|file| file.path == path) else { return Ok(None) };
        let remote = hub::remote(&self.client, &self.target, &self.repo, &self.found.commit, file).await?;
        Ok(Some(RemoteFile { client: self.client.clone(), remote }))
    }
}

impl Puller {
    /// Lists what the repository of a reference has; `None` if it is no reference to a repository of the hub.
    ///
    /// # Errors
    /// What is against it, with what to do, as of [`pull`](Self::pull).
    pub async fn browse(&self, reference: &Reference) -> Result<Option<RemoteRepo>, PullError> {
        let Reference::Hub { repo, revision, .. } = reference else { return Ok(None) };
        let client = Client::new(self.network().egress.permit(Class::Hub)?);
        let target = self.network().hub.clone();
        let found = hub::repository(&client, &target, repo, revision.as_deref().unwrap_or("main")).await?;
        Ok(Some(RemoteRepo { client, target, repo: repo.clone(), found }))
    }

    /// Finds the files that a reference means, without fetching them.
    ///
    /// # Errors
    /// What is against it, with what to do, as of [`pull`](Self::pull).
    pub async fn look(&self, reference: &Reference, options: PullOptions) -> Result<RemoteModel, PullError> {
        let client = Client::new(self.network().egress.permit(Class::Hub)?);
        let plan = self.plan(&client, reference, options).await?;
        let mut found =
            RemoteModel { name: plan.name, model: Vec::new(), adapters: Vec::new(), projector: None };
        for item in plan.items {
            let From::Remote(remote) = item.from else { continue };
            let file = RemoteFile { client: client.clone(), remote: *remote };
            match item.media_type {
                MediaType::Model => found.model.push(file),
                MediaType::Adapter => found.adapters.push(file),
                MediaType::Projector => found.projector = Some(file),
                _ => {}
            }
        }
        Ok(found)
    }
}

impl RemoteFile {
    /// Its name, and where it is.
    pub fn name(&self) -> String {
        self.remote.target.to_string()
    }

    /// The last part of its name.
    pub fn label(&self) -> &str {
        &self.remote.label
    }

    /// How many bytes it has.
    pub fn n_bytes(&self) -> u64 {
        self.remote.size
    }

    /// Bytes `start..end` of it.
    ///
    /// # Errors
    /// If they do not come, others come, or the file is no longer the one that was found.
    pub async fn range(&self, start: u64, end: u64) -> Result<Vec<u8>, PullError> {
        // Of a file that is empty, nothing can be asked.
        if start == end {
            return Ok(Vec::new());
        }
        let mut attempts = Attempts::default();
        loop {
            if let Some(bytes) = attempts.outcome(self.ask(start, end).await).await {
                return bytes;
            }
        }
    }

    async fn ask(&self, start: u64, end: u64) -> Result<Vec<u8>, PullError> {
        let remote = &self.remote;
        let wrong = |problem: String| PullError::Answer { url: remote.target.to_string(), problem };
        let request =
            Request::get(remote.target.clone()).authorize(remote.credential.as_ref()).range(start, end);
        let response = match &remote.registry {
            Some(registry) => registry.send(request).await?,
            None => self.client.send(&request).await?,
        };
        let is_all = start == 0 && end == remote.size;
        match (response.status(), response.content_range()) {
            (206, Some((first, last, total))) => {
                if total.is_some_and(|total| total != remote.size) {
                    return Err(wrong("the file was changed while its header was read: ask again".into()));
                }
                if (first, last) != (start, end) {
                    return Err(wrong(format!(
                        "bytes {first} to {last} came, and {start} to {end} were asked for"
                    )));
                }
            }
            (206, None) => return Err(wrong("a part came that does not say which".into())),
            (200, _) if is_all => {}
            (200, _) => {
                return Err(wrong(
                    "the server gives no ranges of files, so the header cannot be read alone".into(),
                ));
            }
            _ => return Err(response.into_error().await.into()),
        }
        if remote.version.as_ref().is_some_and(|version| !version.is_of(&response)) {
            return Err(wrong("the file was changed while its header was read: ask again".into()));
        }
        let bytes = response.bytes(end - start).await?;
        if bytes.len() as u64 != end - start {
            return Err(wrong(format!("{} bytes came, and {} were asked for", bytes.len(), end - start)));
        }
        Ok(bytes)
    }
}
