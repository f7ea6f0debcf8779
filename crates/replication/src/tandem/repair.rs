//! How two nodes find what they do not both hold, and get it from each other.
//!
//! `Root`, and where it differs `Partitions`, and where these differ `Keys`: lists of key and content.
//! What still differs a second later, though nothing is under way, is divergent. The driver then pulls
//! what it lacks, offers what the other lacks, and tells of the dead what the other holds alive. The
//! other pulls what it is offered, unless it knows it to be dead: then it says so.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::groups::{
    LIST_OVERHEAD, LISTED_BYTES, are_sound, are_walkable, packed, pair_bytes, pairs,
};
use super::link::{Class, Link, Said};
use super::messages::{Content, Differing, Keys, List, Offer, Partitions, Pull, Root};
use super::status::Counters;
use crate::change::Key;
use crate::clock::Now;
use crate::digest::PARTITIONS;
use crate::replica::Replica;

/// Keys that are on their way here because they were asked for.
pub const PULLS_MAX: usize = 131_072;

/// Keys that are not asked for because there is no place for them.
pub const UNWANTED_MAX: usize = 16_384;

/// Partitions in one body of sums.
const CHUNK: usize = 86;

/// What has not changed for so long is not just on its way.
const SETTLED: Duration = Duration::from_millis(200);

/// What was offered is offered again after so long.
const OFFER_PATIENCE: Duration = Duration::from_secs(2);

/// What was asked for is asked for again when its node has sent no records for so long.
const PULL_PATIENCE: Duration = Duration::from_secs(3);

/// What could not be taken is not asked for again for so long.
const UNWANTED: Duration = Duration::from_secs(30);

/// The answer to a body that makes no sense here.
const BAD: u16 = 400;
const DONE: u16 = 200;
/// The answer to a root that differs.
const DIFFERS: u16 = 202;

/// A key that was asked for.
#[derive(Clone, Copy, Debug)]
struct Asked {
    node: SocketAddr,
    content: u64,
    at: Instant,
}

/// What was asked for, of all nodes: no key with the same content from two of them.
#[derive(Debug, Default)]
pub(crate) struct Pulls {
    asked: BTreeMap<(u8, u64), Asked>,
    /// When each node sent records last.
    heard: BTreeMap<SocketAddr, Instant>,
    unwanted: BTreeMap<(u8, u64), Instant>,
}

impl Pulls {
    /// Tells whether a key is to be asked for, and notes that it is.
    fn ask(&mut self, now: Instant, node: SocketAddr, slot: (u8, u64), content: u64) -> Ask {
        if self.unwanted.get(&slot).is_some_and(|until| *until > now) {
            return Ask::Wait;
        }
        let known = self.asked.get(&slot);
        if known.is_some_and(|known| known.content == content && self.is_alive(now, known)) {
            return Ask::Wait;
        }
        if known.is_none() && self.asked.len() >= PULLS_MAX {
            return Ask::Full;
        }
        let at = now;
        self.asked.insert(slot, Asked { node, content, at });
        Ask::Now
    }

    fn is_alive(&self, now: Instant, asked: &Asked) -> bool {
        let heard = self.heard.get(&asked.node).copied();
        now < heard.unwrap_or(asked.at).max(asked.at) + PULL_PATIENCE
    }

    pub(crate) fn is_asked(&self, now: Instant, slot: (u8, u64)) -> bool {
        let asked = self.asked.get(&slot);
        asked.is_some_and(|asked| self.is_alive(now, asked))
    }

    /// Tells whether something of a partition is on its way here.
    fn is_expected(&self, now: Instant, partition: u8) -> bool {
        let range = self.asked.range((partition, 0)..=(partition, u64::MAX));
        range
            .into_iter()
            .any(|(_, asked)| self.is_alive(now, asked))
    }

    /// Tells whether something is still to come from a node.
    fn is_pulling(&self, now: Instant, node: SocketAddr) -> bool {
        let mut asked = self.asked.values().filter(|asked| asked.node == node);
        asked.any(|asked| self.is_alive(now, asked))
    }

    /// Records came from a node.
    pub(crate) fn handle_records(&mut self, now: Instant, node: SocketAddr) {
        self.heard.insert(node, now);
    }

    /// A record came; `taken` tells whether it, or something newer, is held now.
    pub(crate) fn handle_record(&mut self, now: Instant, slot: (u8, u64), taken: bool) {
        self.asked.remove(&slot);
        if !taken && self.unwanted.len() < UNWANTED_MAX {
            self.unwanted.insert(slot, now + UNWANTED);
        }
    }

