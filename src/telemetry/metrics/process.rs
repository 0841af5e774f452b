//! What the system says of the process.

#[cfg(unix)]
use std::io::{Read as _, Seek as _};

/// What the system says of the process. What it does not say is `None`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Usage {
    /// Processor time, user and system.
    pub(super) cpu_seconds: Option<f64>,
    pub(super) resident_bytes: Option<u64>,
    pub(super) virtual_bytes: Option<u64>,
    /// Open descriptors; handles on Windows.
    pub(super) open: Option<u64>,
    /// Most descriptors that may be open.
    pub(super) most_open: Option<u64>,
    pub(super) threads: Option<u64>,
}

/// Memory that the process has in use, for who asks again and again. It needs a descriptor once: it is
/// when they run short that memory does, too.
#[derive(Debug, Default)]
pub struct Resident {
    #[cfg(unix)]
    file: Option<std::fs::File>,
    #[cfg(unix)]
    text: String,
}

impl Resident {
    /// Bytes in use now; `None` where the system does not say.
    #[cfg(unix)]
    pub fn bytes(&mut self) -> Option<u64> {
        if self.file.is_none() {
            self.file = std::fs::File::open("/proc/self/status").ok();
        }
        self.text.clear();
        let read = self.file.as_mut().map(|file| {
            file.rewind()?;
            file.read_to_string(&mut self.text)
        });
        if !matches!(read, Some(Ok(_))) {
            self.file = None;
        }
        resident(&self.text)
    }

    /// Bytes in use now; `None` where the system does not say.
    #[cfg(windows)]
    pub fn bytes(&mut self) -> Option<u64> {
        usage().resident_bytes
    }
}

#[cfg(unix)]
fn resident(status: &str) -> Option<u64> {
    number_after(status, "VmRSS:").map(|kib| kib * 1024)
}

/// Linux: `/proc/self`.
#[cfg(unix)]
pub(super) fn usage() -> Usage {
    use std::fs;

    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    // Listing the directory opens it, which is the one that is taken away.
    let open = fs::read_dir("/proc/self/fd").ok().map(|entries| entries.count() as u64);
    Usage {
        cpu_seconds: cpu_seconds(&stat),
        resident_bytes: resident(&status),
        virtual_bytes: number_after(&status, "VmSize:").map(|kib| kib * 1024),
        open: open.map(|count| count.saturating_sub(1)),
        most_open: number_after(&limits, "Max open files"),
        threads: number_after(&status, "Threads:"),
    }
}

/// The first number on the line that begins with `key`.
#[cfg(unix)]
fn number_after(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.split_whitespace().next()?.parse().ok()
}

/// User and system time of `/proc/self/stat`, whose unit has been a hundredth of a second for
/// programs since Linux 2.6 (`USER_HZ`). The name before them may hold spaces and parentheses.
#[cfg(unix)]
fn cpu_seconds(stat: &str) -> Option<f64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut times = fields.split_whitespace().skip(11).map(str::parse::<u64>);
    let (user, system) = (times.next()?.ok()?, times.next()?.ok()?);
    Some((user + system) as f64 / 100.0)
}

/// The process' own pseudo handle needs no closing.
#[cfg(windows)]
#[expect(unsafe_code, reason = "the standard library does not tell these")]
pub(super) fn usage() -> Usage {
    use windows_sys::Win32::Foundation::FILETIME;
    use windows_sys::Win32::System::ProcessStatus::{
        GetProcessMemoryInfo, PROCESS_MEMORY_COUNTERS,
    };
    use windows_sys::Win32::System::Threading::{
        GetCurrentProcess, GetProcessHandleCount, GetProcessTimes,
    };

    let mut memory = PROCESS_MEMORY_COUNTERS::default();
    let size = size_of::<PROCESS_MEMORY_COUNTERS>() as u32;
    let mut handles = 0;
    let mut times = [FILETIME::default(); 4];
    let [created, exited, kernel, user] = &mut times;
    // SAFETY: the handle is always valid, and every pointer is to a value of the type that the call
    // fills, alive until it returns.
    let (has_memory, has_handles, has_times) = unsafe {
        let process = GetCurrentProcess();
        (
            GetProcessMemoryInfo(process, &raw mut memory, size) != 0,
            GetProcessHandleCount(process, &raw mut handles) != 0,
            GetProcessTimes(process, created, exited, kernel, user) != 0,
        )
    };
    let ticks =
        |time: &FILETIME| (u64::from(time.dwHighDateTime) << 32) | u64::from(time.dwLowDateTime);
    Usage {
        cpu_seconds: has_times.then(|| (ticks(&times[2]) + ticks(&times[3])) as f64 / 1e7),
        resident_bytes: has_memory.then_some(memory.WorkingSetSize as u64),
        virtual_bytes: has_memory.then_some(memory.PagefileUsage as u64),
        // No process has none; Wine does not count.
        open: (has_handles && handles > 0).then_some(handles.into()),
        most_open: None,
        threads: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn fields_are_found_whatever_the_program_is_called() {
        let stat = "7 (a) b 1) S 1 7 7 0 -1 4194560 1 0 0 0 250 50 0 0 20 0 4 0 99 1 1";
        assert_eq!(cpu_seconds(stat), Some(3.0));
        assert_eq!(cpu_seconds(""), None);
        let limits = "Max open files            1024                 524288               files\n";
        assert_eq!(number_after(limits, "Max open files"), Some(1024));
        assert_eq!(number_after("Max open files   unlimited", "Max open files"), None);
        assert_eq!(number_after("VmRSS:\t  5 kB", "VmRSS:"), Some(5));
    }

    #[test]
    fn a_living_process_uses_something() {
        let usage = usage();
        assert!(usage.resident_bytes.is_some_and(|bytes| bytes > 100_000), "{usage:?}");
        assert!(usage.open.map_or(cfg!(windows), |count| count > 0), "{usage:?}");
        assert!(usage.cpu_seconds.is_some(), "{usage:?}");
    }

    #[test]
    fn memory_in_use_is_read_anew_from_a_file_that_is_kept() {
        let mut resident = Resident::default();
        let before = resident.bytes().unwrap();
        #[cfg(unix)]
        assert!(resident.file.is_some(), "no descriptor is needed from here on");
        let grown = std::hint::black_box(vec![1_u8; 128 << 20]);
        let after = resident.bytes().unwrap();
        assert!(after > before + (64 << 20), "{before} and then {after}");
        drop(grown);
    }
}
