//! Authorities and certificates made on the spot, sound ones and odd ones.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer,
    DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair,
    RevokedCertParams, SerialNumber, SigningKey,
};

pub(super) const HOUR: Duration = Duration::from_secs(60 * 60);

/// A certificate authority.
pub(super) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    /// What its leaves are sent with.
    chain: String,
}

/// A certificate with what is sent beside it, and its key; PEM.
pub(super) struct Leaf {
    pub(super) chain: String,
    pub(super) key: String,
    pub(super) der: Vec<u8>,
}

impl Authority {
    pub(super) fn new(name: &str) -> Self {
        Self::with(name, |_| ())
    }

    pub(super) fn with(name: &str, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let mut params = ca_params(name);
        change(&mut params);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        Self { issuer, chain: String::new() }
    }

    /// One that this one has signed.
    pub(super) fn below(&self, name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let issuer = CertifiedIssuer::signed_by(ca_params(name), key, &self.issuer).unwrap();
        let chain = issuer.pem() + &self.chain;
        Self { issuer, chain }
    }

    pub(super) fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// A client's certificate.
    pub(super) fn client(&self, name: &str) -> Leaf {
        self.client_with(name, |_| ())
    }

    pub(super) fn client_with(
        &self,
        name: &str,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Leaf {
        self.leaf_for(&[], |params| {
            params.distinguished_name.push(DnType::OrganizationName, "Example");
            params.distinguished_name.push(DnType::CommonName, name);
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
            change(params);
        })
    }

    pub(super) fn leaf_for(
        &self,
        hosts: &[&str],
        change: impl FnOnce(&mut CertificateParams),
    ) -> Leaf {
        let hosts: Vec<_> = hosts.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(hosts).unwrap();
        params.distinguished_name = DistinguishedName::new();
        params.not_before = (SystemTime::now() - HOUR).into();
        params.not_after = (SystemTime::now() + 24 * HOUR).into();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let made = params.signed_by(&key, &self.issuer).unwrap();
        let (chain, der) = (made.pem() + &self.chain, made.der().to_vec());
        Leaf { chain, key: key.serialize_pem(), der }
    }

    /// A certificate for a key of its own whose inside is what `change` makes of that of a sound one.
    pub(super) fn odd(&self, change: impl FnOnce(Vec<u8>) -> Vec<u8>) -> Leaf {
        let leaf = self.client("odd");
        let (tbs, algorithm) = split(&leaf.der);
        let tbs = change(tbs);
        let signature = self.issuer.key().sign(&tbs).unwrap();
        let signature = wrap(3, &[&[0], &*signature].concat());
        let der = wrap(0x30, &[tbs, algorithm, signature].concat());
        Leaf { chain: to_pem(&der), key: leaf.key, der }
    }

    /// A list of `revoked` serial numbers that was made an hour ago and ends `end` after 1970.
    pub(super) fn crl(&self, revoked: &[u64], end: SystemTime, number: u64) -> Vec<u8> {
        let now = SystemTime::now();
        let entry = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: (now - HOUR).into(),
            reason_code: None,
            invalidity_date: None,
        };
        // Later numbers are of later lists.
        let made = now - HOUR * 3 + Duration::from_secs(number);
        let params = CertificateRevocationListParams {
            this_update: made.into(),
            next_update: end.into(),
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs: revoked.iter().map(entry).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).unwrap().der().to_vec()
    }
}

impl Leaf {
    /// Writes `NAME.pem` and `NAME.key`.
    pub(super) fn write(&self, directory: &Path, name: &str) {
        fs::write(directory.join(format!("{name}.pem")), &self.chain).unwrap();
        fs::write(directory.join(format!("{name}.key")), &self.key).unwrap();
    }
}

fn ca_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
}

/// One DER value.
pub(super) fn wrap(tag: u8, inside: &[u8]) -> Vec<u8> {
    let length = u32::try_from(inside.len()).unwrap().to_be_bytes();
    let length = match inside.len() {
        0..=0x7f => vec![length[3]],
        0x80..=0xff => vec![0x81, length[3]],
        0x100..=0xffff => [&[0x82], &length[2..]].concat(),
        _ => [&[0x83], &length[1..]].concat(),
    };
    [vec![tag], length, inside.to_vec()].concat()
}

/// What is in a DER value, and what follows it.
pub(super) fn unwrap(der: &[u8]) -> (&[u8], &[u8]) {
    let (start, length) = match der[1] {
        short @ 0..=0x7f => (2, usize::from(short)),
        long => {
            let digits = &der[2..2 + usize::from(long & 0x7f)];
            let length = digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit));
            (2 + digits.len(), length)
        }
    };
    (&der[start..start + length], &der[start + length..])
}

/// What is signed of a certificate, and the algorithm.
fn split(der: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let (inside, _) = unwrap(der);
    let (_, rest) = unwrap(inside);
    let (_, signature) = unwrap(rest);
    let tbs = inside[..inside.len() - rest.len()].to_vec();
    (tbs, rest[..rest.len() - signature.len()].to_vec())
}

pub(super) fn to_pem(der: &[u8]) -> String {
    pem_of("CERTIFICATE", der)
}

pub(super) fn pem_of(label: &str, der: &[u8]) -> String {
    use base64::prelude::{BASE64_STANDARD, Engine as _};
    let text = BASE64_STANDARD.encode(der);
    let lines: Vec<_> = text.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}
