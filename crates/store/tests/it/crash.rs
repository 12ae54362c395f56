//! Every scenario, stopped at each of its operations on simulated files.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use ingle_store::StoreError;
use ingle_testkit::hub::Hub;
use ingle_testkit::sim_files::{Disk, Fault, SimFiles};

use crate::invariants::{Model, models, unchanged};
use crate::network;
use crate::scenarios::{ALL, CHUNK_BYTES, Context, N_PREPARED, Scenario, prepare, sources};

const ROOT: &str = "/home";

fn fresh() -> Arc<Disk> {
    let disk = Disk::new();
    for (path, bytes) in sources(Path::new(ROOT)) {
        disk.put(&path, &bytes);
    }
    prepare(Path::new(ROOT), disk.process()).expect("nothing is in the way");
    disk
}

/// One stream at a time: the operations have an order.
fn context(process: Arc<SimFiles>, hub: &Hub) -> Context {
    Context::new(Path::new(ROOT), process, Some(&hub.url()))
}

/// Bytes that came from elsewhere since the hub's requests were forgotten.
fn fetched(hub: &Hub, contexts: &[&Context]) -> u64 {
    let own: u64 = contexts.iter().map(|context| context.fetched.load(Ordering::Relaxed)).sum();
    own + hub.bytes_asked()
}

fn seen(disk: &Disk) -> BTreeMap<String, Model> {
    models(&disk.files(), Path::new(ROOT))
}

/// What a scenario does when nothing is in its way, and how many operations it takes: those that change something, all,
/// and the bytes that it fetches.
struct Course {
    before: BTreeMap<String, Model>,
    after: BTreeMap<String, Model>,
    changes: u64,
    all: u64,
    fetched: u64,
}

fn course(scenario: &Scenario, hub: &Hub) -> Course {
    let disk = fresh();
    let before = seen(&disk);
    let process = disk.process();
    let context = context(process.clone(), hub);
    hub.take_requests();
    (scenario.run)(&context).expect("nothing is in the way");
    let (changes, all) = process.counts();
    let after = seen(&disk);
    assert_ne!(scenario.target.is_some(), before == after, "{} does something", scenario.name);
    Course { before, after, changes, all, fetched: fetched(hub, &[&context]) }
}

impl Course {
    /// I5: what was fetched beside what had to be. A server is asked for a byte to learn what a file is, and for its first
    /// four to learn whether it is a model.
    fn check_fetched(&self, fetched: u64, kills: u64) {
        let most = self.fetched + kills * (CHUNK_BYTES + 5);
        assert!(fetched <= most, "I5: {fetched} bytes of {} were fetched", self.fetched);
    }
}

/// After whatever happened: what can be seen is whole, the same command does its work, and what it said was done is
/// there after the power was gone.
fn recovers(scenario: &Scenario, course: &Course, disk: &Disk, again: &Context, seed: u64) {
    unchanged(&course.before, &course.after, &seen(disk), scenario.target);
    (scenario.run)(again)
        .unwrap_or_else(|error| panic!("I4: the next {} needs a repair: {error}", scenario.name));
    assert_eq!(seen(disk), course.after, "the next {} does what it is to do", scenario.name);
    disk.lose_power(seed);
    assert_eq!(seen(disk), course.after, "what was acknowledged is durable");
}

#[test]
fn a_kill_at_every_operation() {
    let hub = network::hub();
    let mut kills = 0;
    for scenario in ALL {
        let course = course(scenario, &hub);
        for n in 1..=course.changes {
            hub.take_requests();
            let disk = fresh();
            let process = disk.process();
            process.arm(Fault::Kill(n));
            let first = context(process.clone(), &hub);
            // What remains to be done at the very end may be of no account, as the removal of a lock's file.
            if (scenario.run)(&first).is_ok() {
                assert_eq!(seen(&disk), course.after, "{} killed at {n} says that it is done", scenario.name);
            }
            kills += 1;
            let again = context(disk.process(), &hub);
            recovers(scenario, &course, &disk, &again, n);
            course.check_fetched(fetched(&hub, &[&first, &again]), 1);
        }
    }
    println!("{kills} kills");
    assert!(kills > 600, "{kills} are not all");
}

