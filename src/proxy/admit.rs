//! From a request's head to what is to be done with it.
//!
//! Pins the generation, identifies the client, finds site and route, and decides: an answer of our
//! own, or a way upstream. Reads plain `http` types; the engine's hook only calls [`admit`] and
//! does what it says.

use std::sync::Arc;

use http::request::Parts;
use http::uri::Scheme as UriScheme;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, header};

use super::accept::Negotiated;
use super::client::{Client, Scheme};
use super::engine;
use super::exchange::Exchange;
use super::failure::Failure;
use super::forms::SiteForm;
use super::gateway::Shared;
use super::generation::Generation;
use super::reply::Reply;
use super::trace::{RequestId, TraceContext};
use super::{filtering, forward};
use crate::config::process::Limits;
use crate::config::route::Action;
use crate::config::site::HttpsPolicy;
use crate::net::path::{self, Canonical};
use crate::net::{HostRef, LONGEST_METHOD, RequestHead};
use crate::route::redirect;
use crate::tls::challenge::HTTP_PREFIX;
use crate::welcome;

/// What is to be done with a request.
#[derive(Debug)]
pub(super) enum Next {
    /// Answer it with this.
    Reply(Reply),
    /// Send it to the pool at this index of the generation.
    Upstream(usize),
}

/// Decides what is to be done with the request that `parts` is the head of.
///
/// # Errors
/// [`Failure`] when nothing can be done but to say why.
pub(super) async fn admit(exchange: &mut Exchange, parts: &Parts) -> Result<Next, Failure> {
    let generation = exchange.shared.current.load_full();
    exchange.generation = Some(Arc::clone(&generation));
    identify(exchange, parts, &generation);
    let limits = &generation.config.limits;
    exchange.in_flight = Some(exchange.shared.enter(limits.requests).ok_or(Failure::Overloaded)?);
    if exchange.is_h2() {
        check_h2_head(exchange, parts, limits)?;
    }
    let authority = authority(exchange, parts)?;
    exchange.head.host.clone_from(&authority);
    let (host, _port) = HostRef::parse_authority(&authority)
        .map_err(|_| Failure::BadRequest("the host is not valid"))?;
    let probed = is_probe(exchange, parts).then(|| Arc::clone(&exchange.shared));
    if let Some(proof) = challenge(probed, parts, &host).await {
        return Ok(Next::Reply(proof));
    }
    let site_index = find_site(exchange, &generation, &host)?;
    generation.forms.expect(site_index);
    let site = generation.forms.site(site_index).ok_or(Failure::Internal)?;
    let path = canonical_path(exchange, parts, site)?;
    let key = path.match_key();
    let head = RequestHead {
        method: &parts.method,
        host,
        path: path.as_str(),
        match_key: key.as_str(),
        query: parts.uri.query(),
        headers: &parts.headers,
    };
    if let Some(reply) = https_only(exchange, site, &head)? {
        return Ok(Next::Reply(reply));
    }
    exchange.route = generation.router.route(site_index, &head);
    generation.counts(exchange.site, exchange.route).enter();
    exchange.is_entered = true;
    filtering::enter(exchange, &generation, site_index, &head)?;
    let route_index = exchange.route.ok_or(Failure::NotFound)?;
    let route = generation.forms.route(site_index, route_index).ok_or(Failure::Internal)?;
    exchange.set_deadline(route.request_timeout);
    if let Some(pool) = route.pool {
        let target = generation.router.target(site_index, route_index, &head);
        let target = target.map_err(|error| Failure::BadRequest(error.reason()))?;
        if parts.uri.path_and_query().is_none_or(|it| !target.is(it.as_str())) {
            exchange.target = Some(target.to_string());
        }
        exchange.upgrade =
            forward::requested_upgrade(&parts.method, parts.version, &parts.headers).cloned();
        return Ok(Next::Upstream(pool));
    }
    if let Some(reply) = &route.reply {
        return Ok(Next::Reply(Reply::clone(reply)));
    }
    let action = &generation.config.sites[site_index].routes[route_index].action;
    reply(exchange, parts, action, &head).map(Next::Reply)
}

/// The answer of a route that makes a new one for each request.
fn reply(
    exchange: &Exchange,
    parts: &Parts,
    action: &Action,
    head: &RequestHead<'_>,
) -> Result<Reply, Failure> {
    match action {
        Action::Redirect(redirect) => Ok(redirect_to(redirect.status, &redirect.location(head))),
        Action::Welcome => Ok(welcome(exchange, parts)),
        Action::Upstream(_) | Action::Respond(_) => Err(Failure::Internal),
    }
}

/// Who asks, under which id and trace, and in which form answers of ours are wanted.
fn identify(exchange: &mut Exchange, parts: &Parts, generation: &Generation) {
    let Some(connection) = exchange.connection.clone() else { return };
    let headers = &parts.headers;
    let trusted = &generation.config.trusted_proxies;
    let client = Client::identify(connection.peer.ip(), connection.tls.is_some(), headers, trusted);
    if let Some(id) = RequestId::continued(&client, headers) {
        exchange.id = id;
    }
    engine::note_request(&exchange.id);
    exchange.trace = Some(TraceContext::of(&client, headers, &exchange.id));
    exchange.client = Some(client);
    exchange.negotiated = Negotiated::from_headers(headers);
    exchange.head.method = parts.method.clone();
    exchange.head.user_agent = headers.get(header::USER_AGENT).cloned();
    exchange.head.protocol = match parts.version {
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2",
        _ => "1.1",
    };
    exchange.head.path = parts.uri.path().to_owned();
}

