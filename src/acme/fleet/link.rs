//! The connection to a fleet's Redis, and whether there is one.
//!
//! Answers "what does Redis say, or is it gone?" in seconds at most. One connection carries all
//! questions; what fails closes it, and for a moment nobody tries again, so that whoever asks a Redis
//! that is gone is told at once.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Cmd, FromRedisValue, RedisConnectionInfo, RedisError};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout};

use crate::config::storage::Redis;
use crate::net::Host;
use crate::tls::client_config::{self, ClientConfigError};
use crate::tls::{self, ClientConfig, ConnectError, ServerName, SystemRoots};

/// For name, connection, handshake and log-in together.
const CONNECT: Duration = Duration::from_secs(2);

/// For the answer to a question.
const ANSWER: Duration = Duration::from_secs(3);

/// During which a Redis that has failed is not asked again.
const PAUSE: Duration = Duration::from_secs(5);

/// Why Redis gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// It cannot be reached.
    #[error("it cannot be reached")]
    Io(#[from] io::Error),
    /// It is not who it should be.
    #[error("the TLS handshake failed")]
    Tls(#[from] ConnectError),
    /// It refused, or broke off.
    #[error(transparent)]
    Redis(#[from] RedisError),
    /// It took too long.
    #[error("it did not answer within {0:?}")]
    Late(Duration),
    /// It failed a moment ago.
    #[error("it failed a moment ago")]
    Resting,
}

/// A connection that is made when it is needed, and again after it broke.
pub(super) struct Link {
    at: Redis,
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    state: Mutex<State>,
    is_reachable: AtomicBool,
}

#[derive(Default)]
struct State {
    open: Option<Open>,
    /// Not to be tried before.
    rests_until: Option<Instant>,
    /// Counts connections.
    number: u64,
}

/// A connection and the task that moves its bytes, which ends with it.
struct Open {
    connection: MultiplexedConnection,
    task: AbortHandle,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Link {
    /// A link to `at`, which is not connected yet.
    ///
    /// # Errors
    /// [`ClientConfigError`] where its CA cannot be used.
    pub(super) fn new(at: &Redis) -> Result<Self, ClientConfigError> {
        let tls = match at.is_tls {
            true => {
                let config = client_config::authority(at.ca.as_deref(), &SystemRoots::load())?;
                let name = client_config::name_of(&at.host)?;
                Some((config, name))
            }
            false => None,
        };
        let state = Mutex::default();
        Ok(Self { at: at.clone(), tls, state, is_reachable: AtomicBool::new(true) })
    }

    /// Where it leads.
    pub(super) fn at(&self) -> &Redis {
        &self.at
    }

    /// Whether the last question was answered.
    pub(super) fn is_reachable(&self) -> bool {
        self.is_reachable.load(Ordering::Relaxed)
    }

    /// Asks Redis.
    ///
    /// # Errors
    /// [`LinkError`], whatever it is: a Redis that refuses is of as little use as none.
    pub(super) async fn ask<T: FromRedisValue>(&self, question: &Cmd) -> Result<T, LinkError> {
        let (number, mut connection) = self.connection().await?;
        let error = match timeout(ANSWER, question.query_async(&mut connection)).await {
            Ok(Ok(answer)) => {
                self.tell_reached();
                return Ok(answer);
            }
            Ok(Err(error)) => error.into(),
            Err(_) => LinkError::Late(ANSWER),
        };
        let mut state = self.state.lock().await;
        // Whoever asked at the same time may have a new one already.
        if state.number == number {
            state.open = None;
            state.rests_until = Some(Instant::now() + PAUSE);
            self.tell_lost(&error);
        }
        Err(error)
    }

    async fn connection(&self) -> Result<(u64, MultiplexedConnection), LinkError> {
        let mut state = self.state.lock().await;
        if let Some(open) = &state.open {
            return Ok((state.number, open.connection.clone()));
        }
        if state.rests_until.is_some_and(|until| Instant::now() < until) {
            return Err(LinkError::Resting);
        }
        let opened = timeout(CONNECT, self.open()).await;
        match opened.unwrap_or(Err(LinkError::Late(CONNECT))) {
            Ok(open) => {
                let connection = open.connection.clone();
                state.open = Some(open);
                state.number += 1;
                Ok((state.number, connection))
            }
            Err(error) => {
                state.rests_until = Some(Instant::now() + PAUSE);
                self.tell_lost(&error);
                Err(error)
            }
        }
    }

    async fn open(&self) -> Result<Open, LinkError> {
        let port = self.at.port;
        let stream = match &self.at.host {
            Host::Address(address) => TcpStream::connect((*address, port)).await?,
            Host::Name(name) => TcpStream::connect((name.as_str(), port)).await?,
        };
        stream.set_nodelay(true)?;
        match &self.tls {
            Some((config, name)) => {
                self.log_in(tls::connect(config, name.clone(), stream).await?).await
            }
            None => self.log_in(stream).await,
        }
    }

    async fn log_in<S>(&self, stream: S) -> Result<Open, LinkError>
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        // What it is called in `CLIENT LIST` is worth no right more that an ACL has to grant.
        let mut who = RedisConnectionInfo::default()
            .set_db(i64::from(self.at.database))
            .set_skip_set_lib_name();
        if let Some(user) = &self.at.user {
            who = who.set_username(user);
        }
        if let Some(password) = &self.at.password {
            who = who.set_password(password);
        }
        let limits = AsyncConnectionConfig::new().set_response_timeout(None);
        let opened = MultiplexedConnection::new_with_config(&who, stream, limits);
        let (connection, driver) = opened.await?;
        Ok(Open { connection, task: tokio::spawn(driver).abort_handle() })
    }

    fn tell_reached(&self) {
        if !self.is_reachable.swap(true, Ordering::Relaxed) {
            tracing::info!(server.address = %self.at, "reached the fleet's Redis again");
        }
    }

    fn tell_lost(&self, error: &LinkError) {
        if self.is_reachable.swap(false, Ordering::Relaxed) {
            let error: &dyn std::error::Error = error;
            tracing::warn!(server.address = %self.at, error, "lost the fleet's Redis, going on with what is on this machine");
        }
    }
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Link({:?})", self.at)
    }
}
