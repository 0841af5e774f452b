//! Who counts as one where clients are counted by their addresses.

use std::net::{IpAddr, Ipv6Addr};

/// Bits of an IPv6 address that tell one customer from another (RFC 6177 §2): who has a network
/// has 2^64 addresses in it.
const BITS: u32 = 64;

/// The address that stands for a client: of IPv6 its network.
#[must_use]
pub fn customer(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            Ipv6Addr::from_bits(address.to_bits() >> (128 - BITS) << (128 - BITS)).into()
        }
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_is_one_customer_and_an_ipv4_address_another() {
        for (address, expected) in [
            ("192.0.2.1", "192.0.2.1"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
            ("2001:db8:1:2:ffff::", "2001:db8:1:2::"),
            ("2001:db8:1:3::1", "2001:db8:1:3::"),
            ("::1", "::"),
        ] {
            let [address, expected] = [address, expected].map(|it| it.parse::<IpAddr>().unwrap());
            assert_eq!(customer(address), expected, "{address}");
        }
    }
}
