//! Dialogs as a proxy sees them: RFC 3261 section 12, kept from the first 1xx with a tag to the BYE.

use std::collections::BTreeMap;
use std::hash::Hasher;
use std::ops::Bound;
use std::time::{Duration, Instant};

use sip_types::{Message, Method};
use siphasher::sip::SipHasher13;

use crate::timers::Deadlines;

/// Where a dialog stands. Kamailio's dialog module knows the same, in more steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DialogState {
    /// A provisional response with a To tag has passed.
    Early,
    /// A 2xx to the INVITE has passed.
    Confirmed,
}

/// The settings of a dialog table.
#[derive(Clone, Copy, Debug)]
pub struct DialogConfig {
    /// How long a confirmed dialog may last. Default 12 h, that of `default_timeout` of Kamailio's dialog
    /// module. Shorter forgets calls that still go on; they are served from their route set.
    pub lifetime: Duration,
    /// How long an early dialog may last. Default 5 min: beyond every Timer C.
    pub early_lifetime: Duration,
    /// How many dialogs are kept. At the limit new calls are refused, established ones never dropped.
    pub dialogs_max: usize,
}

impl Default for DialogConfig {
    fn default() -> Self {
        Self {
            lifetime: Duration::from_secs(12 * 3600),
            early_lifetime: Duration::from_secs(300),
            dialogs_max: 250_000,
        }
    }
}

/// Names a dialog: a keyed hash of Call-ID and both tags, whichever side asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DialogKey(u64);

impl DialogKey {
    /// Returns the key that [`bits`](Self::bits) came from.
    #[must_use]
    pub fn of_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// Returns the hash.
    #[must_use]
    pub fn bits(self) -> u64 {
        self.0
    }
}

#[derive(Debug)]
struct Dialog {
    state: DialogState,
    created: Instant,
    expires: Instant,
    /// Call-ID, tag of the caller, tag of the callee, one behind the other.
    identity: Box<[u8]>,
    /// Where the tags begin; a message is no longer than 65 535 bytes.
    tags_at: [u16; 2],
}

/// What is known of a dialog.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownDialog<'a> {
    /// What names it here.
    pub key: DialogKey,
    /// Where it stands.
    pub state: DialogState,
    /// When its first response passed.
    pub created: Instant,
    /// When it is forgotten.
    pub expires: Instant,
    /// Its Call-ID.
    pub call_id: &'a [u8],
    /// The tag of who called.
    pub caller_tag: &'a [u8],
    /// The tag of who was called.
    pub callee_tag: &'a [u8],
}

impl Dialog {
    /// Makes one of a response to its INVITE.
    fn new(now: Instant, state: DialogState, expires: Instant, response: &Message<'_>) -> Self {
        let (caller, callee) = (response.from_tag(), response.to_tag());
        let parts = [
            response.call_id(),
            caller.unwrap_or_default(),
            callee.unwrap_or_default(),
        ];
        let tag_at = parts[0].len() as u16;
        Self {
            state,
            created: now,
            expires,
            tags_at: [tag_at, tag_at + parts[1].len() as u16],
            identity: parts.concat().into(),
        }
    }

    fn known(&self, key: DialogKey) -> KnownDialog<'_> {
        let [caller_at, callee_at] = self.tags_at.map(usize::from);
        KnownDialog {
            key,
            state: self.state,
            created: self.created,
            expires: self.expires,
            call_id: &self.identity[..caller_at],
            caller_tag: &self.identity[caller_at..callee_at],
            callee_tag: &self.identity[callee_at..],
        }
    }
}

/// The dialogs of one shard.
#[derive(Debug)]
pub struct Dialogs {
    config: DialogConfig,
    hash_key: [u8; 16],
    dialogs: BTreeMap<DialogKey, Dialog>,
    deadlines: Deadlines<DialogKey>,
    confirmed: usize,
}

impl Dialogs {
    /// Creates an empty table; `hash_key` should be secret and per process.
    #[must_use]
    pub fn new(config: DialogConfig, hash_key: [u8; 16]) -> Self {
        Self {
            config,
            hash_key,
            dialogs: BTreeMap::new(),
            deadlines: Deadlines::new(),
            confirmed: 0,
        }
    }

    /// Returns the key of the dialog that a message belongs to; `None` while it has no To tag.
    #[must_use]
    pub fn key(&self, message: &Message<'_>) -> Option<DialogKey> {
        let (from, to) = (message.from_tag().unwrap_or_default(), message.to_tag()?);
        let (low, high) = if from <= to { (from, to) } else { (to, from) };
        let mut hasher = SipHasher13::new_with_key(&self.hash_key);
        for part in [message.call_id(), low, high] {
            hasher.write_usize(part.len());
            hasher.write(part);
        }
        Some(DialogKey(hasher.finish()))
    }

    /// Takes note of a response on its way upstream: makes, confirms or ends its dialog.
    ///
    /// RFC 3261 section 12.1 and 15: INVITE's 101 to 299 with a To tag make one, a failure ends the
    /// early one, any final response to BYE ends it, as does 481 to anything inside it.
    pub fn handle_response(&mut self, now: Instant, response: &Message<'_>) {
        let Some(status) = response.status() else {
            return;
        };
        let Some(key) = self.key(response) else {
            return;
        };
        match (response.method(), status) {
            (Method::Invite, 101..200) => self.note(now, key, DialogState::Early, response),
            (Method::Invite, 200..300) => {
                self.note(now, key, DialogState::Confirmed, response);
            }
            (Method::Invite, 300..) if self.state(key) == Some(DialogState::Early) => self.end(key),
            (Method::Bye, 200..) | (_, 481) => self.end(key),
            _ => {}
        }
    }

