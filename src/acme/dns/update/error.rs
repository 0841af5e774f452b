//! Why a zone is not updated, and what to do about it.

use std::io;

use hickory_proto::ProtoError;
use hickory_proto::op::ResponseCode;

/// Why a zone is not updated.
#[derive(Debug, thiserror::Error)]
pub enum UpdateError {
    /// The server's name leads nowhere.
    #[error("the name server {server} has no address")]
    Resolve {
        /// The server.
        server: String,
        /// What the system said, if it said something.
        source: Option<io::Error>,
    },
    /// Nobody answers, over UDP or TCP.
    #[error("the name server {server} does not answer, over UDP or TCP")]
    Unreachable {
        /// The server.
        server: String,
        /// What TCP came to.
        source: io::Error,
    },
    /// This cannot be a name.
    #[error("{name:?} is no name of the DNS")]
    Name {
        /// What was to be one.
        name: String,
        /// What is wrong with it.
        source: ProtoError,
    },
    /// A message cannot be made or understood.
    #[error("the name server {server} and this one do not understand each other")]
    Garbled {
        /// The server.
        server: String,
        /// What is wrong with the message.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The server has no key of this name and algorithm.
    #[error(
        "the name server {server} knows no key {key} with {algorithm}: `key.name` and \
         `key.algorithm` have to be as in its configuration"
    )]
    BadKey {
        /// The server.
        server: String,
        /// The key's name.
        key: String,
        /// What it signs with.
        algorithm: &'static str,
    },
    /// The server has another secret.
    #[error(
        "the name server {server} has another secret for the key {key}: `key.secret` has to be as \
         in its configuration"
    )]
    BadSignature {
        /// The server.
        server: String,
        /// The key's name.
        key: String,
    },
    /// The clocks differ too much.
    #[error(
        "the clock of the name server {server} {}, and signatures allow for {allowed} s: set both \
         by NTP", difference(*.ahead)
    )]
    BadTime {
        /// The server.
        server: String,
        /// How far its clock is ahead of ours, in seconds, if it said what it shows.
        ahead: Option<i64>,
        /// As much as is allowed.
        allowed: u16,
    },
    /// Somebody answers who does not have the key.
    #[error(
        "the answer of the name server {server} is not signed with the key {key}: it has to have \
         that key and to be the server itself"
    )]
    Unsigned {
        /// The server.
        server: String,
        /// The key's name.
        key: String,
    },
    /// The server has no zone for the name.
    #[error(
        "the name server {server} has no zone that {name} is in: name the primary server of the \
         zone, or set `zone`"
    )]
    NoZone {
        /// The server.
        server: String,
        /// The name.
        name: String,
    },
    /// The zone is not the name's.
    #[error("{name} is not in the zone {zone}: set `zone` to the zone it is in, or leave it out")]
    Outside {
        /// The name.
        name: String,
        /// The zone.
        zone: String,
    },
    /// The zone is not the server's to change.
    #[error(
        "the name server {server} is not the primary server of {zone}: name the one that is, or \
         correct `zone`"
    )]
    NotPrimary {
        /// The server.
        server: String,
        /// The zone.
        zone: String,
    },
    /// The key may not do it.
    #[error(
        "the name server {server} does not let the key {key} change TXT records of {name} in \
         {zone}: allow it there (BIND: `update-policy` or `allow-update` of the zone)"
    )]
    Refused {
        /// The server.
        server: String,
        /// The key's name.
        key: String,
        /// The record's name.
        name: String,
        /// The zone.
        zone: String,
    },
    /// The server does not do such things.
    #[error("the name server {server} takes no dynamic updates ({code})")]
    NoUpdates {
        /// The server.
        server: String,
        /// What it answers.
        code: ResponseCode,
    },
    /// The server has a fault of its own.
    #[error("the name server {server} could not change {zone} ({code}): its log says why")]
    Failed {
        /// The server.
        server: String,
        /// The zone.
        zone: String,
        /// What it answers.
        code: ResponseCode,
    },
}

impl UpdateError {
    /// What the answer `code` to an update means.
    pub(super) fn of(
        code: ResponseCode,
        server: String,
        key: String,
        name: String,
        zone: String,
    ) -> Self {
        match code {
            ResponseCode::Refused => Self::Refused { server, key, name, zone },
            ResponseCode::NotAuth => Self::NotPrimary { server, zone },
            ResponseCode::NotZone => Self::Outside { name, zone },
            ResponseCode::NotImp | ResponseCode::FormErr => Self::NoUpdates { server, code },
            code => Self::Failed { server, zone, code },
        }
    }

    /// Whether the server may have done what it was asked for.
    pub(in crate::acme::dns) fn is_open(&self) -> bool {
        match self {
            Self::Unreachable { source, .. } => source.kind() != io::ErrorKind::ConnectionRefused,
            Self::Garbled { .. } | Self::Unsigned { .. } | Self::Failed { .. } => true,
            _ => false,
        }
    }
}

/// How far a clock is off.
fn difference(ahead: Option<i64>) -> String {
    match ahead {
        None => "differs from this machine's".to_owned(),
        Some(ahead) if ahead < 0 => format!("is {} s behind this machine's", -ahead),
        Some(ahead) => format!("is {ahead} s ahead of this machine's"),
    }
}
