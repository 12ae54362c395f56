//! The output: whole lines in the order of the input, and what it takes to go on where an earlier run ended.
//!
//! Beside the output lies its state: when the batch began, with which model and settings. Where the output ends is
//! told by the output itself, whose lines are held against the input's: a line's id is made of its place and its text.
//! So there are no two files that could disagree about what is done, whenever a run ends and however.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use ingle_api::shown;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Map, Value, json};

use super::input::{Line, Shape};
use super::request::result_id;

/// The longest line of an output that is read: more than any answer's.
const RESULT_BYTES_MAX: u64 = 2 << 30;
/// The longest state that is read.
const STATE_BYTES_MAX: u64 = 16 << 20;

/// What a batch must have in common with the run that began it.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    /// In seconds since the epoch.
    pub created: u64,
    /// What results depend on, by name.
    pub settings: Map<String, Value>,
}

/// What an earlier run has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Done {
    pub lines: u64,
    /// Those of them that have no answer.
    pub errors: u64,
}

/// An output that nobody else writes.
#[derive(Debug)]
pub struct Output {
    file: Arc<File>,
    path: PathBuf,
}

/// The parts of a result that say whose it is.
#[derive(Deserialize)]
struct Written {
    line: Option<u64>,
    id: Option<String>,
    custom_id: Option<String>,
    error: Option<IgnoredAny>,
    response: Option<WrittenResponse>,
}

#[derive(Deserialize)]
struct WrittenResponse {
    status_code: Option<u16>,
}

