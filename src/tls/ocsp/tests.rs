//! Responses as responders make them, and as nobody should.

use std::sync::OnceLock;
use std::time::UNIX_EPOCH;

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, SerialNumber, SigningKey,
};
use time::OffsetDateTime;
use time::macros::format_description;

use super::question::{get_url, sha1};
use super::*;
use crate::tls::fixture::{DAY, Pem};

const HOUR: Duration = Duration::from_secs(60 * 60);

/// `ecdsa-with-SHA256`.
const BY_P256: &[u8] = &[0x30, 10, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];

/// `ecdsa-with-SHA512`.
const BY_P521: &[u8] = &[0x30, 10, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 4];

/// SHA-1 without parameters.
const BY_SHA1: &[u8] = &[0x30, 9, 6, 5, 0x2b, 14, 3, 2, 26, 5, 0];

/// SHA-256 without parameters.
const BY_SHA256: &[u8] = &[0x30, 13, 6, 9, 0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 1, 5, 0];

const GOOD: &[u8] = &[0x80, 0];
const UNKNOWN: &[u8] = &[0x82, 0];

/// A CA that answers for what it has issued.
struct Authority {
    key: KeyPair,
    certificate: rcgen::Certificate,
    params: CertificateParams,
}

/// What a response says, before it is signed.
struct Words<'a> {
    algorithm: &'a [u8],
    serial: &'a [u8],
    status: Vec<u8>,
    this_update: SystemTime,
    next_update: Option<SystemTime>,
    responder: Vec<u8>,
    certificates: Vec<&'a [u8]>,
}

fn tlv(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let mut bytes = vec![tag];
    match content.len() {
        short @ 0..128 => bytes.push(short as u8),
        long => {
            let length = u16::try_from(long).unwrap().to_be_bytes();
            bytes.extend([0x82, length[0], length[1]]);
        }
    }
    bytes.extend(content);
    bytes
}

fn generalized(at: SystemTime) -> Vec<u8> {
    let at = OffsetDateTime::from(at);
    let text = at.format(format_description!("[year][month][day][hour][minute][second]Z"));
    tlv(0x18, &[text.unwrap().as_bytes()])
}

fn revoked(at: SystemTime) -> Vec<u8> {
    tlv(0xa1, &[&generalized(at)])
}

/// The extension that names `urls` as responders.
fn access(urls: &[&str]) -> CustomExtension {
    accesses(&urls.iter().map(|url| (1, *url)).collect::<Vec<_>>())
}

/// The same with the last number of each access method: 2 is where the issuer is.
fn accesses(all: &[(u8, &str)]) -> CustomExtension {
    let describe = |(method, url): &(u8, &str)| {
        let method = [6, 8, 0x2b, 6, 1, 5, 5, 7, 48, *method];
        tlv(0x30, &[&method, &tlv(0x86, &[url.as_bytes()])])
    };
    let all: Vec<u8> = all.iter().flat_map(describe).collect();
    CustomExtension::from_oid_content(&[1, 3, 6, 1, 5, 5, 7, 1, 1], tlv(0x30, &[&all]))
}

fn must_staple() -> CustomExtension {
    CustomExtension::from_oid_content(&[1, 3, 6, 1, 5, 5, 7, 1, 24], vec![0x30, 3, 2, 1, 5])
}

impl Authority {
    fn new(name: &str) -> Self {
        Self::with(name, KeyPair::generate().unwrap())
    }

