//! Sets of address blocks.
//!
//! Answers "is this peer one of those?" for trusted proxies and access lists. IPv4-mapped IPv6
//! addresses (RFC 4291 §2.5.5.2) count as IPv4 on both sides; an IPv6 block such as `::/0` holds
//! IPv6 addresses only.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// An address block such as `10.0.0.0/8`; no host bits are set.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Cidr {
    network: IpAddr,
    prefix: u8,
}

impl Cidr {
    /// Parses `"10.0.0.0/8"`, `"2001:db8::/32"` or a bare address, which is a block of one.
    ///
    /// # Errors
    /// [`CidrError`]; an address inside the block instead of its first one is refused with the
    /// block it lies in, since either of the two numbers may be the mistake.
    pub fn parse(text: &str) -> Result<Self, CidrError> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let written: IpAddr =
            address.parse().map_err(|_| CidrError::Address(address.to_owned()))?;
        let width = width(written);
        let prefix = match prefix {
            Some(prefix) => parse_prefix(prefix, width)?,
            None => width,
        };
        let block = Self { network: mask(written, prefix), prefix };
        if block.network != written {
            return Err(CidrError::HostBits { address: written, block });
        }
        Ok(block.unmapped())
    }

    /// The first address.
    #[must_use]
    pub fn network(&self) -> IpAddr {
        self.network
    }

    /// The number of leading bits that all addresses share.
    #[must_use]
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// `::ffff:10.0.0.0/104` as `10.0.0.0/8`.
    fn unmapped(self) -> Self {
        match self.network.to_canonical() {
            network @ IpAddr::V4(_) if self.network.is_ipv6() && self.prefix >= 96 => {
                Self { network, prefix: self.prefix - 96 }
            }
            _ => self,
        }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

/// A set of address blocks. The default one is empty.
///
/// A look-up is a binary search over ranges that neither overlap nor touch.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct CidrSet {
    blocks: Vec<Cidr>,
    v4: Vec<(u32, u32)>,
    v6: Vec<(u128, u128)>,
}

impl CidrSet {
    /// Builds the set of all blocks in `texts`.
    ///
    /// # Errors
    /// The first [`CidrError`]; [`CidrSet::parse_block`] with `collect` finds every one.
    pub fn parse<'t>(texts: impl IntoIterator<Item = &'t str>) -> Result<Self, CidrError> {
        texts.into_iter().map(Self::parse_block).collect()
    }

    /// Parses one member, as [`Cidr::parse`].
    ///
    /// # Errors
    /// As [`Cidr::parse`].
    pub fn parse_block(text: &str) -> Result<Cidr, CidrError> {
        Cidr::parse(text)
    }

    /// Whether `address` lies in one of the blocks.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match address.to_canonical() {
            IpAddr::V4(address) => holds(&self.v4, address.to_bits()),
            IpAddr::V6(address) => holds(&self.v6, address.to_bits()),
        }
    }

    /// The blocks in the order written.
    pub fn iter(&self) -> impl Iterator<Item = Cidr> + '_ {
        self.blocks.iter().copied()
    }

    /// Whether no address is in the set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }
}

impl FromIterator<Cidr> for CidrSet {
    fn from_iter<I: IntoIterator<Item = Cidr>>(blocks: I) -> Self {
        let mut set = Self::default();
        for block in blocks {
            match block.network {
                IpAddr::V4(first) => {
                    let hosts = u32::MAX.checked_shr(block.prefix.into()).unwrap_or(0);
                    set.v4.push((first.to_bits(), first.to_bits() | hosts));
                }
                IpAddr::V6(first) => {
                    let hosts = u128::MAX.checked_shr(block.prefix.into()).unwrap_or(0);
                    set.v6.push((first.to_bits(), first.to_bits() | hosts));
                }
            }
            set.blocks.push(block);
        }
        merge(&mut set.v4);
        merge(&mut set.v6);
        set
    }
}

impl fmt::Display for CidrSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, block) in self.blocks.iter().enumerate() {
            let comma = if at == 0 { "" } else { ", " };
            write!(f, "{comma}{block}")?;
        }
        Ok(())
    }
}

/// Why a text is not an address block.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum CidrError {
    /// What stands before the slash is no address.
    #[error("{0:?} is not an IP address")]
    Address(String),
    /// What follows the slash is no prefix length.
    #[error("the prefix length {found:?} is not a number from 0 to {max}")]
    Prefix {
        /// As written.
        found: String,
        /// 32 or 128.
        max: u8,
    },
    /// The address is not the first of its block.
    #[error("{address} is inside the block {block}: write {block}, or {address} alone")]
    HostBits {
        /// As written.
        address: IpAddr,
        /// The block it lies in.
        block: Cidr,
    },
}

fn parse_prefix(text: &str, max: u8) -> Result<u8, CidrError> {
    let is_plain = text.len() <= 3 && text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse() {
        Ok(prefix) if is_plain && prefix <= max => Ok(prefix),
        _ => Err(CidrError::Prefix { found: text.to_owned(), max }),
    }
}

fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn mask(address: IpAddr, prefix: u8) -> IpAddr {
    match address {
        IpAddr::V4(address) => {
            let hosts = u32::MAX.checked_shr(prefix.into()).unwrap_or(0);
            Ipv4Addr::from_bits(address.to_bits() & !hosts).into()
        }
        IpAddr::V6(address) => {
            let hosts = u128::MAX.checked_shr(prefix.into()).unwrap_or(0);
            Ipv6Addr::from_bits(address.to_bits() & !hosts).into()
        }
    }
}

fn holds<T: Copy + Ord>(ranges: &[(T, T)], address: T) -> bool {
    let after = ranges.partition_point(|&(first, _)| first <= address);
    after.checked_sub(1).is_some_and(|at| address <= ranges[at].1)
}

/// Sorts, and drops every range that an earlier one holds: blocks nest, they never overlap.
fn merge<T: Copy + Ord>(ranges: &mut Vec<(T, T)>) {
    ranges.sort_unstable_by(|a, b| a.0.cmp(&b.0).then(b.1.cmp(&a.1)));
    ranges.dedup_by(|later, earlier| later.1 <= earlier.1);
    ranges.shrink_to_fit();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_contains_the_addresses_of_its_blocks_and_no_others() {
        let set = CidrSet::parse([
            "10.0.0.0/8",
            "10.1.0.0/16",
            "192.168.1.7",
            "::ffff:172.16.0.0/108",
            "2001:db8::/32",
            "::1",
        ])
        .unwrap();
        let rows = [
            ("10.0.0.0", true),
            ("10.255.255.255", true),
            ("10.1.2.3", true),
            ("9.255.255.255", false),
            ("11.0.0.0", false),
            ("192.168.1.7", true),
            ("192.168.1.6", false),
            ("192.168.1.8", false),
            ("172.16.0.1", true),
            ("172.31.255.255", true),
            ("172.32.0.0", false),
            ("::ffff:10.2.3.4", true),
            ("::ffff:11.2.3.4", false),
            ("::1", true),
            ("::2", false),
            ("2001:db8:ffff::1", true),
            ("2001:db9::", false),
        ];
        for (address, expected) in rows {
            assert_eq!(set.contains(address.parse().unwrap()), expected, "{address}");
        }
    }

    #[test]
    fn the_whole_family_is_a_block() {
        let v4 = CidrSet::parse(["0.0.0.0/0"]).unwrap();
        let v6 = CidrSet::parse(["::/0"]).unwrap();
        for (address, is_v4) in [("0.0.0.0", true), ("255.255.255.255", true), ("::", false)] {
            let address = address.parse().unwrap();
            assert_eq!((v4.contains(address), v6.contains(address)), (is_v4, !is_v4), "{address}");
        }
        assert!(!CidrSet::default().contains("10.0.0.1".parse().unwrap()), "nobody by default");
    }

    #[test]
    fn a_set_is_shown_as_written_and_normalised() {
        let set = CidrSet::parse(["192.168.1.7", "::FFFF:10.0.0.0/104", "2001:DB8::/32"]).unwrap();
        assert_eq!(set.to_string(), "192.168.1.7/32, 10.0.0.0/8, 2001:db8::/32");
        assert_eq!(set.iter().count(), 3);
    }

    #[test]
    fn a_wrong_block_says_what_is_wrong_with_it() {
        let rows = [
            ("", "\"\" is not an IP address"),
            ("10.0.0/8", "\"10.0.0\" is not an IP address"),
            ("example.com", "\"example.com\" is not an IP address"),
            ("10.0.0.0/33", "the prefix length \"33\" is not a number from 0 to 32"),
            ("10.0.0.0/", "the prefix length \"\" is not a number from 0 to 32"),
            ("10.0.0.0/+8", "the prefix length \"+8\" is not a number from 0 to 32"),
            ("10.0.0.0/8/8", "the prefix length \"8/8\" is not a number from 0 to 32"),
            ("::/129", "the prefix length \"129\" is not a number from 0 to 128"),
            (
                "10.1.2.3/8",
                "10.1.2.3 is inside the block 10.0.0.0/8: write 10.0.0.0/8, or 10.1.2.3 alone",
            ),
            (
                "2001:db8::1/64",
                "2001:db8::1 is inside the block 2001:db8::/64: write 2001:db8::/64, \
                 or 2001:db8::1 alone",
            ),
        ];
        for (text, expected) in rows {
            assert_eq!(Cidr::parse(text).unwrap_err().to_string(), expected, "{text}");
        }
    }

    #[test]
    fn a_set_agrees_with_a_walk_over_its_blocks() {
        let mut random = fastrand::Rng::with_seed(11);
        for _ in 0..200 {
            let blocks: Vec<Cidr> = (0..random.usize(0..12))
                .map(|_| {
                    let prefix = random.u8(0..=32);
                    let address = Ipv4Addr::from_bits(random.u32(..) & 0x0300_0003).into();
                    Cidr { network: mask(address, prefix), prefix }
                })
                .collect();
            let set: CidrSet = blocks.iter().copied().collect();
            for _ in 0..50 {
                let address: IpAddr = Ipv4Addr::from_bits(random.u32(..) & 0x0300_0003).into();
                let walked =
                    blocks.iter().any(|block| mask(address, block.prefix) == block.network);
                assert_eq!(set.contains(address), walked, "{address} in {set}");
            }
        }
    }
}
