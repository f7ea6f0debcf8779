//! A carrier that places calls and an IPBX that answers them: the two ends of demo, scenario tests
//! and simulation. Sans-IO, IPv4 over UDP.
//!
//! Built on rsip, so that nothing here shares a line with the parser of the services: what both
//! read alike was not agreed upon beforehand. Both ends keep a record of every call. [`Carrier`]
//! says what the caller saw, [`Ipbx`] what the callee decided and what arrived there more often than
//! once; a test compares the two, call by call.
//!
//! Not here: media, registration, authentication, IPv6 and TCP (rsip reads no IPv6 literals).

mod carrier;
mod copies;
mod dialog;
mod ipbx;
mod message;
mod plan;
mod queue;
mod records;
mod stack;
mod timers;

pub use carrier::{
    CallRecord, Carrier, CarrierConfig, CarrierEvent, CarrierReport, Failure, Outcome,
    PlaceCallError, REQUESTS_REMEMBERED_MAX, RequestRecord, SOURCES_REMEMBERED_MAX,
};
pub use copies::Duplicate;
pub use ipbx::{CalleeOutcome, CalleeRecord, Ipbx, IpbxConfig, IpbxEvent, IpbxReport};
pub use message::Method;
pub use plan::{CALLEE_PLAN_HEADER, CallPlan, CalleePlan, InDialog, ParseCalleePlanError};
pub use records::CallId;