impl Output {
    /// Opens an output, empties it if it is to be begun again, and sees to it that nobody else writes it.
    ///
    /// # Errors
    /// If it cannot be written, or another run writes it.
    pub fn open(path: &Path, overwrite: bool) -> Result<Self> {
        let name = path.display();
        if path.metadata().is_ok_and(|found| !found.is_file()) {
            bail!("cannot write {name}: it is there, and no regular file; give a file with -o");
        }
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).open(path);
        let file = file.with_context(|| format!("cannot write {name}"))?;
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => {
                bail!("another run is writing {name}; wait for it, or give another -o")
            }
            // Some network file systems have no locks.
            Ok(()) | Err(TryLockError::Error(_)) => {}
        }
        let output = Self { file: Arc::new(file), path: path.to_owned() };
        if overwrite {
            output.cut(0)?;
        }
        Ok(output)
    }

    /// Whether there is nothing in it.
    ///
    /// # Errors
    /// If the system does not say.
    pub fn is_empty(&self) -> Result<bool> {
        Ok(self.file.metadata().with_context(|| format!("cannot read {}", self.path.display()))?.len() == 0)
    }

    /// Begins: from now on results are of this state.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn begin(&self, state: &State) -> Result<()> {
        let value = json!({ "ingle_batch": 1, "created": state.created, "settings": state.settings });
        let path = self.state_path();
        let mut temporary = path.clone().into_os_string();
        temporary.push(".part");
        let write = || -> std::io::Result<()> {
            let mut file = File::create(&temporary)?;
            writeln!(file, "{value:#}")?;
            file.sync_all()?;
            std::fs::rename(&temporary, &path)?;
            sync_folder_of(&path)
        };
        write()
            .inspect_err(|_| drop(std::fs::remove_file(&temporary)))
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// The state that the results are of, which must not differ from `now` but in its date.
    ///
    /// # Errors
    /// If it is not there, cannot be read, or differs.
    pub fn resume(&self, now: &State) -> Result<State> {
        let path = self.state_path();
        let name = self.path.display();
        const ADVICE: &str = "give another -o, or --overwrite to begin again";
        let file = match File::open(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => bail!(
                "{name} is not empty, and {} is not there, which would say what it holds; {ADVICE}",
                path.display()
            ),
            opened => opened.with_context(|| format!("cannot read {}", path.display()))?,
        };
        let mut text = String::new();
        file.take(STATE_BYTES_MAX)
            .read_to_string(&mut text)
            .with_context(|| format!("cannot read {}", path.display()))?;
        let value: Value = serde_json::from_str(&text).unwrap_or_default();
        let (Some(created), Some(Value::Object(settings)), Some(1)) = (
            value.get("created").and_then(Value::as_u64),
            value.get("settings"),
            value.get("ingle_batch").and_then(Value::as_u64),
        ) else {
            bail!("{} is no state of a batch; {ADVICE}", path.display());
        };
        let names = settings.keys().chain(now.settings.keys().filter(|k| !settings.contains_key(*k)));
        let differ: Vec<&str> =
            names.filter(|k| settings.get(*k) != now.settings.get(*k)).map(String::as_str).collect();
        if !differ.is_empty() {
            bail!(
                "{name} was begun differently: {} then and now are not the same ({} has what was then); go on as \
                 then, {ADVICE}",
                differ.join(", "),
                path.display()
            );
        }
        Ok(State { created, settings: settings.clone() })
    }

    /// Holds the results that are there against the lines of the input, which it takes; what a run that was killed
    /// has left of a line is cut off.
    ///
    /// # Errors
    /// If a result is of another line, or of none.
    pub fn check(
        &self,
        lines: &mut dyn Iterator<Item = std::io::Result<Line>>,
        shape: Shape,
    ) -> Result<Done> {
        let name = self.path.display();
        let cannot_read = || format!("cannot read {name}");
        let mut reader = BufReader::with_capacity(1 << 18, &*self.file);
        reader.seek(SeekFrom::Start(0)).with_context(cannot_read)?;
        let (mut done, mut whole_bytes) = (Done::default(), 0);
        let mut text = Vec::new();
        loop {
            text.clear();
            let n_bytes = (&mut reader)
                .take(RESULT_BYTES_MAX)
                .read_until(b'\n', &mut text)
                .with_context(cannot_read)?;
            if text.last() != Some(&b'\n') {
                if n_bytes as u64 == RESULT_BYTES_MAX {
                    bail!("line {} of {name} is no result: it does not end", done.lines + 1);
                }
                break;
            }
            let number = done.lines + 1;
            let Some(line) = lines.next().transpose().context("cannot read the input")? else {
                bail!(
                    "{name} has more than the {} lines of the input, so it is of another one or the input has \
                     changed; give another -o, or --overwrite to begin again",
                    done.lines
                );
            };
            let written: Option<Written> = serde_json::from_slice(&text).ok();
            let Some(written) = written.as_ref().filter(|written| written.is_of(&line, shape)) else {
                let whose = match written.map(|written| written.custom_id) {
                    None => " (it is no result)".into(),
                    Some(Some(id)) => format!(" (its custom_id is `{}`)", shown(&id)),
                    Some(None) => String::new(),
                };
                bail!(
                    "line {number} of {name} is not the result of line {} of the input{whose}: the input has changed, \
                     or the output is of another one; give another -o, or --overwrite to begin again, or cut the \
                     output before this line to keep those before it",
                    line.number
                );
            };
            done.errors += u64::from(written.failed());
            done.lines += 1;
            whole_bytes += n_bytes as u64;
        }
        if !text.is_empty() {
            say!("note: the last line of {name} was not whole, and is made again");
        }
        self.cut(whole_bytes)?;
        Ok(done)
    }

    /// Cuts the file to a length, behind which writing goes on.
    fn cut(&self, n_bytes: u64) -> Result<()> {
        let cut = || {
            self.file.set_len(n_bytes)?;
            self.file.sync_all()?;
            (&*self.file).seek(SeekFrom::Start(n_bytes))
        };
        cut().with_context(|| format!("cannot write {}", self.path.display()))?;
        Ok(())
    }

    /// Appends whole lines.
    ///
    /// # Errors
    /// If they cannot be written; a part of them may have been, which the next run cuts off.
    pub fn append(&self, lines: &str) -> Result<()> {
        (&*self.file)
            .write_all(lines.as_bytes())
            .with_context(|| format!("cannot write {}", self.path.display()))
    }

    /// What makes sure that all that was written outlives the machine, to be called from any thread.
    pub fn syncer(&self) -> impl FnOnce() -> Result<()> + Send + 'static {
        let (file, path) = (Arc::clone(&self.file), self.path.clone());
        move || file.sync_data().with_context(|| format!("cannot write {}", path.display()))
    }

    fn state_path(&self) -> PathBuf {
        let mut path = self.path.clone().into_os_string();
        path.push(".state");
        path.into()
    }
}

impl Written {
    fn is_of(&self, line: &Line, shape: Shape) -> bool {
        let in_place = shape == Shape::OpenAi || self.line == Some(line.number);
        in_place && self.id.as_deref() == Some(&*result_id(line))
    }

    fn failed(&self) -> bool {
        self.error.is_some() || self.response.as_ref().is_some_and(|r| r.status_code != Some(200))
    }
}

