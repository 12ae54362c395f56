//! Who may go out at all, and through which proxy.

use std::sync::Arc;

use ingle_egress::{Class, Client, Egress, EgressError, HostRule, Policy, Proxies, Request};
use ingle_testkit::http::{Reply, Server};

use super::{brisk, client, client_of, config, open_policy, target, text};

#[test]
fn offline_closes_clouds_and_hubs() {
    let egress = Egress::new(config(Policy { offline: true, ..open_policy() })).unwrap();
    let is_open = |class| egress.permit(class).is_ok();
    assert_eq!(Class::ALL.map(is_open), [false, false, true, true]);
    let error = egress.permit(Class::Hub).err().unwrap();
    assert!(error.to_string().contains("offline"), "{error}");
}

#[tokio::test]
async fn the_list_is_about_the_world_and_not_about_peers() {
    let server = Server::start(|_| Reply::status(200));
    let hosts = Some(vec![HostRule::parse("hub.example").unwrap()]);
    let egress = Egress::new(config(Policy { hosts, ..open_policy() })).unwrap();
    for class in Class::ALL {
        let client = Client::new(egress.permit(class).unwrap());
        let outcome = client.send(&Request::get(target(&server.url()))).await;
        assert_eq!(outcome.is_ok(), matches!(class, Class::Peer | Class::Infrastructure), "{class}");
    }
}

#[tokio::test]
async fn private_addresses_need_a_rule_for_the_class_host_and_port() {
    let server = Server::start(|_| Reply::status(200));
    let port = server.address().port();
    let check = async |rule: &str, only: Option<Class>, class: Class, host: &str, expected: bool| {
        let rule = HostRule::parse(rule).unwrap();
        let policy =
            Policy { private: vec![(only, rule)], insecure: open_policy().insecure, ..Policy::default() };
        let client = Client::new(Egress::new(config(policy)).unwrap().permit(class).unwrap());
        let outcome = client.send(&Request::get(target(&format!("http://{host}:{port}/")))).await;
        assert_eq!(outcome.is_ok(), expected, "{host}: {outcome:?}");
    };
    for host in ["127.0.0.1", "hub.test", "localhost"] {
        check(host, None, Class::Hub, host, true).await;
        check(host, Some(Class::Peer), Class::Peer, host, true).await;
        check(host, Some(Class::Peer), Class::Hub, host, false).await;
        check(&format!("{host}:{port}"), None, Class::Hub, host, true).await;
        check(&format!("{host}:1"), None, Class::Hub, host, false).await;
        check("other.test", None, Class::Hub, host, false).await;
    }
    check("*.test", None, Class::Hub, "cdn.test", true).await;
    assert_eq!(server.requests().len(), 4 * 3 - 3 + 1);
}

#[tokio::test]
async fn plain_http_needs_a_rule_beyond_this_machine() {
    let server = Server::start(|_| Reply::status(200));
    let port = server.address().port();
    for (rule, url, expected) in [
        (None, format!("http://127.0.0.1:{port}/"), true),
        (None, format!("http://hub.test:{port}/"), false),
        (Some("hub.test"), format!("http://hub.test:{port}/"), true),
        (Some("hub.test:1"), format!("http://hub.test:{port}/"), false),
        (Some("cdn.test"), format!("http://hub.test:{port}/"), false),
    ] {
        let insecure = rule.map(|rule| HostRule::parse(rule).unwrap()).into_iter().collect();
        let outcome = client(Policy { insecure, ..open_policy() }).send(&Request::get(target(&url))).await;
        assert_eq!(outcome.is_ok(), expected, "{rule:?} {url}");
        assert!(expected || matches!(outcome, Err(EgressError::Insecure { .. })));
    }
}

#[tokio::test]
async fn one_forbidden_address_among_good_ones_is_enough() {
    for addresses in [
        &["93.184.216.34", "127.0.0.1"][..],
        &["93.184.216.34", "10.0.0.1"],
        &["2606:4700::1", "::1"],
        &["93.184.216.34", "169.254.169.254"],
        &["::ffff:192.168.0.1"],
        &["64:ff9b::a00:1"],
        &["0.0.0.0"],
    ] {
        let mut config = config(Policy::default());
        let parsed = addresses.iter().map(|a| a.parse().unwrap()).collect();
        config.names.insert("mixed.test".into(), parsed);
        let request = Request::get(target("https://mixed.test/")).backoff(brisk(1));
        let outcome = client_of(config).send(&request).await;
        assert!(matches!(outcome, Err(EgressError::Address { .. })), "{addresses:?}: {outcome:?}");
    }
}

/// With a proxy the proxy resolves names: ours is not asked, and what is written as an address is still judged.
#[tokio::test]
async fn proxies_get_the_request_and_only_what_may_leave() {
    let proxy = Server::start(|request| {
        Reply::new(200, "text/plain", format!("proxied {}", request.path).into_bytes())
    });
    let server = Server::start(|_| Reply::new(200, "text/plain", *b"direct"));
    let url = format!("http://me:s3cret@{}", proxy.address());
    let vars = move |name: &str| match name {
        "http_proxy" | "https_proxy" => Some(url.clone()),
        "no_proxy" => Some("cdn.test".into()),
        _ => None,
    };
    let mut config = config(Policy { private: Vec::new(), ..open_policy() });
    config.proxies = Arc::new(Proxies::from_vars(vars).unwrap());
    let client = client_of(config.clone());
    // The name has only a loopback address here; the proxy is asked for it by name.
    let request = Request::get(target("http://hub.test:9/a")).backoff(brisk(1));
    assert_eq!(text(client.send(&request).await).await, "proxied http://hub.test:9/a");
    let seen = &proxy.take_requests()[0];
    assert_eq!(seen.header("proxy-authorization"), Some("Basic bWU6czNjcmV0"));
    // TLS goes through a tunnel, which this proxy refuses to make.
    let request = Request::get(target("https://hub.test/a")).backoff(brisk(1));
    client.send(&request).await.unwrap_err();
    let seen = &proxy.take_requests()[0];
    assert_eq!((seen.method.as_str(), seen.path.as_str()), ("CONNECT", "hub.test:443"));
    // Addresses are judged before the proxy is asked.
    for url in ["http://10.0.0.1/", "http://127.0.0.1:1/", "http://[::1]/", "https://169.254.169.254/"] {
        let outcome = client.send(&Request::get(target(url)).backoff(brisk(1))).await;
        assert!(matches!(outcome, Err(EgressError::Address { .. })), "{url}");
    }
    assert!(proxy.take_requests().is_empty());
    // Who is named in NO_PROXY is reached directly, with all rules, and so is this machine.
    config.policy = open_policy();
    let open = client_of(config);
    for host in ["cdn.test", "localhost", "127.0.0.1"] {
        let direct = format!("http://{host}:{}/", server.address().port());
        let outcome = client.send(&Request::get(target(&direct)).backoff(brisk(1))).await;
        assert!(matches!(outcome, Err(EgressError::Address { .. })), "{host}: {outcome:?}");
        assert_eq!(text(open.send(&Request::get(target(&direct))).await).await, "direct", "{host}");
    }
    assert!(proxy.take_requests().is_empty());
}
