//! Configuration: whatever the text, it is answered; what is wrong is said within the text, and what is
//! right is shown so that it loads again to the same.

use std::path::Path;

use wardgate::config::{self, effective};

pub(crate) fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if text.len() > 32 << 10 || text.contains("${") {
        return; // references read files and the environment
    }
    let load = |text: &str| config::from_text("gateway.yaml", text, Path::new("conf"));
    match load(text) {
        Err(faults) => {
            assert!(faults.has_errors(), "refused without a fault");
            let shown = faults.to_string();
            assert!(shown.starts_with("gateway.yaml:"), "{shown}");
        }
        Ok(loaded) => {
            let _ = loaded.warnings.to_string();
            let shown = effective::yaml(&loaded);
            if shown.contains("***") {
                return; // a secret, which is not shown
            }
            match load(&shown) {
                Ok(again) => assert_eq!(effective::yaml(&again), shown),
                Err(faults) => panic!("shown, but not taken:\n{shown}\n{faults}"),
            }
        }
    }
}
