//! Which trace a piece of work belongs to, as it is said between processes: the `traceparent` of
//! W3C Trace Context, level 1.
//!
//! Not here: spans, and where they are sent. The trace id ties together the log lines of processes.

use std::fmt;
use std::num::{NonZeroU64, NonZeroU128};
use std::str::FromStr;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tonic::metadata::AsciiMetadataValue;
use tonic::service::Interceptor;
use tonic::{Request, Status};

/// Name of the header.
pub const TRACEPARENT: &str = "traceparent";
/// Length of version 00 of the header; later versions may only add to it.
const TEXT_BYTES: usize = 55;

/// A place in a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    trace_id: NonZeroU128,
    span_id: NonZeroU64,
    flags: u8,
}

tokio::task_local! {
    static CURRENT: TraceContext;
}

impl TraceContext {
    /// Begins a trace.
    #[must_use]
    pub fn begin() -> Self {
        Self {
            trace_id: NonZeroU128::MIN.saturating_add(SmallRng::from_os_rng().random()),
            span_id: span_id(),
            flags: 0,
        }
    }

    /// Returns the place of a part of this work: the same trace, a span of its own.
    #[must_use]
    pub fn child(self) -> Self {
        Self {
            span_id: span_id(),
            ..self
        }
    }

    /// Returns the place of the work that asks: a part of the current one, or the beginning of a trace.
    #[must_use]
    pub fn next() -> Self {
        CURRENT
            .try_with(|current| current.child())
            .unwrap_or_else(|_| Self::begin())
    }

    /// Returns the trace id as 32 hexadecimal digits.
    #[must_use]
    pub fn trace_id(&self) -> String {
        format!("{:032x}", self.trace_id)
    }

    /// Runs work in this place: clients that it uses pass the trace on. What it spawns is elsewhere.
    pub async fn scope<F: Future>(self, work: F) -> F::Output {
        CURRENT.scope(self, work).await
    }
}

fn span_id() -> NonZeroU64 {
    NonZeroU64::MIN.saturating_add(SmallRng::from_os_rng().random())
}

/// Why a text is no `traceparent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is no traceparent")]
pub struct NoTraceparent;

impl FromStr for TraceContext {
    type Err = NoTraceparent;

    fn from_str(text: &str) -> Result<Self, NoTraceparent> {
        let (known, rest) = text.split_at_checked(TEXT_BYTES).ok_or(NoTraceparent)?;
        let hex = |part: &str, digits: usize| {
            let good = part.len() == digits
                && part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
            let number = good.then(|| u128::from_str_radix(part, 16).ok()).flatten();
            number.ok_or(NoTraceparent)
        };
        let mut parts = known.split('-');
        let mut part = |digits| hex(parts.next().unwrap_or_default(), digits);
        let (version, trace_id, span_id, flags) = (part(2)?, part(32)?, part(16)?, part(2)?);
        let longer = !rest.is_empty();
        if version == 0xff || longer && (version == 0 || !rest.starts_with('-')) {
            return Err(NoTraceparent);
        }
        Ok(Self {
            trace_id: NonZeroU128::new(trace_id).ok_or(NoTraceparent)?,
            span_id: u64::try_from(span_id)
                .ok()
                .and_then(NonZeroU64::new)
                .ok_or(NoTraceparent)?,
            flags: u8::try_from(flags).map_err(|_| NoTraceparent)?,
        })
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (trace_id, span_id, flags) = (self.trace_id, self.span_id, self.flags);
        write!(f, "00-{trace_id:032x}-{span_id:016x}-{flags:02x}")
    }
}

/// Says with every request which trace it belongs to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Propagate;

impl Interceptor for Propagate {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Ok(value) = AsciiMetadataValue::try_from(TraceContext::next().to_string()) {
            request.metadata_mut().insert(TRACEPARENT, value);
        }
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_traceparent_comes_back_as_it_was() {
        let context: TraceContext = GOOD.parse().unwrap();
        assert_eq!(context.to_string(), GOOD);
        assert_eq!(context.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
        let begun = TraceContext::begin();
        assert_eq!(begun.to_string().parse(), Ok(begun));
        assert_eq!(begun.child().trace_id(), begun.trace_id());
        assert_ne!(begun.child(), begun);
    }

    #[test]
    fn what_a_later_version_adds_is_passed_over_and_all_else_is_refused() {
        let later = GOOD.replacen("00", "cc", 1) + "-more";
        let read: TraceContext = later.parse().unwrap();
        assert_eq!(read.to_string(), GOOD);
        for bad in [
            "",
            "00",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "00-4bf92f3577b34da6a3ce929d0e0e473-600f067aa0ba902b7-011",
            "00-ä\u{0}äääääääääääääääääääääääääääääääääääääääääääääääääääääääää",
        ] {
            assert_eq!(bad.parse::<TraceContext>(), Err(NoTraceparent), "{bad}");
        }
    }

    #[tokio::test]
    async fn what_is_asked_within_a_trace_belongs_to_it() {
        let context: TraceContext = GOOD.parse().unwrap();
        let inside = context.scope(async { TraceContext::next() }).await;
        assert_eq!(inside.trace_id(), context.trace_id());
        assert_ne!(TraceContext::next().trace_id(), context.trace_id());
    }
}
