//! Who answers where an authority asks: on port 80 for HTTP-01, on port 443 for TLS-ALPN-01.

use std::error::Error;
use std::io;
use std::net::{IpAddr, SocketAddr};

use futures_util::future::join_all;
use http::header::{HOST, LOCATION, SERVER, USER_AGENT};
use http::{HeaderMap, Request};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::holder::{Holder, holders};
use super::{Gateway, Means, Shown};
use crate::acme::finding::{Finding, Verdict, told};
use crate::config::acme::{Acme, ChallengeKind};
use crate::net::{Host, HostPattern};
use crate::tls::ConnectError;
use crate::tls::challenge::HTTP_PREFIX;
use crate::tls::probe::{self, Seen};

/// Who answers at one address.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Answer {
    /// This gateway.
    Ours,
    /// Nobody: the connection was refused.
    Refused,
    /// Nobody within the time.
    Silent,
    /// There is no way there.
    Unreachable(String),
    /// Somebody else, or this gateway where it should not: what was seen.
    Other(String),
    /// Somebody, and there is no telling who: what was seen.
    Unknown(String),
}

/// One of the two ports.
#[derive(Clone, Copy, Debug)]
struct Port {
    what: &'static str,
    number: u16,
    challenge: ChallengeKind,
}

/// Addresses that are tried; an authority tries one or two.
const MOST_ADDRESSES: usize = 6;

/// Bytes of an answer that are read.
const MOST: usize = 64 << 10;

/// Asks at all of `addresses` for `name`.
pub(super) async fn look(
    name: &HostPattern,
    addresses: &[IpAddr],
    acme: &Acme,
    means: &Means,
) -> Vec<Finding> {
    let HostPattern::Exact(host) = name else {
        return vec![Finding::ok("ports", "not asked: a wildcard is proven by DNS alone")];
    };
    if addresses.is_empty() {
        return Vec::new();
    }
    let ports = [
        Port { what: "port 80", number: means.http_port, challenge: ChallengeKind::Http01 },
        Port { what: "port 443", number: means.https_port, challenge: ChallengeKind::TlsAlpn01 },
    ];
    let used = ports.into_iter().filter(|port| acme.challenges.contains(&port.challenge));
    let looked = used.map(|port| async move {
        let asked = addresses.iter().take(MOST_ADDRESSES).map(|address| async move {
            let address = SocketAddr::new(*address, port.number);
            (address, ask(port, address, host, means).await)
        });
        let answers = join_all(asked).await;
        let is_ours = answers.iter().any(|(_, answer)| *answer == Answer::Ours);
        let local = if is_ours { Vec::new() } else { local(port).await };
        (is_ours, judge(port, &answers, &local))
    });
    let looked = join_all(looked).await;
    let has_way = acme.has_dns() || looked.iter().any(|(is_ours, _)| *is_ours);
    let findings = looked.into_iter().flat_map(|(_, findings)| findings);
    // One way to prove a name is enough.
    let ease = |finding: Finding| match finding.verdict {
        Verdict::Fault if has_way => {
            let text = format!("{} (another challenge is open)", finding.text);
            Finding { text, ..finding.eased() }
        }
        _ => finding,
    };
    findings.map(ease).collect()
}

async fn local(port: Port) -> Vec<Holder> {
    tokio::task::spawn_blocking(move || holders(port.number)).await.unwrap_or_default()
}

async fn ask(port: Port, address: SocketAddr, host: &Host, means: &Means) -> Answer {
    let patience = means.patience;
    let stream = || async {
        let connected = timeout(patience, TcpStream::connect(address)).await;
        connected
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            .map_err(Answer::unconnected)
    };
    let shown = match &means.gateway {
        Gateway::Shows(all) => all.get(&host.to_string()),
        Gateway::Silent(_) => None,
    };
    let mut first = match stream().await {
        Ok(stream) => stream,
        Err(answer) => return answer,
    };
    if port.challenge == ChallengeKind::Http01 {
        let asked = timeout(patience, ask_http(first, host, shown)).await;
        return asked.unwrap_or_else(|_| Answer::Other("somebody who does not answer".to_owned()));
    }
    let proof = shown.filter(|shown| shown.tls_alpn);
    if let Some(shown) = proof {
        let seen = timeout(patience, probe::as_authority(first, host)).await;
        if let Ok(Ok(Some(seen))) = seen
            && seen.proves(&shown.key_authorization)
        {
            return Answer::Ours;
        }
        // Who is it, then?
        first = match stream().await {
            Ok(stream) => stream,
            Err(answer) => return answer,
        };
    }
    match timeout(patience, probe::as_client(first, host)).await {
        Ok(seen) => Answer::of_tls(seen, proof.is_some()),
        Err(_) => Answer::Other("somebody who does not answer a TLS handshake".to_owned()),
    }
}

