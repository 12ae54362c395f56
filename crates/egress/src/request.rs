//! A request before it is sent.

use bytes::Bytes;
use reqwest::Method;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};

use crate::credentials::Credential;
use crate::retry::Backoff;
use crate::target::Target;

/// A request. Its body is in memory, so that it can be sent again.
#[derive(Clone, Debug)]
pub struct Request {
    pub(crate) method: Method,
    pub(crate) target: Target,
    pub(crate) headers: HeaderMap,
    pub(crate) credential: Option<Credential>,
    pub(crate) body: Bytes,
    pub(crate) follows: bool,
    pub(crate) backoff: Backoff,
}

impl Request {
    fn new(method: Method, target: Target) -> Self {
        let (headers, backoff) = (HeaderMap::new(), Backoff::default());
        Self { method, target, headers, credential: None, body: Bytes::new(), follows: true, backoff }
    }

    /// GET
    pub fn get(target: Target) -> Self {
        Self::new(Method::GET, target)
    }

    /// HEAD
    pub fn head(target: Target) -> Self {
        Self::new(Method::HEAD, target)
    }

    /// POST with a body.
    pub fn post(target: Target, body: impl Into<Bytes>) -> Self {
        Self { body: body.into(), ..Self::new(Method::POST, target) }
    }

    /// PUT with a body.
    pub fn put(target: Target, body: impl Into<Bytes>) -> Self {
        Self { body: body.into(), ..Self::new(Method::PUT, target) }
    }

    /// PATCH with a body.
    pub fn patch(target: Target, body: impl Into<Bytes>) -> Self {
        Self { body: body.into(), ..Self::new(Method::PATCH, target) }
    }

    /// Where it goes.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// One more header, of a value that is known to be fit for one: a number, a digest, what was a header before.
    ///
    /// # Panics
    /// If the value holds control characters: the caller's bug.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: impl AsRef<str>) -> Self {
        let value = HeaderValue::from_str(value.as_ref()).expect("the caller passes values fit for headers");
        self.headers.insert(HeaderName::from_static(name), value);
        self
    }

    /// Bytes `start..end` only.
    #[must_use]
    pub fn range(self, start: u64, end: u64) -> Self {
        assert!(start < end, "a range has bytes");
        self.header("range", format!("bytes={start}-{}", end - 1))
    }

    /// Shows a credential, to its own origin only.
    #[must_use]
    pub fn authorize(self, credential: Option<&Credential>) -> Self {
        Self { credential: credential.cloned(), ..self }
    }

    /// Hands redirects to the caller in place of following them.
    #[must_use]
    pub fn without_redirects(self) -> Self {
        Self { follows: false, ..self }
    }

    /// How often it may be sent.
    #[must_use]
    pub fn backoff(self, backoff: Backoff) -> Self {
        Self { backoff, ..self }
    }
}
