//! Files and batches: what is kept, for whom, within which bounds, and what is left when the process dies.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use ingle_ledger::{
    BATCHES_UNFINISHED_MAX, Batch, BatchStatus, FileLimits, FileQuery, Files, LedgerError, NewBatch,
    StoredFile,
};

const NOW: u64 = 1_800_000_000;

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary folder"))
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("files.sqlite")
    }

    async fn open(&self) -> Files {
        Files::open(&self.path(), FileLimits::default()).await.expect("it opens")
    }
}

async fn put(files: &Files, tenant: &str, id: &str, pieces: &[&str]) -> StoredFile {
    let mut upload = files.begin_upload(tenant, id, NOW).await.unwrap();
    for piece in pieces {
        files.append(&mut upload, piece.as_bytes()).await.unwrap();
    }
    files.finish_upload(upload, "a.jsonl", "batch", None).await.unwrap()
}

async fn content(files: &Files, file: &StoredFile) -> String {
    let (mut reader, mut text) = (files.read(file), String::new());
    while let Some(piece) = files.next_piece(&mut reader).await.unwrap() {
        text += std::str::from_utf8(&piece).unwrap();
    }
    text
}

fn new_batch(id: &str, input: &str) -> NewBatch {
    NewBatch {
        id: id.into(),
        key: "k".into(),
        input_id: input.into(),
        endpoint: "/v1/completions".into(),
        window: "24h".into(),
        expires_at: NOW + 86_400,
        output_ttl: None,
        metadata: "null".into(),
    }
}

/// A batch of so many lines whose answers are awaited.
async fn begun(files: &Files, id: &str, total: u64) -> Batch {
    let batch = files.create_batch("t", &new_batch(id, "in"), NOW).await.unwrap();
    let (output, error) = (format!("out-{id}"), format!("err-{id}"));
    assert!(files.begin_batch(batch.seq(), total, &output, &error, NOW + 1).await.unwrap());
    files.batch_by_seq(batch.seq()).await.unwrap()
}

fn answers(lines: &[(u64, bool)]) -> Vec<(u64, bool, String)> {
    lines.iter().map(|&(line, is_error)| (line, is_error, format!("answer {line}\n"))).collect()
}

#[tokio::test]
async fn a_file_is_seen_once_it_is_whole() {
    let folder = Folder::new();
    let files = folder.open().await;
    let mut upload = files.begin_upload("t", "a", NOW).await.unwrap();
    files.append(&mut upload, b"one ").await.unwrap();
    assert_eq!(files.file("t", "a", NOW).await.unwrap(), None);
    files.append(&mut upload, b"two").await.unwrap();
    let file = files.finish_upload(upload, "name", "user_data", None).await.unwrap();
    assert_eq!((file.bytes, file.name.as_str(), file.purpose.as_str()), (7, "name", "user_data"));
    assert_eq!(files.file("t", "a", NOW).await.unwrap().as_ref(), Some(&file));
    assert_eq!(files.file("other", "a", NOW).await.unwrap(), None, "it is one tenant's");
    assert!(!files.delete_file("other", "a", NOW).await.unwrap());
    files.close().await;
    drop(files);
    let files = folder.open().await;
    assert_eq!(content(&files, &file).await, "one two");
    assert!(files.delete_file("t", "a", NOW).await.unwrap());
    assert_eq!(files.file("t", "a", NOW).await.unwrap(), None);
    assert_eq!(content(&files, &file).await, "");
}

#[tokio::test]
async fn what_is_begun_and_not_ended_is_dropped() {
    let folder = Folder::new();
    let files = folder.open().await;
    let mut upload = files.begin_upload("t", "a", NOW).await.unwrap();
    files.append(&mut upload, b"half").await.unwrap();
    files.discard(upload).await.unwrap();
    let mut upload = files.begin_upload("t", "a", NOW).await.unwrap();
    files.append(&mut upload, b"half").await.unwrap();
    files.close().await;
    drop(files);
    let files = folder.open().await;
    let file = put(&files, "t", "a", &["again"]).await;
    assert_eq!(content(&files, &file).await, "again", "its id is free, and nothing is left of it");
}

