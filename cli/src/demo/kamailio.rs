//! A real Kamailio in the place of the second router.

use std::path::Path;
use std::process::{Command, Stdio};

use super::network::Block;

/// The configuration, with words in capitals to be replaced.
const ROUTER: &str = include_str!("../../../testdata/kamailio/router.cfg");

/// How to get it.
pub(crate) const NEEDED: &str = "\
--with-kamailio: there is no Kamailio here; on Debian and Ubuntu this installs it:
  apt-get install kamailio kamailio-extra-modules
The package starts a Kamailio of its own on port 5060; `systemctl disable --now kamailio` ends it.
";

/// Where it is: people who are not root may have no sbin in their PATH.
const PLACES: [&str; 2] = ["kamailio", "/usr/sbin/kamailio"];

/// Returns the program, if it is installed.
pub(crate) fn program() -> Option<&'static str> {
    PLACES.into_iter().find(|place| {
        let mut version = Command::new(place);
        version
            .arg("-v")
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        version.status().is_ok_and(|status| status.success())
    })
}

/// Returns the configuration of router 1, which joins at router 0.
pub(crate) fn config(block: Block, control: &Path) -> String {
    let aliases = [0, 1].map(|index| format!("alias={}", block.router(index)));
    let seed = format!(
        r#"modparam("dmq", "notification_address", "sip:{}")"#,
        block.dmq(0)
    );
    ROUTER
        .replace("@IP@", &block.router(1).ip().to_string())
        .replace("@ALIASES@", &aliases.join("\n"))
        .replace("@NOTIFICATION@", &seed)
        .replace("@CONTROL@", &control.display().to_string())
        .replace("@IPBX@", &block.ipbx().to_string())
}
