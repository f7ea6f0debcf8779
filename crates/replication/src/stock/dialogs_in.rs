//! What Kamailio nodes say of dialogs, and how much of it is believed (PROTOCOL 5.4).
//!
//! A node's word about a dialog that it looks after counts. About another's it fills what is missing, because
//! a node that is asked for everything tells what it heard long ago; but what is not what it was known to hold
//! it has changed itself, as whoever serves the dialog after its owner's death. STATE is news from whomever,
//! unless its node has shown that it is older than something it said before (6.2). The end is the end, but RM for
//! an answered dialog is only its owner's to say before its time is over: a mere backup frees its copy by its own
//! timer.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use dmq_bodies::{
    Change as StateTold, DialogMessage, DialogState as WireState, Did, Leg as WireLeg,
    Profile as WireProfile, StateChange, Timing, Update, hash_size_candidates,
};

use super::sync::Asked;
use super::{ALL_TOLD_WITHIN, Channel};
use crate::change::Origin;
use crate::clock::{Now, Stamp};
use crate::record::{
    Cause, DialogKey, DialogRecord, DialogState, End, IFLAGS, Leg, Lifetime, Ownership, Profile,
    Profiles, STOCK_EPOCH, Text, Variable,
};
use crate::replica::Replica;

/// How long a dialog of a Kamailio node may stay unanswered: beyond its own `early_timeout` of 300 s,
/// or we would end it in its stead.
const EARLY_LIFETIME: Duration = Duration::from_secs(330);

impl Channel {
    pub(super) fn handle_dialog(
        &mut self,
        now: Now,
        replica: &mut Replica,
        node: SocketAddr,
        body: &[u8],
    ) -> u16 {
        let message = match DialogMessage::decode(body) {
            Ok(message) => message,
            Err(error) => {
                self.counters.malformed += 1;
                return error.status();
            }
        };
        let shown = match &message {
            DialogMessage::Update(update) => update.last_modified,
            DialogMessage::State(change) => change.last_modified,
            DialogMessage::Remove(remove) => remove.last_modified,
            DialogMessage::None | DialogMessage::Sync => None,
        };
        self.node(node).see_dialog_clock(now, shown);
        match message {
            DialogMessage::None => 200,
            DialogMessage::Update(update) => {
                self.node(node).iflags_shown |= update.iflags.is_some();
                self.handle_update(now, replica, node, *update)
            }
            DialogMessage::State(change) => {
                let StateChange { did, change, .. } = *change;
                self.handle_state(now, replica, node, did, change, shown)
            }
            DialogMessage::Remove(remove) => self.handle_remove(now, replica, node, remove.did),
            DialogMessage::Sync => {
                self.all_told_until = Some(now.monotonic + ALL_TOLD_WITHIN);
                let turn = self.turn(now.monotonic, replica, node);
                let is_answered = self.node(node).asks_for_dialogs(now.monotonic, turn);
                self.counters.syncs_deferred += u64::from(!is_answered);
                200
            }
        }
    }

    fn handle_update(
        &mut self,
        now: Now,
        replica: &mut Replica,
        node: SocketAddr,
        update: Update,
    ) -> u16 {
        let did = update.did;
        let key = DialogKey {
            call_id: update.call_id.as_ref().into(),
            h_id: did.h_id,
        };
        if key.call_id.is_empty() || key.h_id == 0 {
            // No call has such a name, and no Tandem node would take it from us.
            self.counters.malformed += 1;
            return 400;
        }
        if let Some(asking) = &mut self.asking
            && asking.node == node
            && asking.what == Asked::Dialogs
        {
            // A new call is told so too, and calls go on coming.
            let is_answer =
                update.state != WireState::Unconfirmed || replica.dialogs().dialog(&key).is_some();
            if is_answer {
                asking.hear(now.monotonic);
            }
        }
        if self.numbers.did(&key) != did {
            self.counters.hash_mismatch += 1;
            self.learn_hash_size(node, &update);
            return 500;
        }
        let held = replica.dialogs().dialog(&key).map(|held| &held.record);
        if held.is_some_and(|held| held.ownership.owner != node) {
            // Somebody asked it for everything, and it tells everybody.
            self.all_told_until = Some(now.monotonic + ALL_TOLD_WITHIN);
        }
        if held.is_some_and(DialogRecord::is_ended) {
            self.counters.late_ignored += 1;
            if replica.tells_end_of(&key) {
                self.note_revived(now, &key);
            }
            return 200;
        }
        let is_new = held.is_none();
        let told = match held.cloned() {
            Some(held) => {
                let stamp = replica.stamp(now, held.stamp());
                let word = self.word(node, &key, &held, &update);
                news(now, word, &held, update, stamp)
            }
            None => {
                let stamp = replica.stamp(now, Stamp::default());
                created(now, replica, node, update, stamp)
            }
        };
        let lasts = lasting(&told);
        if is_new && self.numbers.find(did).next().is_some() {
            self.counters.collisions += 1;
        }
        replica.merge_dialog(now, key.clone(), told, lasts, Origin::Stock(node));
        if replica.dialogs().dialog(&key).is_none() {
            // There was no room.
            self.counters.not_executed += 1;
            return 500;
        }
        self.numbers.insert(&key);
        for (from, told) in self.held_back.take(did) {
            self.apply_state(now, replica, from, &key, told);
        }
        200
    }