    fn with(name: &str, key: KeyPair) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self { certificate: params.self_signed(&key).unwrap(), key, params }
    }

    fn issue(&self, change: impl FnOnce(&mut CertificateParams)) -> (rcgen::Certificate, KeyPair) {
        let mut params = CertificateParams::new(["a.test".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, "leaf");
        params.not_before = (now() - DAY).into();
        params.not_after = (now() + DAY).into();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let issuer = Issuer::from_params(&self.params, &self.key);
        (params.signed_by(&key, &issuer).unwrap(), key)
    }

    /// A certificate with a number, extensions and the chain that an operator gives.
    fn leaf(&self, serial: &[u8], extensions: Vec<CustomExtension>, chain: &str) -> Certificate {
        let (leaf, key) = self.issue(|params| {
            params.serial_number = Some(SerialNumber::from_slice(serial));
            params.custom_extensions = extensions;
        });
        Pem { chain: leaf.pem() + chain, key: key.serialize_pem() }.certificate()
    }

    fn subject(&self, serial: &[u8]) -> Subject {
        let access = access(&["http://ocsp.test"]);
        let leaf = self.leaf(serial, vec![access], &self.certificate.pem());
        Subject::of(&leaf).unwrap().unwrap()
    }

    fn by_key(&self) -> Vec<u8> {
        tlv(0xa2, &[&tlv(4, &[&sha1(&spki(&self.certificate))])])
    }

    /// What it says of its certificate `serial`, answering itself.
    fn words<'a>(&self, serial: &'a [u8]) -> Words<'a> {
        Words {
            algorithm: BY_SHA1,
            serial,
            status: GOOD.to_vec(),
            this_update: now() - HOUR,
            next_update: Some(now() + HOUR),
            responder: self.by_key(),
            certificates: Vec::new(),
        }
    }

    /// `words` about one of its certificates, signed with `key`.
    fn say(&self, words: &Words<'_>, key: &KeyPair) -> Vec<u8> {
        let (_, parsed) = X509Certificate::from_der(self.certificate.der()).unwrap();
        let id = [
            words.algorithm,
            &tlv(4, &[&sha1(parsed.subject().as_raw())]),
            &tlv(4, &[&sha1(&spki(&self.certificate))]),
            &tlv(2, &[words.serial]),
        ];
        let next = words.next_update.map(|at| tlv(0xa0, &[&generalized(at)])).unwrap_or_default();
        let single = [&tlv(0x30, &id), &words.status, &generalized(words.this_update), &next];
        let single = tlv(0x30, &single.map(Vec::as_slice));
        let data = [&words.responder, &generalized(words.this_update), &tlv(0x30, &[&single])];
        let data = tlv(0x30, &data.map(Vec::as_slice));
        let is_large = key.is_compatible(&rcgen::PKCS_ECDSA_P521_SHA512);
        let algorithm = if is_large { BY_P521 } else { BY_P256 };
        let signature = tlv(3, &[&[0], &key.sign(&data).unwrap()]);
        let certificates = tlv(0xa0, &[&tlv(0x30, &words.certificates)]);
        let basic = tlv(0x30, &[&data, algorithm, &signature, &certificates]);
        let kind = [6, 9, 0x2b, 6, 1, 5, 5, 7, 48, 1, 1];
        let bytes = tlv(0xa0, &[&tlv(0x30, &[&kind, &tlv(4, &[&basic])])]);
        tlv(0x30, &[&[10, 1, 0], &bytes])
    }
}

/// The bits of the key in `certificate`.
fn spki(certificate: &rcgen::Certificate) -> Vec<u8> {
    let (_, parsed) = X509Certificate::from_der(certificate.der()).unwrap();
    parsed.public_key().subject_public_key.data.to_vec()
}

/// The moment of the first call: in whole seconds, as responses have them.
fn now() -> SystemTime {
    static NOW: OnceLock<SystemTime> = OnceLock::new();
    let whole = || {
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        UNIX_EPOCH + Duration::from_secs(seconds)
    };
    *NOW.get_or_init(whole)
}

const SERIAL: &[u8] = &[0x17, 0xaa, 1];

#[test]
fn a_certificate_says_whom_to_ask_and_whether_it_must_be_stapled() {
    let ca = Authority::new("A");
    let chain = ca.certificate.pem();
    let plain = ca.leaf(SERIAL, Vec::new(), &chain);
    assert_eq!(Revocation::of(&plain), Revocation::default());
    assert!(Subject::of(&plain).unwrap().is_none(), "nobody to ask");

    let urls = ["ldap://a.test/x", "http://a.test/ocsp", "HTTPS://b.test"];
    let named = ca.leaf(SERIAL, vec![access(&urls), must_staple()], &chain);
    let wanted = ["http://a.test/ocsp", "HTTPS://b.test"].map(str::to_owned).to_vec();
    assert_eq!(
        Revocation::of(&named),
        Revocation { responders: wanted, must_staple: true, ..Revocation::default() }
    );
    assert_eq!(Subject::of(&named).unwrap().unwrap().fingerprint(), named.leaf.fingerprint);

    for chain in [String::new(), Authority::new("A").certificate.pem()] {
        let orphan = ca.leaf(SERIAL, vec![access(&urls)], &chain);
        assert_eq!(Subject::of(&orphan).unwrap_err(), NoIssuer, "the name is not enough");
    }
}

