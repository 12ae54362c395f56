//! Memory for weights and activations: aligned to cache lines, on huge pages where they are large, and shared
//! between the tasks of a parallel loop by disjoint ranges.
#![expect(
    unsafe_code,
    reason = "aligned allocation, and slices that several threads write disjoint parts of"
)]

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// A cache line, and the alignment of every buffer.
pub(crate) const LINE: usize = 64;

/// From this size on, buffers come from `mmap` and ask for huge pages. The system commits them as they are touched.
#[cfg(all(target_os = "linux", not(miri)))]
const HUGE_PAGES_FROM: usize = HUGE_PAGE;

/// The size and alignment of a huge page.
#[cfg(all(target_os = "linux", not(miri)))]
const HUGE_PAGE: usize = 2 << 20;

/// Zeroed bytes that start on a cache line.
pub(crate) struct AlignedBytes {
    ptr: NonNull<u8>,
    len: usize,
    owner: Owner,
}

/// Where the bytes came from, so where they go back to.
enum Owner {
    /// No bytes.
    Nobody,
    /// The allocator, with `LINE` alignment.
    Heap,
    /// A private anonymous mapping of `len` bytes at `base`.
    #[cfg(all(target_os = "linux", not(miri)))]
    Map { base: *mut libc::c_void, len: usize },
}

// SAFETY: the bytes are owned by this value alone; nothing is tied to a thread.
unsafe impl Send for AlignedBytes {}
// SAFETY: shared access only reads.
unsafe impl Sync for AlignedBytes {}

impl AlignedBytes {
    /// `len` zero bytes. Aborts when there is no memory, as `Vec` does.
    pub(crate) fn zeroed(len: usize) -> Self {
        Self::try_zeroed(len).unwrap_or_else(|| handle_alloc_error(Self::layout(len)))
    }

    /// `len` zero bytes, or `None` if the system refuses them.
    pub(crate) fn try_zeroed(len: usize) -> Option<Self> {
        if len == 0 {
            return Some(Self { ptr: NonNull::<Line>::dangling().cast(), len: 0, owner: Owner::Nobody });
        }
        #[cfg(all(target_os = "linux", not(miri)))]
        if len >= HUGE_PAGES_FROM
            && let Some(mapped) = Self::map(len)
        {
            return Some(mapped);
        }
        let layout = Layout::from_size_align(len, LINE).ok()?;
        // SAFETY: the layout has a non-zero size.
        let ptr = NonNull::new(unsafe { alloc_zeroed(layout) })?;
        Some(Self { ptr, len, owner: Owner::Heap })
    }

    #[cfg(all(target_os = "linux", not(miri)))]
    fn map(len: usize) -> Option<Self> {
        let map_len = len.checked_add(HUGE_PAGE)?;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a fresh private anonymous mapping touches no memory of ours.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                map_len,
                protection,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return None;
        }
        let offset = base.cast::<u8>().align_offset(HUGE_PAGE);
        // SAFETY: the mapping is HUGE_PAGE longer than `len`, so an aligned start less than HUGE_PAGE in leaves
        // `len` bytes behind it.
        let start = unsafe { base.cast::<u8>().add(offset) };
        // SAFETY: the range lies in the mapping. A refusal only costs speed.
        unsafe { libc::madvise(start.cast(), len, libc::MADV_HUGEPAGE) };
        Some(Self { ptr: NonNull::new(start)?, len, owner: Owner::Map { base, len: map_len } })
    }

    fn layout(len: usize) -> Layout {
        Layout::from_size_align(len, LINE).expect("a buffer is smaller than the address space")
    }

    /// Makes sure that at least `len` bytes are there. What was in them is lost if they had to grow.
    pub(crate) fn reserve_discarding(&mut self, len: usize) {
        if self.len < len {
            // The old bytes go back first: there is no moment at which both are held.
            *self = Self::zeroed(0);
            *self = Self::zeroed(len);
        }
    }
}

/// For its alignment.
#[repr(align(64))]
struct Line;

