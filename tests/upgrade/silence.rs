//! Upgrades while nobody reads what the gateway says.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;

use super::*;

/// `O_NONBLOCK` of Linux (open(2)).
const NONBLOCK: i32 = 0o4000;

/// Reads a gateway's standard error for the test, and can stop to.
struct Reader(u32);

impl Reader {
    fn of(gateways: &Generations) -> Self {
        let text = fs::read_to_string(gateways.directory().join("reader")).unwrap();
        Self(text.trim().parse().unwrap())
    }

    /// Reads no more, and leaves no room for more than it has not read.
    fn stop(&self, of: u32) {
        signal(self.0, "STOP");
        let pipe = format!("/proc/{of}/fd/2");
        let mut pipe =
            fs::OpenOptions::new().write(true).custom_flags(NONBLOCK).open(pipe).unwrap();
        for piece in [4096, 1] {
            while pipe.write(&vec![b'\n'; piece]).is_ok() {}
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        // Fails only when it has ended.
        let _ = Command::new("kill").args(["-s", "CONT", &self.0.to_string()]).status();
    }
}

#[tokio::test]
async fn what_the_new_process_prints_is_in_the_log_and_waits_for_nobody() {
    let mut program = Command::new("bash");
    let wardgate = env!("CARGO_BIN_EXE_wardgate");
    let text = format!("exec {wardgate} \"$@\" 2> >(echo $BASHPID > reader; exec cat >&2)");
    program.args(["-c", &text, "bash"]);
    let yaml = "listeners: { web: { bind: \"127.0.0.1:0\", protocol: http } }\n\
                sites: { \"*\": { routes: [{ respond: here }] } }\nshutdown: { grace: 1s }\n";
    let mut gateways = Generations::start_program(program, yaml).await;
    let reader = Reader::of(&gateways);
    let unused = "upstreams: { spare: { servers: \"http://127.0.0.1:1\" } } # hunter2\n";
    gateways.first.rewrite(&format!("{yaml}{unused}"));

    // The next one is asked for once this one has taken over.
    let second = gateways.upgrade(&[]).await;
    let printed = gateways.first.wait_log(is_message("what the new process has printed")).await;
    let output = field(&printed, "output").as_str().unwrap();
    assert!(output.contains("warning: no site uses this upstream"), "{output}");
    assert_eq!(field(&printed, "pid"), second);
    assert!(!gateways.first.log().to_string().contains("hunter2"), "no line of the file");
    assert_eq!(gateways.first.end().await.code(), Some(0));

    let directory = gateways.directory().to_owned();
    let asked = tokio::spawn(async move { ask(&directory, &[]).await });
    let starts = is_message("starting another process in the place of this one");
    let starts = gateways.first.log().wait_for_count("two starts", 2, starts).await;
    let third = pid(field(&starts[1], "pid"));
    reader.stop(second);
    let output = asked.await.unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    gone(second, gateways.directory()).await;
    assert_eq!(gateways.serving().await, third);
    signal(third, "TERM");
    gone(third, gateways.directory()).await;
}
