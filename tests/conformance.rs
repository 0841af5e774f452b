//! The quick suites of `./dev conformance`, against this build alone.

use crate::support::{in_repository, run};

#[tokio::test]
async fn quick_conformance_suites_pass() {
    let python = in_repository(".venv/bin/python3");
    assert!(python.exists(), "{} is missing: ./dev test makes it", python.display());
    let (gateway, suites) =
        (env!("CARGO_BIN_EXE_wardgate"), in_repository("tests/conformance/run.py"));
    let wardgate = format!("WARDGATE={gateway}");
    let arguments = [&*wardgate, python.to_str().unwrap(), suites.to_str().unwrap(), "--quick"];
    let output = run("env", arguments).await;
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{told}{}", String::from_utf8_lossy(&output.stderr));
    let passed = told.lines().filter(|line| line.contains(": wardgate: ")).count();
    assert!(passed >= 4, "{told}");
}
