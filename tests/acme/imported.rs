//! Certificates that an operator has put in the place of ordered ones.

use std::time::{Duration, SystemTime};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::Value;
use wardgate::acme::import::{self, Files, ImportError};
use wardgate::acme::storage::{CertId, Storage};
use wardgate::net::HostPattern;

use crate::support::{Client, Gateway, Pebble, Settings, field, within};

/// An operator with a CA of their own.
struct Operator {
    ca: CertifiedIssuer<'static, KeyPair>,
    storage: Storage,
    root: std::path::PathBuf,
}

impl Operator {
    fn of(gateway: &Gateway) -> Self {
        let mut ca = CertificateParams::default();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(ca, KeyPair::generate().unwrap()).unwrap();
        let root = gateway.directory().join("operator.pem");
        std::fs::write(&root, ca.pem()).unwrap();
        let storage = Storage::open(&gateway.directory().join("storage")).unwrap();
        Self { ca, storage, root }
    }

    /// Brings a certificate for the site that ends after `left`.
    async fn import(&self, left: Duration) {
        let mut params = CertificateParams::new(vec!["app.example.com".to_owned()]).unwrap();
        params.not_before = (SystemTime::now() - Duration::from_secs(60)).into();
        params.not_after = (SystemTime::now() + left).into();
        let key = KeyPair::generate().unwrap();
        let chain = params.signed_by(&key, &self.ca).unwrap().pem();
        let names = [HostPattern::parse("app.example.com").unwrap()];
        let key = key.serialize_pem();
        let files = Files::Pem { chain: chain.as_bytes(), key: key.as_bytes() };
        let examined = import::examine(files, &names, SystemTime::now());
        let pair = examined.pair.unwrap_or_else(|| panic!("{:?}", examined.findings));
        let id = CertId::new("app.example.com");
        self.when_free(|| import::keep(&self.storage, &id, &pair)).await;
    }

    async fn remove(&self) {
        let id = CertId::new("app.example.com");
        assert!(self.when_free(|| import::remove(&self.storage, &id)).await);
    }

    /// What comes of `act`, once the gateway is done with the certificate.
    async fn when_free<T>(&self, act: impl Fn() -> Result<T, ImportError>) -> T {
        let done = async {
            loop {
                match act() {
                    Err(ImportError::Busy(_)) => {
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                    other => return other.unwrap(),
                }
            }
        };
        within("the certificate's lock", done).await
    }

    fn client(&self, gateway: &Gateway) -> Client {
        gateway.client_of("secure").tls(&self.root).host("app.example.com")
    }
}

fn yaml(pebble: Option<&Pebble>) -> String {
    let mut text = "listeners:\n  web: { bind: \"127.0.0.1:0\", protocol: http }\n  \
                    secure: { bind: \"127.0.0.1:0\", protocol: https }\nsites:\n  \
                    app.example.com: { https: both, routes: [ { respond: app } ]"
        .to_owned();
    match pebble {
        None => text += ", certificate: internal }\n",
        Some(pebble) => {
            let (directory, ca) = (&pebble.authority.directory, pebble.ca());
            text += &format!(
                " }}\nacme: {{ email: ops@example.com, directory: \"{directory}\", directory_ca: \"{}\", profile: classic }}\n",
                ca.display()
            );
        }
    }
    text
}

async fn begin() -> (Gateway, Pebble, Operator) {
    let gateway = Gateway::start(yaml(None)).await;
    let ports = (gateway.address("web"), gateway.address("secure"));
    let pebble = Pebble::start(ports, Settings::default()).await;
    let operator = Operator::of(&gateway);
    (gateway, pebble, operator)
}

fn says(message: &'static str) -> impl Fn(&Value) -> bool {
    move |line| field(line, "message") == message && field(line, "certificate") == "app.example.com"
}

/// Serves the site to a client that trusts nobody but who is behind `client`.
async fn is_served(client: &Client) -> bool {
    client.try_connect().await.is_ok()
}

async fn standing(gateway: &Gateway) -> Value {
    let reply = Client::new(gateway.admin_address()).host("localhost").get("/status").await;
    let status: Value = serde_json::from_str(&reply.text()).unwrap();
    let orders = status["orders"].as_array().unwrap();
    assert_eq!(orders.len(), 1, "{status}");
    orders[0].clone()
}

const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);

#[tokio::test]
async fn an_imported_certificate_is_served_and_nothing_is_ordered_until_it_is_removed() {
    let (gateway, pebble, operator) = begin().await;
    operator.import(YEAR).await;
    gateway.reload(&yaml(Some(&pebble)), 2).await;
    let theirs = operator.client(&gateway);
    assert_eq!(theirs.get("/").await.text(), "app");
    let order = standing(&gateway).await;
    assert_eq!((&order["state"], &order["name"]), (&"imported".into(), &"app.example.com".into()));
    assert!(order["next_at"].is_string(), "{order}");

    // Another one is noticed by itself, as is that it is gone.
    operator.import(YEAR).await;
    gateway.reloaded(3).await;
    assert_eq!(theirs.get("/").await.text(), "app");
    assert_eq!(pebble.issued(), 0);
    operator.remove().await;
    gateway.reloaded(4).await;
    gateway.wait_log(says("obtained a certificate")).await;
    let ours = gateway.client_of("secure").tls(&pebble.root().await).host("app.example.com");
    assert_eq!(ours.get("/").await.text(), "app");
    assert!(!is_served(&theirs).await);

    // What was obtained waits behind what is imported, and is not ordered again.
    operator.import(YEAR).await;
    gateway.reloaded(5).await;
    assert!(is_served(&theirs).await && !is_served(&ours).await);
    assert_eq!(standing(&gateway).await["state"], "imported");
    operator.remove().await;
    gateway.reloaded(6).await;
    assert!(is_served(&ours).await && !is_served(&theirs).await);
    let active = async {
        while standing(&gateway).await["state"] != "active" {
            tokio::task::yield_now().await;
        }
    };
    within("it to be looked after again", active).await;
    assert_eq!(pebble.issued(), 1);
}

#[tokio::test]
async fn an_imported_certificate_that_ends_makes_way_in_time() {
    let (gateway, pebble, operator) = begin().await;
    // A twentieth of its life is three seconds and a half.
    operator.import(Duration::from_secs(9)).await;
    gateway.reload(&yaml(Some(&pebble)), 2).await;
    gateway.wait_log(says("the imported certificate ends, its successor is ordered")).await;
    let theirs = operator.client(&gateway);
    let ours = gateway.client_of("secure").tls(&pebble.root().await).host("app.example.com");
    gateway.wait_log(says("obtained a certificate")).await;
    assert!(is_served(&ours).await && !is_served(&theirs).await);
    let active = async {
        while standing(&gateway).await["state"] != "active" {
            tokio::task::yield_now().await;
        }
    };
    within("the renewer to look after it", active).await;
}

#[tokio::test]
async fn an_imported_certificate_that_lacks_a_name_of_its_site_is_not_served() {
    let (gateway, pebble, operator) = begin().await;
    operator.import(YEAR).await;
    let more =
        yaml(Some(&pebble)).replace("{ https: both", "{ aliases: [new.example.com], https: both");
    gateway.reload(&more, 2).await;
    let line = gateway
        .wait_log(says("the imported certificate is not for all names of its site, it is ordered"))
        .await;
    assert_eq!(field(&line, "names"), "new.example.com");
    gateway.wait_log(says("obtained a certificate")).await;
    assert!(!is_served(&operator.client(&gateway)).await);
}
