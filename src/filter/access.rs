//! `access`: who may come, by address (403, RFC 9110 §15.5.4).

use std::net::IpAddr;

use super::{Rejection, Verdict};
use crate::config::filter::Access as Spec;
use crate::net::{Cidr, CidrSet};

/// Two lists of address blocks, where the more particular block decides.
#[derive(Debug)]
pub(super) struct Access {
    allow: Blocks,
    deny: Blocks,
}

impl Access {
    pub(super) fn new(spec: &Spec) -> Self {
        Self { allow: Blocks::new(&spec.allow), deny: Blocks::new(&spec.deny) }
    }

    /// Whether `client` may come. Who stands on both lists under the same prefix may not.
    pub(super) fn judge(&self, client: IpAddr) -> Verdict {
        let may = match (self.allow.longest(client), self.deny.longest(client)) {
            (Some(allow), Some(deny)) => allow > deny,
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (None, None) => self.allow.is_empty(),
        };
        if may { Verdict::Continue } else { Verdict::Reject(Rejection::Denied) }
    }
}

/// Address blocks by the length of their prefix, so that a look-up is one binary search for each
/// length in use, however long the list is.
#[derive(Debug)]
struct Blocks {
    /// The longest prefix first.
    by_prefix: Vec<(u8, CidrSet)>,
}

impl Blocks {
    fn new(set: &CidrSet) -> Self {
        let mut blocks: Vec<Cidr> = set.iter().collect();
        blocks.sort_unstable_by_key(|block| std::cmp::Reverse(block.prefix()));
        let groups = blocks.chunk_by(|one, other| one.prefix() == other.prefix());
        let by_prefix =
            groups.map(|group| (group[0].prefix(), group.iter().copied().collect())).collect();
        Self { by_prefix }
    }

    /// The length of the longest prefix that holds `address`.
    fn longest(&self, address: IpAddr) -> Option<u8> {
        let mut sets = self.by_prefix.iter();
        sets.find(|(_, set)| set.contains(address)).map(|(prefix, _)| *prefix)
    }

    fn is_empty(&self) -> bool {
        self.by_prefix.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_prefix_decides() {
        let allow = &["10.0.0.0/8", "10.1.2.3", "2001:db8::/32"][..];
        let deny = &["10.1.0.0/16", "0.0.0.0/0", "2001:db8:1::/48", "192.0.2.1"][..];
        for (allow, deny, client, may) in [
            (&[][..], &[][..], "192.0.2.1", true),
            (&["10.0.0.0/8"], &[], "10.9.9.9", true),
            (&["10.0.0.0/8"], &[], "11.0.0.1", false),
            (&["10.0.0.0/8"], &[], "::1", false),
            (&[], &["10.0.0.0/8"], "10.9.9.9", false),
            (&[], &["10.0.0.0/8"], "11.0.0.1", true),
            (allow, deny, "10.9.9.9", true),
            (allow, deny, "10.1.9.9", false),
            (allow, deny, "10.1.2.3", true),
            (allow, deny, "::ffff:10.1.2.3", true),
            (allow, deny, "192.0.2.1", false),
            (allow, deny, "2001:db8:2::1", true),
            (allow, deny, "2001:db8:1::1", false),
            (allow, deny, "2001:db9::1", false),
            (&["10.0.0.0/8"], &["10.0.0.0/8"], "10.0.0.1", false),
        ] {
            let spec = Spec {
                allow: CidrSet::parse(allow.iter().copied()).unwrap(),
                deny: CidrSet::parse(deny.iter().copied()).unwrap(),
            };
            let verdict = Access::new(&spec).judge(client.parse().unwrap());
            assert_eq!(verdict == Verdict::Continue, may, "{allow:?} {deny:?} {client}");
        }
    }
}
