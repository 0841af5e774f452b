//! A transport that refuses, stalls, loses and makes up answers.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use tokio::sync::watch;
use wardgate::acme::http::{RequestError, Sending, Transport};

/// What becomes of a request.
#[derive(Clone)]
pub(super) enum Fault {
    /// Nobody is there.
    Refuse,
    /// It is not sent, and nothing comes.
    Hang,
    /// It is sent, and its answer never comes.
    Swallow,
    /// It is sent, and its answer is lost.
    LoseAnswer,
    /// This answer comes instead: status, fields, body.
    Answer(u16, &'static [(&'static str, &'static str)], String),
}

pub(super) struct Faulty {
    inner: Arc<dyn Transport>,
    faults: Mutex<Vec<(&'static str, Fault)>>,
    /// How many faults have happened.
    happened: watch::Sender<usize>,
    requests: Mutex<Vec<String>>,
}

impl Faulty {
    pub(super) fn new(inner: Arc<dyn Transport>) -> Self {
        Self {
            inner,
            faults: Mutex::default(),
            happened: watch::Sender::new(0),
            requests: Mutex::default(),
        }
    }

    /// Has the next request whose path holds `path` meet with `fault`; once for every call.
    pub(super) fn expect(&self, path: &'static str, fault: Fault) {
        self.faults.lock().unwrap().push((path, fault));
    }

    /// Waits until as many faults have happened.
    pub(super) async fn happened(&self, count: usize) {
        let mut happened = self.happened.subscribe();
        crate::support::within("fault", happened.wait_for(|it| *it >= count)).await.unwrap();
    }

    /// Paths of the requests so far.
    pub(super) fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

impl Transport for Faulty {
    fn send(&self, request: Request<Bytes>) -> Sending {
        let path = request.uri().path().to_owned();
        self.requests.lock().unwrap().push(path.clone());
        let mut faults = self.faults.lock().unwrap();
        let Some(at) = faults.iter().position(|(part, _)| path.contains(part)) else {
            return self.inner.send(request);
        };
        let (_, fault) = faults.remove(at);
        drop(faults);
        let authority = request.uri().authority().map(ToString::to_string).unwrap_or_default();
        let (inner, happened) = (Arc::clone(&self.inner), self.happened.clone());
        let told = move || happened.send_modify(|it| *it += 1);
        Box::pin(async move {
            match fault {
                Fault::Refuse => {
                    told();
                    let source = io::ErrorKind::ConnectionRefused.into();
                    Err(RequestError::Connect { authority, source })
                }
                Fault::Hang => {
                    told();
                    std::future::pending().await
                }
                Fault::Swallow => {
                    inner.send(request).await?;
                    told();
                    std::future::pending().await
                }
                Fault::LoseAnswer => {
                    inner.send(request).await?;
                    told();
                    Err(RequestError::Timeout { authority, limit: Duration::ZERO })
                }
                Fault::Answer(status, fields, body) => {
                    told();
                    let mut answer = Response::builder().status(status);
                    for (name, value) in fields {
                        answer = answer.header(*name, *value);
                    }
                    Ok(answer.body(Bytes::from(body)).unwrap())
                }
            }
        })
    }
}
