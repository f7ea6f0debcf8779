//! How a decision is logged: at DEBUG, with the request that it is about.
//!
//! DEBUG is the highest level that may show who calls whom. Disabled, a decision costs one comparison.

/// Logs what was decided about a message; further fields stand before the phrase, as in `tracing`.
#[macro_export]
macro_rules! decided {
    ($message:expr, $($fields_and_phrase:tt)+) => {
        tracing::debug!(
            call_id = %$message.call_id().escape_ascii(),
            method = %$message.method().as_bytes().escape_ascii(),
            $($fields_and_phrase)+
        )
    };
}
