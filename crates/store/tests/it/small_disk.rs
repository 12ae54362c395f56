//! A disk that is really full: a small file system in memory, which is mounted in a namespace of the test's own where the
//! system lets it.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use ingle_store::Digest;
use ingle_store::files::RealFiles;
use ingle_testkit::hub::Hub;
use ingle_testkit::kill::KillingFiles;

use crate::invariants::{models, tree, unchanged};
use crate::scenarios::{Context, Outcome, content, scenario};
use crate::{bundles, kill, network};

/// Where the child's disk is.
const VARIABLE: &str = "INGLE_TEST_SMALL_DISK";
/// The disk.
const DISK: &str = "size=2m,nr_inodes=4k";
/// What fits on it, but not with as much again beside it.
pub const LARGE_BYTES: usize = 1_200_000;

/// Mounts the disk and runs the other test of this file on it.
#[test]
fn a_disk_that_is_really_full() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let program = std::env::current_exe().expect("this program has a path");
    let script = format!(
        "mount -t tmpfs -o {DISK} tmpfs \"$1\" && exec \"$2\" small_disk::child --exact --nocapture --test-threads=1"
    );
    let run = Command::new("unshare")
        .args(["-rm", "sh", "-c", &script, "sh"])
        .args([dir.path(), &program])
        .env(VARIABLE, dir.path())
        .stdin(Stdio::null())
        .output();
    let output = match run {
        Ok(output) => output,
        Err(error) => return println!("skipped: there is no `unshare` here ({error})"),
    };
    let (out, said) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if !output.status.success() && !out.contains("running 1 test") {
        return println!("skipped: nothing can be mounted here ({})", said.trim());
    }
    assert!(output.status.success() && out.contains("1 passed"), "{out}\n{said}");
    let told =
        out.lines().find_map(|line| line.split_once("... ").filter(|(_, told)| told.ends_with("full")));
    println!("a small disk: {}", told.map_or("", |(_, told)| told));
}

/// What runs on the small disk; for any other process it is nothing.
#[test]
fn child() {
    let Some(disk) = std::env::var_os(VARIABLE) else { return };
    let disk = Path::new(&disk);
    let hub = network::hub();
    what_is_too_large_is_refused(&disk.join("large"), &hub);
    let template = kill::template();
    let mut n_full = 0;
    for name in ["pull", "pull-registry", "create", "import", "remove", "prune"] {
        for at in 1.. {
            let root = disk.join("home");
            kill::write(&template, &root);
            let is_over = full_at(&root, name, at, &hub);
            std::fs::remove_dir_all(&root).expect("it is ours");
            if is_over {
                break;
            }
            n_full += 1;
        }
    }
    println!("{n_full} times full");
}

/// Its size is known before: nothing is fetched, copied or read.
fn what_is_too_large_is_refused(root: &Path, hub: &Hub) {
    std::fs::create_dir(root).expect("writable");
    hub.take_requests();
    let large = content("too large", LARGE_BYTES);
    hub.add_model("library/large", "1", &[("application/vnd.ollama.image.model", &large)]);
    let elsewhere = tempfile::tempdir().expect("another disk");
    let file = elsewhere.path().join("large.gguf");
    std::fs::write(&file, &large).expect("there is room elsewhere");
    let context = Context::new(root, Arc::new(RealFiles), Some(&hub.url()));
    let put = |context: &Context| -> Outcome {
        context.store.put_file(&file, &mut |_, _| ())?;
        Ok(())
    };
    for (what, outcome) in
        [("pull", network::large(&context)), ("create", put(&context)), ("import", bundles::large(&context))]
    {
        let error = outcome.expect_err(what);
        let needed = error.text.split(" are needed").next().and_then(|text| text.rsplit(' ').next());
        let needed: usize = needed.and_then(|text| text.parse().ok()).unwrap_or(0);
        assert!(error.is_no_space && (LARGE_BYTES..LARGE_BYTES + 1000).contains(&needed), "{what}: {error}");
    }
    assert_eq!(hub.bytes_asked(), 0, "nothing was fetched");
    let files = tree(root);
    assert!(files.values().all(Vec::is_empty), "nothing was begun: {:?}", files.keys());
    assert!(context.store.blob(&Digest::of(&large)).expect("it can be asked").is_none());
}

/// The disk is full from an operation on, until somebody makes room; then the same process goes on. Whether there is no
/// such operation.
fn full_at(root: &Path, name: &str, at: u64, hub: &Hub) -> bool {
    let scenario = scenario(name);
    let before = models(&tree(root), root);
    let filler = root.join("filler");
    let fill = {
        let filler = filler.clone();
        move || fill(&filler)
    };
    let files = Arc::new(KillingFiles::with_event(RealFiles, at, fill));
    let context = Context::new(root, files.clone(), Some(&hub.url()));
    let outcome = (scenario.run)(&context);
    let is_over = (files.done().len() as u64) < at;
    let now = models(&tree(root), root);
    let makes_room = ["remove", "prune"].contains(&name);
    match &outcome {
        // What was left to do took no room.
        Ok(()) => {}
        Err(error) => {
            let says_how_much = error.is_no_space && error.text.contains(" needed");
            assert!(says_how_much && !makes_room && !is_over, "{name} at {at}: {error}");
        }
    }
    if is_over {
        return true;
    }
    std::fs::remove_file(&filler).expect("it was written");
    (scenario.run)(&context).unwrap_or_else(|error| panic!("{name} after {at}: {error}"));
    let after = models(&tree(root), root);
    unchanged(&before, &after, &now, scenario.target);
    unchanged(&before, &after, &after, scenario.target);
    assert!(outcome.is_err() || now == after, "{name} at {at}: it said that it was done");
    false
}

/// Writes until there is no room for a byte.
fn fill(path: &Path) {
    let mut file = std::fs::File::create(path).expect("a name takes no room here");
    for size in [1 << 16, 1] {
        while file.write_all(&vec![1; size]).is_ok() {}
    }
}
