//! Recorded requests, run again: through the same routes, without a network.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use http_body_util::BodyExt;
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use ingle_api::record::{Record, RecordedModel};
use ingle_chat::{AdapterInfo, Principal, Provider, ProviderError};

use crate::config::{Alias, ServerConfig};
use crate::recording::{Rerun, identity};
use crate::slot::ProviderSlot;
use crate::{App, routes};

/// The largest body that is run again; larger ones no server takes.
const BODY_BYTES_MAX: usize = 1 << 30;
/// How long a request waits before it knocks again at a full queue.
const KNOCK_PAUSE: Duration = Duration::from_millis(50);
/// How much of a refusal is told.
const REFUSAL_CHARS_MAX: usize = 2000;

/// Runs recorded requests again, any number at a time.
#[derive(Clone)]
pub struct Replayer {
    provider: Arc<dyn Provider>,
    router: Router,
}

/// Why a record was not run again.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The server refused its request.
    #[error("the request is refused now, with status {status}: {message}")]
    Refused {
        /// The status.
        status: u16,
        /// The body of the reply.
        message: String,
    },
    /// It cannot be what a server wrote.
    #[error("it cannot be run: {0}")]
    Unusable(String),
}

impl Replayer {
    /// One over this provider, whose model also goes by the names that the records' bodies have for it.
    pub fn new(provider: Arc<dyn Provider>, names: impl IntoIterator<Item = String>) -> Self {
        let config = ServerConfig {
            aliases: names.into_iter().map(|name| Alias { name, model: None }).collect(),
            body_bytes_max: BODY_BYTES_MAX,
            bodies_bytes_max: 4 * BODY_BYTES_MAX,
            ..ServerConfig::default()
        };
        let app = Arc::new(App::new(config, ProviderSlot::ready(provider.clone())));
        Self { provider, router: routes::router(app) }
    }

    /// What answers here, to be compared with what answered then.
    ///
    /// # Errors
    /// If there is no model.
    pub fn model(&self) -> Result<RecordedModel, ProviderError> {
        let first = self.provider.models().into_iter().next();
        let none = || ProviderError::Unavailable("no model is loaded".into());
        first.as_ref().map(identity).ok_or_else(none)
    }

    /// The adapters that are here, to be compared with those that had a part.
    ///
    /// # Errors
    /// If there is no model.
    pub fn adapters(&self) -> Result<Vec<AdapterInfo>, ProviderError> {
        self.provider.adapters(None)
    }

    /// Runs a record's request to its end, whatever its model was.
    ///
    /// # Errors
    /// If it is refused, or the record's parts do not fit together. That its answer fails is none: the record that comes
    /// back says so.
    pub async fn replay(&self, record: &Record) -> Result<Record, ReplayError> {
        let sampling = record.answers.iter().map(|answer| answer.sampling.to_sampling());
        let principal =
            Principal { may_write_control_tokens: record.may_write_control_tokens, ..Principal::local() };
        let rerun = Arc::new(Rerun {
            principal,
            sampling: sampling.collect::<Result<_, _>>().map_err(ReplayError::Unusable)?,
            adapters: record.adapters.clone(),
            history: record.history.clone(),
            record: Mutex::new(None),
        });
        loop {
            let (status, message) = self.send(record, rerun.clone()).await?;
            match status {
                StatusCode::TOO_MANY_REQUESTS => tokio::time::sleep(KNOCK_PAUSE).await,
                _ => {
                    let made = rerun.record.lock().unwrap_or_else(PoisonError::into_inner).take();
                    return made.ok_or(ReplayError::Refused { status: status.as_u16(), message });
                }
            }
        }
    }

    /// The status of the reply, which is read to its end, and its body if it is a refusal.
    async fn send(&self, record: &Record, rerun: Arc<Rerun>) -> Result<(StatusCode, String), ReplayError> {
        let request = Request::post(&record.route)
            .header(header::HOST, "localhost")
            .header(header::CONTENT_TYPE, "application/json")
            .extension(rerun)
            .body(Body::from(record.body.clone()))
            .map_err(|error| ReplayError::Unusable(format!("its route: {error}")))?;
        let router = TowerToHyperService::new(self.router.clone());
        let mut reply = match router.call(request).await {
            Ok(reply) => reply,
            Err(never) => match never {},
        };
        let status = reply.status();
        let mut message = String::new();
        while let Some(frame) = reply.body_mut().frame().await {
            let Ok(frame) = frame else { break };
            if let (false, Some(data)) = (status.is_success(), frame.data_ref()) {
                message.push_str(&String::from_utf8_lossy(data));
            }
        }
        Ok((status, message.chars().take(REFUSAL_CHARS_MAX).collect()))
    }
}
