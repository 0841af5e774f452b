//! Where no process can take over the sockets of another: [`obstacle`] says what to do instead.

use std::convert::Infallible;
use std::io;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

/// There is none.
#[derive(Debug)]
pub struct Successor(Infallible);

/// There is nobody to hand over anything.
#[derive(Debug)]
pub struct HandOver(Infallible);

impl HandOver {
    /// Waits for it.
    pub async fn wait(self) -> bool {
        match self.0 {}
    }
}

/// It has ended before it served.
#[derive(Debug)]
pub struct Ended {
    /// How.
    pub status: ExitStatus,
    /// Why, if it has said so.
    pub reason: Option<String>,
}

impl Successor {
    /// Starts nothing.
    ///
    /// # Errors
    /// Always.
    pub fn start(_: &Path, _: Vec<(String, TcpListener)>, _: bool) -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// The process's number.
    #[must_use]
    pub fn pid(&self) -> u32 {
        match self.0 {}
    }

    /// Waits until it serves.
    ///
    /// # Errors
    /// Never.
    pub async fn ready(&mut self) -> Result<String, Ended> {
        match self.0 {}
    }

    /// Waits for its end.
    pub async fn ended(&mut self) -> ExitStatus {
        match self.0 {}
    }

    /// What it has printed.
    #[must_use]
    pub fn printed(&self) -> String {
        match self.0 {}
    }

    /// Tells it that all is its own.
    pub fn hand_over(&mut self) {
        match self.0 {}
    }

    /// Ends it.
    pub async fn kill(self) {
        match self.0 {}
    }
}

/// Why this process cannot make way for another.
#[must_use]
pub fn obstacle() -> Option<String> {
    let instead = if cfg!(windows) {
        "replace the program and start the service again: wardgate service stop, wardgate service start"
    } else {
        "replace the program and start it again"
    };
    Some(format!("upgrades in place are for Linux; here, {instead}"))
}

/// There is none to start.
///
/// # Errors
/// Always.
pub fn own_program() -> io::Result<PathBuf> {
    Err(io::ErrorKind::Unsupported.into())
}