impl Deref for AlignedBytes {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: `ptr` is the start of `len` initialized bytes that this value owns (or dangling with length 0).
        unsafe { std::slice::from_raw_parts(self.ptr.as_ptr(), self.len) }
    }
}

impl DerefMut for AlignedBytes {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `self` is borrowed alone.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.as_ptr(), self.len) }
    }
}

impl Drop for AlignedBytes {
    fn drop(&mut self) {
        match self.owner {
            Owner::Nobody => {}
            // SAFETY: allocated in `zeroed` with this very layout.
            Owner::Heap => unsafe { dealloc(self.ptr.as_ptr(), Self::layout(self.len)) },
            #[cfg(all(target_os = "linux", not(miri)))]
            // SAFETY: exactly the mapping made in `map`; nothing borrows from it any more.
            Owner::Map { base, len } => unsafe {
                libc::munmap(base, len);
            },
        }
    }
}

impl Default for AlignedBytes {
    fn default() -> Self {
        Self::zeroed(0)
    }
}

impl std::fmt::Debug for AlignedBytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AlignedBytes({})", self.len)
    }
}

/// Zeroed bytes for large pieces of work, such as what is read of a file. They go back to the system when they are
/// dropped: an allocator may keep as much memory as it has ever been asked for.
#[derive(Debug)]
pub struct Buffer(AlignedBytes);

impl Buffer {
    /// `len` zero bytes. Aborts when there is no memory, as `Vec` does.
    pub fn zeroed(len: usize) -> Self {
        Self(AlignedBytes::zeroed(len))
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

/// A mutable slice that the tasks of one parallel loop write together, each in ranges of its own.
pub(crate) struct Disjoint<'a, T> {
    ptr: *mut T,
    len: usize,
    lifetime: PhantomData<&'a mut [T]>,
}

// SAFETY: the value stands for `&mut [T]`, whose parts go to the threads that ask for them; `range`'s contract
// keeps the parts disjoint.
unsafe impl<T: Send> Sync for Disjoint<'_, T> {}
// SAFETY: as `&mut [T]`.
unsafe impl<T: Send> Send for Disjoint<'_, T> {}

impl<'a, T> Disjoint<'a, T> {
    /// Takes the slice for the time of a loop.
    pub(crate) fn new(slice: &'a mut [T]) -> Self {
        Self { ptr: slice.as_mut_ptr(), len: slice.len(), lifetime: PhantomData }
    }

    /// The elements `start..start + len`.
    ///
    /// # Safety
    /// No two ranges that are alive at the same time may overlap.
    #[expect(clippy::mut_from_ref, reason = "disjointness is the caller's promise")]
    pub(crate) unsafe fn range(&self, start: usize, len: usize) -> &mut [T] {
        assert!(start <= self.len && len <= self.len - start, "a range lies inside its slice");
        // SAFETY: in bounds by the assertion; alone by this function's contract.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.add(start), len) }
    }

    /// Asks for the cache lines of `start..start + len`, which will be written: a store that finds its line in the cache
    /// does not hold up those behind it.
    #[inline]
    pub(crate) fn prefetch(&self, start: usize, len: usize) {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            let bytes = len * size_of::<T>();
            let at = self.ptr.wrapping_add(start).cast::<i8>().cast_const();
            for line in (0..bytes).step_by(LINE).chain([bytes.saturating_sub(1)]) {
                // SAFETY: a prefetch touches no memory that the program can see and never faults, whatever the address.
                unsafe { _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(line)) };
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = (start, len);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_zeroed_and_writable() {
        for len in [0, 1, 63, 4096, (2 << 20) - 1, 2 << 20, (6 << 20) + 17] {
            let mut bytes = AlignedBytes::zeroed(len);
            assert_eq!(bytes.len(), len);
            assert_eq!(bytes.as_ptr().align_offset(LINE), 0);
            assert!(bytes.iter().all(|&b| b == 0));
            if let Some(last) = bytes.last_mut() {
                *last = 7;
            }
            bytes.reserve_discarding(len + 100);
            assert_eq!(bytes.len(), len + 100);
        }
    }
}
