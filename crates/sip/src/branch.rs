//! Our own Via branches: each names the context and the try it belongs to, and what a loop looks like.
//!
//! A branch has a fixed length, so that another try of a stored request overwrites it in place:
//! the cookie, then in hexadecimal the slot (8), the generation (8), the try (2) and the loop key (8).

use std::hash::Hasher;

use sip_types::{HeaderName, Message};
use siphasher::sip::SipHasher13;

use crate::transaction::COOKIE;

/// Names a response context of one shard: slot and generation. Never reused for another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContextId {
    pub(crate) slot: u32,
    pub(crate) generation: u32,
}

/// Names one try (client transaction) of a context.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BranchId {
    /// The context.
    pub context: ContextId,
    /// Which of its tries, in the order of their making.
    pub index: u8,
}

/// The length of every branch of ours.
pub(crate) const LENGTH: usize = COOKIE.len() + 26;

impl BranchId {
    /// Writes the branch parameter's value: [`LENGTH`] bytes.
    pub(crate) fn write(self, loop_key: u32) -> [u8; LENGTH] {
        let mut out = [0; LENGTH];
        out[..COOKIE.len()].copy_from_slice(COOKIE);
        let hex = &mut out[COOKIE.len()..];
        hex_into(&mut hex[0..8], self.context.slot);
        hex_into(&mut hex[8..16], self.context.generation);
        hex_into(&mut hex[16..18], u32::from(self.index));
        hex_into(&mut hex[18..26], loop_key);
        out
    }

    /// Reads a branch of ours back, with its loop key; `None` for anything else.
    #[must_use]
    pub fn read(branch: &[u8]) -> Option<(Self, u32)> {
        let hex = branch.strip_prefix(COOKIE)?;
        if hex.len() != LENGTH - COOKIE.len() {
            return None;
        }
        let context = ContextId {
            slot: from_hex(&hex[0..8])?,
            generation: from_hex(&hex[8..16])?,
        };
        let index = u8::try_from(from_hex(&hex[16..18])?).ok()?;
        Some((Self { context, index }, from_hex(&hex[18..26])?))
    }
}

/// Returns what two passes of one request share only when it loops: RFC 5393 section 4.2.
///
/// It covers what decides where a request goes: Request-URI, Route, `X-Destination-URI`, credentials
/// and `from_member`, whether a router sent it; not Via or Record-Route. So a spiral is no loop.
#[must_use]
pub fn loop_key(hash_key: &[u8; 16], message: &Message<'_>, from_member: bool) -> u32 {
    let mut hasher = SipHasher13::new_with_key(hash_key);
    hasher.write(message.request_uri());
    hasher.write_u8(u8::from(from_member));
    for header in message.headers() {
        let name = header.name();
        if matches!(
            name,
            HeaderName::Route
                | HeaderName::XDestinationUri
                | HeaderName::ProxyAuthorization
                | HeaderName::Authorization
        ) {
            hasher.write_u8(name as u8);
            hasher.write(header.value());
        }
    }
    // Truncated on purpose: it only tells passes of one call apart.
    (hasher.finish() >> 32) as u32
}

fn hex_into(out: &mut [u8], mut value: u32) {
    for digit in out.iter_mut().rev() {
        *digit = b"0123456789abcdef"[(value & 15) as usize];
        value >>= 4;
    }
}

fn from_hex(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0u32, |value, digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(value << 4 | u32::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_branch_reads_back_as_what_was_written() {
        let id = BranchId {
            context: ContextId {
                slot: 0x12_3456,
                generation: 0xdead_beef,
            },
            index: 7,
        };
        let text = id.write(0x0bad_cafe);
        assert_eq!(&text, b"z9hG4bK00123456deadbeef070badcafe");
        assert_eq!(BranchId::read(&text), Some((id, 0x0bad_cafe)));
    }

    #[test]
    fn other_branches_are_not_ours() {
        for branch in [
            "z9hG4bK",
            "z9hG4bK00123456deadbeef070badcafE",
            "00123456deadbeef070badcafe",
            "",
        ] {
            assert_eq!(BranchId::read(branch.as_bytes()), None, "{branch}");
        }
    }
}
