//! Kills for real: a process of its own does what a command does and ends by SIGKILL at one of its operations on files,
//! at each of them in turn. Then what is there is looked at, and the next command has to work.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ingle_store::State;
use ingle_store::files::RealFiles;
use ingle_testkit::hub::Hub;
use ingle_testkit::kill::{End, KillingFiles, Moment, Operation, Plan, run_child};
use ingle_testkit::rng::Rng;

use crate::invariants::{Model, Tree, leftovers, models, tree, unchanged};
use crate::network;
use crate::scenarios::{ALL, CHUNK_BYTES, Context, Scenario, memory_dir, prepare, scenario, sources};

/// How many kills there are at least, of all scenarios together.
const KILLS_MIN: usize = 2000;
/// Streams of a download: more than a file has chunks.
const STREAMS: u64 = 4;
/// The test that is a child.
const CHILD: &str = "kill::child";

/// What a child does; for any other process it is nothing.
#[test]
fn child() {
    let Some(plan) = Plan::of_this_process() else { return };
    let files = Arc::new(KillingFiles::new(RealFiles, &plan));
    let context = Context { streams: STREAMS as usize, ..Context::new(&plan.root, files, Some(&plan.with)) };
    (scenario(&plan.scenario).run)(&context).expect("nothing but death is in the way");
}

fn context(root: &Path, hub: &Hub) -> Context {
    let context = Context::new(root, Arc::new(RealFiles), Some(&hub.url()));
    Context { streams: STREAMS as usize, ..context }
}

/// The models that are there before, as files that are written for each kill.
pub fn template() -> Tree {
    let dir = memory_dir();
    for (path, bytes) in sources(dir.path()) {
        std::fs::write(path, bytes).expect("writable");
    }
    prepare(dir.path(), Arc::new(RealFiles)).expect("nothing is in the way");
    let mut files = Tree::new();
    for (path, bytes) in tree(dir.path()) {
        files.insert(path.strip_prefix(dir.path()).expect("it is in there").to_owned(), bytes);
    }
    files
}

fn prepared(template: &Tree) -> tempfile::TempDir {
    let dir = memory_dir();
    write(template, dir.path());
    dir
}

/// Writes what is there before into a folder.
pub fn write(template: &Tree, root: &Path) {
    for (path, bytes) in template {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().expect("it is in a folder")).expect("writable");
        std::fs::write(path, bytes).expect("writable");
    }
    // Folders of the store that are empty are there too.
    for folder in ["blobs", "manifests", "tmp", "locks"] {
        std::fs::create_dir_all(root.join("store").join(folder)).expect("writable");
    }
}

/// What a scenario does when nothing is in its way.
struct Course {
    scenario: &'static Scenario,
    before: BTreeMap<String, Model>,
    after: BTreeMap<String, Model>,
    operations: Vec<Operation>,
    fetched: u64,
}

fn course(scenario: &'static Scenario, template: &Tree, hub: &Hub) -> Course {
    let dir = prepared(template);
    let before = models(&tree(dir.path()), dir.path());
    let files = Arc::new(KillingFiles::counting(RealFiles));
    let context = Context::new(dir.path(), files.clone(), Some(&hub.url()));
    hub.take_requests();
    (scenario.run)(&Context { streams: STREAMS as usize, ..context }).expect("nothing is in the way");
    let after = models(&tree(dir.path()), dir.path());
    Course { scenario, before, after, operations: files.done(), fetched: hub.bytes_asked() }
}

/// Where a process is killed.
#[derive(Clone, Copy, Debug)]
struct Kill {
    course: usize,
    at: u64,
    moment: Moment,
}

/// Every kill that leaves something else behind: before each operation, and in the middle of each write.
fn all_kills(courses: &[Course]) -> Vec<Kill> {
    let mut kills = Vec::new();
    for (course, of_course) in courses.iter().enumerate() {
        for (at, operation) in (1..).zip(&of_course.operations) {
            kills.push(Kill { course, at, moment: Moment::Before });
            if *operation == Operation::Write {
                kills.push(Kill { course, at, moment: Moment::Half });
            }
        }
    }
    kills
}

