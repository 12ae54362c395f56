//! The prefix cache on disk: which folder, whose part of it. A folder that several models of a process use is opened once,
//! and its size is theirs together.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::UNIX_EPOCH;

use ingle_engine::disk_cache::{DiskCache, DiskTier, OpenError};
use ingle_step::ExecutorInfo;

use crate::load::Source;

/// How large a folder grows unless it is told otherwise.
const MAX_BYTES_DEFAULT: u64 = 4 << 30;

/// The folders that are open, with the size that each was opened with.
static OPEN: Mutex<Vec<(PathBuf, u64, Weak<DiskCache>)>> = Mutex::new(Vec::new());

/// A model's part of a folder; `None` where it goes without, of which `notices` tells why.
///
/// # Errors
/// If the folder holds something else, or the system refuses it.
pub(crate) fn open(
    dir: &Path,
    max_bytes: Option<u64>,
    identity: &str,
    notices: &mut Vec<String>,
) -> Result<Option<DiskTier>, OpenError> {
    let max_bytes = max_bytes.unwrap_or(MAX_BYTES_DEFAULT);
    let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    open.retain(|(_, _, cache)| cache.strong_count() > 0);
    let path = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
    let known = open.iter().find(|(other, ..)| *other == path);
    if let Some((cache, bytes)) = known.and_then(|(_, bytes, cache)| Some((cache.upgrade()?, *bytes))) {
        if bytes != max_bytes {
            let mb = bytes >> 20;
            notices.push(format!(
                "{}: another model opened it with {mb} MB, which hold for both",
                path.display()
            ));
        }
        return Ok(Some(DiskTier::new(cache, identity)));
    }
    match DiskCache::open(&path, max_bytes) {
        Ok(cache) => {
            notices.extend(cache.notices().iter().cloned());
            let cache = Arc::new(cache);
            open.push((path, max_bytes, Arc::downgrade(&cache)));
            Ok(Some(DiskTier::new(cache, identity)))
        }
        Err(error @ OpenError::InUse(_)) => {
            notices.push(format!("the prefix cache is not kept on disk: {error}"));
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Everything on which the bytes of a block depend besides its tokens. The digest is of samples of each tensor, so the
/// file's time stands beside it: an edited file is another one.
pub(crate) fn identity(source: &Source, digest: &str, info: &ExecutorInfo) -> String {
    let times =
        source.files().iter().map(|path| std::fs::metadata(path).and_then(|metadata| metadata.modified()));
    let modified = times.filter_map(Result::ok).max();
    let modified =
        modified.and_then(|time| time.duration_since(UNIX_EPOCH).ok()).unwrap_or_default().as_nanos();
    format!("{digest} {modified} {} {} slots, {} bytes", info.numeric_path, info.block_size, info.block_bytes)
}
