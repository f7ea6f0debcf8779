//! The headers that SBC and routers tell each other: docs/failover.md, "Who is believed".

use sip_types::{HeaderName, Message, Splice};

/// Tells whether a header means something between SBC and routers only.
#[must_use]
pub fn is_private(name: HeaderName) -> bool {
    matches!(
        name,
        HeaderName::XDestinationUri
            | HeaderName::XForwardedFor
            | HeaderName::XAuthUsername
            | HeaderName::XAuthPassword
            | HeaderName::XAuthRealm
    )
}

/// Takes off every header that only SBC and routers may say.
pub fn strip(edits: &mut Splice, message: &Message<'_>) {
    for header in message.headers().filter(|header| is_private(header.name())) {
        edits.remove_header(&header);
    }
}
