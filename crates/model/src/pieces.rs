//! A file's matrices, piece by piece and ahead of whoever packs them.
//!
//! A thread of its own reads: it waits for the disk, so that neither the pool (which others use) nor whoever feeds it
//! has to. It is a few pieces ahead, in buffers that are used again and again and that are small enough to stay in the
//! processor's cache: so the copy that reading makes costs about what mapping and unmapping the file's pages would. They
//! are the system's own: an allocator would keep them, 24 MiB of them, as long as the process lives.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;

use ingle_gguf::{GgufError, GgufFile, TensorInfo};
use ingle_kernels::Buffer;

use crate::error::ModelError;

/// Bytes that are read, packed and told of at a time: a millisecond or so, after which others have their turn at the pool
/// and a load that is no longer wanted ends.
pub(crate) const PIECE_BYTES: usize = 4 << 20;
/// Pieces that are read and not packed.
const PIECES_AHEAD: usize = 4;

/// A matrix to be read, and how much of it at a time.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    pub info: TensorInfo,
    /// Whole groups of rows.
    pub piece_bytes: usize,
}

/// The pieces of matrices, in order.
pub(crate) struct Pieces {
    file: Arc<GgufFile>,
    /// What reads ahead; `None` where the file is in memory anyway.
    reader: Option<Reader>,
}

struct Reader {
    /// `None` only while it is being dropped.
    pieces: Option<Receiver<Result<Piece, GgufError>>>,
    used: Sender<Buffer>,
    thread: Option<JoinHandle<()>>,
}

/// The first `len` bytes of a buffer.
struct Piece {
    buf: Buffer,
    len: usize,
}

impl Pieces {
    /// Begins to read.
    ///
    /// # Errors
    /// [`ModelError::Interrupted`] if the system refuses a thread.
    pub fn new(file: &Arc<GgufFile>, parts: Vec<Part>) -> Result<Self, ModelError> {
        if file.is_in_memory() {
            return Ok(Self { file: Arc::clone(file), reader: None });
        }
        let (sender, pieces) = sync_channel(PIECES_AHEAD);
        let (used, free) = channel();
        let of_thread = Arc::clone(file);
        let thread = std::thread::Builder::new()
            .name("ingle-reading".into())
            .spawn(move || read(&of_thread, &parts, &sender, &free))
            .map_err(|e| ModelError::Interrupted(format!("the system refuses a thread to read with: {e}")))?;
        let reader = Reader { pieces: Some(pieces), used, thread: Some(thread) };
        Ok(Self { file: Arc::clone(file), reader: Some(reader) })
    }

    /// Gives the next piece, which is this range of that matrix, to `pack`.
    ///
    /// # Errors
    /// If it could not be read.
    pub fn next(
        &mut self,
        info: &TensorInfo,
        range: Range<usize>,
        pack: impl FnOnce(&[u8]),
    ) -> Result<(), ModelError> {
        let Some(reader) = &mut self.reader else {
            let piece: Cow<'_, [u8]> = self.file.tensor_range(info, range)?;
            pack(&piece);
            return Ok(());
        };
        let pieces = reader.pieces.as_ref().expect("it is not being dropped");
        let stopped = || ModelError::Interrupted("reading the file panicked: load the model again".into());
        let piece = pieces.recv().map_err(|_| stopped())??;
        assert_eq!(piece.len, range.len(), "matrices are packed in the order in which they are read");
        pack(&piece.buf[..piece.len]);
        // The thread is done when it has read the last one.
        let _ = reader.used.send(piece.buf);
        Ok(())
    }
}

/// Reads everything in order, until the end, an error, or nobody wants more.
fn read(
    file: &GgufFile,
    parts: &[Part],
    pieces: &SyncSender<Result<Piece, GgufError>>,
    free: &Receiver<Buffer>,
) {
    // All of one size: any of them holds any piece.
    let longest = parts.iter().map(|part| part.piece_bytes.min(part.info.n_bytes())).max().unwrap_or(0);
    for Part { info, piece_bytes } in parts {
        for start in (0..info.n_bytes()).step_by(*piece_bytes) {
            let mut buf = free.try_recv().unwrap_or_else(|_| Buffer::zeroed(longest));
            let len = (info.n_bytes() - start).min(*piece_bytes);
            let read = file.read_tensor_into(info, start, &mut buf[..len]);
            let is_end = read.is_err();
            if pieces.send(read.map(|()| Piece { buf, len })).is_err() || is_end {
                return;
            }
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.pieces = None;
        if let Some(thread) = self.thread.take() {
            // Whoever wanted its pieces has been told if it panicked.
            let _ = thread.join();
        }
    }
}
