//! `health:` and `retry:` of a pool.

use std::time::Duration;

use http::Method;

/// `health:`: active checks of a pool's servers.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Health {
    /// What is asked.
    pub check: Check,
    /// Between two checks of one server. Default 10 s.
    pub every: Duration,
    /// For one check, connecting included. Default 2 s.
    pub timeout: Duration,
    /// Successes in a row that make a server healthy. Default 2.
    pub healthy_after: u32,
    /// Failures in a row that make it unhealthy. Default 3.
    pub unhealthy_after: u32,
    /// What holds until the first check, which is sent at once. Default hold.
    pub initial: Initial,
    /// Time over which a server that became healthy comes to its full share. Default none.
    pub slow_start: Option<Duration>,
}

/// What a check asks.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Check {
    /// A connection; with TLS for a server with an https URL.
    Tcp,
    /// GET on `path` of the server, over https for a server with an https URL.
    Http {
        /// In origin form, such as `/healthz?full=1`.
        path: String,
        /// Which answers are successes.
        expect: Expect,
    },
}

/// `expect:`: both conditions must hold.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Expect {
    /// Inclusive ranges of status codes. Default 200–399.
    pub status: Vec<(u16, u16)>,
    /// Text that the first 64 KiB of the body must contain.
    pub body: Option<String>,
}

/// What holds for a server until its first check has ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Initial {
    /// The first check decides; requests wait for it, at most [`Health::timeout`].
    Hold,
    /// Healthy.
    Healthy,
    /// Unhealthy, until `healthy_after` checks have succeeded.
    Unhealthy,
}

/// `retry:`: when a request is tried again, on another server where there is one.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Retry {
    /// Attempts in all, the first included, 1–16. Default 2.
    pub attempts: u32,
    /// After a connection that did not come about. Default true.
    pub after_connect: bool,
    /// After a connection that broke, or an answer that did not come in time, before the response
    /// head. Default false.
    pub after_reset: bool,
    /// After one of these statuses, 500–599 or 429. Default none.
    pub after_status: Vec<u16>,
    /// Retries under way, in percent of the pool's requests in flight, of which at least three may
    /// always be. Default 20.
    pub budget: u32,
    /// Methods that may be sent again once anything was sent. Default GET, HEAD, OPTIONS, PUT,
    /// DELETE, TRACE.
    pub methods: Vec<Method>,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            attempts: 2,
            after_connect: true,
            after_reset: false,
            after_status: Vec::new(),
            budget: 20,
            methods: vec![
                Method::GET,
                Method::HEAD,
                Method::OPTIONS,
                Method::PUT,
                Method::DELETE,
                Method::TRACE,
            ],
        }
    }
}
