//! A file system in memory that models what a loss of power leaves behind.
//!
//! A [`Disk`] is shared by [`SimFiles`], one for each process. What a process writes is seen by all at once, as through
//! the page cache, and is durable only when it is synced: [`Disk::lose_power`] keeps, by seed, any subset of the entries
//! of folders that were not synced and any sectors of what was written and not synced. A process can be told to die, or
//! to meet an error, at its N-th operation, or to let others run before it.
//!
//! What it does not model: a rename between folders is one change, as in file systems with a journal, never half of it.

mod disk;
mod process;

pub use disk::{Disk, SECTOR_BYTES};
pub use process::{Fault, SimFiles};
