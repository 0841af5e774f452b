//! The `wardgate` program.

use std::process::ExitCode;

/// Requests allocate and free small pieces on several threads, which mimalloc does in less time
/// than the systems' allocators.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[cfg_attr(target_os = "linux", expect(unsafe_code, reason = "the environment is changed"))]
fn main() -> ExitCode {
    #[cfg(target_os = "linux")]
    // SAFETY: the process has no other thread yet, and nothing has used descriptors from 3 on.
    let manager = unsafe { wardgate::service::Manager::from_environment() };
    #[cfg(not(target_os = "linux"))]
    let manager = wardgate::service::Manager::none();
    wardgate::cli::main(manager)
}
