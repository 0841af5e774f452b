//! Who the client is: by the word of trusted proxies, whatever the fields hold.

use http::{HeaderMap, HeaderName, HeaderValue};
use wardgate::net::CidrSet;
use wardgate::proxy::client::Client;

const FIELDS: [&str; 5] =
    ["forwarded", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-forwarded-port"];

pub(crate) fn check(data: &[u8]) {
    let trusted = CidrSet::parse(["10.0.0.0/8", "fd00::/8"]).expect("blocks");
    let mut headers = HeaderMap::new();
    for line in data.split(|byte| *byte == b'\n') {
        let Some((field, value)) = line.split_first() else { continue };
        let name = HeaderName::from_static(FIELDS[usize::from(*field) % FIELDS.len()]);
        if let Ok(value) = HeaderValue::from_bytes(value) {
            headers.append(name, value);
        }
    }
    for (peer, is_trusted) in [("10.0.0.1", true), ("::ffff:10.0.0.1", true), ("192.0.2.1", false)]
    {
        let peer = peer.parse().expect("an address");
        let client = Client::identify(peer, true, &headers, &trusted);
        let chain = client.chain();
        assert_eq!(client.is_believed(), is_trusted);
        assert_eq!(chain.last(), Some(&peer.to_canonical()), "nobody hides the peer");
        assert_eq!(chain.first(), Some(&client.address));
        assert!(chain.len() <= 33);
        assert!(chain.iter().all(|address| *address == address.to_canonical()));
        // Only the last one may be somebody whom nobody vouches for.
        assert!(chain[1..].iter().all(|address| trusted.contains(*address)) || !is_trusted);
        if !is_trusted {
            assert!(client.host.is_none() && client.port.is_none() && chain.len() == 1);
        }
        let is_host = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._:[]".contains(byte);
        assert!(client.host.is_none_or(|host| host.as_bytes().iter().all(is_host)));
    }
}
