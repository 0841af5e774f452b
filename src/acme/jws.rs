//! Requests to an authority that instant-acme cannot sign: with the key of a certificate (RFC 8555
//! §7.6), and with an account's next key (§7.3.5), which has to be on the disk before it is sent.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _,
    RSA_PKCS1_SHA256, RsaKeyPair,
};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::{Request, header};
use serde::Deserialize;
use serde_json::{Value, json};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

use super::problem::Kind;
use super::session::{Answer, Authority, CallError};
use crate::tls::certificate::sha256;

/// A key that signs requests.
pub(super) struct Signer {
    key: Key,
    /// The public key (RFC 7517), its members in the order of RFC 7638.
    jwk: Value,
}

enum Key {
    P256(EcdsaKeyPair),
    P384(EcdsaKeyPair),
    Rsa(RsaKeyPair),
}

/// Why a key cannot sign requests.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the key is none that requests can be signed with")]
pub(super) struct UnusableKey;

/// How often a request is sent again whose nonce was not good.
const NONCE_ROUNDS: usize = 5;

/// What of a directory instant-acme does not show.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Resources {
    new_nonce: String,
    /// Where certificates are revoked.
    pub(super) revoke_cert: Option<String>,
    /// Where accounts change their keys.
    pub(super) key_change: Option<String>,
}

impl Signer {
    /// A signer with a key in PKCS #8: ECDSA on P-256 or P-384, or RSA.
    pub(super) fn from_pkcs8(der: &[u8]) -> Result<Self, UnusableKey> {
        let p256 = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der);
        let p384 = || EcdsaKeyPair::from_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, der);
        let key = match (p256, p384()) {
            (Ok(key), _) => Key::P256(key),
            (_, Ok(key)) => Key::P384(key),
            _ => Key::Rsa(RsaKeyPair::from_pkcs8(der).map_err(|_| UnusableKey)?),
        };
        let jwk = match &key {
            Key::P256(key) => jwk_of_point("P-256", key.public_key().as_ref()),
            Key::P384(key) => jwk_of_point("P-384", key.public_key().as_ref()),
            Key::Rsa(_) => jwk_of_rsa(der),
        };
        Ok(Self { jwk: jwk.ok_or(UnusableKey)?, key })
    }

    /// A signer with a private key in PEM.
    pub(super) fn from_pem(pem: &str) -> Result<Self, UnusableKey> {
        Self::from_pkcs8(&rcgen::KeyPair::from_pem(pem).map_err(|_| UnusableKey)?.serialize_der())
    }

    /// The public key.
    pub(super) fn jwk(&self) -> &Value {
        &self.jwk
    }

    /// What RFC 7638 names the key by.
    pub(super) fn thumbprint(&self) -> String {
        encode(&sha256(self.jwk.to_string().as_bytes()))
    }

    /// `payload` under a header with `members` and the algorithm, signed (RFC 7515 §7.2.2).
    pub(super) fn sign(&self, mut members: Value, payload: &Value) -> Result<Value, UnusableKey> {
        members["alg"] = match self.key {
            Key::P256(_) => "ES256",
            Key::P384(_) => "ES384",
            Key::Rsa(_) => "RS256",
        }
        .into();
        let protected = encode(members.to_string().as_bytes());
        let payload = encode(payload.to_string().as_bytes());
        let signed = format!("{protected}.{payload}");
        let (random, message) = (SystemRandom::new(), signed.as_bytes());
        let signature = match &self.key {
            Key::P256(key) | Key::P384(key) => {
                key.sign(&random, message).map_err(|_| UnusableKey)?.as_ref().to_vec()
            }
            Key::Rsa(key) => {
                let mut signature = vec![0; key.public_modulus_len()];
                let signed = key.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature);
                signed.map_err(|_| UnusableKey)?;
                signature
            }
        };
        Ok(json!({ "protected": protected, "payload": payload, "signature": encode(&signature) }))
    }
}

impl Authority {
    /// Where things are done there.
    pub(super) async fn resources(&self) -> Result<Resources, CallError> {
        Ok(self.get(&self.directory).await?.0)
    }

