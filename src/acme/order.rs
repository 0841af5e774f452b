//! One issuance: from names to a certificate, at one certificate authority.
//!
//! Answers "what is the next step of this order?", which depends on its status at the authority and
//! on nothing that is only known here. So an order that a crash has cut short goes on from its
//! [`Journal`], and what was issued in the meantime is fetched. It never decides when to order, never
//! retries an order that was refused, and never stores a certificate.

mod chain;
mod error;
mod placing;
mod validation;

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use instant_acme::{Order, OrderStatus};

use super::dns::{Dns, Persist};
use super::journal::Journal;
use super::key::{self, KeyType};
use super::problem::Kind;
use super::session::{CallError, Session};
use super::storage::StoreError;
use crate::tls::Challenges;
use crate::tls::challenge::Answer;
pub use chain::Issued;
use error::FINALIZE;
pub use error::{BadName, OrderError};
use placing::check_names;

/// What is ordered.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// DNS names in ASCII, `*.` before wildcards, and addresses. Sorted.
    pub names: Vec<String>,
    /// The kind of certificate (draft-ietf-acme-profiles); `None` leaves it to the authority.
    pub profile: Option<String>,
    /// Whether there is to be no certificate rather than one without the profile.
    pub require_profile: bool,
    /// The certificate it takes the place of, as RFC 9773 §4.1 names it.
    pub replaces: Option<String>,
    /// What kind of key it gets.
    pub key_type: KeyType,
    /// The common name of the root that the chain should lead to, where there is a choice.
    pub preferred_chain: Option<String>,
    /// How names may be proven, in order of preference.
    pub methods: Vec<Method>,
}

/// How a name is proven.
#[derive(Clone, Debug)]
pub enum Method {
    /// By a token over plain HTTP (RFC 8555 §8.3).
    Http01,
    /// By a certificate in a handshake of its own (RFC 8737).
    TlsAlpn01,
    /// By a TXT record (RFC 8555 §8.4), good for wildcards.
    Dns01(Dns),
    /// By a TXT record that stays (draft-ietf-acme-dns-persist), good for wildcards.
    DnsPersist01(Persist),
}

/// Times of an order.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Limits {
    /// For the whole of it, waits for DNS aside. Default 10 min.
    pub order: Duration,
    /// Before a request is sent again that had no answer; longer each time. Default 2 s.
    pub pause: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { order: Duration::from_secs(10 * 60), pause: Duration::from_secs(2) }
    }
}

/// Writes a journal down, and returns when it would survive a crash. It may block.
pub type WriteJournal = dyn Fn(&Journal) -> io::Result<()> + Send + Sync;

/// Where what proves names is left for the other instances that serve them: an authority gets to any of
/// them. All of it may block.
pub trait Board: Send + Sync {
    /// Leaves `answers` in the place of all that was left before; on return every instance finds them.
    ///
    /// # Errors
    /// Why some do not.
    fn put_up(&self, answers: &[Answer]) -> Result<(), StoreError>;

    /// Takes them away.
    fn take_down(&self, answers: &[Answer]);
}

/// Places orders with one account.
pub struct Issuer {
    session: Session,
    challenges: Arc<Challenges>,
    board: Option<Arc<dyn Board>>,
    journal: Arc<WriteJournal>,
    limits: Limits,
}

/// What was left out of an order because the authority would not have it.
#[derive(Clone, Copy, Debug, Default)]
struct Dropped {
    replaces: bool,
    profile: bool,
}

/// Does a step again while that is of use. A macro, since the step borrows what it works on.
macro_rules! again {
    ($issuer:expr, $step:expr) => {{
        let mut tries = $crate::acme::order::Tries::default();
        loop {
            match $step.await {
                Ok(done) => break Ok(done),
                Err(error) => {
                    let error = $issuer.session.explain(error);
                    if !tries.is_worth_another(&error, $issuer.limits.pause).await {
                        break Err(error);
                    }
                }
            }
        }
    }};
}
use again;

