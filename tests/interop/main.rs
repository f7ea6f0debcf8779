//! Tandem as it is run: real processes and sockets, with SIPp and our user agents at both ends.
//!
//! `cargo xtask test` builds the release binary and runs these; without `TANDEM_PEERS=1` each test
//! says what it left out. Every test has a block of loopback addresses, or network namespaces, of
//! its own and ends the processes that it started.

#![allow(clippy::unwrap_used, reason = "a test: panics are its verdict")]

mod agents;
mod black_hole;
mod bus;
mod control_plane;
mod deaths;
mod demo;
mod etcd;
mod kamailio;
mod load;
mod namespaces;
mod processes;
mod python;
mod quiet;
mod raw;
mod registry_gone;
mod sipp;
mod strangers;
mod system;
mod tap;
mod thousand;
mod units;
