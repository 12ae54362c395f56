//! What may leave, and where to.

use std::fmt;
use std::net::IpAddr;

use crate::address::AddressKind;
use crate::error::EgressError;
use crate::target::Target;

/// What traffic is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// Requests to providers elsewhere.
    Cloud,
    /// Downloads from, and uploads to, hubs and registries of models, and other sites.
    Hub,
    /// Other nodes of the same operator.
    Peer,
    /// What the operator runs beside: databases, collectors of traces.
    Infrastructure,
}

impl Class {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Cloud, Self::Hub, Self::Peer, Self::Infrastructure];
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cloud => "traffic to cloud providers",
            Self::Hub => "traffic to model hubs",
            Self::Peer => "traffic to other nodes",
            Self::Infrastructure => "traffic to the operator's services",
        })
    }
}

/// A host in an operator's list: `example.org`, `*.example.org` (names below it), an address; each with `:port` if
/// only that port is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostRule {
    host: String,
    is_suffix: bool,
    port: Option<u16>,
}

impl HostRule {
    /// Parses a rule.
    ///
    /// # Errors
    /// [`EgressError::Url`] if it is no host.
    pub fn parse(text: &str) -> Result<Self, EgressError> {
        let wrong = |problem: &str| EgressError::Url {
            url: text.chars().take(200).collect(),
            problem: problem.into(),
        };
        if text.contains("://") || text.contains('/') {
            return Err(wrong(
                "a host is written without scheme and path, as in example.org, *.example.org or 10.0.0.5:8080",
            ));
        }
        let (is_suffix, rest) = text.strip_prefix("*.").map_or((false, text), |rest| (true, rest));
        // An IPv6 address may come without its brackets.
        let rest =
            if rest.parse::<std::net::Ipv6Addr>().is_ok() { format!("[{rest}]") } else { rest.to_owned() };
        // With https a port of 443 would be lost, with http one of 80: ask both.
        let target = Target::parse(&format!("https://{rest}")).map_err(|_| wrong("it is not a host"))?;
        let http = Target::parse(&format!("http://{rest}")).map_err(|_| wrong("it is not a host"))?;
        let port = (target.port() == http.port()).then(|| target.port());
        if is_suffix && target.address().is_some() {
            return Err(wrong("an address has no names below it"));
        }
        Ok(Self { host: target.host(), is_suffix, port })
    }

    /// The rule for precisely what a URL names.
    pub fn of(target: &Target) -> Self {
        Self { host: target.host(), is_suffix: false, port: Some(target.port()) }
    }

    pub(crate) fn matches(&self, host: &str, port: u16) -> bool {
        let host = host.strip_suffix('.').unwrap_or(host);
        let is_host = match self.is_suffix {
            true => host.strip_suffix(&self.host).is_some_and(|head| head.len() > 1 && head.ends_with('.')),
            false => host == self.host,
        };
        is_host && self.port.is_none_or(|p| p == port)
    }
}

/// What the operator allows. The default is what a machine at home needs: all classes, any public host, https only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Clouds and hubs are closed.
    pub offline: bool,
    /// The only hosts that may be reached for clouds and hubs, redirects included; `None`: any.
    pub hosts: Option<Vec<HostRule>>,
    /// Hosts that may have addresses of this machine or site, for one class or for all.
    pub private: Vec<(Option<Class>, HostRule)>,
    /// Hosts that may be reached without encryption.
    pub insecure: Vec<HostRule>,
}

impl Policy {
    /// Whether anything of a class may leave.
    ///
    /// # Errors
    /// [`EgressError::Closed`]
    pub fn check_class(&self, class: Class) -> Result<(), EgressError> {
        match class {
            Class::Cloud | Class::Hub if self.offline => Err(EgressError::Closed { class }),
            _ => Ok(()),
        }
    }

    /// Judges all that can be judged before a name is resolved.
    ///
    /// # Errors
    /// What is against it.
    pub fn check(&self, class: Class, target: &Target) -> Result<(), EgressError> {
        self.check_class(class)?;
        let (host, port) = (target.host(), target.port());
        let is_listed = |rules: &[HostRule]| rules.iter().any(|rule| rule.matches(&host, port));
        // Peers and infrastructure are named by the operator one by one: the list is about the rest of the world.
        let is_bound = matches!(class, Class::Cloud | Class::Hub);
        if is_bound && self.hosts.as_ref().is_some_and(|hosts| !is_listed(hosts)) {
            return Err(EgressError::Host { host: target.authority() });
        }
        if let Some(address) = target.address() {
            self.check_address(class, &host, port, address)?;
        }
        // Nobody else can listen on the way to a loopback address. A name must be listed: resolvers say what it means.
        let is_here = target.address().is_some() && target.is_this_machine();
        if !target.is_secure() && !is_listed(&self.insecure) && !is_here {
            return Err(EgressError::Insecure { host: target.authority() });
        }
        Ok(())
    }

    /// Judges an address of a host.
    ///
    /// # Errors
    /// [`EgressError::Address`]
    pub fn check_address(
        &self,
        class: Class,
        host: &str,
        port: u16,
        address: IpAddr,
    ) -> Result<(), EgressError> {
        let kind = AddressKind::of(address);
        let is_allowed = || {
            let rules = self.private.iter().filter(|(only, _)| only.is_none_or(|only| only == class));
            rules.into_iter().any(|(_, rule)| rule.matches(host, port))
        };
        if kind == AddressKind::Public || (kind.can_be_allowed() && is_allowed()) {
            return Ok(());
        }
        Err(EgressError::Address { host: host.to_owned(), address, kind })
    }
}
