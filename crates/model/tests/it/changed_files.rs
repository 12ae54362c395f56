//! Files that are shortened, written over or replaced while a model is loaded from them or runs: an error, or the model
//! as it was; never a fault.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ingle_gguf::{GgufError, GgufFile, TensorType};
use ingle_kernels::Pool;
use ingle_model::{CpuExecutor, LoadOptions, ModelError};
use ingle_step::{Executor, ExecutorError, StepBatch};
use ingle_testkit::tiny::{Arch, TinySpec};

use crate::support::{all_logits, seq_step, try_load};

/// Nine megabytes in many pieces, whose embeddings are read from the file if they are not
/// `tied`.
fn spec(tied: bool) -> TinySpec {
    TinySpec { tied, n_layers: 4, weight_type: TensorType::F32, ..TinySpec::new(Arch::Llama).wide() }
}

fn write(bytes: &[u8]) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    file
}

fn open(path: &Path) -> Arc<GgufFile> {
    Arc::new(GgufFile::open(path).unwrap())
}

fn load(file: &Arc<GgufFile>, progress: &mut dyn FnMut(u64, u64)) -> Result<CpuExecutor, ModelError> {
    CpuExecutor::load(file.clone(), Arc::new(Pool::new(2)), &LoadOptions::default(), progress)
}

fn writable(path: &Path) -> File {
    OpenOptions::new().write(true).open(path).unwrap()
}

/// Ways to spoil a file that is open.
fn spoil(path: &Path, how: usize) {
    match how {
        0 => writable(path).set_len(0).unwrap(),
        1 => writable(path).set_len(100_000).unwrap(),
        2 => File::create(path).unwrap().write_all(&spec(false).seed(2).bytes()).unwrap(),
        _ => unreachable!(),
    }
    if how == 2 {
        // In the time that a test takes, a file system's clock may not tick.
        writable(path).set_modified(SystemTime::now() + Duration::from_secs(3)).unwrap();
    }
}

#[test]
fn a_file_reads_as_it_does_from_memory() {
    for tied in [true, false] {
        let tokens: Vec<u32> = (0..30).map(|i| i * 7 % 256).collect();
        let bytes = spec(tied).bytes();
        let file = write(&bytes);
        let mut from_file = load(&open(file.path()), &mut |_, _| {}).unwrap();
        let mut from_memory = try_load(bytes, Arc::new(Pool::new(1)), &LoadOptions::default()).unwrap();
        assert_eq!(all_logits(&mut from_file, &tokens), all_logits(&mut from_memory, &tokens));
    }
}

#[test]
fn a_file_that_changes_while_it_is_loaded_is_an_error() {
    for how in 0..3 {
        let file = write(&spec(false).bytes());
        let opened = open(file.path());
        spoil(file.path(), how);
        let error = load(&opened, &mut |_, _| {}).map(|_| "it was loaded").unwrap_err();
        assert!(error.to_string().contains("model file changed"), "{how}: {error}");

        // In the middle: whatever is read by then, the end is that error or a whole model.
        let file = write(&spec(true).bytes());
        let opened = open(file.path());
        let mut spoilt = false;
        let loaded = load(&opened, &mut |done, total| {
            if done > total / 4 && !spoilt {
                spoilt = true;
                spoil(file.path(), how);
            }
        });
        assert!(spoilt);
        if let Err(error) = loaded {
            assert!(error.to_string().contains("model file changed"), "{how}: {error}");
        }
    }
}

#[test]
fn a_model_whose_file_changes_while_it_runs_says_so() {
    let tokens: Vec<u32> = (0..30).map(|i| i * 7 % 256).collect();
    let step = || {
        let seqs = vec![seq_step(1, &[1, 2, 3], 0, &[0], |_| true)];
        StepBatch { step: 1, copies: Vec::new(), seqs }
    };
    for how in 0..3 {
        let file = write(&spec(false).bytes());
        let mut executor = load(&open(file.path()), &mut |_, _| {}).unwrap();
        let expected = all_logits(&mut executor, &tokens);
        spoil(file.path(), how);
        let error = executor.submit(step()).unwrap_err();
        assert!(matches!(error, ExecutorError::Unusable(_)), "{how}: {error}");
        assert!(error.to_string().contains("model file changed"), "{how}: {error}");
        // And again: it does not come back.
        assert!(executor.submit(step()).is_err());

        // A model that has all it needs in memory does not care.
        let file = write(&spec(true).bytes());
        let mut executor = load(&open(file.path()), &mut |_, _| {}).unwrap();
        let tied = all_logits(&mut executor, &tokens);
        assert_ne!(tied, expected);
        spoil(file.path(), how);
        assert_eq!(all_logits(&mut executor, &tokens), tied);
    }
}

#[test]
fn a_file_that_is_replaced_by_renaming_changes_nothing() {
    let tokens: Vec<u32> = (0..30).map(|i| i * 7 % 256).collect();
    let file = write(&spec(false).bytes());
    let mut executor = load(&open(file.path()), &mut |_, _| {}).unwrap();
    let expected = all_logits(&mut executor, &tokens);
    let other = file.path().with_extension("new");
    std::fs::write(&other, spec(false).seed(2).bytes()).unwrap();
    std::fs::rename(&other, file.path()).unwrap();
    assert_eq!(all_logits(&mut executor, &tokens), expected);
    let mut replaced = load(&open(file.path()), &mut |_, _| {}).unwrap();
    assert_ne!(all_logits(&mut replaced, &tokens), expected);
    std::fs::remove_file(file.path()).unwrap();
    assert_eq!(all_logits(&mut executor, &tokens), expected);
    // The guard would look for the file that is gone.
    let _ = file.keep();
}

#[test]
fn a_file_that_is_gone_before_it_is_opened_is_an_error() {
    let error = GgufFile::open(Path::new("/nonexistent/model.gguf")).unwrap_err();
    assert!(matches!(error, GgufError::Io { .. }), "{error}");
}