    /// A node is gone, or another than before.
    pub(crate) fn forget(&mut self, node: SocketAddr) {
        self.heard.remove(&node);
        self.asked.retain(|_, asked| asked.node != node);
    }

    /// Forgets what is over.
    fn sweep(&mut self, now: Instant) {
        self.unwanted.retain(|_, until| *until > now);
        let heard = &self.heard;
        self.asked.retain(|_, asked| {
            let heard = heard.get(&asked.node).copied();
            now < heard.unwrap_or(asked.at).max(asked.at) + PULL_PATIENCE
        });
    }
}

enum Ask {
    Now,
    Wait,
    Full,
}

/// What is here under the hash of a key.
struct Holding {
    key: Key,
    /// Hash of its content; 0: it is over or gone.
    content: u64,
}

/// Returns what is here in a partition, the dead included, by the hash of its key.
fn holdings(replica: &Replica, partition: u8) -> BTreeMap<u64, Holding> {
    let dead = replica.dead(partition).map(|key| (key, 0));
    let living = replica.living(partition);
    let living = living.map(|(key, hash)| (key, short(hash)));
    let all = dead.chain(living);
    all.map(|(key, content)| (replica.key_hash(&key), Holding { key, content }))
        .collect()
}

/// Half of a hash tells contents apart, but 0 is none.
fn short(hash: u128) -> u64 {
    (hash as u64).max(1)
}

/// What is to be said about some keys.
#[derive(Default)]
struct Talk {
    pulls: BTreeMap<u8, Vec<u8>>,
    offers: BTreeMap<u8, Vec<u8>>,
}

/// A step of comparing with one node.
pub(crate) struct Repair<'a> {
    pub(crate) now: Now,
    pub(crate) replica: &'a mut Replica,
    pub(crate) link: &'a mut Link,
    pub(crate) pulls: &'a mut Pulls,
    pub(crate) counters: &'a mut Counters,
}

