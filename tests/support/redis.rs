//! A Redis of the test's own, which only knows a user with the rights that the documentation asks for.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::lines::Lines;
use super::pebble::{unused, write_certificates};
use super::program::Program;
use super::{in_repository, within};

/// What its user has to say.
pub(crate) const PASSWORD: &str = "hush-hush";

/// A running Redis that forgets everything when it ends.
pub(crate) struct Redis {
    address: SocketAddr,
    is_tls: bool,
    directory: TempDir,
    program: Program,
}

impl Redis {
    pub(crate) async fn start() -> Self {
        Self::start_with(false).await
    }

    /// The same behind TLS, with a certificate for `localhost` of [`ca`](Self::ca).
    pub(crate) async fn start_tls() -> Self {
        Self::start_with(true).await
    }

    async fn start_with(is_tls: bool) -> Self {
        let directory = TempDir::new().unwrap();
        write_certificates(directory.path());
        for _ in 0..5 {
            let address = unused();
            if let Some(program) = started(directory.path(), address, is_tls).await {
                return Self { address, is_tls, directory, program };
            }
        }
        panic!("Redis found no port in five turns");
    }

    /// What `storage:` is.
    pub(crate) fn url(&self) -> String {
        let (port, ca) = (self.address.port(), self.ca());
        match self.is_tls {
            true => {
                format!("\"rediss://gateway:{PASSWORD}@localhost:{port}/?ca={}\"", ca.display())
            }
            false => format!("\"redis://gateway:{PASSWORD}@127.0.0.1:{port}\""),
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn ca(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }

    /// Ends it as a machine ends that loses power.
    pub(crate) async fn kill(&mut self) {
        self.program.signal("KILL");
        self.program.exit_status().await;
    }

    /// Starts it again after it was killed, empty.
    pub(crate) async fn again(&mut self) {
        let program = started(self.directory.path(), self.address, self.is_tls).await;
        self.program = program.expect("the port is still free");
    }
}

/// The process once it takes connections; `None` when it found its port taken.
async fn started(directory: &Path, address: SocketAddr, is_tls: bool) -> Option<Program> {
    let at = |name: &str| directory.join(name).display().to_string();
    let port = match is_tls {
        false => format!("port {}", address.port()),
        true => format!(
            "port 0\ntls-port {}\ntls-cert-file {}\ntls-key-file {}\ntls-ca-cert-file {}\n\
             tls-auth-clients no",
            address.port(),
            at("server.pem"),
            at("server.key"),
            at("ca.pem")
        ),
    };
    let config = format!(
        "bind 127.0.0.1\n{port}\ndir {}\nsave \"\"\nappendonly no\nuser default off\n\
         user gateway on >{PASSWORD} {}\n",
        directory.display(),
        rights()
    );
    std::fs::write(directory.join("redis.conf"), config).unwrap();
    let mut command = server();
    command.arg(directory.join("redis.conf"));
    let mut program = Program::start(&mut command);
    let says = |lines: &Lines, what: &str| {
        lines.all().iter().any(|line| line.as_str().is_some_and(|line| line.contains(what)))
    };
    let ready = async {
        while !says(&program.stdout, "Ready to accept connections") {
            if says(&program.stdout, "in use") {
                return false;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        true
    };
    if within("Redis", ready).await {
        return Some(program);
    }
    program.exit_status().await;
    None
}

/// What the documentation says that the gateway's user needs.
fn rights() -> String {
    let page = std::fs::read_to_string(in_repository("docs/certificates.md")).unwrap();
    let begin = "ACL SETUSER gateway on >PASSWORD ";
    let line = page.lines().find_map(|line| line.split_once(begin)).expect("it says which");
    line.1.trim().to_owned()
}

/// The program that `./dev test` unpacks, with the libraries beside it, else the system's.
fn server() -> Command {
    let cache =
        std::env::var_os("WARDGATE_CACHE").map_or_else(|| in_repository(".cache"), Into::into);
    let root = cache.join("redis");
    let program = root.join("usr/bin/redis-server");
    if !program.exists() {
        return Command::new("redis-server");
    }
    let mut command = Command::new(program);
    let inside = ["usr/lib", "lib"].map(|path| root.join(path));
    let libraries = inside.iter().filter_map(|path| std::fs::read_dir(path).ok()).flatten();
    let libraries = libraries.filter_map(Result::ok).map(|entry| entry.path());
    command.env("LD_LIBRARY_PATH", std::env::join_paths(libraries).unwrap());
    command
}