/// Names outlive the machine only when their folder is written.
#[cfg(unix)]
fn sync_folder_of(path: &Path) -> std::io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(not(unix))]
fn sync_folder_of(_path: &Path) -> std::io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::input::Lines;

    fn state(model: &str) -> State {
        let mut settings = Map::new();
        settings.insert("model".into(), model.into());
        State { created: 7, settings }
    }

    fn results(input: &str) -> String {
        let result = |line: std::io::Result<Line>| {
            let line = line.unwrap();
            format!("{}\n", json!({ "line": line.number, "id": result_id(&line), "text": "é" }))
        };
        Lines::new(input.as_bytes()).map(result).collect()
    }

    /// Wherever an output was cut, the whole lines count and the rest is gone.
    #[test]
    fn whatever_was_cut_off_is_made_again() {
        let input = "a\n\nb\nc\n";
        let whole = results(input);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        for n_bytes in 0..=whole.len() {
            std::fs::write(&path, &whole.as_bytes()[..n_bytes]).unwrap();
            let output = Output::open(&path, false).unwrap();
            let mut lines = Lines::new(input.as_bytes());
            let done = output.check(&mut lines, Shape::Simple).unwrap();
            let kept = whole.as_bytes()[..n_bytes].iter().filter(|byte| **byte == b'\n').count();
            assert_eq!(done, Done { lines: kept as u64, errors: 0 });
            let rest: String = whole.split_inclusive('\n').skip(kept).collect();
            output.append(&rest).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), whole, "cut at {n_bytes}");
            assert_eq!(lines.count(), 3 - kept, "lines that are done are taken");
        }
    }

    #[test]
    fn results_of_other_lines_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        let check = |output: &str, input: &str, expected: &str| {
            std::fs::write(&path, output).unwrap();
            let opened = Output::open(&path, false).unwrap();
            let error =
                opened.check(&mut Lines::new(input.as_bytes()), Shape::Simple).unwrap_err().to_string();
            assert!(error.contains(expected) && error.contains("--overwrite"), "{error}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), output, "nothing is lost");
        };
        check(&results("a\nb\n"), "a\nB\n", "line 2 of");
        check(&results("a\nb\n"), "a\n\nb\n", "line 3 of the input");
        check(&results("a\nb\nc\n"), "a\nb\n", "more than the 2 lines");
        check("nonsense\n", "a\n", "it is no result");
        check("{\"custom_id\": \"mine\"}\n", "a\n", "`mine`");
    }

    #[test]
    fn errors_of_earlier_runs_count() {
        let line = Lines::new(&b"a\n"[..]).next().unwrap().unwrap();
        let id = result_id(&line);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        for (result, shape, errors) in [
            (json!({ "line": 1, "id": id, "error": {} }), Shape::Simple, 1),
            (json!({ "line": 1, "id": id, "text": "" }), Shape::Text, 0),
            (json!({ "id": id, "response": { "status_code": 200 }, "error": null }), Shape::OpenAi, 0),
            (json!({ "id": id, "response": { "status_code": 400 }, "error": null }), Shape::OpenAi, 1),
            (json!({ "id": id, "response": null, "error": {} }), Shape::OpenAi, 1),
        ] {
            std::fs::write(&path, format!("{result}\n")).unwrap();
            let output = Output::open(&path, false).unwrap();
            let done = output.check(&mut Lines::new(&b"a\n"[..]), shape).unwrap();
            assert_eq!(done, Done { lines: 1, errors }, "{result}");
        }
    }

    #[test]
    fn a_state_is_of_one_model_and_one_set_of_settings() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        let output = Output::open(&path, false).unwrap();
        assert!(output.resume(&state("a")).unwrap_err().to_string().contains("out.state is not there"));
        output.begin(&state("a")).unwrap();
        assert_eq!(output.resume(&State { created: 9, ..state("a") }).unwrap(), state("a"));
        let error = output.resume(&state("b")).unwrap_err().to_string();
        assert!(error.contains("begun differently: model then"), "{error}");
        assert!(Output::open(&path, false).unwrap_err().to_string().contains("another run"));
        std::fs::write(folder.path().join("out.state"), "nonsense").unwrap();
        assert!(output.resume(&state("a")).unwrap_err().to_string().contains("no state of a batch"));
        let is_left = folder.path().join("out.state.part").exists();
        assert!(!is_left && output.is_empty().unwrap());
        drop(output);
        std::fs::write(&path, "x").unwrap();
        assert!(Output::open(&path, true).unwrap().is_empty().unwrap());
    }
}
