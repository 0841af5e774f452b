//! What issuers say of certificates (OCSP), served with them: a real responder, the real gateway, and
//! openssl as the client that asks for a staple.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, SerialNumber,
};
use serde_json::Value;
use tempfile::TempDir;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;
use time::{Duration, OffsetDateTime};

use crate::support::{Answer, Client, Gateway, Origin, Program, closed, field, run, within};

/// As `index.txt` has them.
const TIME: &[BorrowedFormatItem<'static>] =
    format_description!("[year repr:last_two][month][day][hour][minute][second]Z");

/// A CA with a responder of its own, which has a certificate for answering.
struct Authority {
    directory: TempDir,
    params: CertificateParams,
    key: KeyPair,
    responder: Option<Program>,
    address: SocketAddr,
}

impl Authority {
    /// One whose responder knows nothing yet.
    async fn start() -> Self {
        let mut authority = Self::silent();
        authority.listen(0).await;
        authority
    }

    /// One whose responder does not run.
    fn silent() -> Self {
        let directory = TempDir::new().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "Stapling CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        fs::write(directory.path().join("ca.pem"), params.self_signed(&key).unwrap().pem())
            .unwrap();
        fs::write(directory.path().join("index.txt"), "").unwrap();
        let authority = Self { directory, params, key, responder: None, address: closed() };
        let (chain, key) = authority.issue(|params| {
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::OcspSigning];
        });
        fs::write(authority.path("signer.pem"), chain).unwrap();
        fs::write(authority.path("signer.key"), key).unwrap();
        authority
    }

    /// Starts the responder at `port`; 0 is any.
    async fn listen(&mut self, port: u16) {
        let mut command = Command::new("openssl");
        command.current_dir(self.directory.path()).args(["ocsp", "-port", &port.to_string()]);
        command.args(["-index", "index.txt", "-CA", "ca.pem", "-nmin", "60", "-ignore_err"]);
        command.args(["-rsigner", "signer.pem", "-rkey", "signer.key"]);
        let program = Program::start(&mut command);
        let told = program.stdout.wait("port", |line| accepts(line).is_some()).await;
        self.address = SocketAddr::from(([127, 0, 0, 1], accepts(&told).unwrap()));
        self.responder = Some(program);
    }

    /// Ends the responder.
    async fn hang_up(&mut self) {
        let mut responder = self.responder.take().expect("it runs");
        responder.signal("KILL");
        responder.exit_status().await;
    }

    fn path(&self, name: &str) -> String {
        self.directory.path().join(name).to_str().unwrap().to_owned()
    }

    fn issue(&self, change: impl FnOnce(&mut CertificateParams)) -> (String, String) {
        let mut params = CertificateParams::new(["a.test".to_owned()]).unwrap();
        params.not_before = OffsetDateTime::now_utc() - Duration::days(1);
        params.not_after = OffsetDateTime::now_utc() + Duration::days(5);
        params.use_authority_key_identifier_extension = true;
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let issuer = Issuer::from_params(&self.params, &self.key);
        (params.signed_by(&key, &issuer).unwrap().pem(), key.serialize_pem())
    }

    /// Writes a certificate for `a.test` to `directory`, which the responder does not know yet.
    fn certify(&self, directory: &Path, serial: u8, must_staple: bool) {
        let ca = fs::read_to_string(self.path("ca.pem")).unwrap();
        self.certify_with(directory, serial, must_staple, &[], &ca);
    }

    /// The same with addresses of the issuer's certificate, and `rest` after the leaf.
    fn certify_with(
        &self,
        directory: &Path,
        serial: u8,
        must_staple: bool,
        issuers: &[String],
        rest: &str,
    ) {
        let (leaf, key) = self.issue(|params| {
            params.serial_number = Some(SerialNumber::from_slice(&[serial]));
            let url = format!("http://{}/", self.address);
            params.custom_extensions.push(access(&url, issuers));
            if must_staple {
                let feature = CustomExtension::from_oid_content(
                    &[1, 3, 6, 1, 5, 5, 7, 1, 24],
                    vec![0x30, 3, 2, 1, 5],
                );
                params.custom_extensions.push(feature);
            }
        });
        fs::write(directory.join("chain.new"), leaf + rest).unwrap();
        fs::write(directory.join("key.pem"), key).unwrap();
        fs::rename(directory.join("chain.new"), directory.join("chain.pem")).unwrap();
    }

    /// Has the responder know the certificate with this number.
    fn know(&self, serial: u8, is_revoked: bool) {
        let at = |days| (OffsetDateTime::now_utc() + Duration::days(days)).format(TIME).unwrap();
        let (end, revoked) = (at(5), at(-1));
        let (mark, revoked) = if is_revoked {
            ("R", format!("{revoked},keyCompromise"))
        } else {
            ("V", String::new())
        };
        let line = format!("{mark}\t{end}\t{revoked}\t{serial:02X}\tunknown\t/CN=a.test\n");
        fs::write(self.path("index.new"), line).unwrap();
        fs::rename(self.path("index.new"), self.path("index.txt")).unwrap();
    }
}