impl Repair<'_> {
    /// Begins the next round, or asks after the one that is under way; `next` is when to come back.
    pub(crate) fn begin(&mut self, next: Instant) {
        let now = self.now.monotonic;
        self.pulls.sweep(now);
        let mut talk = Talk::default();
        for partition in self.link.pair.suspected() {
            self.judge(partition, &mut talk);
        }
        self.talk(talk);
        // While a round is under way its beginning is repeated: it ends when all is equal meanwhile.
        let abandoned = &mut self.counters.rounds_abandoned;
        let round = match self.link.pair.under_way(now, next, abandoned) {
            Some(round) => round,
            None => {
                self.counters.rounds += 1;
                self.link.pair.begin(now)
            }
        };
        let root = Root {
            round,
            root: self.replica.digests().root().to_le_bytes().to_vec(),
            divergence: self.link.pair.divergence,
        };
        self.say(Class::Digest, Said::Root(round), Content::Root(root));
    }

    /// A round begins that the other drives.
    pub(crate) fn handle_root(&mut self, root: &Root) -> u16 {
        let Ok(sum) = <[u8; 16]>::try_from(&root.root[..]) else {
            return BAD;
        };
        self.link.pair.follow(root.round, root.divergence);
        if u128::from_le_bytes(sum) != self.replica.digests().root() {
            return DIFFERS;
        }
        let now = self.now.monotonic;
        self.link.pair.note_all_followed(now, root.round);
        self.finish();
        DONE
    }

    /// The other has answered the beginning of a round.
    pub(crate) fn handle_root_answer(&mut self, round: u64, status: u16) {
        if !self.link.pair.is_open(round) {
            return;
        }
        match status {
            DONE => {
                self.link.pair.note_all_driven();
                self.finish();
            }
            DIFFERS if self.link.pair.go_into_detail() => self.send_partitions(round),
            DIFFERS => {}
            _ => self.link.pair.abandon(),
        }
    }

    fn send_partitions(&mut self, round: u64) {
        let busy: BTreeSet<u8> = self.link.pair.suspected().into_iter().collect();
        for first in (0..PARTITIONS).step_by(CHUNK) {
            let sums = &self.replica.digests().partitions()[first..];
            let sums = sums.iter().take(CHUNK);
            let sums: Vec<u8> = sums.flat_map(|sum| (*sum as u64).to_le_bytes()).collect();
            let mut wanted = vec![0; sums.len().div_ceil(64)];
            for index in 0..sums.len() / 8 {
                let partition = (first + index) as u8;
                let is_wanted = !busy.contains(&partition) && self.is_worth_listing(partition);
                set_bit(&mut wanted, index, is_wanted);
            }
            let first = first as u32;
            let partitions = Partitions {
                round,
                first,
                sums,
                wanted,
            };
            let content = Content::Partitions(partitions);
            self.say(Class::Digest, Said::Other, content);
        }
    }

    /// Tells whether what differs in a partition is likely more than what is on its way.
    fn is_worth_listing(&self, partition: u8) -> bool {
        let now = self.now.monotonic;
        let changed = self.replica.changed_at(partition);
        let is_settled = changed.is_none_or(|at| now >= at + SETTLED);
        let is_stable = is_settled || self.link.pair.is_restless(partition);
        self.link.pair.is_fresh(now) || is_stable && !self.pulls.is_expected(now, partition)
    }

    /// Compares the sums that the driver holds, and lists what is here where they differ.
    pub(crate) fn handle_partitions(&mut self, partitions: &Partitions) -> u16 {
        let Partitions {
            round,
            first,
            sums,
            wanted,
        } = partitions;
        let (sums, rest) = sums.as_chunks::<8>();
        let first = *first as usize;
        let is_sound = rest.is_empty()
            && (1..=CHUNK).contains(&sums.len())
            && first.saturating_add(sums.len()) <= PARTITIONS
            && wanted.len() == sums.len().div_ceil(8);
        if !is_sound {
            return BAD;
        }
        let mut bits = vec![0; wanted.len()];
        let mut listed = Vec::new();
        for (index, sum) in sums.iter().enumerate() {
            let partition = (first + index) as u8;
            let own = self.replica.digests().partitions()[first + index] as u64;
            let is_equal = own == u64::from_le_bytes(*sum);
            let pair = &mut self.link.pair;
            pair.note_followed(self.now.monotonic, *round, partition, is_equal);
            set_bit(&mut bits, index, !is_equal);
            if !is_equal && bit(wanted, index) && self.is_worth_listing(partition) {
                listed.push(partition);
            }
        }
        self.send_keys(*round, first as u32, bits, &listed);
        self.finish();
        DONE
    }

    fn send_keys(&mut self, round: u64, first: u32, bits: Vec<u8>, listed: &[u8]) {
        let bodies = self.lists(listed);
        let count = bodies.iter().map(Vec::len).sum::<usize>();
        let mut differing = Some(Differing {
            first,
            bits,
            lists: count as u32,
        });
        let class = match bodies.is_empty() {
            true => Class::Digest,
            false => Class::Repair,
        };
        // Also when there is nothing to list, the driver waits to hear which partitions differ.
        let bodies = match bodies.is_empty() {
            true => vec![Vec::new()],
            false => bodies,
        };
        for lists in bodies {
            let differing = differing.take();
            let keys = Keys {
                round,
                differing,
                lists,
            };
            self.say(class, Said::Other, Content::Keys(keys));
        }
    }

    /// Lists what lives here in some partitions, in bodies of lists.
    fn lists(&self, partitions: &[u8]) -> Vec<Vec<List>> {
        let mut bodies = Vec::new();
        let (mut body, mut room) = (Vec::new(), LISTED_BYTES);
        for partition in partitions {
            let living = self.replica.living(*partition);
            let held: BTreeMap<u64, u64> = living
                .map(|(key, hash)| (self.replica.key_hash(&key), short(hash)))
                .collect();
            let mut held = held.into_iter().peekable();
            let mut lower = 0;
            loop {
                if room < LIST_OVERHEAD + 4 * 16 {
                    bodies.push(std::mem::take(&mut body));
                    room = LISTED_BYTES;
                }
                let fitting = (room - LIST_OVERHEAD) / 16;
                let part: Vec<(u64, u64)> = held.by_ref().take(fitting).collect();
                // What lies between this part and the next is known not to be there.
                let upper = held.peek().map_or(u64::MAX, |(next, _)| next - 1);
                room -= LIST_OVERHEAD + part.len() * 16;
                body.push(List {
                    partition: u32::from(*partition),
                    lower,
                    upper,
                    held: part.iter().flat_map(pair_bytes).collect(),
                });
                if upper == u64::MAX {
                    break;
                }
                lower = upper + 1;
            }
        }
        if !body.is_empty() {
            bodies.push(body);
        }
        bodies
    }

    /// Takes what the other holds where we differ.
    pub(crate) fn handle_keys(&mut self, keys: &Keys) -> u16 {
        let is_sound = |list: &List| list.held.len().is_multiple_of(16) && list.lower <= list.upper;
        let partitions = keys.lists.iter().map(|list| list.partition);
        if !are_walkable(partitions) || !keys.lists.iter().all(is_sound) {
            return BAD;
        }
        if let Some(differing) = &keys.differing {
            let last = differing.first as usize + differing.bits.len() * 8;
            if last > PARTITIONS + 7 {
                return BAD;
            }
        }
        if !self.link.pair.is_open(keys.round) {
            return DONE;
        }
        if let Some(differing) = &keys.differing {
            let first = differing.first as usize;
            let end = PARTITIONS.min(first + CHUNK);
            for partition in first..end {
                let index = partition - first;
                let is_equal = !bit(&differing.bits, index);
                self.link.pair.note_driven(partition as u8, is_equal);
            }
            self.link.pair.note_lists(differing.lists, 0);
        }
        let mut talk = Talk::default();
        for list in &keys.lists {
            self.compare(list);
            if self.link.pair.is_fresh(self.now.monotonic) {
                self.judge(list.partition as u8, &mut talk);
            }
        }
        self.talk(talk);
        self.link.pair.note_lists(0, keys.lists.len());
        self.finish();
        DONE
    }

    /// Notes what differs between a list and what is here.
    fn compare(&mut self, list: &List) {
        let now = self.now.monotonic;
        let partition = list.partition as u8;
        let range = list.lower..=list.upper;
        let mut both: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
        for (hash, theirs) in pairs(&list.held) {
            if range.contains(&hash) {
                both.insert(hash, (0, theirs));
            }
        }
        for (key, content) in self.replica.living(partition) {
            let hash = self.replica.key_hash(&key);
            if !range.contains(&hash) {
                continue;
            }
            if self.link.is_pending(&key) {
                both.remove(&hash);
            } else {
                both.entry(hash).or_default().0 = short(content);
            }
        }
        for (hash, (own, theirs)) in both {
            let slot = (partition, hash);
            if own == theirs {
                self.link.pair.forget(slot);
            } else if !self.link.pair.suspect(now, slot, own, theirs) {
                self.counters.candidates_dropped += 1;
            }
        }
    }

    /// Looks at the differences in a partition again: what is settled is forgotten, what has stood
    /// long enough is talked about.
    fn judge(&mut self, partition: u8, talk: &mut Talk) {
        let now = self.now.monotonic;
        let here = holdings(self.replica, partition);
        for (hash, candidate) in self.link.pair.candidates(partition) {
            let slot = (partition, hash);
            let holding = here.get(&hash);
            let own = holding.map_or(0, |holding| holding.content);
            if own != candidate.own || own == candidate.theirs {
                self.link.pair.forget(slot);
            } else if let Some(at) = candidate.asked {
                let is_pending = holding.is_some_and(|holding| self.link.is_pending(&holding.key));
                let is_under_way = is_pending || self.pulls.is_asked(now, slot);
                if !is_under_way && now >= at + OFFER_PATIENCE {
                    self.link.pair.forget(slot);
                }
            } else if self.link.pair.is_divergent(now, &candidate) {
                self.counters.divergent += 1;
                self.link.pair.mark_asked(now, slot);
                if own != 0 {
                    let offers = talk.offers.entry(partition).or_default();
                    offers.extend(pair_bytes(&(hash, own)));
                }
                if candidate.theirs != 0 {
                    self.obtain(slot, candidate.theirs, holding, talk);
                }
            }
        }
    }

    /// The driver holds these, and they differ here.
    pub(crate) fn handle_offer(&mut self, offer: &Offer) -> u16 {
        if !are_sound(&offer.groups, 16) {
            return BAD;
        }
        let mut talk = Talk::default();
        for group in &offer.groups {
            let partition = group.partition as u8;
            let here = holdings(self.replica, partition);
            for (hash, theirs) in pairs(&group.keys) {
                let holding = here.get(&hash);
                if holding.is_none_or(|holding| holding.content != theirs) {
                    self.obtain((partition, hash), theirs, holding, &mut talk);
                }
            }
        }
        self.talk(talk);
        DONE
    }

    /// Sees to it that what lives at the other and differs here becomes the same.
    fn obtain(&mut self, slot: (u8, u64), theirs: u64, holding: Option<&Holding>, talk: &mut Talk) {
        if let Some(Holding { key, content: 0 }) = holding {
            let has_room = self.link.want(self.now.monotonic, key.clone());
            self.counters.pending_dropped += u64::from(!has_room);
            // A dialog that is over stays so; an entry may have been written anew.
            if matches!(key, Key::Dialog(_)) {
                return;
            }
        }
        let now = self.now.monotonic;
        match self.pulls.ask(now, self.link.address, slot, theirs) {
            Ask::Now => {
                let pulls = talk.pulls.entry(slot.0).or_default();
                pulls.extend(slot.1.to_le_bytes());
            }
            Ask::Wait => {}
            Ask::Full => self.counters.pulls_dropped += 1,
        }
    }

    /// The other wants these.
    pub(crate) fn handle_pull(&mut self, pull: &Pull) -> u16 {
        if !are_sound(&pull.groups, 8) {
            return BAD;
        }
        for group in &pull.groups {
            let mut here = holdings(self.replica, group.partition as u8);
            for hash in group.keys.as_chunks::<8>().0 {
                if let Some(holding) = here.remove(&u64::from_le_bytes(*hash)) {
                    let has_room = self.link.want(self.now.monotonic, holding.key);
                    self.counters.pending_dropped += u64::from(!has_room);
                }
            }
        }
        DONE
    }

    fn talk(&mut self, talk: Talk) {
        for groups in packed(talk.pulls) {
            self.say(Class::Repair, Said::Other, Content::Pull(Pull { groups }));
        }
        for groups in packed(talk.offers) {
            self.say(Class::Repair, Said::Other, Content::Offer(Offer { groups }));
        }
    }

    fn say(&mut self, class: Class, said: Said, content: Content) {
        self.counters.queue_dropped += u64::from(!self.link.say(class, said, content));
    }

    fn finish(&mut self) {
        let now = self.now.monotonic;
        let is_pulling = self.pulls.is_pulling(now, self.link.address);
        if let Some(clean) = self.link.pair.finish(now, is_pulling) {
            self.replica.compared_clean(self.link.address, clean);
        }
    }
}