    /// Judges what an UPDATE says of a dialog that is held.
    fn word(
        &mut self,
        node: SocketAddr,
        key: &DialogKey,
        held: &DialogRecord,
        update: &Update,
    ) -> Word {
        let is_late = self.node(node).is_late(key, update.last_modified);
        self.counters.overtaken += u64::from(is_late);
        if is_late {
            return Word::Hearsay;
        }
        let (variables, profiles) = extras(update, Stamp::default());
        let said = DialogRecord {
            variables,
            profiles,
            ..DialogRecord::new(held.ownership)
        };
        let has_changed = self.node(node).has_changed(key, &said);
        match (held.ownership.owner == node, has_changed) {
            (true, _) => Word::Owners,
            (false, true) => Word::Heirs,
            (false, false) => Word::Hearsay,
        }
    }

    /// Finds what hash sizes explain the slots that a node gives its dialogs.
    fn learn_hash_size(&mut self, node: SocketAddr, update: &Update) {
        let fitting = hash_size_candidates(&update.call_id, update.did.h_entry).collect();
        let known = &mut self.node(node).hash_sizes;
        *known = Some(match known.take() {
            Some(known) => known.intersection(&fitting).copied().collect(),
            None => fitting,
        });
    }

    fn handle_state(
        &mut self,
        now: Now,
        replica: &mut Replica,
        node: SocketAddr,
        did: Did,
        told: StateTold,
        shown: Option<u64>,
    ) -> u16 {
        let Some(key) = self.find(replica, node, did) else {
            match self.held_back.keep(now.monotonic, node, did, told) {
                true => self.counters.held_back += 1,
                false => self.counters.held_back_dropped += 1,
            }
            return 200;
        };
        if self.node(node).is_late(&key, shown) {
            self.counters.overtaken += 1;
            let held = replica.dialogs().dialog(&key);
            if held.is_some_and(|held| state_of(told.state()) <= held.record.state) {
                return 200;
            }
        }
        self.apply_state(now, replica, node, &key, told);
        200
    }

    fn apply_state(
        &mut self,
        now: Now,
        replica: &mut Replica,
        node: SocketAddr,
        key: &DialogKey,
        told: StateTold,
    ) {
        let Some(held) = replica.dialogs().dialog(key) else {
            return;
        };
        let held = held.record.clone();
        if held.is_ended() || state_of(told.state()) < held.state {
            self.counters.late_ignored += 1;
            return;
        }
        let stamp = replica.stamp(now, held.stamp());
        let mut record = DialogRecord {
            state: state_of(told.state()),
            ..DialogRecord::new(held.ownership)
        };
        match told {
            StateTold::Early { timing, caller } => {
                add_timing(&mut record, &held, timing, stamp);
                record.caller = moved(&held.caller, caller, stamp);
            }
            StateTold::Confirmed {
                timing,
                caller,
                callee,
            } => {
                add_timing(&mut record, &held, timing, stamp);
                record.caller = moved(&held.caller, caller, stamp);
                record.callee = moved(&held.callee, callee, stamp);
            }
            StateTold::Deleted => record.end = Some(told_end(now)),
        }
        let lasts = lasting(&record);
        replica.merge_dialog(now, key.clone(), record, lasts, Origin::Stock(node));
    }

