//! Proving names: which way for each, what is published for it, and which of them the authority did
//! not believe.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use instant_acme::{
    AuthorizationStatus, ChallengeStatus, ChallengeType, Identifier, Order, OrderStatus,
};
use tokio::time::Instant;

use super::super::dns::{Binding, DNS_PERSIST_01, Dns, Persist, Presented, Record, Wanted};
use super::super::journal::Journal;
use super::super::problem::{Kind, Problem};
use super::super::session::{CallError, Session};
use super::super::storage::StoreError;
use super::placing::patterns;
use super::{BadName, Board, Issuer, Method, OrderError, Request, Tries, again};
use crate::net::{Host, HostPattern};
use crate::tls::challenge::{Answer, AnswerKind, Published};

/// A name that is to be proven.
struct Proof<'r> {
    /// The authorization's place in the order, and its URL.
    index: usize,
    url: String,
    name: String,
    method: &'r Method,
    key_authorization: String,
    token: String,
    /// Whether the authority is still to be told that it may look.
    is_untold: bool,
}

/// What is published for an order. Dropped, it is withdrawn.
#[derive(Default)]
struct Answers {
    challenges: Vec<Published>,
    left: Option<Left>,
    records: Vec<Presented>,
}

/// What other instances find, and where.
struct Left {
    board: Arc<dyn Board>,
    answers: Arc<[Answer]>,
}

impl Issuer {
    /// Proves the names that are not proven yet, and waits until the order is no longer pending.
    pub(super) async fn validate(
        &self,
        order: &mut Order,
        journal: &Journal,
        request: &Request,
    ) -> Result<(), OrderError> {
        again!(self, load(order)).map_err(unclear)?;
        let Some(mut proofs) = self.proofs(order, journal, request).await? else {
            return Err(self.find_fault(order).await);
        };
        let mut answers = Answers::default();
        let outcome = async {
            self.publish(&proofs, &mut answers).await?;
            self.look_for_lasting(&proofs, journal).await?;
            again!(self, tell(&self.session, order, &mut proofs))
                .map_err(|error| OrderError::call("answer a challenge", error))?;
            self.settle(order, OrderStatus::Pending).await
        };
        let outcome = outcome.await;
        answers.withdraw().await;
        outcome
    }

