//! Dynamic updates (RFC 2136): records put up at the zone's primary server, signed with a key that it
//! shares with us (TSIG, RFC 8945).
//!
//! Answers "in which zone does this record belong, and does the server take it?". A value is added
//! beside others and taken away alone, so that orders for the same name do not disturb each other.

mod error;
mod exchange;

use std::error::Error;

use hickory_proto::op::{Message, Query, ResponseCode, update_message};
use hickory_proto::rr::rdata::TXT;
use hickory_proto::rr::{Name, RData, Record as Entry, RecordSet, RecordType};

use super::Record;
use super::propagation::{MAX_ALIASES, alias_elsewhere};
use crate::config::acme::Rfc2136;
pub use error::UpdateError;
use exchange::Peer;

/// Where one record goes: a name in a zone of a server, once aliases have been followed.
#[derive(Clone, Debug)]
pub(super) struct Place {
    peer: Peer,
    zone: Name,
    entry: Entry,
    /// The record's own name, which may be an alias of the place's.
    name: String,
}

impl Place {
    /// Where `record` goes. Nothing is changed yet.
    pub(super) async fn find(server: &Rfc2136, record: &Record) -> Result<Self, UpdateError> {
        let mut peers = Peer::all(server).await?.into_iter();
        let name = fully_qualified(&record.name)?;
        let mut outcome =
            Err(UpdateError::Resolve { server: server.server.to_string(), source: None });
        // One that has several addresses need not be reached at all of them.
        for peer in peers.by_ref() {
            outcome = locate(&peer, server, name.clone()).await.map(|found| (peer, found));
            if !matches!(outcome, Err(UpdateError::Unreachable { .. })) {
                break;
            }
        }
        let (peer, (owner, zone)) = outcome?;
        let ttl = u32::try_from(server.ttl.as_secs()).unwrap_or(u32::MAX);
        let text = RData::TXT(TXT::new(vec![record.value.clone()]));
        let entry = Entry::from_rdata(owner, ttl, text);
        Ok(Self { peer, zone, entry, name: record.name.clone() })
    }

    /// The name of the record as it was asked for.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Adds the record to whatever stands there.
    pub(super) async fn put_up(&self) -> Result<(), UpdateError> {
        let set = RecordSet::from(self.entry.clone());
        self.update(update_message::append(set, self.zone.clone(), false, false)).await
    }

    /// Takes the record away, and nothing else. That it is gone already is fine.
    pub(super) async fn take_down(&self) -> Result<(), UpdateError> {
        self.update(self.removal()).await
    }

    /// Asks for the record to be taken away, and does not wait for an answer.
    pub(super) fn start_take_down(&self) -> Result<(), Box<dyn Error + Send + Sync>> {
        self.peer.tell(self.removal())
    }

    fn removal(&self) -> Message {
        let set = RecordSet::from(self.entry.clone());
        update_message::delete_by_rdata(set, self.zone.clone(), false)
    }

    async fn update(&self, message: Message) -> Result<(), UpdateError> {
        let answer = self.peer.ask(message).await?;
        match answer.response_code {
            ResponseCode::NoError => Ok(()),
            code => {
                let (server, key) = (self.peer.to_string(), self.peer.key().to_owned());
                let (name, zone) = (shown(&self.entry.name), shown(&self.zone));
                Err(UpdateError::of(code, server, key, name, zone))
            }
        }
    }
}

/// The name that `name` is an alias of in the end, and the zone it is in. All that a zone's updates
/// need; [`update_message`] wants the first to be in the second.
async fn locate(
    peer: &Peer,
    server: &Rfc2136,
    mut name: Name,
) -> Result<(Name, Name), UpdateError> {
    for _ in 0..MAX_ALIASES {
        let Some(target) = alias(peer, &name).await? else { break };
        name = target;
    }
    let zone = match &server.zone {
        Some(zone) => fully_qualified(zone.as_str())?,
        None => zone_of(peer, &name).await?,
    };
    if !zone.zone_of(&name) {
        return Err(UpdateError::Outside { name: shown(&name), zone: shown(&zone) });
    }
    Ok((name, zone))
}

/// What `name` is an alias of: by the server's word where it is the zone's, else by the DNS.
async fn alias(peer: &Peer, name: &Name) -> Result<Option<Name>, UpdateError> {
    let answer = peer.ask(query(name, RecordType::CNAME)).await?;
    if !counts(&answer) {
        let target = alias_elsewhere(&shown(name)).await;
        return target.map(|target| fully_qualified(&target)).transpose();
    }
    let target = answer.answers.iter().find_map(|entry| match &entry.data {
        RData::CNAME(target) if entry.name == *name => Some(target.0.clone()),
        _ => None,
    });
    Ok(target)
}

/// Whether the server says so of a zone of its own, and has signed it: refusals need no signature.
fn counts(answer: &Message) -> bool {
    answer.authoritative
        && matches!(answer.response_code, ResponseCode::NoError | ResponseCode::NXDomain)
}

/// The zone of the server's that `name` is in.
async fn zone_of(peer: &Peer, name: &Name) -> Result<Name, UpdateError> {
    let mut asked = name.clone();
    while !asked.is_root() {
        let answer = peer.ask(query(&asked, RecordType::SOA)).await?;
        // It comes as the answer at the zone's own name, and as the reason for none below it.
        let mut entries = answer.answers.iter().chain(&answer.authorities);
        let found = entries
            .find(|entry| entry.record_type() == RecordType::SOA && entry.name.zone_of(name));
        if let (true, Some(found)) = (counts(&answer), found) {
            return Ok(found.name.clone());
        }
        if answer.response_code == ResponseCode::NoError && refers(&answer, name) {
            break;
        }
        asked = asked.base_name();
    }
    Err(UpdateError::NoZone { server: peer.to_string(), name: shown(name) })
}

/// Whether the server sends us on to those of a zone that `name` is in: what it holds above that is not
/// where anybody looks for `name`.
fn refers(answer: &Message, name: &Name) -> bool {
    let mut entries = answer.authorities.iter();
    !answer.authoritative
        && entries.any(|entry| {
            entry.record_type() == RecordType::NS
                && !entry.name.is_root()
                && entry.name.zone_of(name)
        })
}

fn query(name: &Name, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.add_query(Query::query(name.clone(), kind));
    message
}

fn fully_qualified(name: &str) -> Result<Name, UpdateError> {
    let parsed = Name::from_ascii(format!("{}.", name.trim_end_matches('.')));
    parsed.map_err(|source| UpdateError::Name { name: name.to_owned(), source })
}

/// A name as it is written elsewhere: without the dot at its end.
fn shown(name: &Name) -> String {
    let text = name.to_ascii();
    text.strip_suffix('.').filter(|text| !text.is_empty()).unwrap_or(&text).to_owned()
}