    fn handle_remove(
        &mut self,
        now: Now,
        replica: &mut Replica,
        node: SocketAddr,
        did: Did,
    ) -> u16 {
        let Some(key) = self.find(replica, node, did) else {
            // What may still come of it is late.
            if !self
                .held_back
                .keep(now.monotonic, node, did, StateTold::Deleted)
            {
                self.counters.held_back_dropped += 1;
            }
            return 500;
        };
        let Some(held) = replica.dialogs().dialog(&key) else {
            return 500;
        };
        let (record, at) = (&held.record, held.at);
        if record.is_ended() {
            return 200;
        }
        let owner = record.ownership.owner;
        let is_answered = record.state >= DialogState::Answered;
        if is_answered && owner != node && now.monotonic < at {
            self.counters.removals_not_obeyed += 1;
            // It has told every node of its kind, and they do as it says.
            let is_ours = owner == self.own;
            for other in self.nodes.values_mut() {
                other.note_freed(&key, is_ours);
            }
            return 200;
        }
        self.apply_state(now, replica, node, &key, StateTold::Deleted);
        200
    }

    /// Returns the dialog that a node means: the one it looks after, else one that goes on.
    fn find(&self, replica: &Replica, node: SocketAddr, did: Did) -> Option<DialogKey> {
        let found = self.numbers.find(did).filter_map(|key| {
            let record = &replica.dialogs().dialog(&key)?.record;
            Some((record.ownership.owner != node, record.is_ended(), key))
        });
        found.min().map(|(_, _, key)| key)
    }
}

/// Makes a record of a dialog that nobody had heard of.
fn created(
    now: Now,
    replica: &Replica,
    node: SocketAddr,
    update: Update,
    stamp: Stamp,
) -> DialogRecord {
    let ownership = Ownership {
        epoch: STOCK_EPOCH,
        owner: node,
    };
    let state = state_of(update.state);
    let usual = replica.dialogs().config().lifetime.as_secs() as u32;
    let seconds = match state >= DialogState::Answered {
        true => update.timing.lifetime.unwrap_or(usual),
        false => EARLY_LIFETIME.as_secs() as u32,
    };
    let (variables, profiles) = extras(&update, stamp);
    DialogRecord {
        state,
        created: match update.init_ts {
            0 => now.wall_seconds(),
            at => at,
        },
        answered: update.timing.start_ts.unwrap_or(0),
        from_uri: text(&update.from_uri),
        to_uri: text(&update.to_uri),
        request_uri: text(&update.request_uri),
        caller: moved(&Leg::default(), Some(update.caller), stamp),
        callee: moved(&Leg::default(), update.callee, stamp),
        variables,
        profiles,
        lifetime: Lifetime { stamp, seconds },
        iflags: update.iflags.unwrap_or(0) & IFLAGS,
        end: (state == DialogState::Ended).then(|| told_end(now)),
        ..DialogRecord::new(ownership)
    }
}

/// How much of what an UPDATE says of a dialog that is held is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    /// All of it.
    Owners,
    /// Variables and profiles: it has changed them, although another looks after the dialog.
    Heirs,
    /// That the state has risen, and what was missing: the rest may be older than what is held.
    Hearsay,
}

