//! Fetching: what is not there yet, chunk by chunk, by several streams at a time.
//!
//! A stream takes a chunk (16 MiB) that is missing, asks for its bytes, and writes them as they come; the store notes
//! the chunk in the file's journal when it is durable. If a connection breaks, the stream asks for the rest of its chunk.
//! So a kill costs at most the chunk that each stream was at, and a cut costs nothing.
//!
//! Chunks of two versions of a file must not meet. Where the digest is known it tells in the end; else each answer has to
//! name the version that was planned. A file of which nothing tells versions apart comes in one answer, or is begun again.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ingle_egress::{Backoff, Client, Target};
use tokio::task::JoinSet;

use super::layers::{Content, From, Plan, Remote, Version, layer};
use super::progress::Meter;
use super::source::Source;
use super::{Event, PullError, Watch, on};
use crate::peers::Floor;
use crate::{Digest, Expect, Layer, SourceId, Staged, Store, StoreError};

/// Times in a row that a stream may fail without a byte.
const FAILURES_MAX: u32 = 6;
/// Times that a file may change while it is fetched.
const CHANGES_MAX: u32 = 3;
/// How often progress is told.
const TICK: Duration = Duration::from_millis(100);
/// How often it is looked whether another process is done with a blob.
const POLL: Duration = Duration::from_millis(500);
/// Fetches into a session of a store.
pub(super) struct Fetcher {
    pub store: Store,
    pub client: Client,
    /// Nodes that may have it.
    pub peers: Vec<(Client, Target)>,
    pub peer_floor: Floor,
    pub streams: usize,
}

/// What came.
pub(super) struct Fetched {
    /// The config first, if the plan has one; then the others in order.
    pub layers: Vec<Layer>,
    pub n_bytes: u64,
    pub from_peers: u64,
}

/// One file on its way.
pub(super) struct Transfer {
    pub staged: Staged,
    sources: Vec<Source>,
    /// Which of them is asked; it only moves on.
    current: AtomicUsize,
    pub size: u64,
    /// Which version every answer must be of, where the digest is not known.
    pub version: Option<Version>,
    /// Whether no other content than the one that was planned will do.
    pub is_fixed: bool,
    queue: Mutex<VecDeque<Range<u64>>>,
    done: AtomicU64,
    fetched: AtomicU64,
    from_peers: AtomicU64,
    used_peer: AtomicBool,
    /// Shared by each write that is under way: a stream that is stopped does not stop the write that it was at.
    writing: Arc<tokio::sync::RwLock<()>>,
}

/// Why a stream stopped.
pub(super) enum Stop {
    /// For good.
    Failed(PullError),
    /// The source sends whole files only.
    NoRanges,
    /// The file is another one by now.
    Changed,
    /// Worth another try.
    Again(PullError),
    /// Worth one more try.
    Once(PullError),
}

impl std::convert::From<StoreError> for Stop {
    fn from(error: StoreError) -> Self {
        Self::Failed(error.into())
    }
}

pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Fetcher {
    /// Fetches all of a plan that is not in the store.
    ///
    /// # Errors
    /// If something cannot be had, or is not what was promised.
    pub async fn all(&self, plan: &Plan, watch: Watch<'_>) -> Result<Fetched, PullError> {
        self.check_space(plan).await?;
        let mut fetched = Fetched { layers: Vec::new(), n_bytes: 0, from_peers: 0 };
        for item in plan.config.iter().chain(&plan.items) {
            let content = match &item.from {
                From::Bytes(bytes) => {
                    let kept = bytes.clone();
                    on(self.store.clone(), move |store| Ok(store.put_bytes(&kept)?)).await?;
                    Content::of(bytes)
                }
                From::Remote(remote) => self.one(remote, &mut fetched, watch).await?,
            };
            fetched.layers.push(layer(item, &content));
        }
        Ok(fetched)
    }

    /// Refuses what the disk has no room for, before anything is fetched. What is there of unfinished files counts when
    /// they are taken up; here they count as a whole only if nothing is there.
    async fn check_space(&self, plan: &Plan) -> Result<(), PullError> {
        let remotes: Vec<(Option<Digest>, SourceId, u64)> = plan
            .config
            .iter()
            .chain(&plan.items)
            .filter_map(|item| match &item.from {
                From::Remote(remote) => Some((remote.digest, remote.source(), remote.size)),
                From::Bytes(_) => None,
            })
            .collect();
        on(self.store.clone(), move |store| {
            let mut needed = 0u64;
            for (digest, source, size) in remotes {
                let known = digest.or_else(|| store.shared.blob_of(&source, size));
                let there = match known {
                    Some(digest) if store.shared.kept_blob(&digest, Some(size)).is_some() => size,
                    Some(digest) => store.shared.staged_bytes(&digest),
                    None => store.shared.staged_bytes_of(&source, size),
                };
                needed = needed.saturating_add(size.saturating_sub(there));
            }
            if needed == 0 {
                Ok(())
            } else {
                Ok(store.shared.make_folders().and_then(|()| store.shared.check_space(needed))?)
            }
        })
        .await
    }

    /// Fetches one file, if it is not there. What came is what was planned, unless the file has changed meanwhile.
    async fn one(&self, remote: &Remote, all: &mut Fetched, watch: Watch<'_>) -> Result<Content, PullError> {
        let content = |digest: Digest, remote: &Remote| Content {
            digest,
            size: remote.size,
            version: remote.version.clone(),
        };
        if let Some(digest) = self.present(remote).await? {
            watch(&progress(remote, remote.size, 0.0, None));
            return Ok(content(digest, remote));
        }
        let mut peers = match remote.digest {
            Some(digest) => crate::peers::holders(&self.peers, &digest, remote.size).await,
            None => Vec::new(),
        };
        let mut remote = remote.clone();
        let mut changes = 0;
        loop {
            let Some(staged) = self.stage(&remote, watch).await? else {
                // Another process has brought it.
                if let Some(digest) = self.present(&remote).await? {
                    return Ok(content(digest, &remote));
                }
                continue;
            };
            let transfer = Arc::new(self.transfer(&remote, std::mem::take(&mut peers), staged));
            let outcome = run(&transfer, self.streams, &remote, watch).await;
            all.n_bytes += transfer.fetched.load(Ordering::Relaxed);
            all.from_peers += transfer.from_peers.load(Ordering::Relaxed);
            match outcome {
                Ok(()) => {}
                Err(Stop::Changed) => {
                    changes += 1;
                    if changes > CHANGES_MAX {
                        return Err(PullError::Unsettled(remote.target.to_string()));
                    }
                    let (size, version) =
                        super::url::probe(&self.client, &remote.target, remote.credential.as_ref()).await?;
                    (remote.size, remote.version) = (size, version);
                    continue;
                }
                Err(Stop::Failed(error) | Stop::Again(error) | Stop::Once(error)) => return Err(error),
                Err(Stop::NoRanges) => unreachable!("run() answers it by asking for the whole file"),
            }
            watch(&Event::Status("verifying sha256 digest".into()));
            let used_peer = transfer.used_peer.load(Ordering::Relaxed);
            let staged = Arc::into_inner(transfer).expect("all streams have ended").staged;
            match on(self.store.clone(), move |_| Ok(staged.commit()?)).await {
                // A node that lies, or whose disk does, is not asked again.
                Err(PullError::Store(StoreError::WrongContent { .. })) if used_peer => {
                    watch(&Event::Status("another node sent wrong bytes; asking the hub".into()));
                }
                outcome => return outcome.map(|digest| content(digest, &remote)),
            }
        }
    }

    async fn present(&self, remote: &Remote) -> Result<Option<Digest>, PullError> {
        let (digest, size, source) = (remote.digest, remote.size, remote.source());
        on(self.store.clone(), move |store| {
            let Some(digest) = digest.or_else(|| store.shared.blob_of(&source, size)) else {
                return Ok(None);
            };
            Ok(store.seems_whole(&digest, size)?.then_some(digest))
        })
        .await
    }

    /// Takes up the file; `None` if another process has been at it and is done.
    async fn stage(&self, remote: &Remote, watch: Watch<'_>) -> Result<Option<Staged>, PullError> {
        let source = Some(remote.source());
        let expect = Expect { digest: remote.digest, size: Some(remote.size), source };
        let mut waits = false;
        loop {
            let expect = expect.clone();
            match on(self.store.clone(), move |store| Ok(store.stage(expect)?)).await {
                Err(PullError::Store(StoreError::Busy(_))) => {
                    if !waits {
                        watch(&Event::Status("waiting for another process that pulls the same".into()));
                    }
                    waits = true;
                    tokio::time::sleep(POLL).await;
                    if self.present(remote).await?.is_some() {
                        return Ok(None);
                    }
                }
                outcome => return outcome.map(Some),
            }
        }
    }

    fn transfer(&self, remote: &Remote, peers: Vec<(Client, Target)>, staged: Staged) -> Transfer {
        let peer = |(client, target): (Client, Target)| Source {
            credential: client.credentials().for_target(&target).cloned(),
            client,
            target,
            registry: None,
            floor: Some(self.peer_floor),
            direct: Mutex::default(),
        };
        let mut sources: Vec<Source> = peers.into_iter().map(peer).collect();
        sources.push(Source {
            client: self.client.clone(),
            target: remote.target.clone(),
            credential: remote.credential.clone(),
            registry: remote.registry.clone(),
            floor: None,
            direct: Mutex::default(),
        });
        let journal = staged.journal();
        Transfer {
            sources,
            current: AtomicUsize::new(0),
            size: remote.size,
            version: remote.version.clone().filter(|_| remote.digest.is_none()),
            is_fixed: remote.is_fixed(),
            queue: Mutex::new(journal.missing().into()),
            done: AtomicU64::new(journal.done_bytes()),
            fetched: AtomicU64::new(0),
            from_peers: AtomicU64::new(0),
            used_peer: AtomicBool::new(false),
            writing: Arc::default(),
            staged,
        }
    }
}

