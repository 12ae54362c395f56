//! Pulls and pushes against a hub on this machine, to be stopped at each operation.

use std::sync::OnceLock;
use std::time::Duration;

use ingle_egress::{Egress, EgressConfig, HostRule, Policy, Target};
use ingle_store::pull::{Network, PullOptions, Puller};
use ingle_store::push::{self, PushOptions};
use ingle_store::{Catalogue, Reference};
use ingle_testkit::hub::Hub;
use ingle_testkit::shards::shards;

use crate::scenarios::{Context, Outcome, content, gguf, name};

const TYPES: [&str; 4] = ["model", "template", "license", "params"];

/// A hub with what the pulls ask for.
pub fn hub() -> Hub {
    let hub = Hub::start();
    let texts: [(&str, &[u8]); 3] =
        [("LICENSE", b"MIT"), ("template", b"{{ .Prompt }}"), ("params", b"{\"stop\":[\"END\"]}")];
    let weights = gguf("of the hub", 5000);
    hub.commit("maker/tiny-GGUF", &[&[("x-Q4_K_M.gguf", &weights[..])], &texts[..]].concat());
    hub.commit("maker/changed-GGUF", &[("x-Q4_K_M.gguf", &gguf("a newer one", 2500))]);
    let (parts, projector) = (shards(&gguf("split", 4000), 2), gguf("eyes", 1200));
    let files: [(&str, &[u8]); 3] = [
        ("x-Q8_0-00001-of-00002.gguf", &parts[0]),
        ("x-Q8_0-00002-of-00002.gguf", &parts[1]),
        ("mmproj-F16.gguf", &projector),
    ];
    hub.commit("maker/parts-GGUF", &files);
    // The first layer is that of which a part is there.
    let cut = content("cut", 2500);
    let layers: [&[u8]; 4] = [&cut, b"{{ .Prompt }}", b"the licence of both", b"{\"stop\":[\"END\"]}"];
    let types = TYPES.map(|kind| format!("application/vnd.ollama.image.{kind}"));
    let layers: Vec<(&str, &[u8])> = types.iter().map(String::as_str).zip(layers).collect();
    hub.add_model("library/small", "1", &layers);
    hub
}

/// One for all: connections live as long as the threads that drive them.
fn runtime() -> &'static tokio::runtime::Runtime {
    static RUNTIME: OnceLock<tokio::runtime::Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("threads can be had")
    })
}

fn egress() -> Egress {
    static EGRESS: OnceLock<Egress> = OnceLock::new();
    let open = || {
        let here = HostRule::parse("127.0.0.1").expect("an address");
        let policy = Policy { private: vec![(None, here)], ..Policy::default() };
        let first_byte_timeout = Duration::from_secs(60);
        Egress::new(EgressConfig { policy, first_byte_timeout, ..EgressConfig::default() })
            .expect("it has no files")
    };
    EGRESS.get_or_init(open).clone()
}

fn network(context: &Context) -> Network {
    let hub = context.hub.as_deref().expect("this scenario has a hub");
    let hub = Target::parse(hub).expect("an address");
    let registry_mirror = Some(hub.clone());
    Network { hub, registry_mirror, streams: context.streams, ..Network::new(egress()) }
}

fn pull_this(context: &Context, reference: &str, update: bool) -> Outcome {
    let reference = Reference::parse(reference, &Catalogue::default()).expect("a reference");
    let puller = Puller::new(context.store.session(), network(context));
    let options = PullOptions { update, ..PullOptions::default() };
    runtime().block_on(puller.pull(&reference, options, &|_| {}))?;
    Ok(())
}

/// A model of several chunks with its texts.
pub fn pull(context: &Context) -> Outcome {
    pull_this(context, "hf.co/maker/tiny-GGUF:Q4_K_M", false)
}

/// One that takes the place of an older one.
pub fn update(context: &Context) -> Outcome {
    pull_this(context, "hf.co/maker/changed-GGUF:Q4_K_M", true)
}

/// A split model with a projector.
pub fn parts(context: &Context) -> Outcome {
    pull_this(context, "hf.co/maker/parts-GGUF:Q8_0", false)
}

/// A model of several layers; a part of one and the whole of another are there.
pub fn registry(context: &Context) -> Outcome {
    pull_this(context, "small:1", false)
}

/// One that is too large for a small disk.
pub fn large(context: &Context) -> Outcome {
    pull_this(context, "large:1", false)
}

/// A file whose digest nobody knows before.
pub fn url(context: &Context) -> Outcome {
    let hub = context.hub.as_deref().expect("this scenario has a hub");
    pull_this(context, &format!("{hub}/maker/tiny-GGUF/resolve/main/x-Q4_K_M.gguf"), false)
}

/// Under the name that says where it goes, which it gets first.
pub fn push(context: &Context) -> Outcome {
    let store = context.store.session();
    let network = network(context);
    let pushed = name(&format!("{}/team/pushed:1", network.hub.authority()));
    store.copy(&name("old:1"), &pushed)?;
    runtime().block_on(push::push(&store, &network, &pushed, PushOptions::default(), &|_| {}))?;
    Ok(())
}
