//! What the hub does wrong when it is told to.

use std::time::Duration;

use super::State;
use crate::http::{Reply, Request};

/// A fault: where, when, and what.
#[derive(Clone, Debug)]
pub struct Fault {
    /// Requests whose `METHOD /path` contains this.
    pub path: String,
    /// So many such requests are answered properly first.
    pub skip: u32,
    /// How many are then answered wrongly.
    pub times: u32,
    /// How.
    pub kind: FaultKind,
}

/// What is done wrong.
#[derive(Clone, Debug)]
pub enum FaultKind {
    /// The connection is cut after so many bytes of the body.
    Cut(u64),
    /// A pause after each 64 KiB.
    Slow(Duration),
    /// Nothing comes for so long.
    Silent(Duration),
    /// One bit of each body is another.
    WrongBytes,
    /// Sends elsewhere.
    Redirect(u16, String),
    /// A redirect to itself.
    Loop,
    /// Only a status, with `Retry-After` if there are seconds.
    Status(u16, Option<u32>),
    /// 416 to each range.
    Unsatisfiable,
    /// Ranges are not known: the whole file comes with 200.
    NoRanges,
    /// A range comes that was not asked for.
    WrongRange,
    /// Another ETag.
    OtherEtag,
    /// A length that is wrong by so many bytes.
    WrongLength(i64),
    /// The realm for tokens is this.
    Realm(String),
}

impl Fault {
    /// A fault from the first such request on, for ever.
    pub fn new(path: &str, kind: FaultKind) -> Self {
        Self { path: path.to_owned(), skip: 0, times: u32::MAX, kind }
    }

    /// After so many good answers, and so often.
    #[must_use]
    pub fn window(self, skip: u32, times: u32) -> Self {
        Self { skip, times, ..self }
    }
}

/// The faults that this request meets.
pub(super) fn take(faults: &mut [Fault], request: &Request) -> Vec<FaultKind> {
    let line = format!("{} {}", request.method, request.path);
    let mut met = Vec::new();
    for fault in faults.iter_mut().filter(|fault| line.contains(&fault.path)) {
        if fault.skip > 0 {
            fault.skip -= 1;
        } else if fault.times > 0 {
            fault.times -= 1;
            met.push(fault.kind.clone());
        }
    }
    met
}

/// What answers in place of the hub.
pub(super) fn before(kinds: &[FaultKind], state: &State) -> Option<Reply> {
    kinds.iter().find_map(|kind| match kind {
        FaultKind::Redirect(status, location) => Some(Reply::redirect(*status, location.clone())),
        FaultKind::Loop => Some(Reply::redirect(302, "?again")),
        FaultKind::Status(status, wait) => {
            let reply = Reply::status(*status);
            Some(wait.map_or(reply.clone(), |wait| reply.with("Retry-After", wait.to_string())))
        }
        FaultKind::Unsatisfiable => Some(Reply::status(416)),
        FaultKind::Realm(realm) => {
            let challenge = format!("Bearer realm=\"{realm}\",service=\"{}\",scope=\"x\"", state.hub_url);
            Some(Reply::status(401).with("WWW-Authenticate", challenge))
        }
        _ => None,
    })
}

/// The request as the faulty hub reads it.
pub(super) fn request(kinds: &[FaultKind], request: &Request) -> Request {
    let mut request = request.clone();
    for kind in kinds {
        match kind {
            FaultKind::NoRanges => request.headers.retain(|(name, _)| name != "range"),
            FaultKind::WrongRange => {
                for (name, value) in &mut request.headers {
                    if name == "range" {
                        *value = "bytes=0-99".into();
                    }
                }
            }
            _ => {}
        }
    }
    request
}

/// The answer as the faulty hub sends it.
pub(super) fn after(kinds: &[FaultKind], mut reply: Reply) -> Reply {
    for kind in kinds {
        match kind {
            FaultKind::Cut(n) => reply.cut_after = Some(*n),
            FaultKind::Slow(pause) => reply.pause = *pause,
            FaultKind::Silent(silence) => reply.silence = *silence,
            FaultKind::NoRanges => reply.headers.retain(|(name, _)| name != "Accept-Ranges"),
            FaultKind::WrongBytes if !reply.body.is_empty() => {
                let mut body = reply.body.to_vec();
                let (start, end) = reply.part.unwrap_or((0, body.len() as u64));
                body[((start + end) / 2) as usize] ^= 1;
                reply.body = body.into();
            }
            FaultKind::OtherEtag => {
                for (name, value) in &mut reply.headers {
                    if name.eq_ignore_ascii_case("etag") {
                        *value = "\"another-version\"".into();
                    }
                }
            }
            FaultKind::WrongLength(by) => {
                let (start, end) = reply.part.unwrap_or((0, reply.body.len() as u64));
                reply = reply.with("Content-Length", ((end - start) as i64 + by).max(0).to_string());
            }
            _ => {}
        }
    }
    reply
}
