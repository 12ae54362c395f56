//! Folders of records.

use std::fs;
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use ingle_ledger::{LedgerError, RecordLimits, Records};

/// A folder that only its owner can look into.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
    }
    folder
}

fn open(path: &Path, limits: RecordLimits) -> (Records, Receiver<String>) {
    let (sender, problems) = channel();
    let on_problem = move |text: &str| _ = sender.send(text.to_owned());
    (Records::open(path, limits, Box::new(on_problem)).unwrap(), problems)
}

/// The texts of the records, by name.
fn texts(path: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    names.iter().map(|name| fs::read_to_string(name).unwrap()).collect()
}

#[test]
fn records_are_written_in_order_and_for_their_owner_alone() {
    let folder = folder();
    let path = folder.path().join("new").join("records");
    let (records, problems) = open(&path, RecordLimits::default());
    for i in 0..20 {
        records.put(&format!("chatcmpl-{i}/../x"), 10, move || format!("record {i}"));
    }
    while records.counts().0 < 20 {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(records.counts(), (20, 0));
    drop(records);
    // Those of one millisecond may stand in another order.
    let mut found = texts(&path);
    found.sort();
    let mut expected: Vec<String> = (0..20).map(|i| format!("record {i}")).collect();
    expected.sort();
    assert_eq!(found, expected);
    assert!(problems.try_recv().is_err());
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o700);
        fs::read_dir(&path).unwrap().for_each(|file| assert_eq!(mode(&file.unwrap().path()), 0o600));
    }
}

#[cfg(unix)]
#[test]
fn a_folder_that_others_can_read_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let folder = folder();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let error = Records::open(folder.path(), RecordLimits::default(), Box::new(|_| {})).unwrap_err();
    assert!(matches!(error, LedgerError::Access { .. }), "{error}");
    assert!(error.to_string().contains("chmod 700"), "{error}");
}

#[test]
fn the_oldest_go_first() {
    let folder = folder();
    let limits = RecordLimits { bytes_max: 1000, ..RecordLimits::default() };
    let other = folder.path().join("notes.txt");
    fs::write(&other, "not a record").unwrap();
    fs::write(folder.path().join(".unfinished-1.json"), "half").unwrap();
    let (records, _) = open(folder.path(), limits);
    for i in 0..30 {
        records.put(&format!("id-{i}"), 100, move || format!("{i:0100}"));
        // Names have milliseconds.
        std::thread::sleep(Duration::from_millis(2));
    }
    drop(records);
    fs::remove_file(other).expect("what is no record is left alone");
    let kept: Vec<usize> = texts(folder.path()).iter().map(|text| text.parse().unwrap()).collect();
    assert_eq!(kept, (20..30).collect::<Vec<_>>());

    // Another process goes on, and finds that they are too old.
    for file in fs::read_dir(folder.path()).unwrap() {
        let file = fs::File::options().write(true).open(file.unwrap().path()).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(100)).unwrap();
    }
    drop(open(folder.path(), RecordLimits { age_max: Duration::from_secs(50), ..limits }));
    assert!(texts(folder.path()).is_empty());
}

#[test]
fn who_puts_never_waits_for_the_disk() {
    let folder = folder();
    let limits = RecordLimits { waiting_bytes_max: 1000, ..RecordLimits::default() };
    let (records, problems) = open(folder.path(), limits);
    // The disk is slow: the first record takes as long as this is held.
    let gate = Arc::new(Mutex::new(()));
    let held = gate.lock().unwrap();
    let slow = gate.clone();
    records.put("slow", 500, move || {
        drop(slow.lock());
        "slow".into()
    });
    let started = std::time::Instant::now();
    for i in 0..1000 {
        records.put(&i.to_string(), 100, || "more".into());
    }
    // Were they to wait for the disk, it would be for ever.
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    assert_eq!(records.counts().1, 995, "five more fit into memory");
    drop(held);
    while records.counts().0 < 6 {
        std::thread::sleep(Duration::from_millis(1));
    }
    let problem = problems.recv_timeout(Duration::from_secs(30)).unwrap();
    assert!(problem.contains("dropped"), "{problem}");
    assert_eq!(texts(folder.path()).len(), 6);
}

#[test]
fn a_disk_that_takes_nothing_costs_records_and_nothing_else() {
    let folder = folder();
    let path = folder.path().join("records");
    let (records, problems) = open(&path, RecordLimits::default());
    fs::remove_dir(&path).unwrap();
    for _ in 0..3 {
        records.put("lost", 10, || "text".into());
    }
    let problem = problems.recv_timeout(Duration::from_secs(30)).unwrap();
    assert!(problem.contains("could not be written"), "{problem}");
    while records.counts().1 < 3 {
        std::thread::sleep(Duration::from_millis(1));
    }
    fs::create_dir(&path).unwrap();
    records.put("kept", 10, || "text".into());
    drop(records);
    assert_eq!(texts(&path), ["text"]);
    assert!(problems.try_recv().is_err(), "it is told once in a while, not each time");
}
