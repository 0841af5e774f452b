//! Memory and descriptors: what there is of them, how much is in use, and what follows.
//!
//! Answers "is the process short of something?". One task measures and tells the
//! [`Pressure`](crate::proxy::pressure::Pressure); whoever takes requests and connections acts on it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::config::process::MemoryLimit;
use crate::proxy::gateway::Shared;
use crate::proxy::pressure::Level;
use crate::telemetry::metrics::{self, Resident};

/// Between two measurements. A quarter of a second at a gigabit is 30 MB.
const PERIOD: Duration = Duration::from_millis(250);

/// Measures, and tells what follows.
#[derive(Debug)]
pub(super) struct Watch {
    shared: Arc<Shared>,
    resident: Resident,
    /// Client connections that descriptors allow, where that is known.
    room: Option<usize>,
    /// What `auto` stands for.
    auto: Option<u64>,
    /// The `limits.connections` of which the log was told.
    warned_of: usize,
    /// The log was told that `auto` stands for nothing.
    is_auto_told: bool,
    /// And that what is in use cannot be measured.
    is_blind_told: bool,
}

impl Watch {
    /// Readies the process, and has looked once.
    pub(super) fn begin(shared: Arc<Shared>) -> Self {
        keep_pages_small();
        let room = descriptors().map(room);
        shared.pressure.set_room(room.unwrap_or(0));
        let mut watch = Self {
            shared,
            resident: Resident::default(),
            room,
            auto: auto(memory_allowed()),
            warned_of: 0,
            is_auto_told: false,
            is_blind_told: false,
        };
        watch.look();
        watch
    }

    /// Looks again and again until `stop`.
    pub(super) async fn keep(mut self, stop: CancellationToken) {
        let mut tick = tokio::time::interval(PERIOD);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while stop.run_until_cancelled(tick.tick()).await.is_some() {
            self.look();
        }
    }

    fn look(&mut self) {
        let limits = self.shared.current.load().config.limits;
        if let Some(room) = self.room.filter(|room| limits.connections > *room)
            && self.warned_of != limits.connections
        {
            self.warned_of = limits.connections;
            warn_of_descriptors(limits.connections, room);
        }
        if limits.memory == MemoryLimit::Auto && self.auto.is_none() && !self.is_auto_told {
            self.is_auto_told = true;
            warn_of_memory();
        }
        let limit = match limits.memory {
            MemoryLimit::Auto => self.auto,
            MemoryLimit::Off => None,
            MemoryLimit::Bytes(bytes) => Some(bytes),
        };
        let pressure = &self.shared.pressure;
        pressure.pass();
        let Some(bytes) = self.resident.bytes() else {
            // Whatever was measured last would stand for ever.
            pressure.measured(0, 0, Level::Ease);
            if let Some(limit) = limit.filter(|_| !self.is_blind_told) {
                self.is_blind_told = true;
                let hint = "mount /proc, or write off into limits.memory";
                tracing::warn!(limit, %hint, "cannot measure memory");
            }
            return;
        };
        let level = judge(bytes, limit, pressure.level());
        let before = pressure.measured(bytes, limit.unwrap_or(0), level);
        if level != Level::Ease {
            metrics::give_memory_back();
        }
        tell(before, level, bytes, limit.unwrap_or(0));
    }
}

/// Has the kernel give this process pages as small as it asks for. With huge ones a buffer that is
/// filled to a quarter takes all of its room: a stalled stream 100 KiB in the place of 70, and the
/// process 36 MiB at the start in the place of 20 (November 2026). They saved no processor time that
/// could be told from chance.
#[cfg(target_os = "linux")]
fn keep_pages_small() {
    // Where that is refused, they stay as they are.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
}

/// Only Linux does otherwise.
#[cfg(not(target_os = "linux"))]
fn keep_pages_small() {}

/// What `bytes` in use mean. Each level begins at its mark and ends a twentieth of the limit below
/// it, so that it does not come and go.
fn judge(bytes: u64, limit: Option<u64>, before: Level) -> Level {
    let Some(limit) = limit else { return Level::Ease };
    let is_above = |twentieths: u64, level: Level| {
        let mark = if before >= level { twentieths - 1 } else { twentieths };
        bytes >= limit / 20 * mark
    };
    if is_above(20, Level::Refuse) {
        Level::Refuse
    } else if is_above(18, Level::Shed) {
        Level::Shed
    } else {
        Level::Ease
    }
}

