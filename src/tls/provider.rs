//! The process's one cryptography provider: which groups, suites and versions exist at all.

use std::sync::Arc;

use rustls::crypto::aws_lc_rs::{self, cipher_suite, kx_group};
use rustls::crypto::{CryptoProvider, SupportedKxGroup};
use rustls::{SupportedCipherSuite, SupportedProtocolVersion};

use crate::config::listener::TlsVersion;

/// Makes [`provider`] the process's default, which pingora and everything else that asks rustls
/// then uses. Call it before anything else in `main`; a second call, or a provider that somebody
/// installed before, changes nothing.
pub fn install() {
    // The error only returns the provider that was not needed.
    let _ = CryptoProvider::install_default(own());
}

/// The process's provider; ours when [`install`] was not called, so no caller depends on order.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    CryptoProvider::get_default().map_or_else(|| Arc::new(own()), Arc::clone)
}

/// The protocol versions from `min` up.
pub(super) fn versions(min: TlsVersion) -> &'static [&'static SupportedProtocolVersion] {
    static FROM_1_2: [&SupportedProtocolVersion; 2] =
        [&rustls::version::TLS13, &rustls::version::TLS12];
    match min {
        TlsVersion::V1_2 => &FROM_1_2,
        TlsVersion::V1_3 => &FROM_1_2[..1],
    }
}

/// aws-lc-rs with our lists instead of its defaults, so that an update of the library or one of
/// its features cannot reorder them.
fn own() -> CryptoProvider {
    CryptoProvider {
        cipher_suites: SUITES.to_vec(),
        kx_groups: GROUPS.to_vec(),
        ..aws_lc_rs::default_provider()
    }
}

/// Key exchange in order of preference: the post-quantum hybrid first
/// (draft-ietf-tls-ecdhe-mlkem, the one browsers and OpenSSL 3.5 send), then the classic curves.
const GROUPS: &[&dyn SupportedKxGroup] =
    &[kx_group::X25519MLKEM768, kx_group::X25519, kx_group::SECP256R1, kx_group::SECP384R1];

/// AEAD with ephemeral key exchange only (RFC 9325 §4.2). AES-128 goes before AES-256: no
/// practical attack tells them apart and it needs ten rounds instead of fourteen; clients that
/// lack AES hardware get their own order because the server's is not enforced.
const SUITES: &[SupportedCipherSuite] = &[
    cipher_suite::TLS13_AES_128_GCM_SHA256,
    cipher_suite::TLS13_AES_256_GCM_SHA384,
    cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    cipher_suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
    cipher_suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_post_quantum_group_comes_first_and_installing_twice_is_harmless() {
        install();
        install();
        let groups: Vec<_> = provider().kx_groups.iter().map(|group| group.name()).collect();
        assert_eq!(format!("{groups:?}"), "[X25519MLKEM768, X25519, secp256r1, secp384r1]");
    }

    #[test]
    fn every_suite_is_aead_with_ephemeral_keys() {
        for suite in SUITES {
            let name = format!("{:?}", suite.suite());
            assert!(name.starts_with("TLS13_") || name.starts_with("TLS_ECDHE_"), "{name}");
            assert!(name.contains("_GCM_") || name.contains("_POLY1305_"), "{name}");
        }
    }
}
