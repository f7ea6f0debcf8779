//! SIP transactions, dialogs and the proxy core. Sans-IO: time comes as an argument, datagrams leave
//! through an [`element::Outbox`], decisions are asked for as events.
//!
//! One file per machine of RFC 3261 section 17 ([`client_invite`], [`client_non_invite`],
//! [`server_invite`], [`server_non_invite`]); [`proxy`] is section 16; [`dialog`] section 12.

pub mod branch;
pub mod client_invite;
pub mod client_non_invite;
pub mod context;
mod decided;
pub mod dialog;
pub mod drops;
pub mod options;
pub mod private;
pub mod proxy;
pub mod refused;
pub mod route;
pub mod server_invite;
pub mod server_non_invite;
pub mod timers;
pub mod transaction;

pub use branch::{BranchId, ContextId, loop_key};
pub use context::{Branch, Context, Target};
pub use dialog::{DialogConfig, DialogKey, DialogState, Dialogs, KnownDialog};
pub use drops::{Drop, Drops};
pub use proxy::{
    Admission, Answer, Delivered, Event, Offered, Proxy, ProxyConfig, ProxyCounters, RETRY_AFTER,
    leaves_room,
};
pub use timers::TimerConfig;
