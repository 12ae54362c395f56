//! Someone who has a file: how its bytes are asked for, and what an answer means.

use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ingle_egress::{Backoff, Bytes, Client, Credential, EgressError, Request, Response, Target};

use super::fetch::{Stop, Transfer, locked};
use super::{PullError, Registry};
use crate::peers::Floor;

/// How much is written at a time.
const WRITE_BYTES: usize = 1 << 20;
/// Answers of a peer are not waited for for long: the hub is there too.
const PEER: Backoff = Backoff {
    attempts: 1,
    base: Duration::from_millis(100),
    max: Duration::from_secs(1),
    asked_max: Duration::ZERO,
};

/// Someone who has the file.
pub(super) struct Source {
    pub client: Client,
    pub target: Target,
    pub credential: Option<Credential>,
    pub registry: Option<Arc<Registry>>,
    /// How slow it may be, if it is another node; the hub is asked last, and as slow as it is.
    pub floor: Option<Floor>,
    /// Where redirects led: asked directly until that is refused, so that each chunk does not begin at the hub.
    pub direct: Mutex<Option<Target>>,
}

/// A body as it comes, from a source that must not be too slow.
struct Coming {
    response: Response,
    floor: Option<Floor>,
    /// Time waited, and bytes that came in it.
    waited: Duration,
    n_bytes: u64,
}

impl Coming {
    /// The next piece, `None` at the end.
    async fn piece(&mut self) -> Result<Option<Bytes>, PullError> {
        let Some(floor) = self.floor else { return Ok(self.response.chunk().await?) };
        loop {
            let begin = Instant::now();
            let left = floor.window.saturating_sub(self.waited);
            let came = tokio::time::timeout(left, self.response.chunk()).await;
            self.waited += begin.elapsed();
            if let Ok(Ok(Some(bytes))) = &came {
                self.n_bytes += bytes.len() as u64;
            }
            if self.waited >= floor.window {
                if self.n_bytes < floor.bytes && !matches!(came, Ok(Ok(None))) {
                    let problem = format!("{} bytes came in {} s", self.n_bytes, self.waited.as_secs());
                    return Err(PullError::Answer { url: self.response.target().to_string(), problem });
                }
                (self.waited, self.n_bytes) = (Duration::ZERO, 0);
            }
            if let Ok(came) = came {
                return Ok(came?);
            }
        }
    }
}

impl Source {
    pub fn is_peer(&self) -> bool {
        self.floor.is_some()
    }

    fn body(&self, response: Response) -> Coming {
        Coming { response, floor: self.floor, waited: Duration::ZERO, n_bytes: 0 }
    }

    /// Asks, where redirects led before if that is known.
    async fn ask(&self, transfer: &Transfer, range: Option<Range<u64>>) -> Result<Response, Stop> {
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
        if self.is_peer() {
            request = request.backoff(PEER);
        }
        let sent = match &self.registry {
            Some(registry) if !is_direct => registry.send(request).await,
            _ => self.client.send(&request).await,
        };
        let response = sent.map_err(|error| again_if(error.is_transient(), error.into()))?;
        let status = response.status();
        if matches!(status, 200 | 206) {
            if !self.is_peer() && response.target().origin() != self.target.origin() {
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
            // The range is not in the file: it is not the file that it was, or whoever answers has another.
            416 if transfer.is_fixed => {
                let problem =
                    format!("it says that a part of the file's {} bytes is not in it", transfer.size);
                Stop::Once(PullError::Answer { url: what, problem })
            }
            416 => Stop::Changed,
            _ => {
                let error = response.into_error().await;
                again_if(error.is_transient(), error.into())
            }
        })
    }

    /// Refuses answers that are about another version.
    fn check_version(&self, transfer: &Transfer, response: &Response) -> Result<(), Stop> {
        match &transfer.version {
            Some(version) if !version.is_of(response) => Err(Stop::Changed),
            _ => Ok(()),
        }
    }

    /// Reads from `at` on, which moves with what is written.
    pub async fn read(&self, transfer: &Arc<Transfer>, at: &mut u64, end: u64) -> Result<(), Stop> {
        let size = transfer.size;
        let response = self.ask(transfer, Some(*at..end)).await?;
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
        let mut body = self.body(response);
        let mut buffer = Vec::new();
        loop {
            let piece = body.piece().await;
            let room = (stop - *at) as usize - buffer.len();
            if let Ok(Some(bytes)) = &piece {
                buffer.extend_from_slice(&bytes[..bytes.len().min(room)]);
            }
            let is_over = !matches!(piece, Ok(Some(_)));
            if buffer.len() >= WRITE_BYTES || (is_over && !buffer.is_empty()) {
                let n = buffer.len() as u64;
                transfer.write(*at, std::mem::take(&mut buffer), self.is_peer()).await?;
                *at += n;
            }
            match piece {
                Ok(Some(bytes)) if bytes.len() > room => {
                    return Err(self.wrong("more bytes came than were promised".to_owned()));
                }
                Ok(Some(_)) => {}
                Ok(None) if *at == stop => return Ok(()),
                Ok(None) => return Err(self.wrong("the body ended early".to_owned())),
                Err(error) => return Err(Stop::Again(error)),
            }
        }
    }

    /// Reads the whole file, and writes what is missing of it. `written` is how far it has been written.
    pub async fn read_whole(
        &self,
        transfer: &Arc<Transfer>,
        missing: &[Range<u64>],
        written: &mut u64,
    ) -> Result<(), Stop> {
        let response = self.ask(transfer, None).await?;
        self.check_version(transfer, &response)?;
        if response.status() != 200 {
            return Err(self.wrong("a part came, and the whole was asked for".to_owned()));
        }
        if response.content_length().is_some_and(|length| length != transfer.size) {
            return Err(self.changed(transfer, "its size is another".to_owned()));
        }
        let mut body = self.body(response);
        let mut at = 0;
        while let Some(piece) = body.piece().await.map_err(Stop::Again)? {
            let piece_end = at + piece.len() as u64;
            if piece_end > transfer.size {
                return Err(self.changed(transfer, "it is longer than it was said to be".to_owned()));
            }
            for range in missing {
                let (start, end) = (range.start.max(at).max(*written), range.end.min(piece_end));
                if start < end {
                    let bytes = piece[(start - at) as usize..(end - at) as usize].to_vec();
                    transfer.write(start, bytes, self.is_peer()).await?;
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

    /// An answer about another file than was promised.
    fn changed(&self, transfer: &Transfer, problem: String) -> Stop {
        if transfer.is_fixed {
            Stop::Failed(PullError::Answer { url: self.target.to_string(), problem })
        } else {
            Stop::Changed
        }
    }
}

fn again_if(is_transient: bool, error: PullError) -> Stop {
    // A connection that was refused by the policy will be refused again.
    let is_transient = is_transient && !matches!(error, PullError::Egress(EgressError::Busy { .. }));
    if is_transient { Stop::Again(error) } else { Stop::Failed(error) }
}
