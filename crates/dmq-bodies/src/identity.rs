//! How Kamailio nodes name a dialog: a slot hashed from the Call-ID, and a number in that slot.
//!
//! Source: Kamailio dialog and core hash, as seen in captures; both numbers travel in every message
//! of channel `dialog` and, reversed hexadecimal, in the parameter `did` of Record-Route.

use std::fmt;

/// What names a dialog on all nodes.
///
/// `h_id` 0 names no dialog: a Kamailio makes a new one for it each time. The Call-ID is not part of
/// the name, so two dialogs can bear one by accident.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Did {
    /// The slot, as [`slot`] computes it from the Call-ID.
    pub h_entry: u32,
    /// The number within the slot.
    pub h_id: u32,
}

/// Why a `did` parameter cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no pair of reversed hexadecimal numbers of 32 bits")]
pub struct DidError;

impl Did {
    /// Reads the value of a `did` parameter; digits may be of either case.
    ///
    /// # Errors
    ///
    /// The value is not two numbers of 1 to 8 reversed hexadecimal digits with a dot between them.
    pub fn parse(value: &[u8]) -> Result<Self, DidError> {
        let mut parts = value.split(|&byte| byte == b'.');
        let (Some(h_entry), Some(h_id), None) = (parts.next(), parts.next(), parts.next()) else {
            return Err(DidError);
        };
        Ok(Self {
            h_entry: read_reversed(h_entry)?,
            h_id: read_reversed(h_id)?,
        })
    }
}

/// The value of the `did` parameter, in lower case.
impl fmt::Display for Did {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_reversed(f, self.h_entry)?;
        f.write_str(".")?;
        write_reversed(f, self.h_id)
    }
}

fn read_reversed(digits: &[u8]) -> Result<u32, DidError> {
    if !(1..=8).contains(&digits.len()) {
        return Err(DidError);
    }
    digits.iter().rev().try_fold(0, |number, &digit| {
        let digit = char::from(digit).to_digit(16).ok_or(DidError)?;
        Ok((number << 4) | digit)
    })
}

fn write_reversed(f: &mut fmt::Formatter<'_>, mut number: u32) -> fmt::Result {
    loop {
        write!(f, "{:x}", number & 0xf)?;
        number >>= 4;
        if number == 0 {
            return Ok(());
        }
    }
}

/// Returns the slot of a Call-ID among `size` slots, which all nodes must agree on.
///
/// A size that is no power of two is rounded down to one, as by Kamailio. Bytes count with a sign,
/// as on x86.
#[must_use]
pub fn slot(call_id: &[u8], size: u32) -> u32 {
    let last = size.checked_ilog2().map_or(0, |bits| (1 << bits) - 1);
    hash(call_id) & last
}

/// Returns the numbers of slots, ascending powers of two, for which a Call-ID has this slot.
///
/// The sender's own is among them if it counts as [`slot`] does; none means it does not. Several
/// Call-IDs together leave one.
pub fn hash_size_candidates(call_id: &[u8], h_entry: u32) -> impl Iterator<Item = u32> + use<> {
    let hash = hash(call_id);
    (0..u32::BITS)
        .map(|bits| 1 << bits)
        .filter(move |size| hash & (size - 1) == h_entry)
}

fn hash(call_id: &[u8]) -> u32 {
    let (words, rest) = call_id.as_chunks::<4>();
    let sum = words
        .iter()
        .map(|word| mixed(word))
        .fold(mixed(rest), u32::wrapping_add);
    sum.wrapping_add(sum >> 11)
        .wrapping_add(sum >> 13)
        .wrapping_add(sum >> 23)
}

/// Reads up to four bytes, each with a sign, as a number and mixes its bits.
fn mixed(bytes: &[u8]) -> u32 {
    let number = bytes.iter().fold(0u32, |number, &byte| {
        (number << 8).wrapping_add_signed(i32::from(byte.cast_signed()))
    });
    number ^ (number >> 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_did_of_other_shape_is_refused() {
        let wrong = [
            "",
            ".",
            "1",
            "1.",
            ".1",
            "1.2.3",
            "g.1",
            "1.-2",
            "1 .2",
            "000000001.1",
        ];
        for value in wrong {
            assert_eq!(Did::parse(value.as_bytes()), Err(DidError), "{value}");
        }
    }

    #[test]
    fn the_whole_range_survives() {
        for number in [0, 1, 0x10, 0x0fff_fff0, u32::MAX] {
            let did = Did {
                h_entry: number,
                h_id: !number,
            };
            assert_eq!(Did::parse(did.to_string().as_bytes()), Ok(did));
        }
        let zero = Did {
            h_entry: 0,
            h_id: 0,
        };
        assert_eq!(zero.to_string(), "0.0");
    }

    #[test]
    fn sizes_are_rounded_down() {
        assert_eq!(slot(b"a1", 5000), 3367);
        assert_eq!(slot(b"a1", 0), 0);
        assert_eq!(slot(b"a1", 1), 0);
    }

    #[test]
    fn candidates_include_the_size_and_shrink_with_each_call_id() {
        let sizes: Vec<_> = hash_size_candidates(b"a1", 3367).collect();
        // The hash is 0x6d27: bit 12 is not set, bit 13 is.
        assert_eq!(sizes, [4096, 8192]);
        let both: Vec<_> = hash_size_candidates(b"ab1", 3978)
            .filter(|size| sizes.contains(size))
            .collect();
        assert_eq!(both, [4096]);
        assert_eq!(hash_size_candidates(b"a1", 3366).count(), 0);
    }
}
