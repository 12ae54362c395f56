//! What a model elsewhere is, before any of it is fetched: ranges of its files, and nothing more.

use ingle_egress::{Class, Client, Request};

use super::layers::{From, Remote};
use super::{PullError, PullOptions, Puller};
use crate::{MediaType, ModelName, Reference};

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

impl Puller {
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
        let remote = &self.remote;
        let wrong = |problem: String| PullError::Answer { url: remote.target.to_string(), problem };
        let request =
            Request::get(remote.target.clone()).authorize(remote.credential.as_ref()).range(start, end);
        let response = match &remote.registry {
            Some(registry) => registry.lock().await.send(request).await?,
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
        if let (Some(version), Some(etag)) = (&remote.version, response.header("etag"))
            && remote.digest.is_none()
            && etag.starts_with('"')
            && version.starts_with('"')
            && etag != version
        {
            return Err(wrong("the file was changed while its header was read: ask again".into()));
        }
        let bytes = response.bytes(end - start).await?;
        if bytes.len() as u64 != end - start {
            return Err(wrong(format!("{} bytes came, and {} were asked for", bytes.len(), end - start)));
        }
        Ok(bytes)
    }
}
