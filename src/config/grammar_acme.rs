//! The tables of `acme`; see [`grammar`](super::grammar).

use super::section::Absent::{Nothing, Required, Text};
use super::section::Scalar as S;
use super::section::Shape::{self, Choice, List, One};
use super::section::{Key, Section};

/// `acme`.
pub(super) static ACME: Section = Section {
    title: "Certificates from an ACME authority",
    one_of: &[],
    keys: &[
        Key::new(
            "email",
            One(S::Text),
            Nothing,
            "Where the authority writes to, about certificates that end.",
        ),
        Key::new(
            "directory",
            One(S::Text),
            Text("letsencrypt"),
            "The authority: `letsencrypt`, `letsencrypt-staging` (for trying out; browsers do not trust it), or the https URL of its directory.",
        ),
        DIRECTORY_CA,
        Key::new(
            "challenges",
            List(&Choice(&["tls-alpn-01", "http-01", "dns-01", "dns-persist-01"], &[])),
            Nothing,
            "How names are proven, in order of preference. Default: [tls-alpn-01, http-01], and dns-01 with `dns`. For dns-persist-01 a record is put up by hand, once.",
        ),
        Key::new("dns", Shape::Section(&DNS), Nothing, "Who puts records into the DNS for dns-01."),
        Key::new(
            "renew_before",
            One(S::Duration),
            Nothing,
            "How long before its end a certificate is renewed, at most half of its lifetime; an authority that says when goes first. Default: 30d, a third of a shorter lifetime, half of one below 10 days.",
        ),
        PROFILE,
        REQUIRE_PROFILE,
        PREFERRED_CHAIN,
        Key::new(
            "key_type",
            Choice(&["p256", "p384", "rsa2048"], &[]),
            Text("p256"),
            "What keys are made.",
        ),
        EAB_KEY,
        Key::new(
            "until_issued",
            Choice(&["internal", "refuse"], &[]),
            Text("internal"),
            "What a name without a certificate yet is served with: one of the local CA (`internal`), or no handshake (`refuse`).",
        ),
        Key::new(
            "events",
            List(&Shape::Section(&HOOK)),
            Nothing,
            "Who is told what becomes of certificates, by a webhook or a program.",
        ),
        Key::new(
            "fallback",
            List(&Shape::Section(&FALLBACK)),
            Nothing,
            "Authorities to turn to, in this order, when the one before has failed three times in a row, is blocked or limits the whole account.",
        ),
    ],
};

/// An entry of `acme.fallback`.
pub(super) static FALLBACK: Section = Section {
    title: "Another authority",
    one_of: &[],
    keys: &[
        Key::new(
            "directory",
            One(S::Text),
            Required,
            "The authority: `letsencrypt`, `letsencrypt-staging`, or the https URL of its directory.",
        ),
        DIRECTORY_CA,
        PROFILE,
        REQUIRE_PROFILE,
        PREFERRED_CHAIN,
        EAB_KEY,
    ],
};

const DIRECTORY_CA: Key = Key::new(
    "directory_ca",
    One(S::Path),
    Nothing,
    "PEM file of a CA to trust for the directory, beside the system's.",
);

const PROFILE: Key = Key::new(
    "profile",
    One(S::Text),
    Nothing,
    "The authority's profile to ask for, such as tlsserver or shortlived. Default: the authority's.",
);

const REQUIRE_PROFILE: Key = Key::new(
    "require_profile",
    One(S::Boolean),
    Text("false"),
    "Whether an authority without the profile is refused, rather than asked without it.",
);

const PREFERRED_CHAIN: Key = Key::new(
    "preferred_chain",
    One(S::Text),
    Nothing,
    "Of several chains, the one whose topmost issuer has this common name.",
);

const EAB_KEY: Key = Key::new(
    "eab",
    Shape::Section(&EAB),
    Nothing,
    "The account at the authority that this one belongs to (RFC 8555 §7.3.4).",
);

/// `acme.dns`.
pub(super) static DNS: Section = Section {
    title: "Records for dns-01",
    one_of: &["run", "rfc2136"],
    keys: &[
        Key::new(
            "run",
            List(&One(S::Text)),
            Nothing,
            "A program and its arguments; called with `present NAME VALUE` and `cleanup NAME VALUE` behind them.",
        ),
        Key::new(
            "rfc2136",
            Shape::Section(&RFC2136),
            Nothing,
            "The zone's primary server, which takes dynamic updates (RFC 2136).",
        ),
    ],
};

/// `acme.dns.rfc2136`.
pub(super) static RFC2136: Section = Section {
    title: "Dynamic updates",
    one_of: &[],
    keys: &[
        Key::new(
            "server",
            One(S::Text),
            Required,
            "The zone's primary server, with a port where that is not 53.",
        ),
        Key::new(
            "zone",
            One(S::Text),
            Nothing,
            "The zone that holds the records. Default: asked of the server, name by name.",
        ),
        Key::new(
            "key",
            Shape::Section(&TSIG_KEY),
            Required,
            "The key that signs updates (TSIG, RFC 8945).",
        ),
        Key::new(
            "ttl",
            One(S::Duration),
            Text("60s"),
            "How long resolvers may keep a record, up to 1d.",
        ),
    ],
};

/// `acme.dns.rfc2136.key`.
pub(super) static TSIG_KEY: Section = Section {
    title: "Key of dynamic updates",
    one_of: &[],
    keys: &[
        Key::new("name", One(S::Text), Required, "What the server calls the key."),
        Key::new(
            "algorithm",
            Choice(&["hmac-sha256", "hmac-sha384", "hmac-sha512"], &[]),
            Text("hmac-sha256"),
            "What it signs with, as the server's configuration has it.",
        ),
        Key::new("secret", One(S::Secret), Required, "The key itself, in base64."),
    ],
};

/// One of `acme.events`.
pub(super) static HOOK: Section = Section {
    title: "Who is told of certificates",
    one_of: &["webhook", "run"],
    keys: &[
        Key::new(
            "event",
            List(&Choice(
                &[
                    "obtained",
                    "renewed",
                    "failed",
                    "expiring",
                    "expired",
                    "revoked",
                    "imported",
                    "ari_changed",
                    "limited",
                    "blocked",
                    "account_recreated",
                    "store_error",
                    "store_fell_back",
                ],
                &[],
            )),
            Nothing,
            "What it is told of. Default: everything.",
        ),
        Key::new(
            "webhook",
            One(S::Text),
            Nothing,
            "URL of http or https that gets a POST with JSON.",
        ),
        Key::new(
            "run",
            List(&One(S::Text)),
            Nothing,
            "A program and its arguments, in which {event}, {id} and {certificate} are replaced; it gets the JSON on standard input.",
        ),
        Key::new(
            "timeout",
            One(S::Duration),
            Nothing,
            "How long it may take. Default: 10s for a webhook, 30s for a program.",
        ),
    ],
};

/// `acme.eab`.
pub(super) static EAB: Section = Section {
    title: "External account",
    one_of: &[],
    keys: &[
        Key::new("kid", One(S::Text), Required, "What the authority calls the account."),
        Key::new("hmac_key", One(S::Secret), Required, "Its key, in base64url."),
    ],
};
