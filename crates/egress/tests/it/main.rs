//! The door, tried from both sides: what comes back, and what the servers on the other side saw.

mod credentials;
mod door;
mod faults;
mod only_door;
mod redirects;
mod socks;
mod tls;
mod urls;

use std::time::Duration;

use ingle_egress::{
    Backoff, Class, Client, Credential, Egress, EgressConfig, EgressError, HostRule, Origin, Policy,
    Response, Secret, Target,
};

/// A policy under which servers of tests may be reached: loopback is private.
fn open_policy() -> Policy {
    let rules = ["127.0.0.1", "localhost", "hub.test", "cdn.test"];
    let rules: Vec<HostRule> = rules.iter().map(|rule| HostRule::parse(rule).unwrap()).collect();
    Policy {
        private: rules.iter().map(|rule| (None, rule.clone())).collect(),
        insecure: rules,
        ..Policy::default()
    }
}

fn config(policy: Policy) -> EgressConfig {
    let loopback = vec!["127.0.0.1".parse().unwrap()];
    let names = ["hub.test", "cdn.test"].map(|name| (name.to_owned(), loopback.clone())).into();
    EgressConfig { policy, names, ..EgressConfig::default() }
}

fn client(policy: Policy) -> Client {
    client_of(config(policy))
}

fn client_of(config: EgressConfig) -> Client {
    Client::new(Egress::new(config).unwrap().permit(Class::Hub).unwrap())
}

fn target(url: &str) -> Target {
    Target::parse(url).unwrap()
}

fn token(origin: &str) -> Credential {
    Credential::bearer(Origin::parse(origin).unwrap(), Secret::new("s3cret-token"))
}

/// Two attempts without long pauses.
fn brisk(attempts: u32) -> Backoff {
    let pause = Duration::from_millis(20);
    Backoff { attempts, base: pause, max: pause, asked_max: Duration::from_secs(3) }
}

async fn text(response: Result<Response, EgressError>) -> String {
    String::from_utf8(response.unwrap().bytes(1 << 20).await.unwrap()).unwrap()
}
