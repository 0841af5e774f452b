use super::*;

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000)
}

fn said(status: u16, r#type: &str, detail: &str) -> Problem {
    let document = serde_json::json!({
        "type": format!("urn:ietf:params:acme:error:{type}"), "detail": detail, "status": status,
    });
    Problem::read(status, None, document.to_string().as_bytes(), now())
}

#[test]
fn what_authorities_say_is_told_apart() {
    use Kind::{
        AccountDeactivated, AccountUnknown, AlreadyReplaced, BadNonce, Caa, Contact,
        ExternalAccount, InvalidProfile, Malformed, NotFound, OrderNotReady, Other, Paused,
        RateLimited, RejectedIdentifier, Unauthorized, Unavailable, UserActionRequired, Validation,
    };
    for (status, r#type, detail, kind, is_permanent) in [
        (400, "badNonce", "JWS has an invalid anti-replay nonce", BadNonce, false),
        (429, "rateLimited", "too many new orders (300) from this account", RateLimited, false),
        (429, "somethingNew", "slow down", RateLimited, false),
        (
            429,
            "rateLimited",
            "Your account is temporarily prevented from requesting certificates for a.test and \
             possibly others. Please visit: https://portal.test/unpause?jwt=abc",
            Paused,
            true,
        ),
        (400, "accountDoesNotExist", "unable to find account", AccountUnknown, false),
        (403, "unauthorized", "Account has been deactivated", AccountDeactivated, true),
        (
            403,
            "unauthorized",
            "Account is not valid, has status \"deactivated\"",
            AccountDeactivated,
            true,
        ),
        (403, "unauthorized", "the external account binding is wrong", ExternalAccount, true),
        (403, "externalAccountRequired", "", ExternalAccount, true),
        (403, "unauthorized", "Invalid response from http://a.test/", Unauthorized, false),
        (403, "userActionRequired", "agree", UserActionRequired, true),
        (400, "invalidContact", "", Contact, true),
        (403, "caa", "CAA record for a.test prevents issuance", Caa, false),
        (400, "rejectedIdentifier", "forbidden by policy", RejectedIdentifier, true),
        (400, "invalidProfile", "no such profile", InvalidProfile, true),
        (409, "alreadyReplaced", "", AlreadyReplaced, false),
        (403, "orderNotReady", "", OrderNotReady, false),
        (400, "dns", "DNS problem: SERVFAIL", Validation, false),
        (400, "malformed", "no", Malformed, false),
        (404, "malformed", "no such order", NotFound, false),
        (500, "serverInternal", "", Unavailable, false),
        (503, "rateLimited", "Service busy; retry later.", RateLimited, false),
        (418, "teapot", "", Other, false),
    ] {
        let problem = said(status, r#type, detail);
        assert_eq!((problem.kind, problem.is_permanent()), (kind, is_permanent), "{problem}");
    }
}

#[test]
fn a_load_balancers_page_is_an_outage_of_the_authority() {
    let page = b"<html><head><title>503 Service Temporarily Unavailable</title></head>\r\n<body>x";
    let later = now() + Duration::from_secs(120);
    let problem = Problem::read(503, Some(later), page, now());
    assert_eq!((problem.kind, problem.scope()), (Kind::Unavailable, Scope::Authority));
    assert_eq!(problem.retry_after(), Some(later));
    assert_eq!(problem.to_string(), "status 503: 503 Service Temporarily Unavailable x");
}

#[test]
fn a_limit_names_whom_it_stops_and_until_when() {
    let named = |name: &str| Scope::Names(vec![name.to_owned()]);
    let moment = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    for (detail, scope, until) in [
        (
            "too many certificates (5) already issued for this exact set of identifiers in the \
             last 168h0m0s, retry after 2026-11-25 14:00:00 UTC: see https://ca.test/limits",
            Scope::ExactSet,
            moment(1_795_615_200),
        ),
        (
            "too many certificates (50) already issued for \"example.com\" in the last 168h0m0s",
            named("example.com"),
            now() + UNTOLD_LIMIT,
        ),
        (
            "too many failed authorizations (5) for \"www.example.com\" in the last 1h0m0s, retry \
             after 2026-11-25 14:00:00 UTC",
            named("www.example.com"),
            moment(1_795_615_200),
        ),
        ("too many new orders (300) from this account", Scope::Account, now() + UNTOLD_LIMIT),
        ("too many requests from this IP address", Scope::Authority, now() + UNTOLD_LIMIT),
        ("retry after 2026-13-45 99:00:00 UTC", Scope::Account, now() + UNTOLD_LIMIT),
        ("retry after tomorrow, perhaps", Scope::Account, now() + UNTOLD_LIMIT),
    ] {
        let problem = said(429, "rateLimited", detail);
        assert_eq!((problem.scope(), problem.retry_after()), (scope, Some(until)), "{detail}");
    }
    let header = Some(now() + Duration::from_secs(7));
    let text = br#"{"type":"urn:ietf:params:acme:error:rateLimited","detail":"retry after 2030-01-01 00:00:00 UTC"}"#;
    assert_eq!(Problem::read(429, header, text, now()).retry_after(), header, "the header counts");
}

#[test]
fn a_paused_account_has_a_link_and_a_name() {
    let problem = said(
        429,
        "rateLimited",
        "Your account is temporarily prevented from requesting certificates for a.test and \
         possibly others. Please visit: https://portal.test/unpause?jwt=abc.",
    );
    assert_eq!(problem.link(), Some("https://portal.test/unpause?jwt=abc"));
    assert_eq!(problem.scope(), Scope::Names(vec!["a.test".to_owned()]));
    assert_eq!(problem.retry_after(), None);
}

#[test]
fn subproblems_name_the_names_and_lend_their_kind() {
    let body = br#"{"type":"urn:ietf:params:acme:error:malformed","detail":"some names",
        "subproblems":[
          {"type":"urn:ietf:params:acme:error:rejectedIdentifier","detail":"policy",
           "identifier":{"type":"dns","value":"a.test"}},
          {"type":"urn:ietf:params:acme:error:rejectedIdentifier","detail":"policy",
           "identifier":{"type":"ip","value":"192.0.2.1"}},
          {"type":"x","detail":"about nobody"}]}"#;
    let problem = Problem::read(400, None, body, now());
    assert_eq!(problem.kind, Kind::RejectedIdentifier);
    let names = vec!["a.test".to_owned(), "192.0.2.1".to_owned()];
    assert_eq!(problem.scope(), Scope::Names(names));
    assert!(problem.to_string().contains("a.test: rejectedIdentifier: policy"), "{problem}");
}

