//! Host names: one spelling each, and every reader finds the same.

use wardgate::net::{Host, HostName, HostPattern, HostRef};

pub(crate) fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(name) = HostName::parse(text) {
        let shown = name.to_string();
        assert!((1..=253).contains(&shown.len()) && shown.is_ascii());
        assert!(!shown.ends_with('.') && !shown.bytes().any(|byte| byte.is_ascii_uppercase()));
        assert_eq!(HostName::parse(&shown), Ok(name));
    }
    if let Ok((host, port)) = Host::parse_authority(text) {
        let again = match port {
            Some(port) => format!("{host}:{port}"),
            None => host.to_string(),
        };
        assert_eq!(Host::parse_authority(&again), Ok((host.clone(), port)), "{again}");
        // The one that does not allocate may be stricter about spellings, never of another mind.
        if let Ok((borrowed, its)) = HostRef::parse_authority(text) {
            assert_eq!((borrowed.to_host(), its), (host, port));
        }
    }
    if let Ok(pattern) = HostPattern::parse(text) {
        let shown = pattern.to_string();
        assert_eq!(HostPattern::parse(&shown).map(|it| it.to_string()), Ok(shown));
    }
}