/// What the head gate checks on HTTP/1.1 and the h2 layer does not.
fn check_h2_head(exchange: &Exchange, parts: &Parts, limits: &Limits) -> Result<(), Failure> {
    check_method(parts.method.as_str())?;
    check_scheme(exchange, parts.uri.scheme())?;
    check_length(&parts.headers)?;
    // The h2 layer answers 431 by itself, without a line of ours, at twice the size.
    let bytes = |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + value.len();
    let size: usize = parts.headers.iter().map(bytes).sum();
    let has_too_many = parts.headers.len() > limits.request_headers
        && count_fields(&parts.headers) > limits.request_headers;
    if has_too_many || size > limits.request_header_bytes {
        return Err(Failure::HeadersTooLarge);
    }
    let target = parts.uri.path_and_query().map_or(0, |target| target.as_str().len());
    if target > limits.request_uri_bytes {
        return Err(Failure::UriTooLong);
    }
    if parts.uri.path() == "*" && parts.method != Method::OPTIONS {
        return Err(Failure::BadRequest("the target * goes with OPTIONS only"));
    }
    match parts.headers.get(header::EXPECT) {
        Some(value) if !value.as_bytes().eq_ignore_ascii_case(b"100-continue") => {
            Err(Failure::ExpectationFailed)
        }
        _ => Ok(()),
    }
}

/// Methods are case-sensitive (RFC 9110 §9.1), but backends know `post` for `POST`: no rule that
/// names a method must be passed by in lower case.
fn check_method(method: &str) -> Result<(), Failure> {
    match method {
        "CONNECT" => Err(Failure::refused(405, "")),
        _ if method.len() > LONGEST_METHOD => Err(Failure::NotImplemented),
        _ if method.bytes().any(|byte| byte.is_ascii_lowercase()) => {
            Err(Failure::BadRequest("the method is not valid"))
        }
        _ => Ok(()),
    }
}

/// One `Content-Length` of digits alone, as on HTTP/1.1: the engine takes equal ones for one, and
/// would send an HTTP/1.1 backend all of them.
fn check_length(headers: &HeaderMap) -> Result<(), Failure> {
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    let Some(length) = lengths.next() else { return Ok(()) };
    let is_number = !length.is_empty() && length.as_bytes().iter().all(u8::is_ascii_digit);
    if lengths.next().is_none() && is_number {
        Ok(())
    } else {
        Err(Failure::BadRequest("the length is not valid"))
    }
}

/// Fields, of which a cookie's pieces are fewer than they look: h2 clients send each on its own to
/// compress them better (RFC 9113 §8.2.3), browsers up to 180 to a site, and the backend gets one
/// field. Four count as one, so that they have an end as well.
fn count_fields(headers: &HeaderMap) -> usize {
    let pieces = headers.get_all(header::COOKIE).iter().count();
    headers.len() - pieces + pieces.div_ceil(4)
}

/// `:scheme` must be what the connection speaks, as an absolute target's on HTTP/1.1. The h2 layer
/// keeps it only beside an `:authority`; without one nobody sees it, the backend included.
fn check_scheme(exchange: &Exchange, scheme: Option<&UriScheme>) -> Result<(), Failure> {
    let Some(scheme) = scheme.map(UriScheme::as_str) else { return Ok(()) };
    let connection = exchange.connection.as_deref().ok_or(Failure::Internal)?;
    let (ours, other) = match connection.tls {
        Some(_) => ("https", "http"),
        None => ("http", "https"),
    };
    if scheme.eq_ignore_ascii_case(ours) {
        Ok(())
    } else if scheme.eq_ignore_ascii_case(other) {
        Err(Failure::Misdirected)
    } else {
        Err(Failure::BadRequest("the scheme is not valid"))
    }
}

/// The host asked for: `:authority` or the absolute form's (RFC 9112 §3.2.2), else `Host`. For
/// HTTP/1.0 without one, or with an empty one, the address that the client connected to (RFC 9112
/// §3.3).
fn authority(exchange: &Exchange, parts: &Parts) -> Result<String, Failure> {
    if let Some(authority) = parts.uri.authority() {
        return Ok(authority.as_str().to_owned());
    }
    let is_old = parts.version == Version::HTTP_10;
    match parts.headers.get(header::HOST).map(HeaderValue::to_str) {
        Some(Ok(host)) if !(host.is_empty() && is_old) => Ok(host.to_owned()),
        Some(Ok(_)) | None if is_old => {
            let connection = exchange.connection.as_deref().ok_or(Failure::Internal)?;
            Ok(connection.local.to_string())
        }
        Some(_) | None => Err(Failure::BadRequest("the host is not valid")),
    }
}