fn progress(remote: &Remote, done: u64, rate: f64, left: Option<Duration>) -> Event {
    Event::Progress {
        file: remote.label.clone(),
        digest: remote.digest,
        done,
        total: remote.size,
        rate,
        left,
    }
}

/// Lets streams work until the queue is empty, and tells how far they are.
async fn run(
    transfer: &Arc<Transfer>,
    streams: usize,
    remote: &Remote,
    watch: Watch<'_>,
) -> Result<(), Stop> {
    let mut meter = Meter::new(Instant::now(), transfer.done.load(Ordering::Relaxed));
    let mut tell = || {
        let done = transfer.done.load(Ordering::Relaxed).min(transfer.size);
        let (rate, left) = meter.take(Instant::now(), done, transfer.size);
        watch(&progress(remote, done, rate, left));
    };
    tell();
    let mut set = JoinSet::new();
    let mut n_streams = streams.min(locked(&transfer.queue).len());
    if !transfer.tells_versions() {
        let transfer = transfer.clone();
        set.spawn(async move { whole(&transfer).await });
        n_streams = 0;
    }
    for _ in 0..n_streams {
        let transfer = transfer.clone();
        set.spawn(async move { stream(&transfer).await });
    }
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let ended = tokio::select! {
            ended = set.join_next() => ended,
            _ = tick.tick() => {
                tell();
                continue;
            }
        };
        match ended {
            None => break,
            Some(Ok(Ok(()))) => {}
            Some(Ok(Err(Stop::NoRanges))) => {
                transfer.stop(&mut set).await;
                let transfer = transfer.clone();
                set.spawn(async move { whole(&transfer).await });
            }
            Some(Ok(Err(stop))) => {
                transfer.stop(&mut set).await;
                return Err(stop);
            }
            Some(Err(error)) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Some(Err(_)) => {}
        }
    }
    tell();
    Ok(())
}

