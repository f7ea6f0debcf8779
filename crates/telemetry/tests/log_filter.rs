//! What is logged may change while the process runs. A test file of its own: a process has one log.

#![allow(clippy::unwrap_used, reason = "a test: panics are its verdict")]

use telemetry::logs::{Filter, Format, change, start};
use tracing::{Level, enabled};

#[test]
fn what_is_logged_changes_while_the_process_runs() {
    let filter = |text: &str| text.parse::<Filter>().unwrap();
    let detailed = || enabled!(target: "tandem_sbc", Level::DEBUG);
    change(&filter("trace"));
    assert!(!detailed(), "nothing is logged before the start");
    start(&filter("info"), Format::Json);
    assert!(enabled!(Level::INFO) && !detailed());
    change(&filter("info,tandem_sbc=debug"));
    assert!(detailed() && !enabled!(Level::DEBUG));
    start(&filter("trace"), Format::Text);
    assert!(!enabled!(Level::DEBUG), "only the first start counts");
    change(&filter("off"));
    assert!(!enabled!(Level::ERROR) && !detailed());
}
