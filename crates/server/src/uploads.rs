//! Blobs that clients have sent and that no model has yet: each is kept by a session of the store until a model has it,
//! or an hour has passed. It wakes when the oldest of them has had its hour.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ingle_store::{Digest, Store};

/// Blobs that are kept for whoever is about to name them: more than the largest models have files. Each is a lock, and so
/// an open file. One beyond them may be collected before it is named, which `create` tells.
const UPLOADS_MAX: usize = 256;
/// For how long.
const UPLOAD_KEPT: Duration = Duration::from_secs(3600);

/// The sessions of uploads.
pub(crate) struct Uploads {
    kept_for: Duration,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    /// One session for each blob, the oldest first.
    sessions: VecDeque<(Instant, Digest, Store)>,
    /// Whether a task waits for the oldest one's end.
    is_watched: bool,
}

impl Uploads {
    pub(crate) fn new() -> Arc<Self> {
        Self::keeping_for(UPLOAD_KEPT)
    }

    fn keeping_for(kept_for: Duration) -> Arc<Self> {
        Arc::new(Self { kept_for, kept: Mutex::default() })
    }

    /// A session for an upload of this blob into a store. An earlier one that keeps the same blob is taken: what it keeps
    /// may turn out to be damaged, and only itself may let go of it, to write it anew.
    pub(crate) fn session(self: &Arc<Self>, digest: Digest, store: &Store) -> Store {
        let mut kept = self.lock();
        let known = kept.sessions.iter().position(|(_, known, _)| *known == digest);
        let session = match known.and_then(|at| kept.sessions.remove(at)) {
            Some((.., session)) => session,
            None => store.session(),
        };
        self.put(&mut kept, digest, session.clone());
        session
    }

    /// Keeps a session from now on: an upload may have taken longer than what it brings is kept.
    pub(crate) fn keep(self: &Arc<Self>, digest: Digest, session: Store) {
        let mut kept = self.lock();
        kept.sessions.retain(|(_, known, _)| *known != digest);
        self.put(&mut kept, digest, session);
    }

    /// Lets go of blobs that a model has now: while they are held, no other process can mend them or remove them.
    pub(crate) fn release(&self, digests: &[Digest]) {
        self.lock().sessions.retain(|(_, digest, _)| !digests.contains(digest));
    }

    fn put(self: &Arc<Self>, kept: &mut Kept, digest: Digest, session: Store) {
        while kept.sessions.len() >= UPLOADS_MAX {
            kept.sessions.pop_front();
        }
        kept.sessions.push_back((Instant::now(), digest, session));
        if kept.is_watched {
            return;
        }
        kept.is_watched = true;
        let uploads = Arc::downgrade(self);
        tokio::spawn(async move {
            while let Some(pause) = uploads.upgrade().and_then(|uploads| uploads.expire()) {
                tokio::time::sleep(pause).await;
            }
        });
    }

    /// Lets go of what has had its time, and how long the oldest of the others has; `None` if there are no others.
    fn expire(&self) -> Option<Duration> {
        let mut kept = self.lock();
        while let Some((since, ..)) = kept.sessions.front() {
            match self.kept_for.checked_sub(since.elapsed()) {
                Some(left) if !left.is_zero() => return Some(left),
                _ => drop(kept.sessions.pop_front()),
            }
        }
        kept.is_watched = false;
        None
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        // Nothing panics while it is held.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use ingle_store::StoreConfig;

    use super::*;

    /// Without another upload, and again for one that comes later.
    #[tokio::test]
    async fn what_nobody_names_is_let_go() {
        let folder = tempfile::tempdir().expect("a folder");
        let config = StoreConfig { root: folder.path().join("store"), ..StoreConfig::default() };
        let open = || Store::open(config.clone()).expect("it has a folder");
        let (store, other) = (open(), open());
        let pruned = || other.prune(false).expect("readable").blobs;
        let (brief, long) = (Uploads::keeping_for(Duration::from_millis(1)), Uploads::new());
        for content in [b"one", b"two"] {
            let digest = Digest::of(content);
            long.session(digest, &store).put_bytes(content).expect("there is room");
            assert_eq!(pruned(), 0, "it is kept");
            brief.session(digest, &store).put_bytes(content).expect("there is room");
            long.release(&[Digest::of(b"another")]);
            assert_eq!(pruned(), 0, "it is kept");
            long.release(&[digest]);
            while pruned() == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    }
}