#[test]
fn a_loss_of_power_at_every_operation() {
    let hub = network::hub();
    let mut losses = 0;
    for scenario in ALL {
        let course = course(scenario, &hub);
        let seeds = if scenario.network { 3 } else { 6 };
        for n in 1..=course.changes {
            for seed in 0..seeds {
                hub.take_requests();
                let disk = fresh();
                let process = disk.process();
                process.arm(Fault::Kill(n));
                let first = context(process, &hub);
                let is_done = (scenario.run)(&first).is_ok();
                disk.lose_power(seed + 101 * n);
                losses += 1;
                assert!(!is_done || seen(&disk) == course.after, "what was acknowledged is durable");
                let again = context(disk.process(), &hub);
                recovers(scenario, &course, &disk, &again, seed);
                course.check_fetched(fetched(&hub, &[&first, &again]), 1);
            }
        }
    }
    println!("{losses} losses of power");
}

/// The first command of all: no folder is there yet.
#[test]
fn a_loss_of_power_at_the_very_beginning() {
    let hub = network::hub();
    let empty = || {
        let disk = Disk::new();
        disk.put(Path::new("/home/x"), b"somebody lives here");
        disk
    };
    for name in ["fetch", "pull"] {
        let pull = crate::scenarios::scenario(name);
        let disk = empty();
        let process = disk.process();
        (pull.run)(&context(process.clone(), &hub)).expect("nothing is in the way");
        let (changes, after) = (process.counts().0, seen(&disk));
        for n in 1..=changes {
            for seed in 0..6 {
                let disk = empty();
                let process = disk.process();
                process.arm(Fault::Kill(n));
                let _ = (pull.run)(&context(process, &hub));
                if seed > 0 {
                    disk.lose_power(seed + 100 * n);
                }
                assert!(seen(&disk).is_empty() || seen(&disk) == after, "killed at {n}");
                (pull.run)(&context(disk.process(), &hub)).expect("it needs no repair");
                disk.lose_power(seed);
                assert_eq!(seen(&disk), after, "what was acknowledged is durable");
            }
        }
    }
}

/// Two losses in a row: what the second command did with what the first left.
#[test]
fn a_loss_of_power_while_it_is_taken_up() {
    let hub = network::hub();
    for scenario in ALL {
        let course = course(scenario, &hub);
        let (first_step, second_step) = if scenario.network { (7, 11) } else { (3, 5) };
        for n in (1..=course.changes).step_by(first_step) {
            for m in (1..=course.changes).step_by(second_step) {
                let disk = fresh();
                for (at, seed) in [(n, n + m), (m, 3 * n + m)] {
                    let process = disk.process();
                    process.arm(Fault::Kill(at));
                    let _ = (scenario.run)(&context(process, &hub));
                    disk.lose_power(seed);
                    unchanged(&course.before, &course.after, &seen(&disk), scenario.target);
                }
                recovers(scenario, &course, &disk, &context(disk.process(), &hub), n);
            }
        }
    }
}

/// The same process goes on: it needs no restart. What makes room works on a full disk.
#[test]
fn a_full_disk_at_every_write() {
    let hub = network::hub();
    for scenario in ALL {
        let course = course(scenario, &hub);
        let makes_room = ["remove", "prune"].contains(&scenario.name);
        let mut n_refused = 0;
        for n in 1..=course.changes {
            hub.take_requests();
            let disk = fresh();
            let process = disk.process();
            process.arm(Fault::NoSpace(n));
            let context = context(process.clone(), &hub);
            let outcome = (scenario.run)(&context);
            match outcome {
                // What was left to do took no room, or was of no account.
                Ok(()) => assert_eq!(seen(&disk), course.after, "{} at {n}", scenario.name),
                Err(error) => {
                    let says_how_much = error.is_no_space && error.text.contains(" needed");
                    assert!(says_how_much && !makes_room, "{} at {n}: {error}", scenario.name);
                    n_refused += 1;
                }
            }
            process.arm(Fault::Kill(u64::MAX));
            recovers(scenario, &course, &disk, &context, n);
            course.check_fetched(fetched(&hub, &[&context]), 1);
        }
        assert_eq!(n_refused > 0, !makes_room, "{}: {n_refused}", scenario.name);
    }
}

