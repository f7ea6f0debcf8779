//! A router's routes, in the order in which a request meets them.
//!
//! | file | Kamailio users know it as |
//! |---|---|
//! | [`request`] | `request_route` |
//! | [`within_dialog`] | `route[WITHINDLG]` |
//! | [`relay`] | `route[RELAY]`: back to the SBC it came from |
//! | [`failure`] | `failure_route`: the next place of the route decision |

mod failure;
mod relay;
mod request;
mod within_dialog;