/// Whether a certificate authority may ask so (HTTP-01, RFC 8555 §8.3): over plain HTTP, and under one
/// path.
fn is_probe(exchange: &Exchange, parts: &Parts) -> bool {
    let is_plain = exchange.connection.as_deref().is_some_and(|it| it.tls.is_none());
    is_plain
        && matches!(parts.method, Method::GET | Method::HEAD)
        && parts.uri.path().starts_with(HTTP_PREFIX)
}

/// What proves to a certificate authority that `host` is ours, whichever instance has asked it for a
/// certificate. Neither redirects nor rules may stand in its way.
async fn challenge(
    probed: Option<Arc<Shared>>,
    parts: &Parts,
    host: &HostRef<'_>,
) -> Option<Reply> {
    let shared = probed?;
    let (challenges, path) = (shared.certificates.challenges(), parts.uri.path());
    let proof = match challenges.http(host, path) {
        Some(proof) => proof,
        None => challenges.http_elsewhere(host, path).await?,
    };
    let reply = Reply::proof(proof);
    Some(if parts.method == Method::HEAD { reply.without_body() } else { reply })
}

/// The site for `host` on the request's listener. On a connection with TLS it must be one that
/// the served certificate stands for, and that asks of clients what was asked of this one.
fn find_site(
    exchange: &mut Exchange,
    generation: &Generation,
    host: &HostRef<'_>,
) -> Result<usize, Failure> {
    let connection = exchange.connection.as_deref().ok_or(Failure::Internal)?;
    let nowhere = if connection.tls.is_some() { Failure::Misdirected } else { Failure::NotFound };
    // A reload has removed the listener; the request may be sent again over another connection.
    let listener = generation.listener(&connection.listener).ok_or(Failure::Misdirected)?;
    let site = generation.router.site(listener, host).ok_or(nowhere)?;
    if let Some(tls) = &connection.tls {
        let is_meant = exchange.shared.certificates.serves(&tls.entry, host)
            && tls.satisfies(generation.policy(listener, site));
        if !is_meant {
            return Err(Failure::Misdirected);
        }
    }
    exchange.site = Some(site);
    Ok(site)
}

/// The one spelling of the path, which decides and is what the backend gets.
fn canonical_path<'p>(
    exchange: &mut Exchange,
    parts: &'p Parts,
    site: &SiteForm,
) -> Result<Canonical<'p>, Failure> {
    let raw = match parts.uri.path() {
        "" => "/",
        path => path,
    };
    let canonical = path::canonical(raw, site.encoded_slashes)
        .map_err(|error| Failure::BadRequest(error.reason()))?;
    if canonical.as_str() != exchange.head.path {
        canonical.as_str().clone_into(&mut exchange.head.path);
    }
    Ok(canonical)
}

/// The answer of a site that does not serve plain HTTP to a request over plain HTTP.
fn https_only(
    exchange: &Exchange,
    site: &SiteForm,
    head: &RequestHead<'_>,
) -> Result<Option<Reply>, Failure> {
    let is_plain = exchange.client.as_ref().is_some_and(|client| client.scheme == Scheme::Http);
    match (site.https, site.https_port) {
        (HttpsPolicy::Redirect, Some(port)) if is_plain => {
            let location = redirect::https_location(head.host.clone(), port, head.path, head.query);
            Ok(Some(redirect_to(StatusCode::PERMANENT_REDIRECT, &location)))
        }
        (HttpsPolicy::Only, _) if is_plain => Err(Failure::NotFound),
        // Whatever a proxy in front says of its own connection.
        _ if is_unproven(exchange, site) => Err(Failure::Misdirected),
        _ => Ok(None),
    }
}

/// Whether a site wants certificates of everybody, and the connection is one without TLS of ours, on
/// which nobody has shown any.
fn is_unproven(exchange: &Exchange, site: &SiteForm) -> bool {
    let is_plain = exchange.connection.as_deref().is_some_and(|it| it.tls.is_none());
    is_plain && site.requires_certificate
}

fn redirect_to(status: StatusCode, location: &HeaderValue) -> Reply {
    Reply::redirect(status, location.to_str().unwrap_or("/"))
}

/// The built-in page.
fn welcome(exchange: &Exchange, parts: &Parts) -> Reply {
    let connection = exchange.connection.as_deref();
    let tls = connection.and_then(|connection| connection.tls.as_ref());
    let version = tls.map(|tls| format!("TLS {}", tls.session.version));
    let page = welcome::page(&welcome::Facts {
        host: &exchange.head.host,
        scheme: exchange.client.as_ref().map_or("http", |client| client.scheme.as_str()),
        protocol: &format!("HTTP/{}", exchange.head.protocol),
        tls: version.as_deref(),
        listener: connection.map_or("", |connection| connection.listener.name.as_str()),
        client: exchange
            .client
            .as_ref()
            .map_or_else(|| std::net::Ipv4Addr::UNSPECIFIED.into(), |client| client.address),
        demo: None,
    });
    let reply = Reply::page(page);
    if parts.method == Method::HEAD { reply.without_body() } else { reply }
}
