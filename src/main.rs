//! The `wardgate` program.

use std::process::ExitCode;

/// Requests allocate and free small pieces on several threads, which mimalloc does in less time
/// than the systems' allocators.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    wardgate::cli::main()
}
