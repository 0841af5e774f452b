//! Which program on this machine listens on a port.

use std::fmt;

/// A program that listens on a port.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Holder {
    /// Its process; `None` when only root may know.
    pub pid: Option<u32>,
    /// Its name; `None` when only root may know.
    pub program: Option<String>,
}

impl Holder {
    /// Whether it is a gateway like this.
    #[must_use]
    pub fn is_wardgate(&self) -> bool {
        let name = self.program.as_deref().unwrap_or_default();
        name == "wardgate" || name.eq_ignore_ascii_case("wardgate.exe")
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.program, self.pid) {
            (Some(program), Some(pid)) => write!(f, "{program} (process {pid})"),
            (None, Some(pid)) => write!(f, "process {pid}"),
            (Some(program), None) => f.write_str(program),
            (None, None) => f.write_str("a process of another user (root sees which)"),
        }
    }
}

/// Who listens on TCP port `port`, each process once. Blocks on the system; empty also where that
/// does not tell.
#[must_use]
pub fn holders(port: u16) -> Vec<Holder> {
    let mut found = system::holders(port);
    found.sort_by_key(|holder| holder.pid);
    found.dedup();
    found
}

#[cfg(target_os = "linux")]
mod system {
    use std::collections::HashSet;
    use std::fs;
    use std::path::Path;

    use super::Holder;

    /// From the tables of sockets and the descriptors of processes (proc(5)).
    pub(super) fn holders(port: u16) -> Vec<Holder> {
        let tables = ["/proc/net/tcp", "/proc/net/tcp6"];
        let tables = tables.iter().filter_map(|table| fs::read_to_string(table).ok());
        let wanted: HashSet<u64> = tables.flat_map(|table| listening(&table, port)).collect();
        if wanted.is_empty() {
            return Vec::new();
        }
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
        let mut found = Vec::new();
        let mut seen = HashSet::new();
        for process in processes {
            let pid = process.file_name().to_str().and_then(|name| name.parse().ok());
            let Some(pid) = pid else { continue };
            let held: Vec<u64> =
                sockets(&process.path()).filter(|inode| wanted.contains(inode)).collect();
            if !held.is_empty() {
                seen.extend(held);
                let name = fs::read_to_string(process.path().join("comm")).ok();
                let program = name.map(|name| name.trim_end().to_owned());
                found.push(Holder { pid: Some(pid), program });
            }
        }
        // Other users' descriptors are not shown to everybody.
        if wanted.iter().any(|inode| !seen.contains(inode)) {
            found.push(Holder { pid: None, program: None });
        }
        found
    }

    /// The inodes of the sockets in `table` that listen on `port`.
    pub(super) fn listening(table: &str, port: u16) -> Vec<u64> {
        const LISTEN: &str = "0A";
        let inode = |line: &str| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let (local, state) = (fields.get(1)?, fields.get(3)?);
            let (_, local_port) = local.rsplit_once(':')?;
            let is_it = *state == LISTEN && u16::from_str_radix(local_port, 16).ok()? == port;
            if is_it { fields.get(9)?.parse().ok() } else { None }
        };
        table.lines().skip(1).filter_map(inode).collect()
    }

    /// The inodes of a process's sockets.
    fn sockets(process: &Path) -> impl Iterator<Item = u64> {
        let descriptors = fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
        descriptors.filter_map(|descriptor| {
            let target = fs::read_link(descriptor.path()).ok()?;
            let inode = target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?;
            inode.parse().ok()
        })
    }
}

#[cfg(windows)]
#[path = "holder/windows.rs"]
mod system;

#[cfg(not(any(target_os = "linux", windows)))]
mod system {
    use super::Holder;

    /// This system does not tell.
    pub(super) fn holders(_port: u16) -> Vec<Holder> {
        Vec::new()
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn who_listens_is_found_by_port() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let found = holders(port);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].pid, Some(std::process::id()));
        assert!(!found[0].is_wardgate() && found[0].to_string().contains("(process "));
        // Bound, and so nobody else's, and listening no more.
        let socket = socket2::Socket::from(listener);
        socket.shutdown(std::net::Shutdown::Both).unwrap();
        assert_eq!(holders(port), []);
    }

    #[test]
    fn only_what_listens_counts() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
            0: 00000000:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1234 1 0 100 0 0 10 0\n   \
            1: 0100007F:0050 0100007F:C350 01 00000000:00000000 00:00000000 00000000     0        0 1235 1 0 20 4 30 10 -1\n   \
            2: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1236 1 0 100 0 0 10 0\n\
            nonsense\n";
        assert_eq!(system::listening(table, 80), [1234]);
        assert_eq!(system::listening(table, 8080), [1236]);
        assert!(system::listening(table, 81).is_empty());
    }
}