    /// A way for each name that is not proven; `None` when one of them cannot be any more, whatever
    /// the order says. No network: all is loaded.
    async fn proofs<'r>(
        &self,
        order: &mut Order,
        journal: &Journal,
        request: &'r Request,
    ) -> Result<Option<Vec<Proof<'r>>>, OrderError> {
        let ordered = patterns(&journal.names)?;
        let mut proofs = Vec::new();
        let mut authorizations = order.authorizations();
        let mut index = 0;
        while let Some(authorization) = authorizations.next().await {
            let authorization =
                authorization.map_err(|error| unclear(self.session.explain(error)))?;
            index += 1;
            match authorization.status {
                AuthorizationStatus::Pending => {}
                AuthorizationStatus::Valid => continue,
                _ => return Ok(None),
            }
            let name = authorization.identifier().to_string();
            if !is_among(&ordered, &name) {
                return Err(OrderError::NotOrdered(name));
            }
            let is_address = matches!(authorization.identifier().identifier, Identifier::Ip(_));
            let chosen = request.methods.iter().find_map(|method| {
                let challenge =
                    authorization.challenges.iter().find(|it| it.r#type == method.challenge())?;
                let fits = match method {
                    Method::Http01 | Method::TlsAlpn01 => !authorization.wildcard,
                    Method::Dns01(_) | Method::DnsPersist01(_) => !is_address,
                };
                fits.then_some((method, challenge))
            });
            let Some((method, challenge)) = chosen else {
                let offered = authorization.challenges.iter().map(|it| spelt(&it.r#type)).collect();
                return Err(OrderError::NoMethod { name, offered });
            };
            let thumbprint = self.session.account.key_thumbprint();
            proofs.push(Proof {
                index: index - 1,
                url: authorization.url().to_owned(),
                name,
                method,
                key_authorization: format!("{}.{thumbprint}", challenge.token),
                token: challenge.token.clone(),
                is_untold: challenge.status == ChallengeStatus::Pending,
            });
        }
        Ok(Some(proofs))
    }

    /// Publishes what the authority will look for, and waits until it can be seen.
    async fn publish(&self, proofs: &[Proof<'_>], answers: &mut Answers) -> Result<(), OrderError> {
        // Before anything that takes long.
        self.put_up(proofs, answers).await;
        let mut waits: Vec<(&Dns, Vec<Record>)> = Vec::new();
        for proof in proofs {
            let host =
                || Host::parse(&proof.name).map_err(|_| OrderError::Name(proof.name.clone()));
            let key_authorization = proof.key_authorization.as_str();
            match proof.method {
                Method::Http01 => answers.challenges.push(self.challenges.publish_http(
                    host()?,
                    &proof.token,
                    key_authorization,
                )),
                Method::TlsAlpn01 => answers
                    .challenges
                    .push(self.challenges.publish_tls_alpn(host()?, key_authorization)?),
                Method::Dns01(dns) => {
                    let record = Record::new(&proof.name, key_authorization);
                    answers.records.push(dns.present(record.clone()).await?);
                    match waits.iter_mut().find(|(other, _)| std::ptr::eq(*other, dns)) {
                        Some((_, records)) => records.push(record),
                        None => waits.push((dns, vec![record])),
                    }
                }
                Method::DnsPersist01(_) => {}
            }
        }
        // Before the authority is told: what it does not see counts against the name.
        for (dns, records) in waits {
            dns.wait_for(&records).await?;
        }
        Ok(())
    }

    /// Sees whether the records are there that nobody publishes, because they stay.
    async fn look_for_lasting(
        &self,
        proofs: &[Proof<'_>],
        journal: &Journal,
    ) -> Result<(), OrderError> {
        if !proofs.iter().any(|proof| matches!(proof.method, Method::DnsPersist01(_))) {
            return Ok(());
        }
        let directory = self.session.authority.fetch_directory().await.map_err(unclear)?;
        let mut looks: Vec<(&Persist, Vec<Wanted>)> = Vec::new();
        for proof in proofs {
            let Method::DnsPersist01(persist) = proof.method else { continue };
            // One record is to do for a name and its wildcard.
            let wildcard = format!("*.{}", proof.name.trim_start_matches("*."));
            let name = match journal.names.contains(&wildcard) {
                true => wildcard,
                false => proof.name.clone(),
            };
            let authorization = self.authorization(&proof.url).await?;
            let binding = Binding::of_challenge(&self.session, &directory.meta, &authorization);
            let wanted = Wanted { name, binding: binding.map_err(unclear)? };
            match looks.iter_mut().find(|(other, _)| *other == persist) {
                Some((_, all)) => all.push(wanted),
                None => looks.push((persist, vec![wanted])),
            }
        }
        for (persist, wanted) in looks {
            persist.check(&wanted).await?;
        }
        Ok(())
    }

    /// An authorization as it was sent: the library drops what it does not know of a challenge.
    async fn authorization(&self, url: &str) -> Result<Bytes, OrderError> {
        let mut tries = Tries::default();
        loop {
            match self.session.fetch(url).await {
                Ok(body) => return Ok(body),
                Err(error) if tries.is_worth_another(&error, self.limits.pause).await => {}
                Err(error) => return Err(unclear(error)),
            }
        }
    }

    /// Leaves to other instances what is looked for at any of them.
    async fn put_up(&self, proofs: &[Proof<'_>], answers: &mut Answers) {
        let Some(board) = self.board.clone() else { return };
        let left: Arc<[Answer]> = proofs.iter().filter_map(Proof::answer).collect();
        if left.is_empty() {
            return;
        }
        if let Err(error) = put_up(&board, &left).await {
            // What is away must not stop renewals: the authority may come to this instance.
            let error: &dyn std::error::Error = &error;
            tracing::warn!(error, "other instances cannot answer for this one");
        }
        answers.left = Some(Left { board, answers: left });
    }

    /// What the authority says of an order that it has given up.
    pub(super) async fn find_fault(&self, order: &mut Order) -> OrderError {
        let problem = order.state().error.clone();
        let problem = problem.map(|problem| Problem::within(&problem, SystemTime::now()));
        let mut bad_names = Vec::new();
        if again!(self, load_anew(order)).is_ok() {
            let mut authorizations = order.authorizations();
            while let Some(Ok(authorization)) = authorizations.next().await {
                if matches!(
                    authorization.status,
                    AuthorizationStatus::Pending | AuthorizationStatus::Valid
                ) {
                    continue;
                }
                let error = authorization.challenges.iter().find_map(|it| it.error.as_ref());
                bad_names.push(BadName {
                    name: authorization.identifier().to_string(),
                    problem: error.map(|error| Problem::within(error, SystemTime::now())),
                });
            }
        }
        OrderError::Invalid { bad_names, problem: problem.map(Box::new) }
    }
}

impl Method {
    fn challenge(&self) -> ChallengeType {
        match self {
            Self::Http01 => ChallengeType::Http01,
            Self::TlsAlpn01 => ChallengeType::TlsAlpn01,
            Self::Dns01(_) => ChallengeType::Dns01,
            Self::DnsPersist01(_) => ChallengeType::Unknown(DNS_PERSIST_01.to_owned()),
        }
    }

    /// Whether it is good for wildcards.
    pub(super) fn is_dns(&self) -> bool {
        matches!(self, Self::Dns01(_) | Self::DnsPersist01(_))
    }
}

impl Proof<'_> {
    /// What any instance may be asked for.
    fn answer(&self) -> Option<Answer> {
        let kind = match self.method {
            Method::Http01 => AnswerKind::Http,
            Method::TlsAlpn01 => AnswerKind::TlsAlpn,
            Method::Dns01(_) | Method::DnsPersist01(_) => return None,
        };
        Some(Answer {
            kind,
            host: self.name.clone(),
            token: self.token.clone(),
            key_authorization: self.key_authorization.clone(),
        })
    }
}

impl Answers {
    async fn withdraw(mut self) {
        self.challenges.clear();
        if let Some(Left { board, answers }) = self.left.take() {
            // What stays is swept in a day.
            let _ = tokio::task::spawn_blocking(move || board.take_down(&answers)).await;
        }
        for record in self.records.drain(..) {
            record.clean_up().await;
        }
    }
}

/// Longest time that a fleet's Redis is tried again in, once it has failed: for a moment it is not even
/// asked, then there is time for a connection and an answer.
const LONGEST_FLEET: Duration = Duration::from_secs(8);

/// Between two tries.
const FLEET_AGAIN: Duration = Duration::from_millis(500);

/// Leaves `answers` on `board`. A Redis that was lost a moment ago may be back before the authority looks:
/// what it does not see counts against the name.
async fn put_up(board: &Arc<dyn Board>, answers: &Arc<[Answer]>) -> Result<(), StoreError> {
    let mut until = None;
    loop {
        let (writer, written) = (Arc::clone(board), Arc::clone(answers));
        let put_up = tokio::task::spawn_blocking(move || writer.put_up(&written));
        let Ok(Err(error)) = put_up.await else { return Ok(()) };
        let until = *until.get_or_insert_with(|| Instant::now() + LONGEST_FLEET);
        if !matches!(error, StoreError::Fleet(_)) || Instant::now() >= until {
            return Err(error);
        }
        tokio::time::sleep(FLEET_AGAIN).await;
    }
}

/// Whether a name is one of those that were ordered: nothing is published for others. Some
/// authorities leave out that a name is a wildcard's.
fn is_among(ordered: &[HostPattern], name: &str) -> bool {
    match HostPattern::parse(name) {
        Ok(HostPattern::Exact(Host::Name(parent))) => {
            ordered.contains(&HostPattern::Exact(Host::Name(parent.clone())))
                || ordered.contains(&HostPattern::Wildcard(parent))
        }
        Ok(pattern) => ordered.contains(&pattern),
        Err(_) => false,
    }
}

/// Fetches every authorization that has not been.
async fn load(order: &mut Order) -> Result<(), instant_acme::Error> {
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        authorization?;
    }
    Ok(())
}

/// Fetches every authorization.
async fn load_anew(order: &mut Order) -> Result<(), instant_acme::Error> {
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        authorization?.refresh().await?;
    }
    Ok(())
}

/// Tells the authority that it may look, for every proof that it has not been told of.
async fn tell(
    session: &Session,
    order: &mut Order,
    proofs: &mut [Proof<'_>],
) -> Result<(), instant_acme::Error> {
    let mut authorizations = order.authorizations();
    let mut index = 0;
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization?;
        let proof = proofs.iter_mut().find(|proof| proof.index == index && proof.is_untold);
        index += 1;
        let Some(proof) = proof else { continue };
        let Some(mut challenge) = authorization.challenge(proof.method.challenge()) else {
            continue;
        };
        match challenge.set_ready().await {
            Err(error) if !is_settled(session) => return Err(error),
            Ok(()) | Err(_) => proof.is_untold = false,
        }
    }
    Ok(())
}

/// Whether the last answer says that the challenge is beyond being answered: it has failed, or an
/// answer to us was lost and it is under way. What became of it the order tells.
fn is_settled(session: &Session) -> bool {
    session.answers.last().is_some_and(|answer| match answer.problem() {
        None => answer.status.is_success(),
        Some(problem) => problem.kind == Kind::Malformed,
    })
}

/// Why it cannot be seen what to prove.
fn unclear(error: CallError) -> OrderError {
    OrderError::call("see what to prove", error)
}

/// The way's name in the protocol.
fn spelt(kind: &ChallengeType) -> String {
    match kind {
        ChallengeType::Http01 => "http-01".to_owned(),
        ChallengeType::Dns01 => "dns-01".to_owned(),
        ChallengeType::TlsAlpn01 => "tls-alpn-01".to_owned(),
        ChallengeType::DeviceAttest01 => "device-attest-01".to_owned(),
        ChallengeType::Unknown(name) => name.clone(),
        _ => "unknown".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::acme::fleet::LinkError;

    /// Fails with what `error` has so often, and notes how often it was asked.
    struct Failing {
        times: u32,
        asked: AtomicU32,
        error: fn() -> StoreError,
    }

    impl Board for Failing {
        fn put_up(&self, _: &[Answer]) -> Result<(), StoreError> {
            let asked = self.asked.fetch_add(1, Ordering::Relaxed);
            if asked < self.times { Err((self.error)()) } else { Ok(()) }
        }

        fn take_down(&self, _: &[Answer]) {}
    }

    #[tokio::test(start_paused = true)]
    async fn a_fleet_is_told_again_for_seconds_before_the_authority_is() {
        let resting = || StoreError::Fleet(LinkError::Resting);
        let full = || StoreError::Io {
            path: "challenges".into(),
            source: std::io::ErrorKind::StorageFull.into(),
        };
        // The link rests for 5 s.
        for (error, times, is_put_up, asked, waited) in [
            (resting as fn() -> StoreError, 0, true, 1, 0..1),
            (resting, 11, true, 12, 5..7),
            (resting, u32::MAX, false, 17, 8..9),
            (full, 1, false, 1, 0..1),
        ] {
            let failing = Arc::new(Failing { times, asked: AtomicU32::new(0), error });
            let board: Arc<dyn Board> = Arc::clone(&failing) as _;
            let began = Instant::now();
            let outcome = put_up(&board, &Arc::from([])).await;
            assert_eq!(outcome.is_ok(), is_put_up, "{times}");
            assert_eq!(failing.asked.load(Ordering::Relaxed), asked, "{times}");
            assert!(waited.contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
        }
    }
}