/// Makes a record of what an UPDATE says beyond what is held.
fn news(now: Now, word: Word, held: &DialogRecord, update: Update, stamp: Stamp) -> DialogRecord {
    let state = state_of(update.state);
    let is_news = state > held.state;
    let stamp_of_extras = match word {
        Word::Owners | Word::Heirs => stamp,
        Word::Hearsay => Stamp::default(),
    };
    let mut record = DialogRecord {
        state,
        created: update.init_ts,
        iflags: update.iflags.unwrap_or(0) & IFLAGS,
        end: (state == DialogState::Ended).then(|| told_end(now)),
        ..DialogRecord::new(held.ownership)
    };
    let (variables, profiles) = extras(&update, stamp_of_extras);
    for (name, mut told) in variables {
        let known = held.variables.get(&name);
        // Kamailio deletes no variable: it tells of one long after it was deleted here.
        if word == Word::Heirs && known.is_some_and(|known| known.value.is_none()) {
            told.stamp = Stamp::default();
        }
        if known.is_none_or(|known| known.value != told.value) {
            record.variables.insert(name, told);
        }
    }
    // A node leaves out those that it has not configured.
    let is_known = |told: &Profile| held.profiles.list.contains(told);
    let is_less = word == Word::Heirs && profiles.list.iter().all(is_known);
    if profiles.list != held.profiles.list && !is_less {
        record.profiles = profiles;
    }
    // Of a state that is known, the owner says in a later request where an end is; others may not know that.
    let counts = |told: &Leg, held: &Leg| is_news || word == Word::Owners && told.cseq > held.cseq;
    let caller = moved(&held.caller, Some(update.caller), stamp);
    if counts(&caller, &held.caller) {
        record.caller = caller;
    }
    let callee = moved(&held.callee, update.callee, stamp);
    if counts(&callee, &held.callee) {
        record.callee = callee;
    }
    if is_news || word == Word::Owners {
        add_timing(&mut record, held, update.timing, stamp);
    }
    record
}

/// Returns the variables and profiles that an UPDATE tells.
fn extras(update: &Update, stamp: Stamp) -> (BTreeMap<Text, Variable>, Profiles) {
    let variables = update.variables.iter();
    let variables = variables.map(|(name, value)| (text(name), variable(value, stamp)));
    let list = update.profiles.iter().map(profile).collect();
    (variables.collect(), Profiles { stamp, list })
}

/// Adds when a dialog was answered, and how long it may last if that is news.
fn add_timing(record: &mut DialogRecord, held: &DialogRecord, timing: Timing, stamp: Stamp) {
    let is_confirmed = record.state >= DialogState::Answered;
    let is_answer = is_confirmed && held.state < DialogState::Answered;
    if is_confirmed {
        record.answered = timing.start_ts.unwrap_or(0);
    }
    if let Some(seconds) = timing.lifetime
        && is_confirmed
        && (is_answer || seconds != held.lifetime.seconds)
    {
        record.lifetime = Lifetime { stamp, seconds };
    }
}

/// Returns how long a dialog lasts from now as its record says, which counts from its receipt.
fn lasting(record: &DialogRecord) -> Duration {
    Duration::from_secs(u64::from(record.lifetime.seconds))
}

/// Returns a leg as it was told; nothing when that says nothing new.
fn moved(held: &Leg, told: Option<WireLeg>, stamp: Stamp) -> Leg {
    let Some(told) = told else {
        return Leg::default();
    };
    let digits = std::str::from_utf8(&told.cseq).ok();
    let leg = Leg {
        cseq: digits.and_then(|digits| digits.parse().ok()).unwrap_or(0),
        stamp,
        tag: text(&told.tag),
        contact: text(&told.contact),
        route_set: text(&told.route_set),
    };
    let is_same = held.cseq >= leg.cseq
        && held.tag == leg.tag
        && held.contact == leg.contact
        && held.route_set == leg.route_set;
    match is_same {
        true => Leg::default(),
        // Its CSeq may be that of long ago; where it is reached is news all the same.
        false => Leg {
            cseq: leg.cseq.max(held.cseq),
            ..leg
        },
    }
}

fn state_of(state: WireState) -> DialogState {
    match state {
        WireState::Unconfirmed => DialogState::Unconfirmed,
        WireState::Early => DialogState::Early,
        WireState::ConfirmedNoAck => DialogState::Answered,
        WireState::Confirmed => DialogState::Confirmed,
        WireState::Deleted => DialogState::Ended,
    }
}

fn told_end(now: Now) -> End {
    End {
        at: now.wall_seconds(),
        cause: Cause::Told,
    }
}

fn variable(value: &Bytes, stamp: Stamp) -> Variable {
    Variable {
        stamp,
        value: Some(text(value)),
    }
}

fn profile(told: &WireProfile) -> Profile {
    Profile {
        name: text(&told.name),
        value: told.value.as_ref().map(text),
        puid: text(&told.puid),
        expires: told.expires.unwrap_or(0),
        flags: told.flags,
    }
}

fn text(bytes: &Bytes) -> Text {
    Text::from(&bytes[..])
}