/// Asks for a challenge as an authority does (RFC 8555 §8.3), but follows no redirect.
async fn ask_http(stream: TcpStream, host: &Host, shown: Option<&Shown>) -> Answer {
    let token = shown.map_or("wardgate-check", |shown| &*shown.token);
    let authority = match host {
        Host::Name(name) => name.as_str().to_owned(),
        Host::Address(IpAddr::V6(address)) => format!("[{address}]"),
        Host::Address(address) => address.to_string(),
    };
    let request = Request::get(format!("{HTTP_PREFIX}{token}"))
        .header(HOST, authority)
        .header(USER_AGENT, concat!("wardgate/", env!("CARGO_PKG_VERSION")))
        .body(Empty::<bytes::Bytes>::new());
    let exchange = async {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let answer = async {
            let (head, body) = sender.send_request(request?).await?.into_parts();
            let body = Limited::new(body, MOST).collect().await;
            let body = body.map(|body| body.to_bytes()).unwrap_or_default();
            Ok::<_, Box<dyn Error + Send + Sync>>((head, body))
        };
        let mut answer = std::pin::pin!(answer);
        tokio::select! {
            answer = &mut answer => answer,
            _ = connection => answer.await,
        }
    };
    let (head, body) = match exchange.await {
        Ok(answer) => answer,
        Err(error) => {
            let text = format!("somebody who does not speak HTTP ({})", told(&*error));
            return Answer::Other(text);
        }
    };
    if shown.is_some_and(|shown| *shown.key_authorization.as_bytes() == *body.trim_ascii()) {
        return Answer::Ours;
    }
    let text = |name| text_of(&head.headers, &name);
    let mut seen = format!("a server that says {}", head.status.as_u16());
    if let Some(server) = text(SERVER) {
        seen += &format!(" and calls itself {server}");
    }
    if let Some(to) = text(LOCATION) {
        seen += &format!(", and sends on to {to}");
    }
    if shown.is_some() { Answer::Other(seen) } else { Answer::Unknown(seen) }
}

/// A field's value, short and without what would move a cursor.
fn text_of(headers: &HeaderMap, name: &http::HeaderName) -> Option<String> {
    let value = String::from_utf8_lossy(headers.get(name)?.as_bytes()).into_owned();
    Some(value.chars().filter(|char| !char.is_control()).take(80).collect())
}

impl Answer {
    fn unconnected(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused,
            io::ErrorKind::TimedOut => Self::Silent,
            _ => Self::Unreachable(error.to_string()),
        }
    }

    /// Who shows himself in an ordinary handshake, after he did not prove to be us; or where nobody
    /// `can_tell`.
    fn of_tls(seen: Result<Option<Seen>, ConnectError>, can_tell: bool) -> Self {
        let text = match seen {
            Ok(Some(seen)) => {
                let names = seen.names.iter().take(5).map(ToString::to_string).collect::<Vec<_>>();
                let issuer: String =
                    seen.issuer.chars().filter(|char| !char.is_control()).take(80).collect();
                format!("a server with a certificate of {issuer} for {}", names.join(", "))
            }
            Ok(None) => "a server with a certificate that cannot be read".to_owned(),
            Err(error) => {
                return Self::Other(format!("somebody with whom TLS fails: {}", told(&error)));
            }
        };
        if can_tell { Self::Other(text) } else { Self::Unknown(text) }
    }

    fn text(&self) -> String {
        match self {
            Self::Ours => "this gateway answers".to_owned(),
            Self::Refused => "the connection is refused: nothing listens there".to_owned(),
            Self::Silent => "no connection within the time".to_owned(),
            Self::Unreachable(why) => format!("no connection: {why}"),
            Self::Other(seen) => format!("not this gateway answers, but {seen}"),
            Self::Unknown(seen) => format!("{seen} answers"),
        }
    }

    fn hint(&self, port: Port) -> String {
        let number = port.number;
        match self {
            Self::Ours | Self::Unknown(_) => String::new(),
            Self::Refused => format!(
                "is the gateway running, does a listener bind :{number}, does a router lead the port to it?"
            ),
            Self::Silent => "a firewall (this machine's, the provider's, the router's) drops it; from \
                             behind a router that does not lead its own address back this fails though \
                             all is well"
                .to_owned(),
            Self::Unreachable(_) => "the address, or the route to it, is wrong".to_owned(),
            Self::Other(_) => {
                "let the name lead here, or have the other server pass this port on".to_owned()
            }
        }
    }
}