#[tokio::test]
async fn files_have_bounds() {
    let folder = Folder::new();
    let limits = FileLimits { file_bytes_max: 10, bytes_max: 15, count_max: 3 };
    let files = Files::open(&folder.path(), limits).await.unwrap();
    let mut upload = files.begin_upload("t", "a", NOW).await.unwrap();
    files.append(&mut upload, b"1234567890").await.unwrap();
    let error = files.append(&mut upload, b"1").await.unwrap_err();
    assert!(matches!(error, LedgerError::FileTooLarge { bytes_max: 10 }), "{error}");
    files.finish_upload(upload, "a", "batch", None).await.unwrap();
    let mut upload = files.begin_upload("t", "b", NOW).await.unwrap();
    files.append(&mut upload, b"12345").await.unwrap();
    let error = files.append(&mut upload, b"1").await.unwrap_err();
    assert!(matches!(error, LedgerError::Full { bytes_max: 15 }), "{error}");
    let mut other = files.begin_upload("other", "b", NOW).await.unwrap();
    files.append(&mut other, b"1234567890").await.expect("another tenant's are counted apart");
    files.begin_upload("t", "c", NOW).await.unwrap();
    let error = files.begin_upload("t", "d", NOW).await.unwrap_err();
    assert!(matches!(error, LedgerError::TooManyFiles { count_max: 3 }), "{error}");
}

#[tokio::test]
async fn files_expire() {
    let folder = Folder::new();
    let files = folder.open().await;
    let upload = files.begin_upload("t", "a", NOW).await.unwrap();
    let file = files.finish_upload(upload, "a", "batch", Some(10)).await.unwrap();
    assert_eq!(files.file("t", "a", NOW + 9).await.unwrap(), Some(file));
    assert_eq!(files.file("t", "a", NOW + 10).await.unwrap(), None);
    let error = files.create_batch("t", &new_batch("b", "a"), NOW + 10).await.unwrap_err();
    assert!(matches!(error, LedgerError::NoSuchFile { .. }), "{error}");
    // A batch that has begun with it can be ended with it.
    files.create_batch("t", &new_batch("b", "a"), NOW).await.unwrap();
    let upload = files.begin_upload("t", "a2", NOW + 10).await.unwrap();
    files.discard(upload).await.unwrap();
    assert!(files.file("t", "a", NOW).await.unwrap().is_some(), "it was not dropped");
}

#[tokio::test]
async fn files_are_listed_in_pages() {
    let folder = Folder::new();
    let files = folder.open().await;
    for id in ["a", "b", "c", "d"] {
        put(&files, "t", id, &["x"]).await;
    }
    put(&files, "other", "e", &["x"]).await;
    let upload = files.begin_upload("t", "f", NOW).await.unwrap();
    files.finish_upload(upload, "f", "user_data", None).await.unwrap();
    let list = async |purpose: Option<&str>, after: Option<&str>, limit: u32, newest_first: bool| {
        let (purpose, after) = (purpose.map(str::to_owned), after.map(str::to_owned));
        let page = files.files("t", &FileQuery { purpose, after, limit, newest_first }, NOW).await.unwrap();
        (page.items.into_iter().map(|file| file.id).collect::<String>(), page.has_more)
    };
    assert_eq!(list(None, None, 9, true).await, ("fdcba".into(), false));
    assert_eq!(list(None, None, 2, false).await, ("ab".into(), true));
    assert_eq!(list(None, Some("b"), 3, false).await, ("cdf".into(), false));
    assert_eq!(list(None, Some("d"), 2, true).await, ("cb".into(), true));
    assert_eq!(list(Some("user_data"), None, 9, true).await, ("f".into(), false));
    let query = FileQuery { after: Some("e".into()), limit: 1, ..FileQuery::default() };
    let error = files.files("t", &query, NOW).await.unwrap_err();
    assert!(matches!(error, LedgerError::NoSuchFile { .. }), "{error}");
}

