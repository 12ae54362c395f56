//! Fetching: what is not there yet, chunk by chunk, by several streams at a time.
//!
//! A stream takes a chunk (16 MiB) that is missing, asks for its bytes, and writes them as they come; the store notes
//! the chunk in the file's journal when it is durable. If a connection breaks, the stream asks for the rest of its chunk.
//! So a kill costs at most the chunk that each stream was at, and a cut costs nothing.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ingle_egress::{Backoff, Client, Credential, EgressError, Request, Response, Target};
use tokio::task::JoinSet;

use super::layers::{From, Plan, Remote, layer};
use super::progress::Meter;
use super::{Event, PullError, Registry, Watch, on};
use crate::{Digest, Expect, Layer, SourceId, Staged, Store, StoreError};

/// How much is written at a time.
const WRITE_BYTES: usize = 1 << 20;
/// Times in a row that a stream may fail without a byte.
const FAILURES_MAX: u32 = 6;
/// Times that a file may change while it is fetched.
const CHANGES_MAX: u32 = 3;
/// How often progress is told.
const TICK: Duration = Duration::from_millis(100);
/// How often it is looked whether another process is done with a blob.
const POLL: Duration = Duration::from_millis(500);
/// Answers of a peer are not waited for for long: the hub is there too.
const PEER: Backoff = Backoff {
    attempts: 1,
    base: Duration::from_millis(100),
    max: Duration::from_secs(1),
    asked_max: Duration::ZERO,
};

/// Fetches into a session of a store.
pub(super) struct Fetcher {
    pub store: Store,
    pub client: Client,
    /// Nodes that may have it.
    pub peers: Vec<(Client, Target)>,
    pub streams: usize,
}

/// What came.
pub(super) struct Fetched {
    /// The config first, if the plan has one; then the others in order.
    pub layers: Vec<Layer>,
    pub n_bytes: u64,
    pub from_peers: u64,
}

/// Someone who has the file.
struct Source {
    client: Client,
    target: Target,
    credential: Option<Credential>,
    registry: Option<Arc<tokio::sync::Mutex<Registry>>>,
    is_peer: bool,
    /// Where redirects led: asked directly until that is refused, so that each chunk does not begin at the hub.
    direct: Mutex<Option<Target>>,
}

/// One file on its way.
struct Transfer {
    staged: Staged,
    sources: Vec<Source>,
    /// Which of them is asked; it only moves on.
    current: AtomicUsize,
    size: u64,
    /// What every answer must call the file, where its digest is not known.
    version: Option<String>,
    queue: Mutex<VecDeque<Range<u64>>>,
    done: AtomicU64,
    fetched: AtomicU64,
    from_peers: AtomicU64,
    used_peer: AtomicBool,
}

/// Why a stream stopped.
enum Stop {
    /// For good.
    Failed(PullError),
    /// The source sends whole files only.
    NoRanges,
    /// The file is another one by now.
    Changed,
    /// Worth another try.
    Again(PullError),
}

