//! What these tests share: a gateway that is probed, an authority, and an account at it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use wardgate::acme::account::Registration;
use wardgate::acme::dns::Dns;
use wardgate::acme::journal::Journal;
use wardgate::acme::order::{Issued, Issuer, Limits, Method, OrderError, Request};
use wardgate::acme::session::{Authority, Session};

use super::faulty::Faulty;
use crate::support::{Inside, Pebble, Settings, within};

/// Short enough for tests, long enough for a machine that is busy.
pub(super) const LIMITS: Limits =
    Limits { order: Duration::from_secs(25), pause: Duration::from_millis(10) };

pub(super) struct Scene {
    pub(super) inside: Inside,
    pub(super) pebble: Pebble,
    /// What has been written down, the last at the end.
    pub(super) journals: Arc<Mutex<Vec<Journal>>>,
}

impl Scene {
    pub(super) async fn new() -> Self {
        Self::with(Settings::default()).await
    }

    pub(super) async fn with(settings: Settings) -> Self {
        let inside = Inside::start().await;
        let pebble = Pebble::start(inside.ports(), settings).await;
        Self { inside, pebble, journals: Arc::default() }
    }

    /// An issuer with a new account.
    pub(super) async fn issuer(&self) -> Issuer {
        self.register(&self.pebble.authority).await.0
    }

    /// The same at `authority`, and the account's credentials.
    pub(super) async fn register(&self, authority: &Authority) -> (Issuer, String) {
        let registration =
            Registration { contacts: vec!["op@example.test".into()], external: None };
        let (session, credentials) = Session::register(authority, &registration).await.unwrap();
        (self.issuer_of(session), credentials)
    }

    pub(super) fn issuer_of(&self, session: Session) -> Issuer {
        self.issuer_within(session, LIMITS)
    }

    pub(super) fn issuer_within(&self, session: Session, limits: Limits) -> Issuer {
        let journals = Arc::clone(&self.journals);
        let write = move |journal: &Journal| {
            journals.lock().unwrap().push(journal.clone());
            Ok(())
        };
        let challenges = Arc::clone(self.inside.store.challenges());
        Issuer::new(session, challenges, Arc::new(write), limits)
    }

    /// The authority behind a transport that does what it is told to.
    pub(super) fn faulty(&self) -> (Arc<Faulty>, Authority) {
        let faulty = Arc::new(Faulty::new(self.pebble.transport(Default::default())));
        let transport = Arc::clone(&faulty) as Arc<dyn wardgate::acme::http::Transport>;
        (faulty, Authority::new(self.pebble.authority.directory.clone(), transport))
    }

    pub(super) fn journal(&self) -> Journal {
        self.journals.lock().unwrap().last().expect("an order was written down").clone()
    }

    pub(super) fn dns(&self) -> Dns {
        Dns { servers: Some(vec![self.pebble.dns]), ..Dns::run(self.pebble.hook()) }
    }

    /// Nothing is outstanding any more.
    pub(super) fn assert_clean(&self) {
        assert_eq!(self.inside.store.challenges().count(), 0, "challenges are withdrawn");
    }
}

pub(super) fn request(names: &[&str], methods: Vec<Method>) -> Request {
    let mut names: Vec<String> = names.iter().map(ToString::to_string).collect();
    names.sort();
    Request { names, methods, ..Request::default() }
}

pub(super) fn by_http(names: &[&str]) -> Request {
    request(names, vec![Method::Http01])
}

/// An issuance that succeeds.
pub(super) async fn issue(issuer: &Issuer, request: &Request) -> Issued {
    let issued = within("certificate", issuer.issue(request)).await;
    issued.unwrap_or_else(|error| panic!("{}", told(&error)))
}

/// An error with everything behind it.
pub(super) fn told(error: &OrderError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        text.push_str(&format!(": {error}"));
        source = error.source();
    }
    text
}

/// The names in a certificate.
pub(super) fn names(issued: &Issued) -> Vec<String> {
    let mut names: Vec<String> =
        issued.certificate.leaf.names.iter().map(ToString::to_string).collect();
    names.sort();
    names
}