/// One stream: chunk after chunk until none is left.
async fn stream(transfer: &Arc<Transfer>) -> Result<(), Stop> {
    loop {
        let Some(range) = locked(&transfer.queue).pop_front() else { return Ok(()) };
        let mut at = range.start;
        let mut failures = 0;
        while at < range.end {
            let begin = at;
            let index = transfer.current.load(Ordering::Relaxed);
            let outcome = transfer.sources[index].read(transfer, &mut at, range.end).await;
            if at > begin {
                failures = 0;
            }
            match outcome {
                Ok(()) => {}
                Err(stop) => transfer.next(index, stop, &mut failures).await?,
            }
        }
    }
}

/// The whole file in one stream, from a source that knows no ranges or tells no versions. What is there is skipped as it
/// passes, if it is known to be of the same version.
async fn whole(transfer: &Arc<Transfer>) -> Result<(), Stop> {
    // Chunks that other streams were at are begun again.
    let missing = transfer.staged.journal().missing();
    transfer.done.store(transfer.staged.journal().done_bytes(), Ordering::Relaxed);
    let mut failures = 0;
    let mut written = 0;
    loop {
        let can_go_on = transfer.tells_versions();
        if !can_go_on {
            written = 0;
            transfer.done.store(0, Ordering::Relaxed);
        }
        let begin = written;
        let index = transfer.current.load(Ordering::Relaxed);
        let outcome = transfer.sources[index].read_whole(transfer, &missing, &mut written).await;
        if can_go_on && written > begin {
            failures = 0;
        }
        match outcome {
            Ok(()) => return Ok(()),
            Err(stop) => transfer.next(index, stop, &mut failures).await?,
        }
    }
}

impl Transfer {
    /// Whether bytes of two answers can be told to be of one version.
    fn tells_versions(&self) -> bool {
        self.is_fixed || self.version.is_some()
    }

    /// What follows a failure: a pause, the next source, or the end.
    async fn next(&self, index: usize, stop: Stop, failures: &mut u32) -> Result<(), Stop> {
        let is_peer = self.sources[index].is_peer();
        // A peer's whims are no reason to fail.
        if is_peer && !matches!(stop, Stop::Failed(PullError::Store(_))) {
            let _ = self.current.compare_exchange(index, index + 1, Ordering::Relaxed, Ordering::Relaxed);
            *failures = 0;
            return Ok(());
        }
        let (error, failures_max) = match stop {
            Stop::Again(error) => (error, FAILURES_MAX),
            Stop::Once(error) => (error, 2),
            stop => return Err(stop),
        };
        *failures += 1;
        if *failures >= failures_max {
            return Err(Stop::Failed(error));
        }
        tokio::time::sleep(Backoff::default().pause(*failures)).await;
        Ok(())
    }

    /// Stops all streams. When it returns nobody writes to the file any more.
    async fn stop(&self, streams: &mut JoinSet<Result<(), Stop>>) {
        streams.shutdown().await;
        drop(self.writing.write().await);
    }

    /// Writes bytes, on a thread that may block.
    pub async fn write(self: &Arc<Self>, at: u64, bytes: Vec<u8>, is_peer: bool) -> Result<(), Stop> {
        let (transfer, n) = (self.clone(), bytes.len() as u64);
        let under_way = self.writing.clone().read_owned().await;
        let write = move || {
            let written = transfer.staged.write_at(at, &bytes);
            // In this order: who waits for the end of all writes has the file alone then.
            drop(transfer);
            drop(under_way);
            written
        };
        let written = tokio::task::spawn_blocking(write).await;
        match written {
            Ok(written) => written?,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => return Err(Stop::Failed(PullError::Stopped)),
        }
        self.done.fetch_add(n, Ordering::Relaxed);
        self.fetched.fetch_add(n, Ordering::Relaxed);
        if is_peer {
            self.used_peer.store(true, Ordering::Relaxed);
            self.from_peers.fetch_add(n, Ordering::Relaxed);
        }
        Ok(())
    }
}