#[test]
fn an_issuer_that_the_chain_lacks_is_taken_from_elsewhere() {
    let (ca, other) = (Authority::new("A"), Authority::new("A"));
    let access = accesses(&[(1, "http://a.test/ocsp"), (2, "http://a.test/ca.crt")]);
    let subject = Subject::of(&ca.leaf(SERIAL, vec![access], "")).unwrap().unwrap();
    assert_eq!(subject.revocation.issuers, ["http://a.test/ca.crt"]);
    let said = ca.say(&ca.words(SERIAL), &ca.key);
    assert!(subject.needs_issuer() && subject.question().is_err());
    assert!(matches!(subject.verify(&said, now()), Err(ResponseError::Signer)));
    for wrong in [other.certificate.der().as_ref(), b"<html>", b""] {
        assert_eq!(subject.take_issuer(wrong), Err(WrongIssuer));
    }
    let again = subject.clone();
    subject.take_issuer(ca.certificate.der()).unwrap();
    again.take_issuer(ca.certificate.pem().as_bytes()).unwrap();
    for one in [subject, again] {
        assert_eq!(one.found_issuer(), Some(ca.certificate.der().as_ref()));
        one.verify(&said, now()).unwrap();
    }
    assert_eq!(ca.subject(SERIAL).found_issuer(), None, "it is in the chain");
}

#[test]
fn a_question_names_the_certificate_and_fits_into_a_url() {
    let ca = Authority::new("A");
    let question = ca.subject(SERIAL).question().unwrap();
    let id = [
        BY_SHA1,
        &tlv(
            4,
            &[&sha1(&{
                let (_, parsed) = X509Certificate::from_der(ca.certificate.der()).unwrap();
                parsed.subject().as_raw().to_vec()
            })],
        ),
        &tlv(4, &[&sha1(&spki(&ca.certificate))]),
        &tlv(2, &[SERIAL]),
    ];
    let mut wanted = tlv(0x30, &id);
    for _ in 0..4 {
        wanted = tlv(0x30, &[&wanted]);
    }
    assert_eq!(question, wanted);
    let high = ca.subject(&[0xaa, 1]).question().unwrap();
    assert!(high.ends_with(&[2, 3, 0, 0xaa, 1]), "a number above zero: {high:x?}");
    let url = get_url("http://ocsp.test/", &question).unwrap();
    assert!(
        url.starts_with("http://ocsp.test/ME") && !url[17..].contains(['/', '+', '=']),
        "{url}"
    );
    for posted in ["http://ocsp.test/?ca=1", &format!("http://{}.test", "x".repeat(200))] {
        assert_eq!(get_url(posted, &question), None, "{posted}");
    }
}

#[test]
fn what_the_issuer_says_is_taken() {
    let ca = Authority::new("A");
    let subject = ca.subject(SERIAL);
    let words = ca.words(SERIAL);
    let der = ca.say(&words, &ca.key);
    let staple = subject.verify(&der, now()).unwrap();
    assert_eq!(
        staple,
        Staple {
            status: Status::Good,
            this_update: words.this_update,
            until: words.next_update.unwrap(),
            der: der.clone(),
        }
    );
    assert_eq!(ends_at(&der), words.next_update);

    let (_, parsed) = X509Certificate::from_der(ca.certificate.der()).unwrap();
    let by_name = tlv(0xa1, &[parsed.subject().as_raw()]);
    let named = Words { responder: by_name, status: revoked(now()), ..ca.words(SERIAL) };
    let staple = subject.verify(&ca.say(&named, &ca.key), now()).unwrap();
    assert_eq!(staple.status, Status::Revoked);
    assert!(!staple.is_servable(now()), "it is not shown as if it were good");

    let large = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P521_SHA512).unwrap();
    let large = Authority::with("B", large);
    let said = large.say(&large.words(SERIAL), &large.key);
    large.subject(SERIAL).verify(&said, now()).expect("what TLS knows is known here");

    let open = Words { next_update: None, this_update: now() - HOUR / 2, ..ca.words(SERIAL) };
    let staple = subject.verify(&ca.say(&open, &ca.key), now()).unwrap();
    assert_eq!(staple.until, now() + HOUR / 2, "an hour, where it does not say");
}

#[test]
fn a_delegate_speaks_for_the_issuer_while_it_may() {
    let ca = Authority::new("A");
    let subject = ca.subject(SERIAL);
    let said = |change: fn(&mut CertificateParams), by: &Authority| {
        let (delegate, key) = by.issue(|params| {
            params.distinguished_name.push(DnType::CommonName, "delegate");
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::OcspSigning];
            change(params);
        });
        let responder = tlv(0xa2, &[&tlv(4, &[&sha1(&spki(&delegate))])]);
        let certificates = vec![&**ca.certificate.der(), &**delegate.der()];
        let words = Words { responder, certificates, ..ca.words(SERIAL) };
        subject.verify(&ca.say(&words, &key), now())
    };
    assert_eq!(said(|_| {}, &ca).unwrap().until, now() + HOUR);
    let short = said(|params| params.not_after = (now() + HOUR / 2).into(), &ca).unwrap();
    assert_eq!(short.until, now() + HOUR / 2, "not longer than its own certificate");
    let changes: [fn(&mut CertificateParams); 4] = [
        |params| params.extended_key_usages.clear(),
        |params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth],
        |params| params.not_after = (now() - HOUR).into(),
        |params| params.not_before = (now() + HOUR).into(),
    ];
    for change in changes {
        assert!(matches!(said(change, &ca), Err(ResponseError::Signer)));
    }
    let other = Authority::new("A");
    assert!(matches!(said(|_| {}, &other), Err(ResponseError::Signer)), "another of that name");
}

