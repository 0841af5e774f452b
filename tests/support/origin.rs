//! An HTTP/1.1 origin in the test's own process: it records requests, and answers when it may.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::wire::{Wire, invalid, text};
use super::within;

/// A request as the origin got it.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    /// Counted from 1 in the order the connections were accepted.
    pub(crate) connection: usize,
    pub(crate) method: String,
    pub(crate) target: String,
    /// In the order and spelling received.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Received {
    /// Every value of a header field.
    pub(crate) fn values(&self, name: &str) -> Vec<&str> {
        let fields = self.headers.iter().filter(|(key, _)| key.eq_ignore_ascii_case(name));
        fields.map(|(_, value)| &**value).collect()
    }

    /// The first value of a header field.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.values(name).first().copied()
    }
}

/// What the origin does with a request.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    /// These bytes, and the connection stays.
    Bytes(Vec<u8>),
    /// These bytes, and the connection closes.
    Close(Vec<u8>),
}

impl Answer {
    /// A complete answer with a text body.
    pub(crate) fn text(status: u16, body: &str) -> Self {
        Self::Bytes(
            format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n{body}", body.len())
                .into_bytes(),
        )
    }
}

type Script = Arc<dyn Fn(&Received) -> Answer + Send + Sync>;

/// What the connections and the test share.
struct State {
    requests: Mutex<Vec<Received>>,
    counts: watch::Sender<Counts>,
    holds: watch::Sender<bool>,
    script: Script,
}

#[derive(Clone, Copy, Default)]
struct Counts {
    accepted: usize,
    requests: usize,
    /// Connections that ended before a request on them was answered.
    aborted: usize,
}

/// A running origin; it ends when dropped.
pub(crate) struct Origin {
    address: SocketAddr,
    state: Arc<State>,
    accepting: JoinHandle<()>,
}

impl Origin {
    /// Answers every request with 200 and the text `ok`.
    pub(crate) async fn start() -> Self {
        Self::answering(|_| Answer::text(200, "ok")).await
    }

    /// Answers every request with what `script` makes of it.
    pub(crate) async fn answering(
        script: impl Fn(&Received) -> Answer + Send + Sync + 'static,
    ) -> Self {
        Self::answering_on(TcpListener::bind("127.0.0.1:0").await.unwrap(), script)
    }

    /// The same on a socket that listens already.
    pub(crate) fn answering_on(
        listener: TcpListener,
        script: impl Fn(&Received) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State {
            requests: Mutex::default(),
            counts: watch::Sender::new(Counts::default()),
            holds: watch::Sender::new(false),
            script: Arc::new(script),
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&state)));
        Self { address, state, accepting }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its URL, as `servers:` takes it.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on requests are taken, but not answered before [`Origin::release`].
    pub(crate) fn hold(&self) {
        self.state.holds.send_replace(true);
    }

    pub(crate) fn release(&self) {
        self.state.holds.send_replace(false);
    }

    /// Waits until `count` requests have come in altogether, and returns all there are.
    pub(crate) async fn received(&self, count: usize) -> Vec<Received> {
        self.wait("request at the origin", |counts| counts.requests >= count).await;
        self.requests()
    }

    /// Waits until `count` connections have ended before their request was answered.
    pub(crate) async fn aborted(&self, count: usize) {
        self.wait("aborted request at the origin", |counts| counts.aborted >= count).await;
    }

    pub(crate) fn requests(&self) -> Vec<Received> {
        self.state.requests.lock().unwrap().clone()
    }

    /// How many connections have been accepted.
    pub(crate) fn connections(&self) -> usize {
        self.state.counts.borrow().accepted
    }

    async fn wait(&self, what: &str, is_reached: impl Fn(&Counts) -> bool) {
        let mut counts = self.state.counts.subscribe();
        within(what, counts.wait_for(is_reached)).await.expect("the sender is ours");
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    // Dropped, and with it every connection, when the origin is.
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        state.counts.send_modify(|counts| counts.accepted += 1);
        let number = state.counts.borrow().accepted;
        // An error is a client that left; `aborted` counts those that matter.
        connections.spawn(serve(stream, number, Arc::clone(&state)));
    }
}

async fn serve(stream: TcpStream, connection: usize, state: Arc<State>) -> io::Result<()> {
    let mut wire = Wire::new(stream);
    while let Some(received) = read_request(&mut wire, connection).await? {
        let answer = (state.script)(&received);
        state.requests.lock().unwrap().push(received);
        state.counts.send_modify(|counts| counts.requests += 1);
        if !wait_for_release(&mut wire, &state).await {
            state.counts.send_modify(|counts| counts.aborted += 1);
            return Ok(());
        }
        match answer {
            Answer::Bytes(bytes) => wire.stream.write_all(&bytes).await?,
            Answer::Close(bytes) => {
                wire.stream.write_all(&bytes).await?;
                return wire.stream.shutdown().await;
            }
        }
    }
    Ok(())
}

/// False if the client leaves first.
async fn wait_for_release(wire: &mut Wire<TcpStream>, state: &State) -> bool {
    let mut holds = state.holds.subscribe();
    loop {
        tokio::select! {
            biased; // a request that is not held is answered whether or not its client has left
            released = holds.wait_for(|holds| !holds) => return released.is_ok(),
            read = wire.read_more() => {
                if !matches!(read, Ok(true)) {
                    return false;
                }
            }
        }
    }
}

/// `None` at the end of the connection.
async fn read_request(
    wire: &mut Wire<TcpStream>,
    connection: usize,
) -> io::Result<Option<Received>> {
    let (mut received, length) = loop {
        if let Some(found) = parse_head(&wire.unread, connection) {
            break found;
        }
        if !wire.read_more().await? {
            return Ok(None);
        }
    };
    wire.take(length).await?;
    if received.header("transfer-encoding").is_some() {
        (received.body, _) = wire.take_chunks().await?;
    } else if let Some(length) = received.header("content-length") {
        let length = length.parse().map_err(|_| invalid("the request's length"))?;
        received.body = wire.take(length).await?;
    }
    Ok(Some(received))
}

fn parse_head(unread: &[u8], connection: usize) -> Option<(Received, usize)> {
    let mut fields = [httparse::EMPTY_HEADER; 256];
    let mut head = httparse::Request::new(&mut fields);
    let length = match head.parse(unread) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return None,
        Err(error) => panic!("the origin got no HTTP: {error}: {}", text(unread)),
    };
    let fields = head.headers.iter();
    let received = Received {
        connection,
        method: head.method.unwrap_or_default().to_owned(),
        target: head.path.unwrap_or_default().to_owned(),
        headers: fields.map(|field| (field.name.to_owned(), text(field.value))).collect(),
        body: Vec::new(),
    };
    Some((received, length))
}
