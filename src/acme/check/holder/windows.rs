//! From the system's table of sockets.

use windows_sys::Win32::Foundation::{CloseHandle, ERROR_INSUFFICIENT_BUFFER, NO_ERROR};
use windows_sys::Win32::NetworkManagement::IpHelper::{
    GetExtendedTcpTable, TCP_TABLE_OWNER_PID_LISTENER,
};
use windows_sys::Win32::Networking::WinSock::{AF_INET, AF_INET6};
use windows_sys::Win32::System::Threading::{
    OpenProcess, PROCESS_NAME_WIN32, PROCESS_QUERY_LIMITED_INFORMATION, QueryFullProcessImageNameW,
};

use super::Holder;

/// The process that is the kernel: http.sys listens in its name, for IIS and others.
const SYSTEM: u32 = 4;

/// How a row of a table is laid out, in words of 32 bits.
struct Layout {
    family: u16,
    row: usize,
    port: usize,
    pid: usize,
}

/// `MIB_TCPROW_OWNER_PID` and `MIB_TCP6ROW_OWNER_PID`.
const LAYOUTS: [Layout; 2] = [
    Layout { family: AF_INET, row: 6, port: 2, pid: 5 },
    Layout { family: AF_INET6, row: 14, port: 5, pid: 13 },
];

pub(super) fn holders(port: u16) -> Vec<Holder> {
    LAYOUTS.iter().flat_map(|layout| of_family(layout, port)).collect()
}

fn of_family(layout: &Layout, port: u16) -> Vec<Holder> {
    let words = table(layout.family);
    let Some((count, rows)) = words.split_first() else { return Vec::new() };
    let rows = rows.chunks_exact(layout.row).take(*count as usize);
    // The port is in network order, in the lower half.
    let is_it = |row: &&[u32]| u16::from_be(row[layout.port] as u16) == port;
    rows.filter(is_it).map(|row| holder(row[layout.pid])).collect()
}

/// The table of what listens; empty when the system does not give it.
#[expect(unsafe_code, reason = "the table has no safe interface")]
fn table(family: u16) -> Vec<u32> {
    let mut words: Vec<u32> = vec![0; 1024];
    // It may grow between two calls.
    for _ in 0..8 {
        let Ok(mut size) = u32::try_from(words.len() * size_of::<u32>()) else { break };
        // SAFETY: the pointer is to `size` writable bytes, aligned for the words that a table is of.
        let outcome = unsafe {
            GetExtendedTcpTable(
                words.as_mut_ptr().cast(),
                &raw mut size,
                0,
                u32::from(family),
                TCP_TABLE_OWNER_PID_LISTENER,
                0,
            )
        };
        match outcome {
            NO_ERROR => return words,
            ERROR_INSUFFICIENT_BUFFER => words.resize(size as usize / size_of::<u32>() + 1024, 0),
            _ => break,
        }
    }
    Vec::new()
}

fn holder(pid: u32) -> Holder {
    let program = match pid {
        SYSTEM => Some("System (http.sys: IIS or another HTTP service)".to_owned()),
        _ => program(pid),
    };
    Holder { pid: Some(pid), program }
}

/// The file name of a process's program.
#[expect(unsafe_code, reason = "another process is reached through a handle")]
fn program(pid: u32) -> Option<String> {
    let mut path = vec![0_u16; 1024];
    let mut length = u32::try_from(path.len()).ok()?;
    // SAFETY: the buffer has `length` units, and the handle is closed once.
    let is_told = unsafe {
        let process = OpenProcess(PROCESS_QUERY_LIMITED_INFORMATION, 0, pid);
        if process.is_null() {
            return None;
        }
        let length = &raw mut length;
        let is_told =
            QueryFullProcessImageNameW(process, PROCESS_NAME_WIN32, path.as_mut_ptr(), length);
        CloseHandle(process);
        is_told != 0
    };
    let path =
        is_told.then(|| String::from_utf16_lossy(path.get(..length as usize).unwrap_or(&[])))?;
    path.rsplit('\\').next().map(str::to_owned)
}
