//! Upgrades under a service manager, whose part the tests play.

use std::os::unix::net::UnixDatagram;
use std::sync::mpsc;

use super::*;
use crate::support::{PATIENCE, in_repository};

/// What systemd is told, read as it comes: the system keeps ten words for who does not.
struct Told(mpsc::Receiver<Vec<String>>);

impl Told {
    fn at(path: &Path) -> Self {
        let socket = UnixDatagram::bind(path).unwrap();
        let (sender, told) = mpsc::channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(size) = socket.recv(&mut buffer) {
                let text = String::from_utf8_lossy(&buffer[..size]).into_owned();
                if sender.send(text.lines().map(ToOwned::to_owned).collect()).is_err() {
                    return;
                }
            }
        });
        Self(told)
    }

    /// The lines of the next notification.
    fn any(&self) -> Vec<String> {
        self.0.recv_timeout(PATIENCE).expect("a notification in time")
    }

    /// The same, signs of life aside.
    fn next(&self) -> Vec<String> {
        // At most half a minute of those.
        let mut news = (0..300).map(|_| self.any()).filter(|lines| lines[..] != ["WATCHDOG=1"]);
        news.next().expect("something else than signs of life")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn systemd_is_told_of_the_new_main_process_and_hears_from_that_alone() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("notify");
    let systemd = Told::at(&path);
    let mut program = Command::new(env!("CARGO_BIN_EXE_wardgate"));
    program.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "200000");
    let yaml = r#"
listeners: { web: { bind: "127.0.0.1:0", protocol: http } }
sites: { "*": { routes: [{ respond: here }] } }
shutdown: { delay: 10m, grace: 5s }
"#;
    let mut gateways = Generations::start_program(program, yaml).await;
    let serving = ["READY=1", "STATUS=serving 1 site, generation 1"];
    assert_eq!(systemd.next(), serving);
    let mut last = gateways.first.id();
    for generation in 2..=3 {
        let next = gateways.upgrade(&[]).await;
        assert_eq!(systemd.next(), [format!("MAINPID={next}")], "from the old one");
        assert_eq!(systemd.next(), serving, "from the new one");
        match generation {
            2 => assert_eq!(gateways.first.end().await.code(), Some(0), "without shutdown.delay"),
            _ => gone(last, gateways.directory()).await,
        }
        last = next;
    }
    // What came while the old one ended is read by then: these are the last one's.
    for _ in 0..20 {
        assert_eq!(systemd.any(), ["WATCHDOG=1"], "the old one does not say that the unit stops");
    }
    // A word that systemd does not hear leaves the process that it knows.
    fs::rename(&path, directory.path().join("elsewhere")).unwrap();
    let output = gateways.ask(&[]).await;
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    assert!(said(&output).contains("the service manager cannot be told"), "{}", said(&output));
    fs::rename(directory.path().join("elsewhere"), &path).unwrap();
    assert_eq!(gateways.serving().await, last);
    signal(last, "HUP");
    assert_eq!(systemd.next()[0], "RELOADING=1");
    assert_eq!(systemd.next(), serving);
    signal(last, "TERM");
    assert_eq!(systemd.next()[0], "STOPPING=1");
    signal(last, "TERM");
    gone(last, gateways.directory()).await;
}

