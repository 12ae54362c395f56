//! HTTP serving: routes, authentication, limits, event streams, health and metrics pages.
//!
//! A [`Server`] sees nothing of models but an [`ingle_chat::Provider`], which may arrive after the server listens
//! ([`ProviderSlot`]). It wakes for connections, for pieces of answers, for keep-alive comments, for batches that are to
//! be worked off, and for shutdown: then it stops accepting, lets answers run for a grace period, ends those that are
//! left with one error event each, and closes. Wire formats are `api`'s; no handler computes anything about models.

mod adapters;
mod answer;
mod auth;
mod background;
mod batches;
mod body;
mod config;
mod connection;
mod embed;
mod error;
mod importer;
mod metrics;
mod names;
mod phase;
mod query;
mod recording;
mod replay;
mod routes;
mod slot;
mod sse;
mod store;
mod transfers;
mod uploads;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ingle_chat::Provider;
use tokio::sync::Semaphore;

pub use config::{Alias, Scope, ServeError, ServerConfig, WEIGHTS, check_exposure};
pub use importer::{ImportError, Importer};
pub use names::resolve as resolve_model;
pub use recording::RecordSink;
pub use replay::{ReplayError, Replayer};
pub use slot::{ProviderSlot, SlotState};
pub use store::ModelStore;
pub use transfers::{Foresight, Transfers};

use connection::Listener;
use phase::{Phase, Phases};

/// How long answers get to say that they end, once the grace period is over.
const ENDING: Duration = Duration::from_secs(1);

/// What all handlers share.
struct App {
    config: ServerConfig,
    auth: auth::Auth,
    slot: ProviderSlot,
    metrics: metrics::Metrics,
    phases: Phases,
    /// Bytes of request bodies in memory, in KiB.
    body_budget: Arc<Semaphore>,
    /// The turn of large prompts to become tokens.
    large_start: Arc<Semaphore>,
    /// Responses that are made in the background.
    background: background::Background,
    /// Wakes who works off batches.
    batches: batches::Bell,
    /// Work without a connection, one permit each.
    tasks: Arc<Semaphore>,
    started: Instant,
}

/// The most work without a connection: more than there can be.
const TASKS_MAX: usize = 1 << 20;

impl App {
    fn new(config: ServerConfig, slot: ProviderSlot) -> Self {
        Self {
            auth: auth::Auth::new(&config.api_keys, &config.scopes, &config.weights),
            slot,
            metrics: metrics::Metrics::default(),
            phases: Phases::new(),
            body_budget: Arc::new(Semaphore::new(config.bodies_bytes_max / 1024)),
            large_start: Arc::new(Semaphore::new(1)),
            background: background::Background::default(),
            batches: batches::Bell::new(),
            tasks: Arc::new(Semaphore::new(TASKS_MAX)),
            started: Instant::now(),
            config,
        }
    }
}

/// A server that listens and does not yet answer.
pub struct Server {
    app: Arc<App>,
    listeners: Vec<Listener>,
    addrs: Vec<SocketAddr>,
}

impl Server {
    /// Checks the configuration and binds all its addresses; port 0 picks a free one.
    ///
    /// # Errors
    /// What is wrong with the configuration, or which address could not be bound and why.
    pub async fn bind(config: ServerConfig, slot: ProviderSlot) -> Result<Self, ServeError> {
        config.validate()?;
        let mut listeners = Vec::new();
        let mut addrs = Vec::new();
        for addr in &config.listen {
            let listener = Listener::tcp(*addr).await?;
            addrs.extend(listener.tcp_addr());
            listeners.push(listener);
        }
        for path in &config.unix {
            listeners.push(Listener::unix(path).await?);
        }
        let app = App::new(config, slot);
        Ok(Self { app: Arc::new(app), listeners, addrs })
    }

    /// The bound TCP addresses, in the configuration's order.
    pub fn local_addrs(&self) -> &[SocketAddr] {
        &self.addrs
    }

    /// Serves until `shutdown` resolves and everything that runs has ended or run out of grace.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        let Self { app, listeners, .. } = self;
        background::recover(&app).await;
        batches::start(&app);
        let router = routes::router(app.clone());
        let connections_max = app.config.connections_max.clamp(1, Semaphore::MAX_PERMITS.min(1 << 20));
        let connections = Arc::new(Semaphore::new(connections_max));
        let mut accepting = tokio::task::JoinSet::new();
        for listener in listeners {
            accepting.spawn(listener.accept(router.clone(), connections.clone(), app.clone()));
        }
        shutdown.await;
        app.phases.set(Phase::Draining);
        // The listeners are dropped, so that new connections are refused rather than left waiting.
        while accepting.join_next().await.is_some() {}
        let all_closed = || async {
            // Every connection holds one permit, and so does whatever goes on without one.
            let _ = connections.acquire_many(connections_max as u32).await;
            let _ = app.tasks.acquire_many(TASKS_MAX as u32).await;
        };
        if tokio::time::timeout(app.config.shutdown_grace, all_closed()).await.is_err() {
            app.phases.set(Phase::Ending);
            let _ = tokio::time::timeout(ENDING, all_closed()).await;
        }
        app.phases.set(Phase::Closed);
        tracing::info!("server stopped");
    }
}

/// Binds and serves a provider that is ready, and reports the bound addresses.
///
/// # Errors
/// Those of [`Server::bind`].
pub async fn serve(
    config: ServerConfig,
    provider: Arc<dyn Provider>,
    on_bound: impl FnOnce(&[SocketAddr]),
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let server = Server::bind(config, ProviderSlot::ready(provider)).await?;
    on_bound(server.local_addrs());
    server.run(shutdown).await;
    Ok(())
}
