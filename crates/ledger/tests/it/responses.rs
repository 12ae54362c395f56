//! Stored responses: what is kept, for whom, how long, and what happens to the file when things go wrong.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use ingle_ledger::{LedgerError, Responses, Retention, StoredResponse};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection};

const NOW: u64 = 1_800_000_000;

fn response(id: &str, previous_id: Option<&str>) -> StoredResponse {
    StoredResponse {
        id: id.into(),
        previous_id: previous_id.map(Into::into),
        created_at: NOW,
        input: format!("[\"input of {id}\"]"),
        body: format!("{{\"id\":\"{id}\"}}"),
    }
}

async fn open(path: &Path) -> Responses {
    Responses::open(path, Retention::default()).await.expect("it opens")
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary folder"))
    }

    fn file(&self) -> std::path::PathBuf {
        self.0.path().join("responses.sqlite")
    }
}

#[tokio::test]
async fn what_is_stored_comes_back() {
    let folder = Folder::new();
    let stored = response("a", None);
    {
        let responses = open(&folder.file()).await;
        responses.store("t", &stored, NOW).await.unwrap();
        assert_eq!(responses.get("t", "a", NOW).await.unwrap().as_ref(), Some(&stored));
        assert_eq!(responses.input("t", "a", NOW).await.unwrap().as_ref(), Some(&stored.input));
        responses.close().await;
    }
    let responses = open(&folder.file()).await;
    assert_eq!(responses.get("t", "a", NOW).await.unwrap(), Some(stored));
    assert!(responses.delete("t", "a", NOW).await.unwrap());
    assert!(!responses.delete("t", "a", NOW).await.unwrap(), "it is gone");
    assert_eq!(responses.get("t", "a", NOW).await.unwrap(), None);
    assert_eq!(responses.input("t", "a", NOW).await.unwrap(), None);
}

#[tokio::test]
async fn tenants_do_not_see_each_other() {
    let folder = Folder::new();
    let responses = open(&folder.file()).await;
    responses.store("one", &response("a", None), NOW).await.unwrap();
    let mut other = response("a", None);
    other.body = "another".into();
    responses.store("two", &other, NOW).await.unwrap();
    assert_eq!(responses.get("two", "a", NOW).await.unwrap(), Some(other), "ids may be alike");
    assert_eq!(responses.get("three", "a", NOW).await.unwrap(), None);
    assert_eq!(responses.input("three", "a", NOW).await.unwrap(), None);
    assert!(!responses.delete("three", "a", NOW).await.unwrap());
    let error = responses.chain("three", "a", NOW).await.unwrap_err();
    assert!(matches!(error, LedgerError::NoSuchResponse { .. }), "{error}");
    responses.store("two", &response("b", Some("a")), NOW).await.unwrap();
    assert!(responses.delete("two", "a", NOW).await.unwrap());
    assert_eq!(responses.get("one", "a", NOW).await.unwrap(), Some(response("a", None)));
    let error = responses.chain("two", "b", NOW).await.unwrap_err();
    assert!(matches!(error, LedgerError::BrokenChain { .. }), "another tenant's does not mend it: {error}");
}