#[test]
fn what_is_not_to_be_believed_is_refused_with_its_reason() {
    let (ca, other) = (Authority::new("A"), Authority::new("B"));
    let subject = ca.subject(SERIAL);
    let refused =
        |words: Words<'_>| subject.verify(&ca.say(&words, &ca.key), now()).unwrap_err().to_string();
    let words = || ca.words(SERIAL);
    for (words, wanted) in [
        (ca.words(&[0x17, 0xaa, 2]), "the response is about another certificate"),
        (Words { algorithm: BY_SHA256, ..words() }, "the response is about another certificate"),
        (
            Words { responder: other.by_key(), ..words() },
            "the response is signed by nobody who may speak for the certificate's issuer",
        ),
        (
            Words { this_update: now() + HOUR / 2, ..words() },
            "the response is for a time to come; is the clock right?",
        ),
        (Words { next_update: Some(now()), ..words() }, "the response has expired"),
        (
            Words { next_update: None, this_update: now() - 2 * HOUR, ..words() },
            "the response has expired",
        ),
        (
            Words { status: UNKNOWN.to_vec(), ..words() },
            "the responder does not know the certificate",
        ),
        (Words { status: vec![5, 0], ..words() }, "the answer is no OCSP response"),
    ] {
        assert_eq!(refused(words), wanted);
    }
    let ahead = Words { this_update: now() + Duration::from_secs(200), ..words() };
    subject.verify(&ca.say(&ahead, &ca.key), now()).expect("clocks differ");

    let forged = subject.verify(&ca.say(&words(), &other.key), now());
    assert!(matches!(forged, Err(ResponseError::Signature)), "{forged:?}");
    for (code, wanted) in [(3, "the responder says tryLater"), (9, "unknown code")] {
        let error = subject.verify(&[0x30, 3, 10, 1, code], now()).unwrap_err().to_string();
        assert!(error.contains(wanted), "{error}");
    }
}

#[test]
fn garbage_is_no_response_wherever_it_begins() {
    let ca = Authority::new("A");
    let subject = ca.subject(SERIAL);
    let good = ca.say(&ca.words(SERIAL), &ca.key);
    for length in 0..good.len() {
        assert!(subject.verify(&good[..length], now()).is_err(), "{length} bytes");
    }
    for place in 0..good.len() {
        for flip in [1, 0x20, 0xff] {
            let mut changed = good.clone();
            changed[place] ^= flip;
            if let Ok(staple) = subject.verify(&changed, now()) {
                // Neither its data nor its signature can have changed.
                assert_eq!(staple.status, Status::Good, "{place}");
                assert_eq!(staple.until, now() + HOUR, "{place}");
            }
        }
    }
    for text in [&b"<html>503</html>"[..], b"", b"\x30\x80\0\0", b"\x30\x03\x0a\x01\x00"] {
        assert!(matches!(subject.verify(text, now()), Err(ResponseError::Malformed)), "{text:?}");
    }
}

#[test]
fn it_is_asked_again_at_half_of_its_time() {
    let at = |hours: u32| UNIX_EPOCH + 1000 * HOUR + hours * HOUR;
    let staple =
        Staple { der: Vec::new(), status: Status::Good, this_update: at(0), until: at(20) };
    for (now, wanted) in [
        (at(0), at(10)),
        (at(2), at(10)),
        (at(12), at(16)),
        (at(20), at(20) + LEAST_PAUSE),
        (at(40), at(40) + LEAST_PAUSE),
    ] {
        assert_eq!(staple.refresh_at(now), wanted);
    }
    assert!(staple.is_servable(at(19)) && !staple.is_servable(at(20)));
    let year = Staple { until: staple.this_update + 730 * 2 * LONGEST_PAUSE, ..staple };
    assert_eq!(year.refresh_at(at(0)), at(0) + LONGEST_PAUSE, "it may be revoked before");
}