fn bit(bits: &[u8], index: usize) -> bool {
    bits.get(index / 8)
        .is_some_and(|byte| byte >> (index % 8) & 1 == 1)
}

fn set_bit(bits: &mut [u8], index: usize, is_set: bool) {
    if is_set && let Some(byte) = bits.get_mut(index / 8) {
        *byte |= 1 << (index % 8);
    }
}

#[cfg(test)]
mod tests {
    use htable::{Definition, Value};

    use super::super::groups::GROUPS_MAX;
    use super::super::messages::Group;
    use super::*;
    use crate::change::Origin;
    use crate::dialogs::DialogsConfig;
    use crate::entries::EntryKey;

    #[allow(clippy::disallowed_methods, reason = "an origin for simulated time")]
    fn now() -> Now {
        Now {
            monotonic: Instant::now(),
            wall: 1_800_000_000_000,
        }
    }

    /// Bodies that would have partitions walked through more often than any of ours does.
    fn endless(partition: u32, keys: &[u8]) -> Vec<Vec<(u32, Vec<u8>)>> {
        let (lower, upper) = (partition & !1, partition | 1);
        let each = |partitions: Vec<u32>| {
            let groups = partitions.into_iter().map(|at| (at, keys.to_vec()));
            groups.collect()
        };
        vec![
            each(vec![partition; 3000]),
            each(vec![partition; 2]),
            each(vec![upper, lower]),
            each([lower, upper].repeat(1500)),
            each((0..=u8::MAX).map(u32::from).collect()),
            each((0..=GROUPS_MAX as u32).collect()),
            each(vec![partition, 256]),
        ]
    }