fn tell(before: Level, level: Level, bytes: u64, limit: u64) {
    match (before, level) {
        (before, level) if before == level => {}
        (_, Level::Refuse) => tracing::warn!(bytes, limit, "refusing connections to save memory"),
        (Level::Refuse, Level::Shed) => tracing::info!(bytes, limit, "taking connections again"),
        (_, Level::Shed) => tracing::warn!(bytes, limit, "shedding requests to save memory"),
        (_, Level::Ease) => tracing::info!(bytes, limit, "has memory again"),
    }
}

fn warn_of_descriptors(connections: usize, room: usize) {
    let hint = format!(
        "raise the hard limit of open files (LimitNOFILE= of a unit, ulimit -Hn) to {} or more, or \
         lower limits.connections",
        (connections + LEAST_RESERVE).max(connections.div_ceil(7) * 8)
    );
    tracing::warn!(connections, limit = room, %hint, "descriptors allow fewer connections");
}

/// That is so wherever Linux is not, and no reason to worry there.
fn warn_of_memory() {
    if cfg!(target_os = "linux") {
        let hint = "write a size into limits.memory, such as 512MiB, or off";
        tracing::warn!(%hint, "found no memory limit");
    } else {
        tracing::info!("memory has no limit");
    }
}

/// Descriptors that are kept for servers, files and the rest: one in so many.
const RESERVE: u64 = 8;

/// And no fewer than these.
const LEAST_RESERVE: usize = 32;

/// How many client connections may be open of so many `descriptors`.
fn room(descriptors: u64) -> usize {
    let descriptors = usize::try_from(descriptors).unwrap_or(usize::MAX);
    let reserve = (descriptors / RESERVE as usize).max(LEAST_RESERVE);
    descriptors.saturating_sub(reserve).max(1)
}

/// Raises the number of descriptors to the most that is allowed, and returns it. What a process gets
/// as it comes is for programs that use `select`, which ends at 1024.
#[cfg(target_os = "linux")]
fn descriptors() -> Option<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let allowed = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: allowed.maximum, maximum: allowed.maximum };
    // Where that is refused, what there was is what there is.
    let _ = setrlimit(Resource::Nofile, raised);
    getrlimit(Resource::Nofile).current
}

/// There is no such number.
#[cfg(not(target_os = "linux"))]
fn descriptors() -> Option<u64> {
    None
}

/// What `auto` stands for where so much is allowed.
fn auto(allowed: Option<u64>) -> Option<u64> {
    allowed.map(|bytes| bytes / 10 * 9)
}

/// The memory that the process may have: the machine's, or less where a control group says so.
#[cfg(target_os = "linux")]
fn memory_allowed() -> Option<u64> {
    least_memory(|path| std::fs::read_to_string(path).ok())
}

/// [`memory_allowed`] by what `read` finds in files.
#[cfg(target_os = "linux")]
fn least_memory(read: impl Fn(&str) -> Option<String>) -> Option<u64> {
    let groups = read("/proc/self/cgroup").unwrap_or_default();
    let of_groups = limit_files(&groups).filter_map(|path| read(&path)?.trim().parse().ok());
    of_machine(&read).into_iter().chain(of_groups).min()
}

/// The machine's memory. A container may be shown a smaller one in a file; a unit with
/// `ProcSubset=pid` has no such file, and the kernel is asked.
#[cfg(target_os = "linux")]
fn of_machine(read: impl Fn(&str) -> Option<String>) -> Option<u64> {
    let shown = read("/proc/meminfo").and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
        Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
    });
    shown.or_else(|| {
        let info = rustix::system::sysinfo();
        // Words are smaller on some machines.
        #[allow(clippy::useless_conversion, reason = "they are as large on this one")]
        let total = u64::from(info.totalram);
        let bytes = total.checked_mul(info.mem_unit.into())?;
        (bytes > 0).then_some(bytes)
    })
}