#[test]
fn an_error_at_every_operation() {
    let hub = network::hub();
    for scenario in ALL {
        let course = course(scenario, &hub);
        for n in 1..=course.all {
            let disk = fresh();
            let process = disk.process();
            process.arm(Fault::Io(n));
            let context = context(process.clone(), &hub);
            // Some errors do no harm: that of the removal of a lock's file is one.
            let outcome = (scenario.run)(&context);
            let now = seen(&disk);
            unchanged(&course.before, &course.after, &now, scenario.target);
            if outcome.is_ok() {
                assert_eq!(now, course.after, "{}: it says that it is done", scenario.name);
            }
            process.arm(Fault::Kill(u64::MAX));
            recovers(scenario, &course, &disk, &context, n);
        }
    }
}

/// What a sync that failed was to make durable is not, and nobody says that it is (I9).
#[test]
fn a_failed_sync_at_every_sync() {
    let hub = network::hub();
    for scenario in ALL {
        let course = course(scenario, &hub);
        for n in 1..=course.changes {
            let disk = fresh();
            let process = disk.process();
            process.arm(Fault::Sync(n));
            let first = context(process.clone(), &hub);
            let outcome = (scenario.run)(&first);
            assert_eq!(outcome.is_err(), process.is_met(), "{} at {n}: {outcome:?}", scenario.name);
            if !process.is_met() {
                break;
            }
            // With the power going at once, and with the next command taking up what is there.
            if n % 2 == 0 {
                disk.lose_power(n);
            }
            recovers(scenario, &course, &disk, &context(disk.process(), &hub), n);
        }
    }
}

/// Another process prunes, or removes what shares blobs, between any two operations.
#[test]
fn others_between_any_two_operations() {
    type Deed = fn(&Context) -> Result<(), StoreError>;
    let others: [Deed; 2] = [
        |c| c.store.session().prune(false).map(drop),
        |c| c.store.session().remove(&crate::scenarios::name("old:2")).map(drop),
    ];
    let hub = network::hub();
    // What is taken away under the hands of one that needs it is an error, as it should be.
    let needs = |scenario: &Scenario| ["remove", "create-over"].contains(&scenario.name);
    for scenario in ALL.iter().filter(|s| !needs(s)) {
        let course = course(scenario, &hub);
        for n in 1..=course.changes {
            for (i, other) in others.into_iter().enumerate() {
                let disk = fresh();
                let process = disk.process();
                let theirs = context(disk.process(), &hub);
                // It may find the names locked, as it would wait for.
                process.arm(Fault::Before(n, Box::new(move || drop(other(&theirs)))));
                (scenario.run)(&context(process, &hub))
                    .unwrap_or_else(|error| panic!("{} with others before {n}: {error}", scenario.name));
                let mut now = seen(&disk);
                let mut after = course.after.clone();
                if i == 1 {
                    now.remove("old:2");
                    after.remove("old:2");
                }
                assert_eq!(now, after, "{} with others before {n}", scenario.name);
                disk.lose_power(n);
                let mut kept = seen(&disk);
                kept.remove("old:2");
                after.remove("old:2");
                assert_eq!(kept, after, "{} with others before {n}, durably", scenario.name);
            }
        }
    }
}

#[test]
fn room_is_asked_for_before_anything_is_fetched() {
    let (disk, hub) = (fresh(), network::hub());
    let context = context(disk.process(), &hub);
    let expect = ingle_store::Expect { size: Some(1 << 30), ..Default::default() };
    disk.set_capacity(Some(1 << 29));
    let error = context.store.stage(expect).expect_err("there is no room");
    assert!(matches!(error, StoreError::NoSpace { needed, .. } if needed == 1 << 30), "{error}");
    let used: usize = disk.files().values().map(Vec::len).sum();
    // The hub says how large files are: a byte less than they take and are to leave.
    disk.set_capacity(Some(used as u64 + 8000));
    let error = (crate::scenarios::scenario("pull").run)(&context).expect_err("there is no room");
    assert!(error.is_no_space && error.text.contains(" are needed"), "{error}");
    assert_eq!(hub.bytes_asked(), 0, "nothing was fetched");
    disk.set_capacity(None);
    assert_eq!(seen(&disk).len(), N_PREPARED);
}