    #[test]
    fn a_body_of_thousands_of_groups_is_refused_and_changes_nothing() {
        let now = now();
        let own = SocketAddr::from(([10, 0, 0, 1], 5060));
        let mut replica = Replica::new(own, [7; 16], DialogsConfig::default());
        let table = Definition {
            replicate: true,
            ..Definition::new("t")
        };
        replica.define(table).unwrap();
        let key = EntryKey {
            table: "t".into(),
            key: "k".into(),
        };
        let value = Value::Int(1);
        replica.set(now, &key, value, Origin::Local).unwrap();
        let key = Key::Entry(key);
        let partition = u32::from(replica.partition(&key));
        let held = replica.key_hash(&key).to_le_bytes();
        let lacking: Vec<u8> = pair_bytes(&(1, 2)).collect();
        let mut link = Link::new(now.monotonic, SocketAddr::from(([10, 0, 0, 2], 5060)));
        let round = link.pair.begin(now.monotonic);
        let (mut pulls, mut counters) = (Pulls::default(), Counters::default());
        let mut repair = Repair {
            now,
            replica: &mut replica,
            link: &mut link,
            pulls: &mut pulls,
            counters: &mut counters,
        };
        let groups = |groups: Vec<(u32, Vec<u8>)>| -> Vec<Group> {
            let groups = groups.into_iter();
            groups
                .map(|(partition, keys)| Group { partition, keys })
                .collect()
        };
        let keys = |lists: Vec<(u32, Vec<u8>)>| Keys {
            round,
            differing: None,
            lists: lists
                .into_iter()
                .map(|(partition, held)| List {
                    partition,
                    lower: 0,
                    upper: u64::MAX,
                    held,
                })
                .collect(),
        };
        let changed = |repair: &Repair<'_>| {
            let wanted = repair.link.is_pending(&key);
            let suspected = !repair.link.pair.suspected().is_empty();
            (wanted, !repair.pulls.asked.is_empty(), suspected)
        };