#[tokio::test]
async fn a_chain_is_the_conversation_from_its_beginning() {
    let folder = Folder::new();
    let responses = open(&folder.file()).await;
    for (id, previous) in [("a", None), ("b", Some("a")), ("side", Some("a")), ("c", Some("b"))] {
        responses.store("t", &response(id, previous), NOW).await.unwrap();
    }
    let chain = responses.chain("t", "c", NOW).await.unwrap();
    let turns = responses.turns(&chain).await.unwrap();
    let bodies: Vec<_> = turns.iter().map(|t| t.body.as_str()).collect();
    assert_eq!(bodies, [r#"{"id":"a"}"#, r#"{"id":"b"}"#, r#"{"id":"c"}"#]);
    assert_eq!(chain.bytes, turns.iter().map(|t| (t.input.len() + t.body.len()) as u64).sum::<u64>());
    assert!(responses.delete("t", "a", NOW).await.unwrap());
    let error = responses.chain("t", "c", NOW).await.unwrap_err();
    assert!(error.to_string().contains("response `c` continues `a`, which was deleted"), "{error}");
    let error = responses.turns(&chain).await.unwrap_err();
    assert!(matches!(error, LedgerError::NoSuchResponse { .. }), "gone in between: {error}");
}

#[tokio::test]
async fn chains_are_bounded() {
    let folder = Folder::new();
    let responses = open(&folder.file()).await;
    // Each says that it continues itself, which no server would store: it must end all the same.
    responses.store("t", &response("loop", Some("loop")), NOW).await.unwrap();
    let error = responses.chain("t", "loop", NOW).await.unwrap_err();
    assert!(matches!(error, LedgerError::ChainTooLong { turns_max: Responses::TURNS_MAX, .. }), "{error}");
}

#[tokio::test]
async fn what_exceeds_the_bounds_goes_oldest_first() {
    let folder = Folder::new();
    let each = 24;
    let retention = Retention { age_max: Duration::from_secs(100), count_max: 3, bytes_max: 5 * each };
    let responses = Responses::open(&folder.file(), retention).await.unwrap();
    let left = async |tenant: &str, now| {
        let mut left = String::new();
        for id in ["a", "b", "c", "d", "e", "f"] {
            if responses.get(tenant, id, now).await.unwrap().is_some() {
                left += id;
            }
        }
        left
    };
    for id in ["a", "b", "c", "d"] {
        let stored = response(id, None);
        assert_eq!((stored.input.len() + stored.body.len()) as u64, each);
        responses.store("t", &stored, NOW).await.unwrap();
    }
    responses.store("other", &response("a", None), NOW).await.unwrap();
    assert_eq!(left("t", NOW).await, "bcd", "too many");
    let mut large = response("e", None);
    large.body = "x".repeat((4 * each) as usize - large.input.len());
    responses.store("t", &large, NOW).await.unwrap();
    assert_eq!(left("t", NOW).await, "de", "too large together");
    large.id = "f".into();
    large.body = "x".repeat(5 * each as usize);
    let error = responses.store("t", &large, NOW).await.unwrap_err();
    assert!(matches!(error, LedgerError::TooLarge { bytes_max: 120, .. }), "{error}");
    assert_eq!(left("t", NOW).await, "de", "and nothing went for it");
    assert_eq!(left("other", NOW).await, "a", "one tenant's do not drive out another's");
    assert_eq!(left("other", NOW + 100).await, "a");
    assert_eq!(left("other", NOW + 101).await, "", "too old");
    assert!(!responses.delete("other", "a", NOW + 101).await.unwrap());
    let mut later = response("f", None);
    later.created_at = NOW + 101;
    responses.store("t", &later, NOW + 101).await.unwrap();
    assert_eq!(left("other", NOW).await, "", "what is too old is deleted at the next write, whoever writes");
}

#[tokio::test]
async fn an_empty_file_becomes_a_ledger() {
    let folder = Folder::new();
    std::fs::write(folder.file(), "").unwrap();
    let responses = open(&folder.file()).await;
    responses.store("t", &response("a", None), NOW).await.unwrap();
    responses.close().await;
    let nested = folder.0.path().join("not/there/yet/responses.sqlite");
    open(&nested).await.close().await;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&nested), 0o600, "conversations are their owner's");
        assert_eq!(mode(nested.parent().unwrap()), 0o700);
    }
}

/// Opening must fail with a message that has these parts.
async fn check_refused(path: &Path, parts: &[&str]) {
    let error = Responses::open(path, Retention::default()).await.expect_err("it is refused").to_string();
    for part in parts {
        assert!(error.contains(part), "{error}");
    }
}