#[test]
fn whatever_is_sent_is_a_problem_and_no_panic() {
    for body in [&b""[..], b"null", b"[]", b"{}", b"{\"type\":1}", b"\xff\xfe<", b"https://"] {
        let problem = Problem::read(400, None, body, now());
        let _ = (problem.to_string(), problem.scope(), problem.link(), problem.is_permanent());
    }
    assert_eq!(said(400, "malformed", &"\u{e9}".repeat(5000)).detail.len(), 2000);
    let _ = said(429, "rateLimited", "retry after 2026-11-25 14:0\u{e9}:00 UTC").retry_after();
}

#[test]
fn what_is_mostly_the_cause_is_said_beside_it() {
    let hint = |r#type: &str, detail: &str| said(0, r#type, detail).hint();
    let secondary = "During secondary validation: 192.0.2.1: Fetching http://a.test/: Timeout";
    for (r#type, detail, wanted) in [
        ("connection", secondary, "several places"),
        ("unauthorized", secondary, "several places"),
        ("connection", "Connection refused", "reach the name"),
        ("dns", "NXDOMAIN looking up A for a.test", "no address"),
        ("caa", "CAA record for a.test prevents issuance", "CAA record"),
        ("malformed", "Contact information is missing", "acme.email"),
        ("invalidContact", "not an address", "acme.email"),
        ("incorrectResponse", "expected x, got y", "something else answers"),
    ] {
        assert!(hint(r#type, detail).unwrap().contains(wanted), "{type}");
    }
    assert_eq!(hint("rateLimited", "too many"), None);
    assert_eq!(said(403, "unauthorized", "no such account").hint(), None);
    let body = serde_json::json!({ "type": "urn:ietf:params:acme:error:compound", "detail": "two",
        "subproblems": [ { "type": "urn:ietf:params:acme:error:dns", "detail": "SERVFAIL",
            "identifier": { "type": "dns", "value": "a.test" } } ] });
    let problem = Problem::read(400, None, body.to_string().as_bytes(), now());
    assert!(problem.hint().unwrap().contains("no address"));
}
