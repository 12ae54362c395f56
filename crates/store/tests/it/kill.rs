//! The same with real processes and a real SIGKILL.

use std::time::Instant;

use ingle_store::files::RealFiles;
use ingle_testkit::kill::{End, KillingFiles, Plan, run_child};
use ingle_testkit::rng::Rng;

use crate::invariants::{Tree, models, tree, unchanged};
use crate::scenarios::{ALL, Context, Scenario, memory_dir, prepare, scenario, source};

use std::path::Path;
use std::sync::Arc;

/// How many kills there are at least, of all scenarios together.
const KILLS_MIN: usize = 400;

/// What a child does; for any other process it is nothing.
#[test]
fn child() {
    let Some(plan) = Plan::of_this_process() else { return };
    let files = Arc::new(KillingFiles::new(RealFiles, &plan));
    (scenario(&plan.scenario).run)(&Context::new(&plan.root, files))
        .expect("nothing but death is in the way");
}

/// A folder with the models that are there before.
fn prepared() -> tempfile::TempDir {
    let dir = memory_dir();
    let (path, bytes) = source(dir.path());
    std::fs::write(path, bytes).expect("writable");
    prepare(dir.path(), Arc::new(RealFiles)).expect("nothing is in the way");
    dir
}

/// Kills a child, looks at what is there, and does the same without a kill.
fn check(scenario: &Scenario, at: u64, after: bool) -> End {
    let dir = prepared();
    let root = dir.path();
    let before = models(&tree(root), root);
    let plan = Plan { scenario: scenario.name.to_owned(), root: root.to_owned(), at, after };
    let end = run_child("kill::child", &plan);
    let stopped = models(&tree(root), root);
    (scenario.run)(&Context::new(root, Arc::new(RealFiles)))
        .unwrap_or_else(|error| panic!("I4: the next {} needs a repair: {error}", scenario.name));
    let done = models(&tree(root), root);
    unchanged(&before, &done, &stopped, scenario.target);
    unchanged(&before, &done, &done, scenario.target);
    // Nothing of the dead process is in the way of a clean store.
    Context::new(root, Arc::new(RealFiles)).store.prune(false).expect("nothing is in the way");
    let clean: Tree = tree(root);
    assert_eq!(crate::invariants::leftovers(&clean, root), Vec::<std::path::PathBuf>::new());
    assert_eq!(models(&clean, root), done);
    end
}

#[test]
fn a_kill_at_every_operation() {
    let started = Instant::now();
    let mut kills = 0;
    for scenario in ALL {
        for at in 1.. {
            // Before each operation; after the one before is the same.
            if check(scenario, at, false) == End::Finished {
                break;
            }
            kills += 1;
        }
    }
    let mut rng = Rng::new(7);
    while kills < KILLS_MIN {
        let scenario = &ALL[rng.below(ALL.len())];
        kills += usize::from(check(scenario, 1 + rng.below(80) as u64, true) == End::Killed);
    }
    println!("{kills} kills in {:.1} s", started.elapsed().as_secs_f64());
}

/// A lock is given back by the system when its process dies.
#[test]
fn a_dead_process_holds_nothing() {
    let dir = prepared();
    let plan = Plan { scenario: "pull".into(), root: dir.path().into(), at: 12, after: true };
    assert_eq!(run_child("kill::child", &plan), End::Killed);
    let context = Context::new(dir.path(), Arc::new(RealFiles));
    (scenario("pull").run)(&context).expect("nobody holds the blob");
    assert!(Path::new(dir.path()).join("store/locks").exists());
}
