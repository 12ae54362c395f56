//! Who works off batches: one task that looks which are to be done, and one for each that is being done.
//!
//! It looks when a batch arrives or is to end, when one is done, and once in a while. A batch's lines run through the
//! same handlers as requests over HTTP, at low priority. Each answer is on the disk before the next is looked at, under
//! its line's number; so whenever the process ends, the next one goes on with the lines that have none.

mod input;
mod work;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use ingle_ledger::{BatchStatus, Files};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinSet;

use crate::App;
use crate::phase::Phase;

/// Batches that are worked off at a time. Their lines take turns.
const BATCHES_AT_ONCE: usize = 8;
/// Lines of all batches that are with the provider at a time: as many as models have places by default.
const LINES_AT_ONCE: usize = 64;
/// How often somebody looks what is to be done, whether or not anything has happened.
const LOOK_INTERVAL: Duration = Duration::from_secs(30);
/// How long a batch rests that could not be read or written.
const TROUBLE_PAUSE: Duration = Duration::from_secs(5);

/// Tells of new batches, and of those that are to end.
pub(crate) struct Bell {
    arrived: Notify,
    cancelled: watch::Sender<u64>,
}

impl Bell {
    pub fn new() -> Self {
        Self { arrived: Notify::new(), cancelled: watch::Sender::new(0) }
    }

    /// There is a new batch.
    pub fn arrived(&self) {
        self.arrived.notify_one();
    }

    /// Some batch is to end.
    pub fn cancelled(&self) {
        self.cancelled.send_modify(|n| *n += 1);
        self.arrived.notify_one();
    }
}

/// What the batches share.
struct Shared {
    app: Arc<App>,
    files: Arc<Files>,
    /// Places of lines.
    lines: Arc<Semaphore>,
    /// KiB of lines in memory. A line takes as many as it has, and all if it has more.
    memory: Arc<Semaphore>,
    memory_kib: usize,
}

/// Begins to work, if there are batches here at all.
pub(crate) fn start(app: &Arc<App>) {
    let Some(files) = app.config.files.clone() else { return };
    let memory_kib = app.config.body_bytes_max.div_ceil(1024);
    let shared = Arc::new(Shared {
        app: app.clone(),
        files,
        lines: Arc::new(Semaphore::new(LINES_AT_ONCE)),
        memory: Arc::new(Semaphore::new(memory_kib)),
        memory_kib,
    });
    let permit = app.tasks.clone().try_acquire_owned();
    tokio::spawn(async move {
        let _permit = permit;
        run(&shared).await;
    });
}

/// Works until shutdown. What is not answered then is answered by the next process.
async fn run(shared: &Arc<Shared>) {
    let mut draining = Box::pin(shared.app.phases.reached(Phase::Draining));
    let mut running: JoinSet<()> = JoinSet::new();
    let mut seqs = HashMap::new();
    loop {
        match shared.files.unfinished_batches().await {
            Ok(unfinished) => {
                for (seq, status) in unfinished {
                    let is_running = seqs.values().any(|running| *running == seq);
                    let has_place = running.len() < BATCHES_AT_ONCE || status == BatchStatus::Cancelling;
                    if !is_running && has_place {
                        seqs.insert(running.spawn(look_after(shared.clone(), seq)).id(), seq);
                    }
                }
            }
            Err(error) => tracing::error!("batches cannot be read: {error}"),
        }
        tokio::select! {
            () = &mut draining => break,
            () = shared.app.batches.arrived.notified() => {}
            () = tokio::time::sleep(LOOK_INTERVAL) => {}
            Some(ended) = running.join_next_with_id() => {
                if let Err(panic) = &ended {
                    tracing::error!("working off a batch panicked: {panic}");
                    tokio::time::sleep(TROUBLE_PAUSE).await;
                }
                seqs.remove(&ended.map_or_else(|panic| panic.id(), |(id, ())| id));
            }
        }
    }
    running.shutdown().await;
}

async fn look_after(shared: Arc<Shared>, seq: i64) {
    if let Err(error) = work::off(&shared, seq).await {
        tracing::error!("a batch could not be read or written, and is tried again: {error}");
        tokio::time::sleep(TROUBLE_PAUSE).await;
    }
}