/// What was seen at all addresses of a port, and who holds the port on this machine.
fn judge(port: Port, answers: &[(SocketAddr, Answer)], local: &[Holder]) -> Vec<Finding> {
    let ours: Vec<&SocketAddr> =
        answers.iter().filter(|(_, answer)| *answer == Answer::Ours).map(|(at, _)| at).collect();
    let method = port.challenge.as_str();
    let mut findings = Vec::new();
    if !ours.is_empty() {
        let list = ours.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let text = format!("this gateway answers at {list}: {method} is open");
        findings.push(Finding::ok(port.what, text));
    }
    let others = answers.iter().filter(|(_, answer)| *answer != Answer::Ours);
    for (at, answer) in others {
        let text = format!("{at}: {}", answer.text());
        let finding = match answer {
            Answer::Unknown(_) => Finding::warning(port.what, text),
            _ if at.is_ipv6() && !ours.is_empty() => Finding::warning(port.what, text)
                .hint("authorities prefer IPv6: correct the AAAA record, or remove it"),
            _ if !ours.is_empty() => Finding::warning(port.what, text).hint(answer.hint(port)),
            _ => Finding::fault(port.what, text).hint(answer.hint(port)),
        };
        findings.push(finding);
    }
    if ours.is_empty() {
        findings.extend(held(port, local));
    }
    findings
}

/// Who holds the port here, unless that is the gateway.
fn held(port: Port, local: &[Holder]) -> Option<Finding> {
    let number = port.number;
    if local.is_empty() {
        return Some(Finding::warning(
            port.what,
            format!("nothing on this machine listens on port {number}"),
        ));
    }
    let others: Vec<String> =
        local.iter().filter(|holder| !holder.is_wardgate()).map(ToString::to_string).collect();
    if others.is_empty() {
        return None;
    }
    let text = format!("on this machine port {number} is held by {}", others.join(", "));
    Some(Finding::warning(port.what, text).hint("stop it, or have it listen elsewhere"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORT: Port = Port { what: "port 80", number: 80, challenge: ChallengeKind::Http01 };

    fn judged(answers: &[(&str, Answer)], local: &[Holder]) -> Vec<(Verdict, String)> {
        let answers: Vec<_> =
            answers.iter().map(|(at, answer)| (at.parse().unwrap(), answer.clone())).collect();
        let findings = judge(PORT, &answers, local);
        findings.into_iter().map(|finding| (finding.verdict, finding.text)).collect()
    }

    #[test]
    fn a_broken_address_beside_a_good_one_is_a_warning() {
        let (v4, v6) = ("192.0.2.1:80", "[2001:db8::1]:80");
        let good = judged(&[(v6, Answer::Ours), (v4, Answer::Ours)], &[]);
        let text = "this gateway answers at [2001:db8::1]:80, 192.0.2.1:80: http-01 is open";
        assert_eq!(good, [(Verdict::Ok, text.to_owned())]);
        let half = judged(&[(v6, Answer::Silent), (v4, Answer::Ours)], &[]);
        assert_eq!(half[0].0, Verdict::Ok);
        let text = "[2001:db8::1]:80: no connection within the time";
        assert_eq!(half[1], (Verdict::Warning, text.to_owned()));
    }

    #[test]
    fn who_is_in_the_way_is_named() {
        let v4 = "192.0.2.1:80";
        let apache = Holder { pid: Some(12), program: Some("apache2".to_owned()) };
        let own = Holder { pid: Some(13), program: Some("wardgate".to_owned()) };
        let other = Answer::Other("a server that says 404".to_owned());
        let found = judged(&[(v4, other)], &[apache, own.clone()]);
        assert_eq!(
            found,
            [
                (
                    Verdict::Fault,
                    "192.0.2.1:80: not this gateway answers, but a server that says 404".to_owned()
                ),
                (
                    Verdict::Warning,
                    "on this machine port 80 is held by apache2 (process 12)".to_owned()
                ),
            ]
        );
        let found = judged(&[(v4, Answer::Refused)], &[]);
        assert_eq!(found[1].1, "nothing on this machine listens on port 80");
        let unknown = Answer::Unknown("a server that says 404".to_owned());
        let found = judged(&[(v4, unknown)], &[own]);
        let text = "192.0.2.1:80: a server that says 404 answers";
        assert_eq!(found, [(Verdict::Warning, text.to_owned())]);
    }
}