#[tokio::test]
async fn a_batch_from_its_beginning_to_its_end() {
    let folder = Folder::new();
    let files = folder.open().await;
    put(&files, "t", "in", &["lines"]).await;
    let batch = files.create_batch("t", &new_batch("b", "in"), NOW).await.unwrap();
    assert_eq!((batch.status, batch.time(BatchStatus::Validating)), (BatchStatus::Validating, Some(NOW)));
    assert_eq!(files.unfinished_batches().await.unwrap(), [(batch.seq(), BatchStatus::Validating)]);
    let error = files.delete_file("t", "in", NOW).await.unwrap_err();
    assert!(matches!(error, LedgerError::FileInUse { .. }), "{error}");
    assert!(files.begin_batch(batch.seq(), 3, "out", "err", NOW + 1).await.unwrap());
    assert!(!files.begin_batch(batch.seq(), 3, "out2", "err2", NOW + 1).await.unwrap(), "it has begun");
    assert_eq!(files.file("t", "out", NOW).await.unwrap(), None, "not before the end");

    files.answer_lines(batch.seq(), &answers(&[(5, false)])).await.unwrap();
    files.answer_lines(batch.seq(), &answers(&[(2, true), (1, false)])).await.unwrap();
    // Whatever is said twice counts once.
    files.answer_lines(batch.seq(), &answers(&[(5, true), (1, false), (2, false)])).await.unwrap();
    let mut lines = files.answered_lines(batch.seq()).await.unwrap();
    lines.sort_unstable();
    assert_eq!(lines, [1, 2, 5]);
    files.end_batch(batch.seq(), BatchStatus::Completed, "", NOW + 2).await.unwrap();
    files.end_batch(batch.seq(), BatchStatus::Failed, "late", NOW + 3).await.unwrap();
    files.answer_lines(batch.seq(), &answers(&[(9, false)])).await.unwrap();

    let ended = files.batch("t", "b").await.unwrap().unwrap();
    assert_eq!((ended.status, ended.total, ended.completed, ended.failed), (BatchStatus::Completed, 3, 2, 1));
    assert_eq!(ended.time(BatchStatus::InProgress), Some(NOW + 1));
    assert_eq!(ended.time(BatchStatus::Finalizing), Some(NOW + 2));
    assert_eq!((ended.time(BatchStatus::Completed), ended.time(BatchStatus::Failed)), (Some(NOW + 2), None));
    assert_eq!((ended.output_id.as_deref(), ended.error_id.as_deref()), (Some("out"), Some("err")));
    let output = files.file("t", "out", NOW + 2).await.unwrap().unwrap();
    assert_eq!(content(&files, &output).await, "answer 1\nanswer 5\n", "in the order of the input");
    assert_eq!((output.name.as_str(), output.bytes), ("b_output.jsonl", 18));
    let errors = files.file("t", "err", NOW + 2).await.unwrap().unwrap();
    assert_eq!(content(&files, &errors).await, "answer 2\n");
    assert!(files.unfinished_batches().await.unwrap().is_empty());
    assert!(files.delete_file("t", "in", NOW).await.unwrap());
    assert_eq!(files.batch("other", "b").await.unwrap(), None);
}