impl Issuer {
    /// Orders with the account of `session`. What proves names is published in `challenges`, orders
    /// are written down with `journal`.
    #[must_use]
    pub fn new(
        session: Session,
        challenges: Arc<Challenges>,
        journal: Arc<WriteJournal>,
        limits: Limits,
    ) -> Self {
        Self { session, challenges, board: None, journal, limits }
    }

    /// The same for one instance of several.
    #[must_use]
    pub fn with_board(self, board: Arc<dyn Board>) -> Self {
        Self { board: Some(board), ..self }
    }

    /// The account in use.
    #[must_use]
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Orders a certificate and waits for it.
    ///
    /// # Errors
    /// [`OrderError`]. Unless it says that the order [is lost](OrderError::is_lost), the journal
    /// that was written leads on with [`resume`](Self::resume).
    pub async fn issue(&self, request: &Request) -> Result<Issued, OrderError> {
        let work = async {
            check_names(request)?;
            let key_pem = generate(request.key_type).await?;
            let (mut order, dropped) = self.place(request).await?;
            let journal = self.journal_of(request, dropped, order.url(), key_pem);
            self.write(&journal).await?;
            self.drive(&mut order, &journal, request, dropped).await
        };
        self.in_time(request, work).await
    }

    /// Goes on with an order that was written down.
    ///
    /// # Errors
    /// As [`issue`](Self::issue).
    pub async fn resume(&self, journal: &Journal, request: &Request) -> Result<Issued, OrderError> {
        let work = async {
            let order = again!(self, self.session.account.order(journal.order_url.clone()));
            let mut order = order.map_err(|error| match error {
                CallError::Refused(problem) if is_gone(problem.kind) => OrderError::Gone(problem),
                error => OrderError::call("find the order", error),
            })?;
            let dropped = Dropped {
                replaces: request.replaces.is_some() && journal.replaces.is_none(),
                profile: request.profile.is_some() && journal.profile.is_none(),
            };
            self.drive(&mut order, journal, request, dropped).await
        };
        self.in_time(request, work).await
    }

    async fn in_time(
        &self,
        request: &Request,
        work: impl Future<Output = Result<Issued, OrderError>>,
    ) -> Result<Issued, OrderError> {
        let dns = request.methods.iter().filter_map(|method| match method {
            Method::Dns01(dns) => Some(dns.patience),
            Method::Http01 | Method::TlsAlpn01 | Method::DnsPersist01(_) => None,
        });
        let limit = self.limits.order + dns.max().unwrap_or_default();
        let started = Instant::now();
        match tokio::time::timeout(limit, work).await {
            Ok(outcome) => {
                if outcome.is_ok() {
                    self.session.authority.metrics.ordered(started.elapsed());
                }
                outcome
            }
            Err(_) => Err(OrderError::Timeout(limit)),
        }
    }

    async fn write(&self, journal: &Journal) -> Result<(), OrderError> {
        let (write, journal) = (Arc::clone(&self.journal), journal.clone());
        match tokio::task::spawn_blocking(move || write(&journal)).await {
            Ok(written) => written.map_err(OrderError::Journal),
            Err(_) => Err(OrderError::Interrupted),
        }
    }

    /// Takes steps until there is a certificate. Which one is next is the order's status, which the
    /// authority knows best.
    async fn drive(
        &self,
        order: &mut Order,
        journal: &Journal,
        request: &Request,
        dropped: Dropped,
    ) -> Result<Issued, OrderError> {
        let mut rounds = 0;
        loop {
            match order.state().status {
                OrderStatus::Pending => self.validate(order, journal, request).await?,
                OrderStatus::Ready if rounds == MAX_ROUNDS => {
                    let error = CallError::Garbled("the order stays ready".into());
                    return Err(OrderError::call(FINALIZE, error));
                }
                OrderStatus::Ready => {
                    // Once, but for an authority that has forgotten that it was asked.
                    tokio::time::sleep(self.limits.pause * rounds).await;
                    rounds += 1;
                    self.finalize(order, journal).await?;
                }
                OrderStatus::Processing => self.settle(order, OrderStatus::Processing).await?,
                OrderStatus::Valid => return self.collect(order, journal, request, dropped).await,
                OrderStatus::Invalid => return Err(self.find_fault(order).await),
            }
        }
    }