    /// Posts `payload` to `url`, signed by `signer`, whom `known` makes known: an account's URL, or
    /// `None` for the key itself.
    pub(super) async fn post(
        &self,
        resources: &Resources,
        url: &str,
        (signer, known): (&Signer, Option<&str>),
        payload: &Value,
    ) -> Result<(), CallError> {
        let garbled = |error: UnusableKey| CallError::Garbled(error.into());
        let mut nonce = self.nonce(&resources.new_nonce).await?;
        for round in 1.. {
            let mut members = json!({ "nonce": nonce, "url": url });
            match known {
                Some(account) => members["kid"] = account.into(),
                None => members["jwk"] = signer.jwk().clone(),
            }
            let body = signer.sign(members, payload).map_err(garbled)?.to_string();
            let answer = self.send("POST", url, body.into()).await?;
            match answer.problem() {
                Some(problem) if problem.kind == Kind::BadNonce && round < NONCE_ROUNDS => {
                    nonce = match answer.nonce() {
                        Some(next) => next,
                        None => self.nonce(&resources.new_nonce).await?,
                    };
                }
                Some(problem) => return Err(CallError::Refused(Box::new(problem))),
                None => return Ok(()),
            }
        }
        Ok(())
    }

    async fn nonce(&self, url: &str) -> Result<String, CallError> {
        let answer = self.send("HEAD", url, Bytes::new()).await?;
        answer.nonce().ok_or_else(|| CallError::Garbled("there is no nonce".into()))
    }

    async fn send(&self, method: &str, url: &str, body: Bytes) -> Result<Answer, CallError> {
        let request = Request::builder()
            .method(method)
            .uri(url)
            .header(header::CONTENT_TYPE, "application/jose+json")
            .body(body)
            .map_err(|error| CallError::Garbled(error.into()))?;
        let answer = self.transport.send(request).await;
        Ok(Answer::new(answer.map_err(|error| CallError::Unreachable(Box::new(error)))?))
    }
}

/// The key of an uncompressed point (SEC 1 §2.3.3).
fn jwk_of_point(curve: &str, point: &[u8]) -> Option<Value> {
    let (form, coordinates) = point.split_first()?;
    let (x, y) = coordinates.split_at(coordinates.len() / 2);
    (*form == 4).then(|| json!({ "crv": curve, "kty": "EC", "x": encode(x), "y": encode(y) }))
}

fn jwk_of_rsa(pkcs8: &[u8]) -> Option<Value> {
    let key = rcgen::KeyPair::try_from(pkcs8).ok()?;
    let public = rcgen::PublicKeyData::subject_public_key_info(&key);
    let (_, info) = SubjectPublicKeyInfo::from_der(&public).ok()?;
    let PublicKey::RSA(key) = info.parsed().ok()? else { return None };
    let plain = |number: &[u8]| {
        let zeros = number.iter().take_while(|byte| **byte == 0).count();
        encode(&number[zeros..])
    };
    Some(json!({ "e": plain(key.exponent), "kty": "RSA", "n": plain(key.modulus) }))
}

pub(super) fn encode(bytes: &[u8]) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{
        ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, RSA_PKCS1_2048_8192_SHA256,
        UnparsedPublicKey, VerificationAlgorithm,
    };

    use super::*;
    use crate::acme::key::KeyType;

    #[test]
    fn every_kind_of_key_signs_and_says_which_it_is() {
        let kinds: [(KeyType, &str, &dyn VerificationAlgorithm); 3] = [
            (KeyType::P256, "ES256", &ECDSA_P256_SHA256_FIXED),
            (KeyType::P384, "ES384", &ECDSA_P384_SHA384_FIXED),
            (KeyType::Rsa2048, "RS256", &RSA_PKCS1_2048_8192_SHA256),
        ];
        for (kind, name, algorithm) in kinds {
            let pem = kind.generate().unwrap();
            let signer = Signer::from_pem(&pem).unwrap();
            let signed = signer.sign(json!({ "url": "u" }), &json!({ "a": 1 })).unwrap();
            let text = |key: &str| signed[key].as_str().unwrap().to_owned();
            let decode = |text: &str| BASE64_URL_SAFE_NO_PAD.decode(text).unwrap();
            let header: Value = serde_json::from_slice(&decode(&text("protected"))).unwrap();
            assert_eq!(header, json!({ "alg": name, "url": "u" }));
            let key = rcgen::KeyPair::from_pem(&pem).unwrap();
            let message = format!("{}.{}", text("protected"), text("payload"));
            let public = UnparsedPublicKey::new(algorithm, key.public_key_raw());
            public.verify(message.as_bytes(), &decode(&text("signature"))).unwrap();
        }
        assert!(Signer::from_pem("no key").is_err());
    }

    #[test]
    fn a_key_has_one_name() {
        // The example of RFC 7638 §3.1.
        let n = "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw";
        let jwk = json!({ "kty": "RSA", "n": n, "e": "AQAB" });
        let pkcs8 = rcgen::KeyPair::generate().unwrap().serialize_der();
        let signer = Signer { jwk, ..Signer::from_pkcs8(&pkcs8).unwrap() };
        assert_eq!(signer.thumbprint(), "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs");
    }
}