async fn raw(path: &Path, sql: &'static str) {
    let options = SqliteConnectOptions::new().filename(path).create_if_missing(true);
    let mut connection = options.connect().await.unwrap();
    sqlx::raw_sql(sql).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

#[tokio::test]
async fn files_that_are_not_ours_are_refused() {
    let folder = Folder::new();
    let path = folder.file();
    std::fs::write(&path, "This is no database, and long enough to be sure of that. ".repeat(100)).unwrap();
    check_refused(&path, &["responses.sqlite is damaged", "move it away"]).await;

    let other = folder.0.path().join("other.sqlite");
    raw(&other, "CREATE TABLE theirs (x); INSERT INTO theirs VALUES (1)").await;
    check_refused(&other, &["a database of another kind"]).await;

    let newer = folder.0.path().join("newer.sqlite");
    open(&newer).await.close().await;
    raw(&newer, "PRAGMA user_version = 99").await;
    check_refused(&newer, &["a later version", "99"]).await;

    check_refused(folder.0.path(), &["cannot be opened for writing"]).await;
}

#[tokio::test]
async fn damage_inside_is_an_error_and_no_panic() {
    let folder = Folder::new();
    let path = folder.file();
    let responses = open(&path).await;
    for i in 0..200 {
        let mut stored = response(&format!("r{i}"), None);
        stored.body = "x".repeat(2000);
        responses.store("t", &stored, NOW).await.unwrap();
    }
    responses.close().await;
    let mut bytes = std::fs::read(&path).unwrap();
    let len = bytes.len();
    assert!(len > 400_000, "all is in the one file");
    // All pages but the first, which has the schema.
    bytes[4096..].fill(0xa5);
    std::fs::write(&path, &bytes).unwrap();
    let error = match Responses::open(&path, Retention::default()).await {
        Ok(responses) => responses.get("t", "r100", NOW).await.expect_err("the pages are gone"),
        Err(error) => error,
    };
    assert!(matches!(error, LedgerError::Corrupt { .. }), "{error:?}");
}

#[tokio::test]
async fn a_response_that_is_being_made_is_replaced() {
    let folder = Folder::new();
    let responses = open(&folder.file()).await;
    responses.begin("t", &response("a", None), NOW).await.unwrap();
    responses.store("t", &response("b", None), NOW).await.unwrap();
    assert_eq!(responses.pending().await.unwrap(), [("t".to_owned(), response("a", None))]);
    assert!(responses.replace("t", "a", "half", true).await.unwrap());
    assert!(!responses.replace("other", "a", "theirs", false).await.unwrap());
    assert!(responses.replace("t", "a", "whole", false).await.unwrap());
    for id in ["a", "b", "c"] {
        assert!(!responses.replace("t", id, "late", false).await.unwrap(), "{id} is complete, or not there");
    }
    assert!(responses.pending().await.unwrap().is_empty());
    assert_eq!(responses.get("t", "a", NOW).await.unwrap().unwrap().body, "whole");
}

/// A file as the version before this one left it.
#[tokio::test]
async fn an_older_file_is_brought_up_to_date() {
    let folder = Folder::new();
    let path = folder.file();
    let responses = open(&path).await;
    responses.store("t", &response("a", None), NOW).await.unwrap();
    responses.close().await;
    raw(
        &path,
        "DROP INDEX responses_pending; ALTER TABLE responses DROP COLUMN is_pending; PRAGMA user_version = 1",
    )
    .await;
    let responses = open(&path).await;
    assert_eq!(responses.get("t", "a", NOW).await.unwrap(), Some(response("a", None)));
    assert!(responses.pending().await.unwrap().is_empty());
}

const WRITER: &str = "INGLE_LEDGER_TEST_WRITES_TO";

/// Not a test by itself: the process that the next one kills.
#[tokio::test]
#[ignore = "run by `a_killed_writer_loses_nothing_it_acknowledged`"]
async fn writer() {
    let Some(path) = std::env::var_os(WRITER) else { return };
    let responses = open(Path::new(&path)).await;
    for i in 0.. {
        let mut stored = response(&format!("r{i}"), None);
        stored.body = format!("{i} ").repeat(20_000);
        responses.store("t", &stored, NOW).await.unwrap();
        let mut out = std::io::stdout();
        writeln!(out, "stored {i}").and_then(|()| out.flush()).expect("the parent reads");
    }
}

#[tokio::test]
async fn a_killed_writer_loses_nothing_it_acknowledged() {
    let folder = Folder::new();
    let mut acknowledged = 0;
    for _ in 0..3 {
        let path = folder.file();
        let _ = std::fs::remove_file(&path);
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "responses::writer", "--ignored", "--nocapture"])
            .env(WRITER, &path)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the writer starts");
        let mut last = None;
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        for line in lines.map_while(Result::ok) {
            let Some(i) = line.strip_prefix("stored ").and_then(|i| i.parse::<u64>().ok()) else { continue };
            last = Some(i);
            if i == 7 {
                // It is writing the next one by now. What it still says before it dies is read, too.
                child.kill().expect("it runs");
            }
        }
        child.wait().unwrap();
        let last = last.expect("something was stored");
        let responses = open(&path).await;
        for i in 0..=last {
            let stored = responses.get("t", &format!("r{i}"), NOW).await.unwrap();
            let stored = stored.unwrap_or_else(|| panic!("r{i} of {last} was acknowledged"));
            assert_eq!(stored.body, format!("{i} ").repeat(20_000));
        }
        // The one that was being written is there or is not; either way the next one can be.
        responses.store("t", &response("next", None), NOW).await.unwrap();
        responses.close().await;
        for suffix in ["-wal", "-shm"] {
            let _ = std::fs::remove_file(format!("{}{suffix}", path.display()));
        }
        acknowledged += last;
    }
    assert!(acknowledged >= 21);
}
