//! Sessions that are resumed: a ticket is no certificate.

use super::pki::Authority;
use super::{Scene, yaml_with};

/// Whether the handshake was resumed, and the status of the answer, if one came.
fn outcome(told: &str) -> (bool, Option<u16>) {
    let status = told.split("HTTP/1.1 ").nth(1).and_then(|rest| rest.get(..3)?.parse().ok());
    (told.contains("Reused, TLSv1."), status)
}

struct Visitor<'s> {
    scene: &'s Scene,
    version: &'static str,
}

impl Visitor<'_> {
    /// A visit with the certificate of this name, `""` being none, that keeps its session in a file,
    /// or goes on with the one that is there.
    async fn go(
        &self,
        (listener, named, asked): (&str, &str, &str),
        name: &str,
        (option, session): (&str, &str),
    ) -> (bool, Option<u16>) {
        let scene = self.scene;
        let session = scene.path(&format!("{session}{}", self.version));
        let (cert, key) = (scene.path(&format!("{name}.pem")), scene.path(&format!("{name}.key")));
        let mut arguments = vec![self.version, "-servername", named, option, &session];
        if !name.is_empty() {
            arguments.extend(["-cert", &cert, "-key", &key]);
        }
        outcome(&scene.s_client(listener, &arguments, asked).await)
    }
}

const OUT: &str = "-sess_out";
const IN: &str = "-sess_in";

/// CVE-2025-23419 and its kind: neither the name of another site nor a ticket from there leads to a
/// site that asks for certificates.
#[tokio::test]
async fn a_ticket_of_another_rule_opens_nothing() {
    let scene = Scene::start().await;
    for version in ["-tls1_2", "-tls1_3"] {
        let visitor = Visitor { scene: &scene, version };
        let at = |host| ("secure", host, host);
        for (host, name) in [("open.test", ""), ("maybe.test", ""), ("members.test", "good")] {
            let first = visitor.go(at(host), name, (OUT, host)).await;
            assert_eq!(first, (false, Some(200)), "{version} {host}");
            let again = visitor.go(at(host), "", (IN, host)).await;
            assert_eq!(again, (true, Some(200)), "{version} {host} goes on with its session");
        }
        let told = scene.origin.received(1).await;
        let last = told.last().unwrap();
        assert_eq!(
            last.header("x-client-cert-subject"),
            Some("CN=ann,O=Example"),
            "resumed, and known"
        );
        for session in ["open.test", "maybe.test"] {
            let got = visitor.go(at("members.test"), "", (IN, session)).await;
            assert_eq!(got, (false, None), "{version} {session}: a ticket is no certificate");
            let got = visitor.go(at("members.test"), "good", (IN, session)).await;
            assert_eq!(got, (false, Some(200)), "{version} {session}: a full handshake");
        }
        for (listener, named, asked, session) in [
            ("secure", "members.test", "others.test", "members.test"),
            ("secure", "maybe.test", "members.test", "maybe.test"),
            ("secure", "open.test", "members.test", "open.test"),
        ] {
            let got = visitor.go((listener, named, asked), "", (IN, session)).await;
            assert_eq!(got.1, Some(421), "{version} {named} {asked}");
        }
        // At the listener where everybody is asked, the same name is under another rule.
        let got = visitor.go(("strict", "open.test", "open.test"), "", (IN, "open.test")).await;
        assert_eq!(got, (false, None), "{version} strict");
        let got = visitor.go(at("others.test"), "", (IN, "members.test")).await;
        assert_eq!(got, (false, None), "{version} another CA");
    }
}

#[tokio::test]
async fn a_ticket_does_not_outlive_the_rule_that_it_is_from() {
    let scene = Scene::start().await;
    let at = |host| ("secure", host, host);
    let mut generation = 1;
    for version in ["-tls1_2", "-tls1_3"] {
        let visitor = Visitor { scene: &scene, version };
        for (host, name) in [("open.test", ""), ("members.test", "good")] {
            assert_eq!(visitor.go(at(host), name, (OUT, host)).await.1, Some(200), "{host}");
        }
        // The site that was open requires a certificate.
        generation += 1;
        let rule = "ca: clients.pem, mode: require";
        let open = "client_auth: { ca: clients.pem, mode: require }, ";
        scene.gateway.reload(&yaml_with(&scene.origin.url(), rule, open), generation).await;
        let got = visitor.go(at("open.test"), "", (IN, "open.test")).await;
        assert_eq!(got, (false, None), "{version}: it was open");
        let got = visitor.go(at("members.test"), "", (IN, "members.test")).await;
        assert_eq!(got, (true, Some(200)), "{version}: a rule that is the same keeps its sessions");
        // The file of the CA says something else, and is then put back.
        let old = std::fs::read(scene.path("clients.pem")).unwrap();
        std::fs::write(scene.path("clients.pem"), Authority::new("Clients").pem()).unwrap();
        generation += 1;
        scene.gateway.reloaded(generation).await;
        let got = visitor.go(at("members.test"), "", (IN, "members.test")).await;
        assert_eq!(got, (false, None), "{version}: another CA");
        std::fs::write(scene.path("clients.pem"), old).unwrap();
        generation += 1;
        scene.gateway.reloaded(generation).await;
        let got = visitor.go(at("members.test"), "", (IN, "members.test")).await;
        assert_eq!(got, (false, None), "{version}: the old keys are gone");
        generation += 1;
        scene.gateway.reload(&yaml_with(&scene.origin.url(), rule, ""), generation).await;
    }
}
