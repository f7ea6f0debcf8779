//! Tandem as it is run: real processes and sockets, with SIPp and our user agents at both ends.
//!
//! `cargo xtask test` builds the release binary and runs these; without `TANDEM_PEERS=1` each test
//! says what it left out. Every test has a block of loopback addresses, or network namespaces, of
//! its own and ends the processes that it started.

#![allow(clippy::unwrap_used, reason = "a test: panics are its verdict")]

mod agents;
mod demo;
mod load;
mod processes;
mod quiet;
mod sipp;
mod system;