#[tokio::test]
async fn batches_are_cancelled_and_fail() {
    let folder = Folder::new();
    let files = folder.open().await;
    put(&files, "t", "in", &["lines"]).await;
    let first = begun(&files, "first", 2).await;
    files.answer_lines(first.seq(), &answers(&[(1, false)])).await.unwrap();
    for _ in 0..2 {
        let cancelled = files.cancel_batch("t", "first", NOW + 2).await.unwrap();
        assert_eq!(cancelled.status, BatchStatus::Cancelling, "asking twice is no error");
    }
    let second = files.create_batch("t", &new_batch("second", "in"), NOW).await.unwrap();
    let waiting = [(first.seq(), BatchStatus::Cancelling), (second.seq(), BatchStatus::Validating)];
    assert_eq!(files.unfinished_batches().await.unwrap(), waiting);
    files.end_batch(first.seq(), BatchStatus::Cancelled, "", NOW + 3).await.unwrap();
    let ended = files.batch("t", "first").await.unwrap().unwrap();
    assert_eq!((ended.output_id.is_some(), ended.error_id), (true, None), "what is there is shown");
    files.end_batch(second.seq(), BatchStatus::Failed, "[1]", NOW).await.unwrap();
    let ended = files.batch("t", "second").await.unwrap().unwrap();
    assert_eq!((ended.errors.as_str(), ended.output_id), ("[1]", None));
    for (id, part) in [("first", "is cancelled"), ("second", "is failed"), ("third", "no batch")] {
        let error = files.cancel_batch("t", id, NOW).await.unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
    let page = files.batches("t", None, 1).await.unwrap();
    assert_eq!((page.items[0].wanted.id.as_str(), page.has_more), ("second", true));
    let page = files.batches("t", Some("second"), 1).await.unwrap();
    assert_eq!((page.items[0].wanted.id.as_str(), page.has_more), ("first", false));
    assert!(files.batches("other", None, 9).await.unwrap().items.is_empty());
    for i in 0..BATCHES_UNFINISHED_MAX {
        files.create_batch("t", &new_batch(&format!("b{i}"), "in"), NOW).await.unwrap();
    }
    let error = files.create_batch("t", &new_batch("more", "in"), NOW).await.unwrap_err();
    assert!(matches!(error, LedgerError::TooManyBatches { .. }), "{error}");
}

#[tokio::test]
async fn answers_count_as_files_do() {
    let folder = Folder::new();
    let limits = FileLimits { bytes_max: 25, ..FileLimits::default() };
    let files = Files::open(&folder.path(), limits).await.unwrap();
    put(&files, "t", "in", &["lines"]).await;
    let batch = begun(&files, "b", 3).await;
    files.answer_lines(batch.seq(), &answers(&[(1, false), (2, false)])).await.unwrap();
    let error = files.answer_lines(batch.seq(), &answers(&[(3, true)])).await.unwrap_err();
    assert!(matches!(error, LedgerError::Full { bytes_max: 25 }), "{error}");
    assert_eq!(files.answered_lines(batch.seq()).await.unwrap().len(), 2);
}

#[tokio::test]
async fn one_process_has_it_at_a_time() {
    let folder = Folder::new();
    let files = folder.open().await;
    let error = Files::open(&folder.path(), FileLimits::default()).await.unwrap_err();
    assert!(matches!(error, LedgerError::Taken { .. }), "{error}");
    assert!(error.to_string().contains("another process"), "{error}");
    files.close().await;
    drop(files);
    folder.open().await;
}

const WRITER: &str = "INGLE_LEDGER_TEST_ANSWERS_TO";

/// Not a test by itself: the process that the next one kills.
#[tokio::test]
#[ignore = "run by `a_killed_process_leaves_whole_answers`"]
async fn answerer() {
    let Some(path) = std::env::var_os(WRITER) else { return };
    let files = Files::open(Path::new(&path), FileLimits::default()).await.unwrap();
    let [(seq, _)] = files.unfinished_batches().await.unwrap()[..] else { panic!("one batch") };
    let done = files.answered_lines(seq).await.unwrap();
    for line in (1..).filter(|line| !done.contains(line)) {
        let text = format!("{line} {}\n", "x".repeat(20_000));
        files.answer_lines(seq, &[(line, line % 3 == 0, text)]).await.unwrap();
        let mut out = std::io::stdout();
        writeln!(out, "answered {line}").and_then(|()| out.flush()).expect("the parent reads");
    }
}

#[tokio::test]
async fn a_killed_process_leaves_whole_answers() {
    let folder = Folder::new();
    let files = folder.open().await;
    put(&files, "t", "in", &["lines"]).await;
    begun(&files, "b", 1000).await;
    files.close().await;
    drop(files);
    let mut acknowledged = Vec::new();
    for _ in 0..3 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "files::answerer", "--ignored", "--nocapture"])
            .env(WRITER, folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let before = acknowledged.len();
        for line in lines.map_while(Result::ok) {
            let Some(line) = line.strip_prefix("answered ").and_then(|i| i.parse::<u64>().ok()) else {
                continue;
            };
            acknowledged.push(line);
            if acknowledged.len() == before + 7 {
                child.kill().expect("it runs");
            }
        }
        child.wait().unwrap();
    }
    let files = folder.open().await;
    let [(seq, _)] = files.unfinished_batches().await.unwrap()[..] else { panic!("one batch") };
    let mut answered = files.answered_lines(seq).await.unwrap();
    answered.sort_unstable();
    let expected: Vec<u64> = (1..=answered.len() as u64).collect();
    assert_eq!(answered, expected, "each line once, none left out");
    assert!(acknowledged.len() >= 21 && acknowledged.iter().all(|line| answered.contains(line)));
    files.end_batch(seq, BatchStatus::Completed, "", NOW).await.unwrap();
    let batch = files.batch_by_seq(seq).await.unwrap();
    assert_eq!(batch.completed + batch.failed, answered.len() as u64, "counts agree with what is there");
    let output = files.file("t", "out-b", NOW).await.unwrap().unwrap();
    let text = content(&files, &output).await;
    assert_eq!(text.lines().count() as u64, batch.completed);
    assert!(text.lines().all(|line| line.len() > 20_000), "no line is cut");
    assert_eq!(text.len() as u64, output.bytes);
}
