//! Sending: permits, clients, and the loop that follows redirects and tries again.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use reqwest::header::{self, HeaderValue};

use crate::credentials::Credentials;
use crate::error::{EgressError, is_transient_status};
use crate::policy::{Class, Policy};
use crate::proxy::{Proxies, Route};
use crate::redirect::{self, HOPS_MAX};
use crate::request::Request;
use crate::resolver::{self, Checked, Lookup};
use crate::response::{Response, in_words};
use crate::retry::retry_after;
use crate::target::Target;

/// Most connection pools: one for each class and port, or proxy. A hostile redirect could ask for a port each time.
const POOLS_MAX: usize = 64;

/// The slowest way out on which something is sent in the end: 128 kbit/s, half of the slowest ADSL.
const UPLOAD_BYTES_PER_S_MIN: u64 = 16 << 10;

/// What an [`Egress`] is made of.
#[derive(Clone)]
pub struct EgressConfig {
    /// What may leave.
    pub policy: Policy,
    /// Through which proxies.
    pub proxies: Arc<Proxies>,
    /// Tokens and passwords.
    pub credentials: Credentials,
    /// PEM file with certificates that are trusted beside the system's (`SSL_CERT_FILE` replaces the system's).
    pub ca_file: Option<PathBuf>,
    /// How long a connection may take.
    pub connect_timeout: Duration,
    /// How long the head of an answer may take, when the body of the request is sent.
    pub first_byte_timeout: Duration,
    /// How long a body may be silent, or, where the system can tell (Linux), what was sent be not received.
    pub idle_timeout: Duration,
    /// Addresses of names, before the system is asked; for tests.
    pub names: HashMap<String, Vec<IpAddr>>,
}

impl Default for EgressConfig {
    fn default() -> Self {
        Self {
            policy: Policy::default(),
            proxies: Arc::default(),
            credentials: Credentials::default(),
            ca_file: None,
            connect_timeout: Duration::from_secs(5),
            first_byte_timeout: Duration::from_secs(60),
            idle_timeout: Duration::from_secs(30),
            names: HashMap::new(),
        }
    }
}

/// The door. Cheap to clone.
#[derive(Clone)]
pub struct Egress(Arc<Inner>);

struct Inner {
    config: EgressConfig,
    policy: Arc<Policy>,
    certificates: Vec<reqwest::Certificate>,
    names: Option<Lookup>,
    pools: Mutex<HashMap<Pool, reqwest::Client>>,
}

/// What connections may be shared by.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Pool {
    Direct(Class, u16),
    Proxy(Route),
}

impl Egress {
    /// Checks a configuration. Nothing is connected yet.
    ///
    /// # Errors
    /// [`EgressError::Setting`] if the file of certificates cannot be used.
    pub fn new(config: EgressConfig) -> Result<Self, EgressError> {
        let certificates = match &config.ca_file {
            None => Vec::new(),
            Some(path) => certificates(path)?,
        };
        let table = config.names.clone();
        let names: Option<Lookup> =
            (!table.is_empty()).then(|| -> Lookup { Arc::new(move |name: &str| table.get(name).cloned()) });
        let policy = Arc::new(config.policy.clone());
        Ok(Self(Arc::new(Inner { config, policy, certificates, names, pools: Mutex::default() })))
    }

    /// Leave to send traffic of a class.
    ///
    /// # Errors
    /// [`EgressError::Closed`] if the policy closes it.
    pub fn permit(&self, class: Class) -> Result<Permit, EgressError> {
        self.0.policy.check_class(class)?;
        Ok(Permit { egress: self.clone(), class })
    }

    /// What may leave.
    pub fn policy(&self) -> &Policy {
        &self.0.policy
    }

    /// The credentials that there are.
    pub fn credentials(&self) -> &Credentials {
        &self.0.config.credentials
    }

    fn pool(&self, class: Class, target: &Target) -> Result<reqwest::Client, EgressError> {
        let inner = &*self.0;
        let pool = match inner.config.proxies.route(target) {
            Some(route) => Pool::Proxy(route),
            None => Pool::Direct(class, target.port()),
        };
        let mut pools = inner.pools.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = pools.get(&pool) {
            return Ok(client.clone());
        }
        if pools.len() >= POOLS_MAX {
            pools.clear();
        }
        let client = self.build(&pool)?;
        pools.insert(pool, client.clone());
        Ok(client)
    }

    /// Which proxy a request goes through, for a message; never its password.
    fn by_way_of(&self, target: &Target) -> String {
        let route = self.0.config.proxies.route(target);
        route.map_or_else(String::new, |route| format!(" (through the proxy {})", route.host()))
    }

