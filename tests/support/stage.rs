//! A place that the gateway connects to and where the test itself plays the origin, step by step.

use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpStream};

use super::client::Connection;
use super::within;

/// A listening socket whose connections the test takes one by one.
pub(crate) struct Stage {
    listener: TcpListener,
}

impl Stage {
    pub(crate) async fn open() -> Self {
        Self::open_at("127.0.0.1:0").await
    }

    pub(crate) async fn open_at(address: &str) -> Self {
        Self { listener: TcpListener::bind(address).await.unwrap() }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }

    /// Its URL, as `servers:` takes it.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    /// The next connection.
    pub(crate) async fn accept(&self) -> Connection {
        Connection::over(self.accept_stream().await)
    }

    /// The same as a bare socket.
    pub(crate) async fn accept_stream(&self) -> TcpStream {
        let (stream, _) = within("connection to the stage", self.listener.accept()).await.unwrap();
        stream.set_nodelay(true).unwrap();
        stream
    }

    /// The next connection and the head of its first request.
    pub(crate) async fn accept_head(&self) -> (Connection, String) {
        let mut connection = self.accept().await;
        let head = connection.read_until(b"\r\n\r\n").await.unwrap();
        (connection, String::from_utf8(head).unwrap())
    }
}
