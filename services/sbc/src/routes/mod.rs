//! The SBC's routes, in the order in which a request meets them.
//!
//! | file | Kamailio users know it as |
//! |---|---|
//! | [`request`] | `request_route` |
//! | [`within_dialog`] | `route[WITHINDLG]` |
//! | [`dispatch`] | `route[DISPATCH]`: from outside to a router |
//! | [`second_pass`] | the same, from a router to where it says |
//! | [`response`] | `onreply_route` |
//! | [`cancel`] | `t_relay_cancel` |
//! | [`failure`] | `failure_route`: the next router, the heir, in the dead one's stead |
//! | [`next_address`] | the same, when a name has another address (`dns_srv`, `use_dns_failover`) |
//! | [`unreachable`] | the same, when ICMP says that nobody is there |

mod cancel;
mod dispatch;
mod failure;
pub(crate) mod next_address;
mod request;
mod response;
mod second_pass;
mod unreachable;
mod within_dialog;