/// Only a size that is written down counts here.
#[cfg(not(target_os = "linux"))]
fn memory_allowed() -> Option<u64> {
    None
}

/// The files that say how much memory the groups in `/proc/self/cgroup` may have, and those around
/// them (cgroup v2, and v1). In a container the path may be one that only the outside has; then the
/// root is the container's own.
#[cfg(any(target_os = "linux", test))]
fn limit_files(groups: &str) -> impl Iterator<Item = String> {
    groups.lines().flat_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) =
            (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let of = match controllers {
            "" => Some(("/sys/fs/cgroup", "memory.max")),
            _ if controllers.split(',').any(|each| each == "memory") => {
                Some(("/sys/fs/cgroup/memory", "memory.limit_in_bytes"))
            }
            _ => None,
        };
        of.into_iter().flat_map(move |(root, file)| {
            let groups = path.trim_end_matches('/');
            let ends = groups.match_indices('/').map(|(at, _)| at).chain([groups.len()]);
            ends.map(move |end| format!("{root}{}/{file}", &groups[..end])).collect::<Vec<_>>()
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_level_begins_at_its_mark_and_ends_below_it() {
        let judge = |percent: u64, before| judge(percent * 10, Some(1000), before);
        for (percent, before, level) in [
            (89, Level::Ease, Level::Ease),
            (90, Level::Ease, Level::Shed),
            (86, Level::Shed, Level::Shed),
            (84, Level::Shed, Level::Ease),
            (99, Level::Shed, Level::Shed),
            (100, Level::Ease, Level::Refuse),
            (96, Level::Refuse, Level::Refuse),
            (94, Level::Refuse, Level::Shed),
            (84, Level::Refuse, Level::Ease),
        ] {
            assert_eq!(judge(percent, before), level, "{percent} after {before:?}");
        }
        assert_eq!(super::judge(u64::MAX, None, Level::Refuse), Level::Ease);
    }

    #[test]
    fn limits_of_a_group_and_of_those_around_it_are_asked_for() {
        let files: Vec<_> = limit_files("0::/a.slice/b.service\n").collect();
        let of = |path: &str| format!("/sys/fs/cgroup{path}/memory.max");
        assert_eq!(files, [of(""), of("/a.slice"), of("/a.slice/b.service")]);
        let files: Vec<_> = limit_files("5:devices:/\n4:memory:/docker/x\n0::/\n").collect();
        let of_v1 = |path: &str| format!("/sys/fs/cgroup/memory{path}/memory.limit_in_bytes");
        assert_eq!(files, [of_v1(""), of_v1("/docker"), of_v1("/docker/x"), of("")]);
    }

    #[test]
    fn some_descriptors_are_kept_back() {
        assert_eq!([64, 1024, 20_000].map(room), [32, 896, 17_500]);
        assert_eq!(room(10), 1);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn memory_is_known_where_the_files_are_hidden() {
        let of_kernel = least_memory(|_| None).expect("asked of the kernel");
        assert!(of_kernel > 64 << 20, "{of_kernel}");
        let hidden = |path: &str| match path {
            "/proc/self/cgroup" => Some("0::/a.slice\n".to_owned()),
            "/sys/fs/cgroup/a.slice/memory.max" => Some("max\n".to_owned()),
            _ => None,
        };
        assert_eq!(least_memory(hidden), Some(of_kernel), "what a unit is shown");
        let bounded = |path: &str| match path {
            "/sys/fs/cgroup/a.slice/memory.max" => Some("1048576\n".to_owned()),
            _ => hidden(path),
        };
        assert_eq!(least_memory(bounded), Some(1 << 20));
        let shown = |path: &str| {
            (path == "/proc/meminfo").then(|| "MemTotal:     2048 kB\nMemFree: 1 kB\n".to_owned())
        };
        assert_eq!(least_memory(shown), Some(2 << 20), "a container's view of the machine");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_machine_says_what_it_allows() {
        assert!(memory_allowed().is_some_and(|bytes| bytes > 64 << 20));
        assert!(descriptors().is_some_and(|count| count > 64));
    }
}
