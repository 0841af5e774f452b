//! The PROXY protocol: listeners that take it, pools that get it, and programs of others at either
//! end.

mod incoming;
mod outgoing;
mod peers;

use std::net::{IpAddr, SocketAddr};

/// What every version 2 header begins with.
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Version 2: command and family as in the specification, addresses, extensions.
fn v2(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let length = u16::try_from(block.len()).unwrap().to_be_bytes();
    [SIGNATURE, &[command, family], &length, block].concat()
}

/// Version 2 for a client with this address.
fn v2_of(source: &str, destination: &str) -> Vec<u8> {
    let ends: [SocketAddr; 2] = [source.parse().unwrap(), destination.parse().unwrap()];
    let mut block = Vec::new();
    for end in ends {
        match end.ip() {
            IpAddr::V4(address) => block.extend_from_slice(&address.octets()),
            IpAddr::V6(address) => block.extend_from_slice(&address.octets()),
        }
    }
    for end in ends {
        block.extend_from_slice(&end.port().to_be_bytes());
    }
    v2(0x21, if ends[0].is_ipv4() { 0x11 } else { 0x21 }, &block)
}
