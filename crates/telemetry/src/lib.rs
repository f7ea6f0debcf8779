//! What every process shows of itself: logs, metrics, and an HTTP face with health.

pub mod http;
pub mod logs;

pub use prometheus_client as prometheus;
