//! Opening a store of many models, also after a kill: it reads manifests and no weights, and begins with no repair.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ingle_store::files::{Files, RealFiles};
use ingle_store::{Layer, Manifest, MediaType, State, Store, StoreConfig};
use ingle_testkit::kill::{End, Moment, Plan, run_child};
use ingle_testkit::sim_files::{Disk, Fault};

use crate::network;
use crate::scenarios::{Context, content, memory_dir, name, scenario};

const MODELS: usize = 100;
/// How long it may take until a store of so many models can be used.
const READY: Duration = Duration::from_secs(2);
/// How often it is tried: who looks changes nothing, and others may have the machine for a while.
const ATTEMPTS_MAX: usize = 5;
/// Operations on files for each model that is listed: its folder, its manifest, and that its blobs are there.
const OPERATIONS_MAX: u64 = 18;

/// A store of many models, each with weights, a template, a licence that all share, and a config.
fn many(root: &Path, files: Arc<dyn Files>) {
    let config = StoreConfig { root: root.join("store"), ..StoreConfig::default() };
    let store = Store::with_files(config, files).expect("it has a folder");
    for i in 0..MODELS {
        let texts = [
            (MediaType::Model, content(&format!("weights {i}"), 400)),
            (MediaType::Template, format!("{{{{ .Prompt }}}} {i}").into_bytes()),
            (MediaType::License, b"the licence of all".to_vec()),
            (MediaType::Config, format!("{{\"model_format\":\"gguf\",\"model_type\":\"{i}\"}}").into_bytes()),
        ];
        let mut layers: Vec<Layer> = Vec::new();
        for (kind, bytes) in texts {
            let digest = store.put_bytes(&bytes).expect("nothing is in the way");
            layers.push(Layer::new(kind, digest, bytes.len() as u64));
        }
        let config = layers.pop().expect("the last one");
        store.publish(&name(&format!("many:{i}")), &Manifest::new(config, layers)).expect("it is whole");
    }
}

/// That all is there and whole, and how many operations on files it took to know.
#[test]
fn a_hundred_models_take_few_operations() {
    let root = Path::new("/home");
    let (disk, hub) = (Disk::new(), network::hub());
    disk.put(&root.join("x"), b"somebody lives here");
    many(root, disk.process());
    for n in [1, 7, 20, 40, 60, 80] {
        let process = disk.process();
        process.arm(Fault::Kill(n));
        let _ = (scenario("pull").run)(&Context::new(root, process, Some(&hub.url())));
        disk.lose_power(n);
        let process = disk.process();
        process.arm(Fault::Kill(u64::MAX));
        let store = Context::new(root, process.clone(), None).store;
        let listed = store.list().expect("it needs no repair");
        let (changes, all) = process.counts();
        assert!(listed.len() >= MODELS && listed.iter().all(|entry| entry.state == State::Ready));
        assert_eq!(changes, 0, "who looks writes nothing");
        assert!(all <= MODELS as u64 * OPERATIONS_MAX, "{all} operations");
        println!("{} models are listed with {all} operations", listed.len());
    }
}

#[test]
fn a_hundred_models_are_ready_at_once_after_a_kill() {
    let dir = memory_dir();
    many(dir.path(), Arc::new(RealFiles));
    let hub = network::hub();
    for at in [5, 30, 60] {
        let (scenario, root) = ("pull".to_owned(), dir.path().to_owned());
        let plan = Plan { scenario, root, with: hub.url(), at, moment: Moment::Before };
        assert_eq!(run_child("kill::child", &plan), End::Killed);
        let is_ready = || {
            let started = Instant::now();
            let context = Context::new(dir.path(), Arc::new(RealFiles), None);
            let listed = context.store.list().expect("it needs no repair");
            let found = context.store.find(&name("many:42")).expect("it needs no repair");
            let took = started.elapsed();
            assert!(listed.len() == MODELS && listed.iter().all(|entry| entry.state == State::Ready));
            assert!(found.is_some_and(|entry| entry.digest.is_some()));
            println!("ready in {:.1} ms", took.as_secs_f64() * 1e3);
            took <= READY
        };
        assert!((0..ATTEMPTS_MAX).any(|_| is_ready()), "it takes longer each time");
    }
}
