//! The `wardgate` program.

use std::alloc::{GlobalAlloc, Layout};
use std::ffi::c_long;
use std::process::ExitCode;
use std::time::Duration;

use libmimalloc_sys as mi;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

#[cfg_attr(target_os = "linux", expect(unsafe_code, reason = "the environment is changed"))]
fn main() -> ExitCode {
    Allocator::keep_memory_for(Duration::from_secs(5));
    #[cfg(target_os = "linux")]
    // SAFETY: the process has no other thread yet, and nothing has used descriptors from 3 on.
    let manager = unsafe { wardgate::service::Manager::from_environment() };
    #[cfg(not(target_os = "linux"))]
    let manager = wardgate::service::Manager::none();
    wardgate::cli::main(manager)
}

/// Requests allocate and free small pieces on several threads, which mimalloc does in less time
/// than the systems' allocators.
///
/// The crate `mimalloc` asks for every piece by its alignment, which makes mimalloc allocate more than
/// a piece of over 1 KiB needs and look for its beginning when it is freed. Blocks are aligned as much
/// as anything here wants in any case.
struct Allocator;

impl Allocator {
    /// Alignment of every block of at least this size (`MI_MAX_ALIGN_SIZE`).
    const ALIGNED: usize = 16;

    fn is_aligned(size: usize, align: usize) -> bool {
        align <= Self::ALIGNED && align <= size
    }

    /// Gives memory back to the system when it has been free for so long, unless the environment says
    /// otherwise (`MIMALLOC_PURGE_DELAY`, in milliseconds).
    ///
    /// mimalloc's own second is short enough for buffers of large responses to go back and forth, and
    /// the system clears every page that it gives: up to a third of what 1 MiB over TLS costs.
    #[expect(unsafe_code, reason = "mimalloc is called through its C interface")]
    fn keep_memory_for(time: Duration) {
        /// `mi_option_purge_delay`, which the binding leaves out.
        const PURGE_DELAY: mi::mi_option_t = 15;
        let millis = time.as_millis().try_into().unwrap_or(c_long::MAX);
        // SAFETY: the option takes any number.
        unsafe { mi::mi_option_set_default(PURGE_DELAY, millis) }
    }
}

#[expect(unsafe_code, reason = "the trait is, and mimalloc is called through its C interface")]
// SAFETY: blocks are mimalloc's, as large and aligned as was asked; null says that there are none.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let (size, align) = (layout.size(), layout.align());
        // SAFETY: any size and any power of two may be asked for.
        unsafe {
            if Self::is_aligned(size, align) {
                mi::mi_malloc(size).cast()
            } else {
                mi::mi_malloc_aligned(size, align).cast()
            }
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let (size, align) = (layout.size(), layout.align());
        // SAFETY: as above.
        unsafe {
            if Self::is_aligned(size, align) {
                mi::mi_zalloc(size).cast()
            } else {
                mi::mi_zalloc_aligned(size, align).cast()
            }
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, _: Layout) {
        // SAFETY: the caller's block is one of the above.
        unsafe { mi::mi_free(block.cast()) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let align = layout.align();
        // SAFETY: the caller's block is one of the above.
        unsafe {
            if Self::is_aligned(size, align) {
                mi::mi_realloc(block.cast(), size).cast()
            } else {
                mi::mi_realloc_aligned(block.cast(), size, align).cast()
            }
        }
    }
}