impl std::convert::From<StoreError> for Stop {
    fn from(error: StoreError) -> Self {
        Self::Failed(error.into())
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
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
            let (digest, size) = match &item.from {
                From::Bytes(bytes) => {
                    let (kept, size) = (bytes.clone(), bytes.len() as u64);
                    (on(self.store.clone(), move |store| Ok(store.put_bytes(&kept)?)).await?, size)
                }
                From::Remote(remote) => (self.one(remote, &mut fetched, watch).await?, remote.size),
            };
            fetched.layers.push(layer(item, digest, size));
        }
        Ok(fetched)
    }

    /// Refuses what the disk has no room for, before anything is fetched. What is there of unfinished files counts when
    /// they are taken up; here they count as a whole only if nothing is there.
    async fn check_space(&self, plan: &Plan) -> Result<(), PullError> {
        let remotes: Vec<(Option<Digest>, u64)> = plan
            .items
            .iter()
            .filter_map(|item| match &item.from {
                From::Remote(remote) => Some((remote.digest, remote.size)),
                From::Bytes(_) => None,
            })
            .collect();
        on(self.store.clone(), move |store| {
            let mut needed = 0u64;
            for (digest, size) in remotes {
                let there = match digest {
                    Some(digest) if store.shared.find_blob(&digest, Some(size)).is_some() => size,
                    Some(digest) => store.partial_bytes(&digest),
                    None => 0,
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

    /// Fetches one file, if it is not there.
    async fn one(&self, remote: &Remote, all: &mut Fetched, watch: Watch<'_>) -> Result<Digest, PullError> {
        if let Some(digest) = self.present(remote).await? {
            watch(&progress(remote, remote.size, 0.0, None));
            return Ok(digest);
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
                    return Ok(digest);
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
                Err(Stop::Failed(error) | Stop::Again(error)) => return Err(error),
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
                outcome => return outcome,
            }
        }
    }

    async fn present(&self, remote: &Remote) -> Result<Option<Digest>, PullError> {
        let (Some(digest), size) = (remote.digest, remote.size) else { return Ok(None) };
        let found = on(self.store.clone(), move |store| Ok(store.pin(&digest, Some(size))?)).await?;
        Ok(found.map(|_| digest))
    }

    /// Takes up the file; `None` if another process has been at it and is done.
    async fn stage(&self, remote: &Remote, watch: Watch<'_>) -> Result<Option<Staged>, PullError> {
        let source = SourceId { url: remote.target.to_string(), version: remote.version.clone() };
        let expect = Expect { digest: remote.digest, size: Some(remote.size), source: Some(source) };
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
            is_peer: true,
            direct: Mutex::default(),
        };
        let mut sources: Vec<Source> = peers.into_iter().map(peer).collect();
        sources.push(Source {
            client: self.client.clone(),
            target: remote.target.clone(),
            credential: remote.credential.clone(),
            registry: remote.registry.clone(),
            is_peer: false,
            direct: Mutex::default(),
        });
        let journal = staged.journal();
        Transfer {
            sources,
            current: AtomicUsize::new(0),
            size: remote.size,
            version: remote
                .version
                .clone()
                .filter(|version| remote.digest.is_none() && version.starts_with('"')),
            queue: Mutex::new(journal.missing().into()),
            done: AtomicU64::new(journal.done_bytes()),
            fetched: AtomicU64::new(0),
            from_peers: AtomicU64::new(0),
            used_peer: AtomicBool::new(false),
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
    let n_streams = streams.min(locked(&transfer.queue).len());
    let mut set = JoinSet::new();
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
                set.shutdown().await;
                let transfer = transfer.clone();
                set.spawn(async move { whole(&transfer).await });
            }
            Some(Ok(Err(stop))) => {
                set.shutdown().await;
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

/// The whole file in one stream, from a source that knows no ranges. What is there is skipped as it passes.
async fn whole(transfer: &Arc<Transfer>) -> Result<(), Stop> {
    // Chunks that other streams were at are begun again.
    let missing = transfer.staged.journal().missing();
    transfer.done.store(transfer.staged.journal().done_bytes(), Ordering::Relaxed);
    let mut failures = 0;
    let mut written = 0;
    loop {
        let begin = written;
        let index = transfer.current.load(Ordering::Relaxed);
        let outcome = transfer.sources[index].read_whole(transfer, &missing, &mut written).await;
        if written > begin {
            failures = 0;
        }
        match outcome {
            Ok(()) => return Ok(()),
            Err(stop) => transfer.next(index, stop, &mut failures).await?,
        }
    }
}

impl Transfer {
    /// What follows a failure: a pause, the next source, or the end.
    async fn next(&self, index: usize, stop: Stop, failures: &mut u32) -> Result<(), Stop> {
        let is_peer = self.sources[index].is_peer;
        // A peer's whims are no reason to fail.
        if is_peer && !matches!(stop, Stop::Failed(PullError::Store(_))) {
            let _ = self.current.compare_exchange(index, index + 1, Ordering::Relaxed, Ordering::Relaxed);
            *failures = 0;
            return Ok(());
        }
        let Stop::Again(error) = stop else { return Err(stop) };
        *failures += 1;
        if *failures >= FAILURES_MAX {
            return Err(Stop::Failed(error));
        }
        tokio::time::sleep(Backoff::default().pause(*failures)).await;
        Ok(())
    }

    /// Writes bytes, on a thread that may block.
    async fn write(self: &Arc<Self>, at: u64, bytes: Vec<u8>, is_peer: bool) -> Result<(), Stop> {
        let (transfer, n) = (self.clone(), bytes.len() as u64);
        let written = tokio::task::spawn_blocking(move || transfer.staged.write_at(at, &bytes)).await;
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

impl Source {
    /// Asks, where redirects led before if that is known.
    async fn ask(&self, range: Option<Range<u64>>) -> Result<Response, Stop> {
        let direct = locked(&self.direct).clone();
        let is_direct = direct.is_some();
        let (target, credential) = match direct {
            Some(target) => (target, None),
            None => (self.target.clone(), self.credential.as_ref()),
        };
        let mut request = Request::get(target).authorize(credential);
        if let Some(range) = range {
            request = request.range(range.start, range.end);
        }
        if self.is_peer {
            request = request.backoff(PEER);
        }
        let sent = match &self.registry {
            Some(registry) if !is_direct => registry.lock().await.send(request).await,
            _ => self.client.send(&request).await,
        };
        let response = sent.map_err(|error| again_if(error.is_transient(), error.into()))?;
        let status = response.status();
        if matches!(status, 200 | 206) {
            if !self.is_peer && response.target().origin() != self.target.origin() {
                *locked(&self.direct) = Some(response.target().clone());
            }
            return Ok(response);
        }
        // A signed address runs out; the hub signs a new one.
        if is_direct {
            *locked(&self.direct) = None;
            return Err(Stop::Again(response.into_error().await.into()));
        }
        let (what, origin) = (self.target.to_string(), self.target.origin().to_string());
        // Who may have it is the hub's to say; where it sends knows signatures only.
        let is_hub = response.target().origin() == self.target.origin();
        Err(match status {
            401 | 403 if !is_hub => Stop::Again(response.into_error().await.into()),
            401 | 403 => {
                let said = response.into_error().await.to_string();
                Stop::Failed(PullError::Unauthorized { what, origin, said })
            }
            404 | 410 => Stop::Failed(PullError::NotFound { what, is_anonymous: self.credential.is_none() }),
            // The range is not in the file: it is not the file that it was.
            416 => Stop::Changed,
            _ => {
                let error = response.into_error().await;
                again_if(error.is_transient(), error.into())
            }
        })
    }

    /// Refuses answers that are about another version.
    fn check_version(&self, transfer: &Transfer, response: &Response) -> Result<(), Stop> {
        let etag = response.header("etag");
        match &transfer.version {
            Some(version) if etag != Some(version) => Err(Stop::Changed),
            _ => Ok(()),
        }
    }

    /// Reads from `at` on, which moves with what is written.
    async fn read(&self, transfer: &Arc<Transfer>, at: &mut u64, end: u64) -> Result<(), Stop> {
        let size = transfer.size;
        let mut response = self.ask(Some(*at..end)).await?;
        self.check_version(transfer, &response)?;
        let is_all = *at == 0 && end == size;
        let promised = match (response.status(), response.content_range()) {
            (206, Some((start, stop, total))) => {
                if total.is_some_and(|total| total != size) {
                    return Err(
                        self.changed(transfer, format!("it has {} bytes, not {size}", total.unwrap_or(0)))
                    );
                }
                if start != *at || stop > end {
                    return Err(
                        self.wrong(format!("bytes {start} to {stop} came, and {at} to {end} were asked for"))
                    );
                }
                stop - start
            }
            (206, None) => return Err(self.wrong("a part came that does not say which".to_owned())),
            _ if is_all && response.content_length().is_none_or(|length| length == size) => size,
            _ if is_all => return Err(self.changed(transfer, "its size is another".to_owned())),
            _ => return Err(Stop::NoRanges),
        };
        let stop = *at + promised;
        let mut buffer = Vec::new();
        loop {
            let piece = response.chunk().await;
            let room = (stop - *at) as usize - buffer.len();
            if let Ok(Some(bytes)) = &piece {
                buffer.extend_from_slice(&bytes[..bytes.len().min(room)]);
            }
            let is_over = !matches!(piece, Ok(Some(_)));
            if buffer.len() >= WRITE_BYTES || (is_over && !buffer.is_empty()) {
                let n = buffer.len() as u64;
                transfer.write(*at, std::mem::take(&mut buffer), self.is_peer).await?;
                *at += n;
            }
            match piece {
                Ok(Some(bytes)) if bytes.len() > room => {
                    return Err(self.wrong("more bytes came than were promised".to_owned()));
                }
                Ok(Some(_)) => {}
                Ok(None) if *at == stop => return Ok(()),
                Ok(None) => return Err(self.wrong("the body ended early".to_owned())),
                Err(error) => return Err(Stop::Again(error.into())),
            }
        }
    }

    /// Reads the whole file, and writes what is missing of it. `written` is how far it has been written.
    async fn read_whole(
        &self,
        transfer: &Arc<Transfer>,
        missing: &[Range<u64>],
        written: &mut u64,
    ) -> Result<(), Stop> {
        let mut response = self.ask(None).await?;
        self.check_version(transfer, &response)?;
        if response.status() != 200 {
            return Err(self.wrong("a part came, and the whole was asked for".to_owned()));
        }
        if response.content_length().is_some_and(|length| length != transfer.size) {
            return Err(self.changed(transfer, "its size is another".to_owned()));
        }
        let mut at = 0;
        while let Some(piece) = response.chunk().await.map_err(|error| Stop::Again(error.into()))? {
            let piece_end = at + piece.len() as u64;
            if piece_end > transfer.size {
                return Err(self.changed(transfer, "it is longer than it was said to be".to_owned()));
            }
            for range in missing {
                let (start, end) = (range.start.max(at).max(*written), range.end.min(piece_end));
                if start < end {
                    let bytes = piece[(start - at) as usize..(end - at) as usize].to_vec();
                    transfer.write(start, bytes, self.is_peer).await?;
                }
            }
            at = piece_end;
            *written = (*written).max(at);
        }
        if at == transfer.size { Ok(()) } else { Err(self.wrong("the body ended early".to_owned())) }
    }

    /// An answer that is wrong this time.
    fn wrong(&self, problem: String) -> Stop {
        Stop::Again(PullError::Answer { url: self.target.to_string(), problem })
    }

    /// An answer about another file than was promised. Where the digest is known, no other file will do.
    fn changed(&self, transfer: &Transfer, problem: String) -> Stop {
        match transfer.staged.expect().digest {
            Some(_) => Stop::Failed(PullError::Answer { url: self.target.to_string(), problem }),
            None => Stop::Changed,
        }
    }
}

fn again_if(is_transient: bool, error: PullError) -> Stop {
    // A connection that was refused by the policy will be refused again.
    let is_transient = is_transient && !matches!(error, PullError::Egress(EgressError::Busy { .. }));
    if is_transient { Stop::Again(error) } else { Stop::Failed(error) }
}

impl Store {
    /// Bytes of a blob that an earlier pull has left, as its journal has them.
    fn partial_bytes(&self, digest: &Digest) -> u64 {
        let path = self.shared.tmp(&digest.file_name(), crate::staged::PARTIAL);
        // Sparse files count for what they may become; the stage checks again with what is verified.
        self.shared.files.metadata(&path).map_or(0, |found| found.len)
    }
}