/// Kills a child, and two that go on where it was; looks at what is there; and does the same without a kill. How many
/// were killed.
fn check(course: &Course, kill: Kill, template: &Tree, hub: &Hub) -> usize {
    let scenario = course.scenario;
    let dir = prepared(template);
    let root = dir.path();
    let mut rng = Rng::new(kill.at * 2 + u64::from(kill.moment == Moment::Half));
    // What is left to do takes fewer operations than all of it.
    let mut later = || (1 + rng.below(course.operations.len() / 2) as u64, Moment::After);
    let plans = [(kill.at, kill.moment), later(), later()];
    let mut kills = 0;
    hub.take_requests();
    for (at, moment) in plans {
        let (scenario, root) = (scenario.name.to_owned(), root.to_owned());
        if run_child(CHILD, &Plan { scenario, root, with: hub.url(), at, moment }) == End::Finished {
            break;
        }
        kills += 1;
        let now = models(&tree(dir.path()), dir.path());
        unchanged(&course.before, &course.after, &now, course.scenario.target);
    }
    let context = context(root, hub);
    // The next command is another one, every other time.
    if rng.below(2) == 0 {
        let listed = context.store.list().unwrap_or_else(|error| panic!("{kill:?}: {error}"));
        assert!(listed.iter().all(|entry| entry.state == State::Ready), "{kill:?}: {listed:?}");
        assert!(listed.len() + 1 >= course.before.len(), "{kill:?}: {listed:?}");
    }
    (scenario.run)(&context).unwrap_or_else(|error| {
        panic!("I4: after {kill:?} the next {} needs a repair: {error}", scenario.name)
    });
    let done = models(&tree(root), root);
    unchanged(&course.before, &course.after, &done, scenario.target);
    assert_eq!(done, course.after, "{kill:?} of {}", scenario.name);
    // Each of four may ask for five bytes to learn what a file is.
    let most = course.fetched + kills as u64 * STREAMS * CHUNK_BYTES + 20;
    let fetched = hub.bytes_asked();
    assert!(fetched <= most, "I5: {fetched} bytes of {} after {kill:?} of {}", course.fetched, scenario.name);
    let clean = pruned(&context);
    assert_eq!(leftovers(&clean, root), Vec::<std::path::PathBuf>::new(), "{kill:?} of {}", scenario.name);
    assert_eq!(models(&clean, root), done);
    kills
}

/// What is there after a prune. A child that another worker is about to begin has a copy of all that is open here, locks
/// included, until it is begun; prune leaves alone what is locked.
fn pruned(context: &Context) -> Tree {
    for _ in 0..500 {
        context.store.prune(false).expect("nothing is in the way");
        let clean = tree(&context.root);
        if leftovers(&clean, &context.root).is_empty() {
            return clean;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    tree(&context.root)
}

/// The machine's cores work off the kills together, each with a hub of its own.
#[test]
fn a_kill_at_every_operation() {
    let started = Instant::now();
    let template = template();
    let hub = network::hub();
    let courses: Vec<Course> = ALL.iter().map(|scenario| course(scenario, &template, &hub)).collect();
    let jobs = all_kills(&courses);
    let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let met = Mutex::new(BTreeMap::<&str, BTreeSet<u64>>::new());
    let n_workers = std::thread::available_parallelism().map_or(2, |n| n.get().min(8));
    std::thread::scope(|scope| {
        for _ in 0..n_workers {
            scope.spawn(|| {
                let hub = network::hub();
                while let Some(kill) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let course = &courses[kill.course];
                    let kills = check(course, *kill, &template, &hub);
                    done.fetch_add(kills, Ordering::Relaxed);
                    if kills > 0 {
                        let mut met = met.lock().unwrap_or_else(PoisonError::into_inner);
                        met.entry(course.scenario.name).or_default().insert(kill.at);
                    }
                }
            });
        }
    });
    let kills = done.into_inner();
    let met = met.into_inner().unwrap_or_else(PoisonError::into_inner);
    for course in &courses {
        let (name, n) = (course.scenario.name, course.operations.len());
        let n_met = met.get(name).map_or(0, BTreeSet::len);
        println!("{name}: killed at {n_met} of {n} operations");
        // Streams that run side by side may need an operation less than they did.
        assert!(
            n_met + STREAMS as usize >= n && (course.scenario.network || n_met == n),
            "{name}: {n_met} of {n}"
        );
    }
    let n_met: usize = met.values().map(BTreeSet::len).sum();
    println!("{kills} kills at {n_met} operations in {:.1} s", started.elapsed().as_secs_f64());
    assert!(kills >= KILLS_MIN, "{kills} kills are too few");
}

/// A lock is given back by the system when its process dies.
#[test]
fn a_dead_process_holds_nothing() {
    let (template, hub) = (template(), network::hub());
    let dir = prepared(&template);
    let (scenario_name, root) = ("fetch".to_owned(), dir.path().to_owned());
    let plan = Plan { scenario: scenario_name, root, with: hub.url(), at: 12, moment: Moment::After };
    assert_eq!(run_child(CHILD, &plan), End::Killed);
    (scenario("fetch").run)(&context(dir.path(), &hub)).expect("nobody holds the blob");
    assert!(dir.path().join("store/locks").exists());
}