    fn note(&mut self, now: Instant, key: DialogKey, state: DialogState, response: &Message<'_>) {
        let lifetime = match state {
            DialogState::Early => self.config.early_lifetime,
            DialogState::Confirmed => self.config.lifetime,
        };
        let expires = now + lifetime;
        let has_room = self.has_room();
        match self.dialogs.get_mut(&key) {
            Some(dialog) if dialog.state == state || state == DialogState::Early => {}
            Some(dialog) => {
                dialog.state = state;
                dialog.expires = expires;
                self.confirmed += 1;
            }
            // Established ones always have room; early ones, which cost a stranger nothing, do not.
            None if state == DialogState::Early && !has_room => {}
            None => {
                let dialog = Dialog::new(now, state, expires, response);
                self.dialogs.insert(key, dialog);
                // Most dialogs are over by then, and their entry in the queue goes with it.
                self.deadlines
                    .arm(now + self.config.early_lifetime.min(lifetime), key);
                self.confirmed += usize::from(state == DialogState::Confirmed);
            }
        }
    }

    /// Takes note that nobody answered a request: a BYE ends its dialog all the same.
    pub fn handle_request_timeout(&mut self, request: &Message<'_>) {
        if request.method() == Method::Bye
            && let Some(key) = self.key(request)
        {
            self.end(key);
        }
    }

    /// Ends a dialog.
    pub fn end(&mut self, key: DialogKey) {
        if let Some(dialog) = self.dialogs.remove(&key) {
            self.confirmed -= usize::from(dialog.state == DialogState::Confirmed);
        }
    }

    /// Returns a dialog's state; `None` when it is not known here.
    #[must_use]
    pub fn state(&self, key: DialogKey) -> Option<DialogState> {
        self.dialogs.get(&key).map(|dialog| dialog.state)
    }

    /// Returns a dialog; `None` when it is not known here.
    #[must_use]
    pub fn find(&self, key: DialogKey) -> Option<KnownDialog<'_>> {
        self.dialogs.get(&key).map(|dialog| dialog.known(key))
    }

    /// Returns the dialogs that follow `after` in the order of their keys, or all.
    pub fn following(&self, after: Option<DialogKey>) -> impl Iterator<Item = KnownDialog<'_>> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let dialogs = self.dialogs.range((from, Bound::Unbounded));
        dialogs.map(|(key, dialog)| dialog.known(*key))
    }

    /// Tells whether a message is inside a dialog known here.
    #[must_use]
    pub fn knows(&self, message: &Message<'_>) -> bool {
        self.key(message)
            .is_some_and(|key| self.dialogs.contains_key(&key))
    }

    /// Tells whether a further call has room.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.dialogs.len() < self.config.dialogs_max
    }

    /// Ends what has outlived its lifetime.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some((_, key)) = self.deadlines.pop_due(now) {
            match self.dialogs.get(&key).map(|dialog| dialog.expires) {
                Some(expires) if expires <= now => self.end(key),
                Some(expires) => self.deadlines.arm(expires, key),
                None => {}
            }
        }
    }

    /// Returns when `handle_timeout` is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.deadlines.next()
    }

    /// Returns how many dialogs there are, early ones included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.dialogs.len()
    }

    /// Tells whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.dialogs.is_empty()
    }

    /// Returns how many of them are confirmed.
    #[must_use]
    pub fn confirmed(&self) -> usize {
        self.confirmed
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a test has to begin somewhere")]
mod tests {
    use sip_types::Index;

    use super::*;

    fn ringing(call_id: &str) -> String {
        format!(
            "SIP/2.0 180 Ringing\r\nVia: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bKx\r\nFrom: <sip:a@a>;tag=er\r\n\
             To: <sip:b@b>;tag=callee\r\nCall-ID: {call_id}\r\nCSeq: 1 INVITE\r\nContent-Length: 0\r\n\r\n"
        )
    }

    #[test]
    fn dialogs_are_found_one_after_the_other_with_what_names_them() {
        let now = Instant::now();
        let mut dialogs = Dialogs::new(DialogConfig::default(), [1; 16]);
        for i in 0..5 {
            let text = ringing(&format!("call-{i}"));
            let mut index = Index::new();
            dialogs.handle_response(now, &Message::parse(text.as_bytes(), &mut index).unwrap());
        }
        let mut seen = Vec::new();
        let mut after = None;
        while let Some(known) = dialogs.following(after).next() {
            assert_eq!(dialogs.find(known.key), Some(known));
            assert_eq!(
                (known.caller_tag, known.callee_tag),
                (&b"er"[..], &b"callee"[..])
            );
            assert_eq!((known.state, known.created), (DialogState::Early, now));
            seen.push(String::from_utf8_lossy(known.call_id).into_owned());
            after = Some(DialogKey::of_bits(known.key.bits()));
        }
        seen.sort();
        assert_eq!(seen, ["call-0", "call-1", "call-2", "call-3", "call-4"]);
        let first = dialogs.following(None).next().unwrap().key;
        dialogs.end(first);
        assert_eq!(dialogs.find(first), None);
    }
}
