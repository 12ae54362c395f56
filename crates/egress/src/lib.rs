//! The only door out: every connection that Ingle opens to another machine is made here.
//!
//! - An [`Egress`] is made once, of what the operator allows: a [`Policy`], proxies, certificates, [`Credentials`].
//! - [`Egress::permit`] answers whether a [`Class`] of traffic may leave at all. Nothing sends without a [`Permit`]:
//!   [`Client::new`] takes one.
//! - A [`Target`] is a parsed URL. There is one parser, and what it accepts is what is connected to: names are resolved
//!   once, every address is judged ([`AddressKind`]), and the connection goes to an address that was judged.
//! - Redirects are followed by hand: each hop is judged like the first, https never becomes http, and whatever could be a
//!   credential stays behind when scheme, host or port change.
//!
//! **With a proxy** names are resolved by the proxy, so what they resolve to cannot be judged here: then the list of
//! hosts, the scheme, and addresses written as such are still judged, and the proxy has to keep clients from addresses
//! behind it. The proxy itself is the operator's choice and may stand anywhere.
#![forbid(unsafe_code)]

mod address;
mod client;
mod credentials;
mod error;
mod key;
mod policy;
mod proxy;
mod redirect;
mod request;
mod resolver;
mod response;
mod retry;
mod target;

pub use address::AddressKind;
pub use client::{Client, Egress, EgressConfig, Permit};
pub use credentials::{Credential, Credentials, Secret};
pub use error::EgressError;
pub use key::RequestKey;
pub use policy::{Class, HostRule, Policy};
pub use proxy::Proxies;
pub use request::Request;
pub use response::Response;
pub use retry::{Backoff, retry_after};
pub use target::{Origin, Target};

/// What a body is made of; cheap to clone.
pub use bytes::Bytes;
