//! The PROXY header with which a load balancer begins a connection.
//!
//! Answers "may this sender connect here, and whose connection is it?". Called by `connection` before
//! anything else is read. Never takes a byte that follows the header: that is TLS's or HTTP's.

use std::net::SocketAddr;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use super::connection::{Door, Surroundings};
use crate::net::proxy_protocol::{HeaderFault, Said, Verdict, inspect};
use crate::telemetry::metrics::ProxyHeader;

/// Bytes looked at in one go; headers without a certificate in them are shorter.
const STEP: usize = 256;

/// Why there is no header.
#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error(transparent)]
    Refused(#[from] HeaderFault),
    #[error("the connection ended before its PROXY header did")]
    Closed,
}

/// Whether `sender` may connect through `door`: anybody may where no header is asked for, and those
/// listed where one is. Counts and tells of the others.
pub(super) fn may_connect(sender: SocketAddr, door: &Door) -> bool {
    let Some(senders) = &door.listener.proxy_protocol else { return true };
    let is_listed = senders.contains(sender.ip());
    if !is_listed {
        door.metrics.turn_away();
        complain(door, sender, ProxyHeader::Unlisted, "no address of its proxy_protocol");
    }
    is_listed
}

/// What the header of a connection from `sender` says; `None` when there is none by `end`, or we are
/// stopping.
pub(super) async fn read(
    stream: &mut TcpStream,
    sender: SocketAddr,
    end: Instant,
    door: &Door,
    around: &Surroundings,
) -> Option<Said> {
    let header = timeout_at(end, header(stream));
    let outcome = match around.drain.run_until_cancelled(header).await? {
        Ok(Ok(said)) => {
            let is_client = matches!(said, Said::Client { .. });
            let outcome = if is_client { ProxyHeader::Client } else { ProxyHeader::Local };
            door.metrics.proxy_header(outcome);
            return Some(said);
        }
        Ok(Err(ReadError::Refused(fault))) => {
            complain(door, sender, ProxyHeader::Malformed, &fault.to_string());
            return None;
        }
        // What only looks whether the port is open is no reason to complain.
        Ok(Err(ReadError::Closed)) => ProxyHeader::Closed,
        Err(_) => ProxyHeader::Timeout,
    };
    door.metrics.proxy_header(outcome);
    let listener = &door.facts.name;
    let reason = outcome.as_str();
    tracing::debug!(%listener, client.address = %sender.ip(), reason, "got no PROXY header");
    None
}

/// Takes the header off the stream: looks at what is there, and then takes what belongs to it.
async fn header(stream: &mut TcpStream) -> Result<Said, ReadError> {
    let mut header = Vec::new();
    loop {
        let mut step = [0; STEP];
        let count = stream.peek(&mut step).await.map_err(|_| ReadError::Closed)?;
        if count == 0 {
            return Err(ReadError::Closed);
        }
        let before = header.len();
        header.extend_from_slice(&step[..count]);
        let (taken, said) = match inspect(&header) {
            Verdict::Incomplete => (count, None),
            Verdict::Header { len, said } => (len - before, Some(said)),
            Verdict::Refuse(fault) => return Err(fault.into()),
        };
        stream.read_exact(&mut step[..taken]).await.map_err(|_| ReadError::Closed)?;
        if let Some(said) = said {
            return Ok(said);
        }
    }
}

/// Counts a connection that is refused, and tells of it: aloud the first time, the tenth, the
/// hundredth and so on, since who must act needs to hear of it, and anybody can connect.
fn complain(door: &Door, sender: SocketAddr, outcome: ProxyHeader, error: &str) {
    let count = door.metrics.proxy_header(outcome);
    let listener = &door.facts.name;
    let client = sender.ip().to_canonical();
    if is_power_of_ten(count) {
        tracing::warn!(%listener, client.address = %client, error, count, "refused a sender");
    } else {
        tracing::debug!(%listener, client.address = %client, error, count, "refused a sender");
    }
}

fn is_power_of_ten(count: u64) -> bool {
    count.checked_ilog10().is_some_and(|digits| count == 10u64.pow(digits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_louder_complaints_become_rare() {
        let loud: Vec<u64> = (0..=1000).filter(|count| is_power_of_ten(*count)).collect();
        assert_eq!(loud, [1, 10, 100, 1000]);
        assert!(!is_power_of_ten(u64::MAX));
    }
}
