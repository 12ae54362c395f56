//! Names to addresses, each of which is judged before any is connected to.
//!
//! The connection pool asks here each time it opens a connection, and connects to what it is given. So there is no
//! second look-up whose answer could differ (DNS rebinding), and a redirect's host passes here like the first.

use std::net::SocketAddr;
use std::sync::Arc;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use crate::error::EgressError;
use crate::policy::{Class, Policy};

/// Most addresses of one name.
const ADDRESSES_MAX: usize = 64;

/// Where names are looked up; tests have tables.
pub(crate) type Lookup = Arc<dyn Fn(&str) -> Option<Vec<std::net::IpAddr>> + Send + Sync>;

/// Resolves names for one class and port.
pub(crate) struct Checked {
    pub policy: Arc<Policy>,
    pub class: Class,
    pub port: u16,
    /// Goes before the system's resolver.
    pub table: Option<Lookup>,
}

impl Resolve for Checked {
    fn resolve(&self, name: Name) -> Resolving {
        let (policy, class, port) = (self.policy.clone(), self.class, self.port);
        let host = name.as_str().to_ascii_lowercase();
        let known = self.table.as_ref().and_then(|table| table(host.strip_suffix('.').unwrap_or(&host)));
        Box::pin(async move {
            let addresses = match known {
                Some(known) => known.into_iter().map(|address| SocketAddr::new(address, 0)).collect(),
                None => look_up(&host).await?,
            };
            // One address that may not be fetched is enough: which one a connection gets is chance.
            for address in &addresses {
                policy.check_address(class, &host, port, address.ip())?;
            }
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

async fn look_up(host: &str) -> Result<Vec<SocketAddr>, EgressError> {
    let failed = |problem: String| EgressError::Resolve { host: host.to_owned(), problem };
    let found = tokio::net::lookup_host((host, 0)).await.map_err(|error| failed(error.to_string()))?;
    let addresses: Vec<SocketAddr> = found.take(ADDRESSES_MAX).collect();
    if addresses.is_empty() { Err(failed("it has none".into())) } else { Ok(addresses) }
}

/// What went wrong in [`Checked`], if that is what an error of the client is about.
pub(crate) fn cause(error: &reqwest::Error) -> Option<EgressError> {
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        if let Some(refused) = inner.downcast_ref::<EgressError>() {
            return Some(refused.clone());
        }
        cause = inner.source();
    }
    None
}
