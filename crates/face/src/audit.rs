//! One line for every call that changes something, whatever became of it: who, what, and the outcome.

use std::fmt;
use std::net::SocketAddr;

use tonic::Code;

use crate::messages::Names;

/// The target of the lines: `log.filter = "warn,audit=info"` keeps them alone.
const TARGET: &str = "audit";
/// Most names in a line.
const NAMES_SHOWN_MAX: usize = 16;

/// Notes a change that nobody called for through a face: who made it, how, and what became of it.
pub fn without_call(identity: &str, how: &str, resource: &str, code: Code) {
    tracing::info!(
        target: TARGET,
        identity,
        role = "-",
        remote_addr = "-",
        rpc = how,
        resource,
        ?code,
        trace_id = "-",
        "change"
    );
}

/// A change that goes on. Dropped without an outcome it was cancelled by its caller, and may have
/// happened all the same.
pub(crate) struct Change {
    pub(crate) rpc: String,
    pub(crate) identity: Option<String>,
    /// The role that counted; none without access control, and for who was not admitted.
    pub(crate) role: Option<String>,
    pub(crate) remote_addr: SocketAddr,
    pub(crate) trace_id: String,
    pub(crate) names: Names,
    pub(crate) outcome: Code,
}

impl Drop for Change {
    fn drop(&mut self) {
        let said = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
        tracing::info!(
            target: TARGET,
            identity = said(&self.identity),
            role = said(&self.role),
            remote_addr = %self.remote_addr,
            rpc = self.rpc,
            resource = %Shown(&self.names.take()),
            code = ?self.outcome,
            trace_id = self.trace_id,
            "change"
        );
    }
}

/// Names in a line. Of an entry of a table only the table is named: keys are numbers and addresses
/// of people.
struct Shown<'a>(&'a [String]);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.0.iter().filter(|name| !name.is_empty()).collect();
        for (i, name) in names.iter().take(NAMES_SHOWN_MAX).enumerate() {
            let name = name
                .split_once("/entries/")
                .map_or(name.as_str(), |(table, _)| table);
            let separator = if i == 0 { "" } else { "," };
            write!(f, "{separator}{name}")?;
        }
        match names.len().saturating_sub(NAMES_SHOWN_MAX) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_shows_no_key_of_a_table_and_not_too_many_names() {
        let names = ["tables/bans/entries/5551234", "routes/a"].map(str::to_owned);
        assert_eq!(Shown(&names).to_string(), "tables/bans,routes/a");
        let many = vec!["a".to_owned(); 18];
        assert!(Shown(&many).to_string().ends_with("a,a and 2 more"));
    }
}
