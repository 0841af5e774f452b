//! What a section of the file may hold: the one description that feeds the readers, the JSON Schema,
//! the effective configuration and the reference in `docs/configuration.md`.
//!
//! Answers "is there a key of this name, what does it hold, what is its default?". The tables
//! themselves are in `grammar`. Never reads anything.

/// One kind of map in the file.
#[derive(Debug)]
pub(super) struct Section {
    /// What it is, for people and for the schema's title.
    pub(super) title: &'static str,
    /// Its keys in the order in which they are documented.
    pub(super) keys: &'static [Key],
    /// Keys of which there is exactly one; empty where there is no such choice.
    pub(super) one_of: &'static [&'static str],
}

/// One key of a section.
#[derive(Debug)]
pub(super) struct Key {
    /// As it is written.
    pub(super) name: &'static str,
    /// What it holds.
    pub(super) shape: Shape,
    /// What holds when it is absent.
    pub(super) default: Absent,
    /// One sentence for the schema and the reference.
    pub(super) doc: &'static str,
}

/// What holds when a key is absent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Absent {
    /// The key must be written.
    Required,
    /// What it configures is not there, or follows from other keys as its sentence says.
    Nothing,
    /// As if this had been written.
    Text(&'static str),
    /// As if an empty map had been written: the defaults of its section.
    Defaults,
}

/// What a key holds.
#[derive(Debug)]
pub(super) enum Shape {
    /// One scalar.
    One(Scalar),
    /// One of these words; the second list is words of the grammar that are not supported yet.
    Choice(&'static [&'static str], &'static [&'static str]),
    /// A whole number in this range.
    Count(u64, u64),
    /// A list of it, or a single one.
    List(&'static Self),
    /// A map with these keys.
    Section(&'static Section),
    /// A map from names the operator chooses to sections.
    Named(&'static Section),
    /// A map from names the operator chooses to scalars.
    Values(&'static Self),
    /// Any of these.
    Any(&'static [Self]),
    /// A key of the grammar that this version does not support.
    Later,
}

/// The kinds of scalars; each has one reader in `value` and one pattern in the schema.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Scalar {
    /// Any text.
    Text,
    /// Any text, which is never shown.
    Secret,
    /// `30s`.
    Duration,
    /// `64KiB`.
    Size,
    /// `240B/s`.
    Speed,
    /// `true` or `false`.
    Boolean,
    /// A path, relative to the file that names it.
    Path,
    /// A path, or the URL of a Redis, whose password is not shown.
    Storage,
    /// `":443"`.
    Address,
    /// `GET`.
    Method,
    /// `*.example.com`.
    HostPattern,
    /// `10.0.0.0/8`.
    Block,
    /// `/v1/*`.
    PathPattern,
    /// `http://10.0.0.5:8080`.
    Url,
    /// `^/v[0-9]+/`.
    Regex,
    /// `https://{host}{uri}`.
    Template,
    /// `/healthz?full=1`.
    Target,
    /// `200-399`, `404`, or several of both with commas.
    Statuses,
    /// `429` or a status of 500 to 599.
    RetryStatus,
    /// `20%`.
    Percent,
    /// `100/min`.
    Rate,
    /// `client_ip`, `header:NAME` or `cookie:NAME`.
    RateKey,
    /// `X-Debug`.
    FieldName,
    /// `text/*`.
    MediaType,
}

impl Section {
    /// The key called `name`, supported or not.
    pub(super) fn key(&self, name: &str) -> Option<&'static Key> {
        self.keys.iter().find(|key| key.name == name)
    }

    /// The keys that can be used.
    pub(super) fn supported(&self) -> impl Iterator<Item = &'static Key> {
        self.keys.iter().filter(|key| !matches!(key.shape, Shape::Later))
    }
}

impl Key {
    pub(super) const fn new(
        name: &'static str,
        shape: Shape,
        default: Absent,
        doc: &'static str,
    ) -> Self {
        Self { name, shape, default, doc }
    }

    /// A key of the grammar that is not supported yet.
    pub(super) const fn later(name: &'static str) -> Self {
        Self { name, shape: Shape::Later, default: Absent::Nothing, doc: "" }
    }
}