        let empty = vec![(partition, Vec::new()); 10_000];
        let pull = Pull {
            groups: groups(empty.clone()),
        };
        assert_eq!(repair.handle_pull(&pull), BAD);
        let offer = Offer {
            groups: groups(empty.clone()),
        };
        assert_eq!(repair.handle_offer(&offer), BAD);
        assert_eq!(repair.handle_keys(&keys(empty)), BAD);
        for body in endless(partition, &held) {
            let groups = groups(body);
            assert_eq!(repair.handle_pull(&Pull { groups }), BAD);
        }
        for body in endless(partition, &lacking) {
            assert_eq!(repair.handle_keys(&keys(body.clone())), BAD);
            let groups = groups(body);
            assert_eq!(repair.handle_offer(&Offer { groups }), BAD);
        }
        let sums = Partitions {
            round,
            first: 0,
            sums: vec![0; (CHUNK + 1) * 8],
            wanted: vec![u8::MAX; (CHUNK + 1).div_ceil(8)],
        };
        assert_eq!(repair.handle_partitions(&sums), BAD);
        assert_eq!(changed(&repair), (false, false, false));

        // Of each partition once, all three are taken.
        let pull = Pull {
            groups: groups(vec![(partition, held.to_vec())]),
        };
        assert_eq!(repair.handle_pull(&pull), DONE);
        assert_eq!(changed(&repair), (true, false, false));
        let offer = Offer {
            groups: groups(vec![(partition, lacking.clone())]),
        };
        assert_eq!(repair.handle_offer(&offer), DONE);
        assert_eq!(changed(&repair), (true, true, false));
        let nothing_and_one = vec![(partition & !1, Vec::new()), (partition | 1, lacking)];
        assert_eq!(repair.handle_keys(&keys(nothing_and_one)), DONE);
        // A link that is not connected yet counts as fresh: what differs is asked for at once.
        assert_eq!(changed(&repair), (true, true, true));
    }

    #[test]
    fn one_key_is_asked_of_one_node_while_that_sends() {
        let start = now().monotonic;
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        let node = |port| SocketAddr::from(([10, 0, 0, 1], port));
        let mut pulls = Pulls::default();
        let mut asks =
            |now, port, content| matches!(pulls.ask(now, node(port), (0, 1), content), Ask::Now);
        assert!(asks(at(0), 1, 7));
        assert!(!asks(at(1), 2, 7) && !asks(at(1), 1, 7));
        assert!(asks(at(2), 2, 8));
        pulls.handle_records(at(2500), node(2));
        assert!(pulls.is_asked(at(5000), (0, 1)) && !pulls.is_asked(at(5500), (0, 1)));
        assert!(matches!(pulls.ask(at(5500), node(1), (0, 1), 8), Ask::Now));
        pulls.handle_record(at(5600), (0, 1), false);
        assert!(matches!(pulls.ask(at(5700), node(1), (0, 1), 8), Ask::Wait));
    }
}
