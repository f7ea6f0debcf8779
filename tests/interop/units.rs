//! The systemd units, as systemd reads them.

use std::fs;
use std::process::Command;

use crate::quiet::{binary, repository, say, shared};

#[test]
fn systemd_finds_nothing_wrong_with_the_units() {
    let Some(_permit) = shared(&["systemd-analyze"]) else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    for service in ["registry", "router", "sbc"] {
        let name = format!("tandem-{service}.service");
        let unit = repository().join("packaging/systemd").join(&name);
        let text = fs::read_to_string(unit).unwrap();
        // It looks for the program.
        let program = binary().canonicalize().unwrap();
        let text = text.replace("/usr/bin/tandem", program.to_str().unwrap());
        let path = directory.path().join(name);
        fs::write(&path, &text).unwrap();
        let verified = Command::new("systemd-analyze")
            .arg("verify")
            .arg(&path)
            .output()
            .unwrap();
        assert!(verified.status.success(), "{verified:?}");
        assert_eq!(String::from_utf8_lossy(&verified.stderr), "");
        say(&format!("tandem-{service}.service is well"));

        // What the unit runs first is a command that there is.
        let checked = Command::new(binary())
            .args(["run", service, "--check"])
            .output()
            .unwrap();
        assert!(checked.status.success(), "{checked:?}");
        let state = String::from_utf8_lossy(&checked.stdout).into_owned();
        assert!(state.contains("state_dir = \"/var/lib/tandem"), "{state}");
    }
}