    fn build(&self, pool: &Pool) -> Result<reqwest::Client, EgressError> {
        let inner = &*self.0;
        let builder = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .no_proxy()
            .user_agent(concat!("ingle/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(inner.config.connect_timeout)
            .tls_certs_merge(inner.certificates.clone());
        #[cfg(any(target_os = "android", target_os = "linux"))]
        let builder = builder.tcp_user_timeout(inner.config.idle_timeout);
        let builder = match pool {
            Pool::Direct(class, port) => builder.dns_resolver(Checked {
                policy: inner.policy.clone(),
                class: *class,
                port: *port,
                table: inner.names.clone(),
            }),
            Pool::Proxy(route) => {
                let mut proxy = reqwest::Proxy::all(&route.url)
                    .map_err(|error| EgressError::Setting { name: "proxy", problem: in_words(&error) })?;
                if let Some(authorization) = &route.authorization {
                    proxy = proxy.custom_http_auth(authorization.clone());
                }
                if let Some((user, password)) = &route.account {
                    proxy = proxy.basic_auth(user, password);
                }
                builder.proxy(proxy)
            }
        };
        builder.build().map_err(|error| EgressError::Setting { name: "TLS", problem: in_words(&error) })
    }
}

fn certificates(path: &std::path::Path) -> Result<Vec<reqwest::Certificate>, EgressError> {
    let wrong = |problem: String| {
        let problem = format!("{}: {problem}", path.display());
        EgressError::Setting { name: "ca-file", problem }
    };
    let pem = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
    let found = reqwest::Certificate::from_pem_bundle(&pem).map_err(|error| wrong(in_words(&error)))?;
    if found.is_empty() { Err(wrong("it holds no certificate in PEM form".into())) } else { Ok(found) }
}

/// Leave to send one class of traffic: what every constructor of something that connects takes.
#[derive(Clone)]
pub struct Permit {
    egress: Egress,
    class: Class,
}

impl Permit {
    /// What it is for.
    pub fn class(&self) -> Class {
        self.class
    }
}

/// Sends requests of one class. Cheap to clone; connections are shared.
#[derive(Clone)]
pub struct Client {
    permit: Permit,
}

impl Client {
    /// A client for what the permit allows.
    pub fn new(permit: Permit) -> Self {
        Self { permit }
    }

    /// The credentials that there are.
    pub fn credentials(&self) -> &Credentials {
        self.permit.egress.credentials()
    }

    /// Whether a URL may be fetched, as far as that can be told without asking for its address.
    ///
    /// # Errors
    /// What is against it.
    pub fn check(&self, target: &Target) -> Result<(), EgressError> {
        self.permit.egress.0.policy.check(self.permit.class, target)
    }

    /// Sends a request, again if the answer is "not now" or the connection fails, and follows redirects. Any status
    /// comes back that is not "not now"; that too after the last attempt.
    ///
    /// # Errors
    /// What kept the request from being sent or answered.
    pub async fn send(&self, request: &Request) -> Result<Response, EgressError> {
        let backoff = request.backoff;
        let mut attempts = 0;
        loop {
            attempts += 1;
            let is_last = attempts >= backoff.attempts;
            let outcome = self.follow(request).await;
            let asked = match &outcome {
                Ok(response) if is_transient_status(response.status()) => {
                    let value = response.header("retry-after");
                    value.and_then(|value| retry_after(value, SystemTime::now()))
                }
                Err(error) if error.is_transient() => None,
                _ => return outcome,
            };
            if let (Some(wait), Ok(response)) = (asked, &outcome)
                && wait > backoff.asked_max
            {
                return Err(EgressError::Busy { host: response.target.authority(), wait });
            }
            if is_last {
                return outcome;
            }
            tokio::time::sleep(asked.unwrap_or_default().max(backoff.pause(attempts))).await;
        }
    }

    /// One attempt, with all its hops.
    async fn follow(&self, request: &Request) -> Result<Response, EgressError> {
        let mut target = request.target.clone();
        let (mut method, mut headers, mut body) =
            (request.method.clone(), request.headers.clone(), request.body.clone());
        if let Some(credential) = &request.credential {
            if *credential.origin() != target.origin() {
                let problem =
                    format!("the credential of {} is not shown to {}", credential.origin(), target.origin());
                return Err(EgressError::Setting { name: "credential", problem });
            }
            let text = credential.header(method.as_str(), target.as_str(), &body)?;
            let mut value = HeaderValue::from_str(&text).map_err(|_| EgressError::Setting {
                name: "credential",
                problem: "not fit for a header".into(),
            })?;
            value.set_sensitive(true);
            headers.insert(header::AUTHORIZATION, value);
        }
        for _ in 0..=HOPS_MAX {
            let response = self.hop(&target, &method, &headers, &body).await?;
            let status = response.status();
            if !request.follows || !redirect::is_redirect(status) {
                return Ok(response);
            }
            let next = redirect::next(&target, response.header("location"))?;
            if next.origin() != target.origin() {
                // What was left behind does not come back, even if a later hop returns.
                redirect::strip(&mut headers);
            }
            let (next_method, keeps_body) = redirect::method(status, &method);
            if !keeps_body {
                body.clear();
                headers.remove(header::CONTENT_TYPE);
            }
            (target, method) = (next, next_method);
        }
        let problem = format!("more than {HOPS_MAX} times");
        Err(EgressError::Redirect { from: request.target.to_string(), problem })
    }

    /// One request to one place, judged first.
    async fn hop(
        &self,
        target: &Target,
        method: &reqwest::Method,
        headers: &reqwest::header::HeaderMap,
        body: &bytes::Bytes,
    ) -> Result<Response, EgressError> {
        self.check(target)?;
        let egress = &self.permit.egress;
        let config = &egress.0.config;
        let mut builder = egress
            .pool(self.permit.class, target)?
            .request(method.clone(), target.url().clone())
            .headers(headers.clone());
        // A body of no bytes has a length too, where the method means to send one.
        if !body.is_empty() || matches!(method.as_str(), "POST" | "PUT" | "PATCH") {
            builder = builder.header(header::CONTENT_LENGTH, body.len()).body(body.clone());
        }
        let host = target.authority();
        let after = config.first_byte_timeout + upload_time(body.len());
        match tokio::time::timeout(after, builder.send()).await {
            Err(_) => Err(EgressError::Timeout { host, what: "no answer came", after }),
            Ok(Err(error)) => Err(match resolver::cause(&error) {
                Some(cause) => cause,
                None if error.is_connect() && error.is_timeout() => {
                    EgressError::Timeout { host, what: "connecting", after: config.connect_timeout }
                }
                None => EgressError::Connection {
                    problem: format!("{}{}", in_words(&error), egress.by_way_of(target)),
                    host,
                },
            }),
            Ok(Ok(inner)) => Ok(Response { inner, target: target.clone(), idle: config.idle_timeout }),
        }
    }
}

/// How long sending so many bytes may take. Much of a body is in the system's buffers when the last of it is taken, so
/// that nothing here can tell when it was sent.
fn upload_time(n_bytes: usize) -> Duration {
    Duration::from_secs(n_bytes as u64 / UPLOAD_BYTES_PER_S_MIN)
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, TcpListener};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;
    use crate::{Backoff, HostRule};

    /// DNS rebinding: a name that first has an address that may be fetched, and then one of this machine. Each answer is
    /// judged, the connection goes to the judged address, and there is no second look-up that could differ.
    #[tokio::test]
    async fn what_a_name_means_is_judged_each_time_that_it_is_asked() {
        let here: IpAddr = [127, 0, 0, 1].into();
        // Public by its number, of a block that was never given out: no way leads there.
        let elsewhere: IpAddr = "2d00::1".parse().expect("an address");
        for (first, then) in [(elsewhere, here), (here, elsewhere)] {
            let listener = TcpListener::bind((here, 0)).expect("a free port");
            listener.set_nonblocking(true).expect("a socket");
            let port = listener.local_addr().expect("bound").port();
            let asked = Arc::new(AtomicUsize::new(0));
            let count = asked.clone();
            let names: Lookup = Arc::new(move |_: &str| {
                let n = count.fetch_add(1, Ordering::SeqCst);
                Some(vec![if n == 0 { first } else { then }])
            });
            let config = EgressConfig {
                policy: Policy {
                    insecure: vec![HostRule::parse("rebinds.test").expect("a host")],
                    ..Policy::default()
                },
                connect_timeout: Duration::from_millis(200),
                first_byte_timeout: Duration::from_millis(400),
                ..EgressConfig::default()
            };
            let policy = Arc::new(config.policy.clone());
            let inner = Inner {
                config,
                policy,
                certificates: Vec::new(),
                names: Some(names),
                pools: Mutex::default(),
            };
            let client = Client::new(Egress(Arc::new(inner)).permit(Class::Hub).expect("open"));
            let target = Target::parse(&format!("http://rebinds.test:{port}/")).expect("a URL");
            let pause = Duration::from_millis(1);
            let backoff = Backoff { attempts: 3, base: pause, max: pause, asked_max: pause };
            let error =
                client.send(&Request::get(target).backoff(backoff)).await.map(drop).expect_err("refused");
            let is_refused = matches!(&error, EgressError::Address { address, .. } if *address == here);
            assert!(is_refused, "{error}");
            let asked = asked.load(Ordering::SeqCst);
            assert_eq!(asked, if first == here { 1 } else { 2 }, "one look-up for each connection");
            assert!(listener.accept().is_err(), "nobody was connected to");
        }
    }
}