    /// Asks for the certificate. The request is the same whenever it is made, so that an authority
    /// which has it already sees the same again.
    async fn finalize(&self, order: &mut Order, journal: &Journal) -> Result<(), OrderError> {
        let request = key::request(&journal.key_pem, &journal.names)?;
        match again!(self, order.finalize_csr(&request)) {
            Ok(()) => Ok(()),
            // The answer to an earlier one was lost, and the order has moved on.
            Err(error) if error.is(Kind::OrderNotReady) => {
                self.refresh(order).await?;
                match order.state().status {
                    OrderStatus::Ready => Err(OrderError::call(FINALIZE, error)),
                    _ => Ok(()),
                }
            }
            Err(error) => Err(OrderError::call(FINALIZE, error)),
        }
    }

    /// Waits until the order has another status than `present`.
    async fn settle(&self, order: &mut Order, present: OrderStatus) -> Result<(), OrderError> {
        let mut pause = FIRST_POLL;
        loop {
            tokio::time::sleep(pause).await;
            self.refresh(order).await?;
            if order.state().status != present {
                return Ok(());
            }
            let told = self.session.answers.last().and_then(|answer| {
                let until = answer.retry_after()?;
                until.duration_since(SystemTime::now()).ok()
            });
            let next = (pause * 3 / 2).min(LAST_POLL);
            pause = told.map_or(next, |told| told.clamp(FIRST_POLL, LONGEST_TOLD_POLL));
        }
    }

    async fn refresh(&self, order: &mut Order) -> Result<(), OrderError> {
        again!(self, refresh(order)).map_err(|error| OrderError::call("look at the order", error))
    }
}

impl std::fmt::Debug for Issuer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issuer").field("session", &self.session).finish_non_exhaustive()
    }
}

/// How often an authority is asked for the certificate of one order.
const MAX_ROUNDS: u32 = 5;

/// First look at an order after something was done for it: validation on the authority's own network
/// takes as long.
const FIRST_POLL: Duration = Duration::from_millis(100);

/// Longest pause between two looks that we choose ourselves.
const LAST_POLL: Duration = Duration::from_secs(5);

/// Longest pause that an authority may ask for.
const LONGEST_TOLD_POLL: Duration = Duration::from_secs(60);

/// How often a step has been tried.
#[derive(Default)]
struct Tries {
    nonces: u32,
    losses: u32,
}

impl Tries {
    /// Whether to do the step again after `error`. Nonces are refused in storms: the library has
    /// tried three times, so that five rounds of it get through at a loss of nine in ten. An answer
    /// that was lost is asked for again twice: what it answered is safe to ask for twice.
    async fn is_worth_another(&mut self, error: &CallError, pause: Duration) -> bool {
        match error {
            CallError::Refused(problem) if problem.kind == Kind::BadNonce => {
                self.nonces += 1;
                self.nonces <= 5
            }
            CallError::Unreachable(_) => {
                self.losses += 1;
                tokio::time::sleep(pause * self.losses).await;
                self.losses <= 2
            }
            CallError::Refused(_) | CallError::Garbled(_) => false,
        }
    }
}

async fn refresh(order: &mut Order) -> Result<(), instant_acme::Error> {
    order.refresh().await.map(|_| ())
}

async fn generate(kind: KeyType) -> Result<String, OrderError> {
    match tokio::task::spawn_blocking(move || kind.generate()).await {
        Ok(key) => Ok(key?),
        Err(_) => Err(OrderError::Interrupted),
    }
}

/// Whether the order is not there any more, or not for this account.
fn is_gone(kind: Kind) -> bool {
    matches!(kind, Kind::NotFound | Kind::Malformed | Kind::Unauthorized)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_can_be_a_task() {
        fn is_send<T: Send>(_: T) {}
        let _ = |issuer: &Issuer, journal: &Journal, request: &Request| {
            is_send(issuer.issue(request));
            is_send(issuer.resume(journal, request));
        };
    }
}
