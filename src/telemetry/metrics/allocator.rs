//! What the allocator says of itself.

use std::ptr::null_mut;

/// What the allocator holds of the system's memory, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Usage {
    pub(super) committed: u64,
    /// The most since the start.
    pub(super) most_committed: u64,
}

/// Adds up what mimalloc has committed, in use or kept for the next request of that size.
#[expect(unsafe_code, reason = "mimalloc tells it through its C interface alone")]
pub(super) fn usage() -> Usage {
    let (mut committed, mut most_committed) = (0_usize, 0_usize);
    // SAFETY: every argument is null, which the function allows, or points to a value that lives as
    // long as the call.
    unsafe {
        libmimalloc_sys::mi_process_info(
            null_mut(),
            null_mut(),
            null_mut(),
            null_mut(),
            null_mut(),
            &raw mut committed,
            &raw mut most_committed,
            null_mut(),
        );
    }
    Usage { committed: committed as u64, most_committed: most_committed as u64 }
}

/// Has the allocator give back what it keeps for later, as far as one thread can.
#[expect(unsafe_code, reason = "mimalloc does it through its C interface alone")]
pub fn give_memory_back() {
    // SAFETY: the function may be called at any time.
    unsafe { libmimalloc_sys::mi_collect(true) };
}