/// The port that the responder says to accept at.
fn accepts(line: &Value) -> Option<u16> {
    let address = line.as_str()?.strip_prefix("ACCEPT ")?.split(' ').next()?;
    address.rsplit(':').next()?.parse().ok()
}

/// The extension that names `responder`, and `issuers` as where the issuer's certificate is.
fn access(responder: &str, issuers: &[String]) -> CustomExtension {
    let tlv = |tag, content: &[u8]| {
        let length = u8::try_from(content.len()).unwrap();
        assert!(length < 128);
        [&[tag, length], content].concat()
    };
    let describe = |number: u8, url: &str| {
        let method: &[u8] = &[6, 8, 0x2b, 6, 1, 5, 5, 7, 48, number];
        tlv(0x30, &[method, &tlv(0x86, url.as_bytes())].concat())
    };
    let issuers = issuers.iter().flat_map(|url| describe(2, url));
    let all: Vec<u8> = describe(1, responder).into_iter().chain(issuers).collect();
    CustomExtension::from_oid_content(&[1, 3, 6, 1, 5, 5, 7, 1, 1], tlv(0x30, &all))
}

const YAML: &str = "
listeners:
  secure: { bind: \"127.0.0.1:0\", protocol: https }
sites:
  a.test: { certificate: own, routes: [ { respond: here } ] }
certificates:
  own: { chain: chain.pem, key: key.pem }
";

/// What openssl says of a handshake in which it asks for a staple.
async fn shown(gateway: &Gateway, ca: &str) -> String {
    let address = gateway.address("secure").to_string();
    let arguments = ["s_client", "-status", "-servername", "a.test", "-verify_return_error"];
    let output =
        run("openssl", arguments.into_iter().chain(["-connect", &address, "-CAfile", ca])).await;
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(told.contains("Verify return code: 0 (ok)"), "{told}");
    told
}

fn is_good(told: &str) -> bool {
    told.contains("OCSP Response Status: successful") && told.contains("Cert Status: good")
}

fn is_without(told: &str) -> bool {
    told.contains("OCSP response: no response sent")
}

fn says(message: &'static str) -> impl Fn(&Value) -> bool {
    move |line| field(line, "message") == message && field(line, "certificate") == "own"
}

const STAPLED: &str = "staples an OCSP response";
const FAILED: &str = "could not obtain an OCSP response";
const REVOKED: &str = "the certificate is revoked";

/// What `/status` says of the first certificate.
async fn status(gateway: &Gateway) -> Value {
    let reply = Client::new(gateway.admin_address()).host("localhost").get("/status").await;
    let status: Value = serde_json::from_str(&reply.text()).unwrap();
    status["certificates"][0]["ocsp"].clone()
}

async fn metrics(gateway: &Gateway) -> String {
    Client::new(gateway.admin_address()).host("localhost").get("/metrics").await.text()
}

#[tokio::test]
async fn a_staple_is_served_and_verifies_and_outlives_the_responder() {
    let mut authority = Authority::start().await;
    let directory = TempDir::new().unwrap();
    authority.certify(directory.path(), 1, false);
    authority.know(1, false);
    let mut gateway = Gateway::start_in(directory, YAML).await;
    gateway.wait_log(says(STAPLED)).await;
    let ca = authority.path("ca.pem");
    let told = shown(&gateway, &ca).await;
    assert!(is_good(&told), "{told}");
    assert_eq!(status(&gateway).await, "good");
    within("the metrics", async {
        while !metrics(&gateway).await.contains("wardgate_ocsp_stapled_certificates 1\n") {}
    })
    .await;
    assert!(metrics(&gateway).await.contains("wardgate_ocsp_responses_total{result=\"good\"} 1\n"));

    // A judge that has no code of ours.
    let kept = kept_in(&gateway);
    let (chain, kept) = (gateway.directory().join("chain.pem"), kept.to_str().unwrap());
    let (chain, ca_file) = (chain.to_str().unwrap(), ca.as_str());
    let arguments = ["-respin", kept, "-issuer", ca_file, "-cert", chain, "-CAfile", ca_file];
    let judged = run("openssl", ["ocsp", "-no_nonce"].into_iter().chain(arguments)).await;
    let verdict = String::from_utf8_lossy(&judged.stderr);
    assert!(verdict.contains("Response verify OK"), "{verdict}");

    authority.hang_up().await;
    gateway.drain();
    assert!(gateway.exit_status().await.success());
    let mut gateway = gateway.again(YAML).await;
    assert!(is_good(&shown(&gateway, &ca).await), "from the disk, at the first handshake");
    assert_eq!(status(&gateway).await, "good");
    gateway.wait_log(says(STAPLED)).await;

    // Damaged, it is as good as none; and what belongs to nobody is swept.
    fs::write(kept_in(&gateway), "damaged").unwrap();
    gateway.drain();
    assert!(gateway.exit_status().await.success());
    let gateway = gateway.again(YAML).await;
    let line = gateway.wait_log(says(FAILED)).await;
    assert!(field(&line, "error").as_str().unwrap().contains("cannot connect"), "{line}");
    assert!(is_without(&shown(&gateway, &ca).await));
    assert!(
        metrics(&gateway).await.contains("wardgate_ocsp_responses_total{result=\"failed\"} 1\n")
    );
}

/// The file of the one response that is kept.
fn kept_in(gateway: &Gateway) -> std::path::PathBuf {
    let kept = fs::read_dir(gateway.directory().join("storage/ocsp")).unwrap();
    let mut kept = kept.map(|entry| entry.unwrap().path());
    kept.find(|path| path.extension().is_some_and(|it| it == "der")).expect("a response")
}

#[tokio::test]
async fn an_issuer_that_the_chain_lacks_is_had_from_where_the_certificate_says() {
    let mut authority = Authority::start().await;
    let ca = authority.path("ca.pem");
    let pem = fs::read_to_string(&ca).unwrap();
    let publisher = Origin::answering(move |request| match request.target.as_str() {
        "/ca.crt" => Answer::text(200, &pem),
        _ => Answer::text(404, "not here"),
    })
    .await;
    let directory = TempDir::new().unwrap();
    let issuers = ["/", "/ca.crt"].map(|path| publisher.url() + path);
    authority.certify_with(directory.path(), 1, false, &issuers, "");
    authority.know(1, false);
    let mut gateway = Gateway::start_in(directory, YAML).await;
    gateway.wait_log(says(STAPLED)).await;
    assert!(is_good(&shown(&gateway, &ca).await));

    authority.hang_up().await;
    drop(publisher);
    gateway.drain();
    assert!(gateway.exit_status().await.success());
    let gateway = gateway.again(YAML).await;
    assert!(is_good(&shown(&gateway, &ca).await), "all of it is kept");
}

#[tokio::test]
async fn a_responder_that_is_down_does_no_harm() {
    let authority = Authority::silent();
    let directory = TempDir::new().unwrap();
    authority.certify(directory.path(), 1, true);
    let gateway = Gateway::start_in(directory, YAML).await;
    gateway.wait_log(says(FAILED)).await;
    let demands = "the certificate demands a staple and there is none yet, some clients refuse it";
    gateway.wait_log(says(demands)).await;
    assert!(is_without(&shown(&gateway, &authority.path("ca.pem")).await));
    assert_eq!(status(&gateway).await, Value::Null);
}

#[tokio::test]
async fn a_responder_that_hangs_holds_a_start_up_for_two_seconds_and_no_more() {
    let responder = Origin::start().await;
    responder.hold();
    let mut authority = Authority::silent();
    authority.address = responder.address();
    let directory = TempDir::new().unwrap();
    authority.certify(directory.path(), 1, true);
    let begun = Instant::now();
    let gateway = Gateway::start_in(directory, YAML).await;
    // The question itself has ten.
    assert!(begun.elapsed().as_secs() < 8, "{:?}", begun.elapsed());
    assert!(is_without(&shown(&gateway, &authority.path("ca.pem")).await));
    let asked = responder.received(2).await;
    assert!(asked.iter().all(|one| one.method == "GET" && one.target.starts_with("/ME")));
}

#[tokio::test]
async fn a_new_certificate_is_stapled_and_one_that_demands_it_from_its_first_handshake() {
    let authority = Authority::start().await;
    let directory = TempDir::new().unwrap();
    authority.certify(directory.path(), 1, false);
    let gateway = Gateway::start_in(directory, YAML).await;
    let line = gateway.wait_log(says(FAILED)).await;
    let error = field(&line, "error").as_str().unwrap();
    assert!(error.contains("cannot be served: the responder does not know"), "{line}");

    authority.know(2, false);
    authority.certify(gateway.directory(), 2, true);
    gateway.signal("HUP");
    gateway.reloaded(2).await;
    let told = shown(&gateway, &authority.path("ca.pem")).await;
    assert!(is_good(&told), "{told}");
    gateway.wait_log(says(STAPLED)).await;
    assert_eq!(status(&gateway).await, "good");
    assert!(metrics(&gateway).await.contains("wardgate_ocsp_responses_total{result=\"good\"} 1\n"));

    // What is kept of a certificate goes with it.
    let kept = kept_in(&gateway);
    authority.know(3, false);
    authority.certify(gateway.directory(), 3, true);
    gateway.signal("HUP");
    gateway.reloaded(3).await;
    within("the sweep", async {
        while kept.exists() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_ne!(kept_in(&gateway), kept);
    assert!(is_good(&shown(&gateway, &authority.path("ca.pem")).await));
}

#[tokio::test]
async fn a_revoked_certificate_is_told_of_and_never_shown_as_good() {
    let authority = Authority::start().await;
    let directory = TempDir::new().unwrap();
    authority.certify(directory.path(), 1, false);
    authority.know(1, true);
    let mut gateway = Gateway::start_in(directory, YAML).await;
    let line = gateway.wait_log(says(REVOKED)).await;
    assert_eq!(field(&line, "level"), "error", "{line}");
    let ca = authority.path("ca.pem");
    assert!(is_without(&shown(&gateway, &ca).await));
    assert_eq!(status(&gateway).await, "revoked");
    let asked = metrics(&gateway).await;
    assert!(asked.contains("wardgate_ocsp_responses_total{result=\"revoked\"} 1\n"));

    // It is not forgotten, and said again.
    gateway.drain();
    assert!(gateway.exit_status().await.success());
    let gateway = gateway.again(YAML).await;
    gateway.wait_log(says(REVOKED)).await;
    assert!(is_without(&shown(&gateway, &ca).await));
    let asked = metrics(&gateway).await;
    assert!(asked.contains("wardgate_ocsp_responses_total{result=\"revoked\"} 0\n"));
}