/// A gateway with `systemd` as its manager, which waits ten minutes for a sign of life.
async fn start_watched(path: &Path, shutdown: &str) -> Generations {
    let mut program = Command::new(env!("CARGO_BIN_EXE_wardgate"));
    program.env("NOTIFY_SOCKET", path).env("WATCHDOG_USEC", "600000000");
    let yaml = "listeners: { web: { bind: \"127.0.0.1:0\", protocol: http } }\n\
                sites: { \"*\": { routes: [{ respond: here }] } }\n";
    Generations::start_program(program, &format!("{yaml}shutdown: {shutdown}\n")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_main_process_gives_a_sign_of_life_at_once() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("notify");
    let systemd = Told::at(&path);
    let mut gateways = start_watched(&path, "{ grace: 1s }").await;
    let mut first = [systemd.any(), systemd.any()];
    first.sort();
    assert_eq!((first[0][0].as_str(), first[1][0].as_str()), ("READY=1", "WATCHDOG=1"));
    let next = gateways.upgrade(&[]).await;
    assert_eq!(systemd.any(), [format!("MAINPID={next}")]);
    assert_eq!(systemd.any(), ["WATCHDOG=1"], "the one before may be half a period old");
    assert_eq!(systemd.any()[0], "READY=1");
    assert_eq!(gateways.first.end().await.code(), Some(0));
    signal(next, "TERM");
    gone(next, gateways.directory()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_after_the_new_process_has_become_the_main_one_takes_nothing_back() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("notify");
    let systemd = Told::at(&path);
    let mut gateways = start_watched(&path, "{ delay: 10m, grace: 5s }").await;
    let old = rustix::process::Pid::from_raw(gateways.first.id().try_into().unwrap()).unwrap();
    let at = gateways.directory().to_owned();
    let asked = tokio::spawn(async move { ask(&at, &[]).await });
    let told = tokio::task::spawn_blocking(move || {
        loop {
            let lines = systemd.next();
            if lines[0].starts_with("MAINPID=") {
                rustix::process::kill_process(old, rustix::process::Signal::TERM).unwrap();
                return (lines[0].clone(), systemd);
            }
        }
    });
    let (told, systemd) = told.await.unwrap();
    let output = asked.await.unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert_eq!(gateways.first.end().await.code(), Some(0), "without shutdown.delay");
    let next = gateways.serving().await;
    assert_eq!(told, format!("MAINPID={next}"));
    assert_eq!(systemd.next()[0], "READY=1");
    signal(next, "KILL");
    gone(next, gateways.directory()).await;
}

#[tokio::test]
async fn a_unit_whose_main_process_systemd_cannot_learn_is_not_upgraded() {
    // systemd sets the variable to the number of the process, which the shell knows beforehand.
    let mut program = Command::new("/bin/sh");
    let text = format!("SYSTEMD_EXEC_PID=$$ exec {} \"$@\"", env!("CARGO_BIN_EXE_wardgate"));
    program.args(["-c", &text, "sh"]).env_remove("NOTIFY_SOCKET");
    let yaml = "listeners: { web: { bind: \"127.0.0.1:0\", protocol: http } }\n\
                sites: { \"*\": { routes: [{ respond: here }] } }\n";
    let gateways = Generations::start_program(program, yaml).await;
    let output = gateways.ask(&[]).await;
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("the unit needs Type=notify"), "{}", said(&output));
    assert_eq!(gateways.first.client().get("/").await.text(), "here");
}

#[tokio::test]
async fn process_one_says_that_its_container_would_end() {
    let yaml = "listeners: { web: { bind: \"127.0.0.1:0\", protocol: http } }\n\
                sites: { \"*\": { routes: [{ respond: here }] } }\n";
    let mut program = Command::new("unshare");
    let wardgate = env!("CARGO_BIN_EXE_wardgate");
    program.args(["--user", "--map-root-user", "--pid", "--fork", "--kill-child", wardgate]);
    let gateways = Generations::start_program(program, yaml).await;
    let output = gateways.ask(&[]).await;
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("the gateway is process 1"), "{}", said(&output));
    assert_eq!(gateways.first.client().get("/").await.text(), "here");
}

#[tokio::test]
async fn sockets_that_systemd_holds_are_passed_on() {
    let mut program = Command::new("python3");
    program.arg(in_repository("tests/peers/activate.py"));
    program.args(["127.0.0.1,127.0.0.1,*", env!("CARGO_BIN_EXE_wardgate")]);
    let yaml = r#"
listeners:
  web: { bind: ["127.0.0.1:PORT_0", "127.0.0.1:0"], protocol: http }
  every: { bind: ":PORT_2", protocol: http }
sites: { "*": { routes: [{ respond: here }] } }
admin: { bind: "127.0.0.1:PORT_1" }
shutdown: { grace: 1s }
"#;
    let mut gateways = Generations::start_program(program, yaml).await;
    let file = fs::read_to_string(gateways.directory().join("gateway.yaml")).unwrap();
    let admin = gateways.first.admin_address().to_string();
    assert!(file.contains(&format!("admin: {{ bind: \"{admin}\"")), "it was inherited: {file}");
    let bound = [gateways.first.addresses("web"), gateways.first.addresses("every")].concat();
    for _ in 0..2 {
        gateways.upgrade(&[]).await;
    }
    assert_eq!(gateways.first.end().await.code(), Some(0));
    for address in bound {
        let host = std::net::SocketAddr::from(([127, 0, 0, 1], address.port()));
        assert_eq!(Client::new(host).get("/").await.text(), "here", "{address}");
    }
    let log = gateways.first.log().all();
    let closed = is_message("closed an inherited socket that no listener names");
    assert!(!log.iter().any(closed), "all are of use to the next one");
    let (every, port) = ("every: { bind: \":", gateways.first.address("every").port());
    assert!(file.contains(every), "{file}");
    gateways.first.rewrite(&file.replace(every, "every: { bind: \"127.0.0.1:"));
    let is_held = |line: &Value| {
        let faults = field(line, "faults").as_str().unwrap_or_default();
        faults.contains(&format!("127.0.0.1:{port}")) && faults.contains("change ListenStream=")
    };
    gateways.first.wait_log(is_held).await;
}
