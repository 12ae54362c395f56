//! Zeroed memory that the system commits as it is touched.

#![expect(unsafe_code, reason = "allocation")]

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::NonNull;

/// A cache line: no vector of ours straddles two.
pub(super) const ALIGN: usize = 64;
/// What the allocator is asked for. Not more: for stricter alignments it would clear the memory by hand, and so commit
/// all of it at once.
const ALLOCATOR_ALIGN: usize = 16;
#[cfg(target_os = "linux")]
const PAGE: usize = 4096;

/// Bytes that start at a multiple of [`ALIGN`].
#[derive(Debug)]
pub(super) struct Memory {
    allocation: NonNull<u8>,
    allocated: Layout,
    /// From `allocation` to the first aligned byte.
    offset: usize,
    len: usize,
}

// SAFETY: the memory belongs to this value alone, as a Vec's does.
unsafe impl Send for Memory {}
// SAFETY: as above; shared references only read.
unsafe impl Sync for Memory {}

impl Memory {
    /// `len` zero bytes, or `None` if the system refuses them.
    pub(super) fn zeroed(len: usize) -> Option<Self> {
        let allocated = Layout::from_size_align(len.checked_add(ALIGN)?, ALLOCATOR_ALIGN).ok()?;
        // SAFETY: the size is at least ALIGN, not zero.
        let allocation = NonNull::new(unsafe { alloc_zeroed(allocated) })?;
        let offset = allocation.as_ptr().align_offset(ALIGN);
        let memory = Self { allocation, allocated, offset, len };
        memory.ask_for_huge_pages();
        Some(memory)
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        // SAFETY: `offset < ALIGN` and the allocation has `len + ALIGN` initialized bytes.
        unsafe { std::slice::from_raw_parts(self.allocation.as_ptr().add(self.offset), self.len) }
    }

    pub(super) fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `self` is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.allocation.as_ptr().add(self.offset), self.len) }
    }

    /// A hint: attention strides over much memory, and huge pages save address translations.
    fn ask_for_huge_pages(&self) {
        #[cfg(all(target_os = "linux", not(miri)))]
        {
            let start = self.allocation.as_ptr();
            let skip = start.align_offset(PAGE);
            let size = self.allocated.size().saturating_sub(skip) / PAGE * PAGE;
            if size > 0 {
                // SAFETY: whole pages inside our allocation; the advice does not change their contents, and its
                // failure does not matter.
                unsafe { libc::madvise(start.add(skip).cast(), size, libc::MADV_HUGEPAGE) };
            }
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: allocated in `zeroed` with this layout, and freed once.
        unsafe { dealloc(self.allocation.as_ptr(), self.allocated) }
    }
}
