//! What the node keeps of names: what they stand for, who is asked, who did not serve. Sans-IO.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use host::{Answer, Name};

use crate::names::{Known, Names};

/// How long a look-up that found nothing counts: for a name with addresses until it is asked for
/// again, for another one until the next request that needs it asks.
pub const ABSENT_FOR: Duration = Duration::from_secs(30);

/// How long after its last answer has run out an address is forgotten, and looked up for the next
/// request that needs it.
pub const FORGOTTEN_AFTER: Duration = Duration::from_secs(3600);

/// How long after the last request that needed it a name is no longer asked for.
pub const UNUSED_AFTER: Duration = Duration::from_secs(600);

/// How long an address that did not serve comes after the others of its name.
pub const MARKED_FOR: Duration = Duration::from_secs(30);

/// How many names a node remembers, and how many it looks up at once. At the limit names without an
/// address give way to a new one, then the one that was needed the longest ago.
pub const NAMES_MAX: usize = 4096;

/// How many addresses may be marked; at the limit the one that was marked the longest ago no longer is.
pub const MARKS_MAX: usize = 1024;

/// The names of a node.
#[derive(Debug, Default)]
pub(crate) struct NameBook {
    names: Names,
    /// When each known name was last needed.
    used: BTreeMap<Name, Instant>,
    /// Names to look up, and all that are being looked up.
    queue: VecDeque<Name>,
    asked: BTreeSet<Name>,
    due: Option<Instant>,
}

impl NameBook {
    /// Returns what shards go by.
    pub(crate) fn names(&self) -> &Names {
        &self.names
    }

    /// Takes note that a request needs a name, and has it looked up if nothing fresh is known of it.
    pub(crate) fn need(&mut self, now: Instant, name: Name) {
        match self.names.known.get(&name) {
            None => self.ask(name),
            Some(known) => {
                let is_stale = known.until <= now;
                self.used.insert(name.clone(), now);
                if is_stale {
                    self.ask(name);
                }
            }
        }
    }

    fn ask(&mut self, name: Name) {
        if self.asked.len() < NAMES_MAX && self.asked.insert(name.clone()) {
            self.queue.push_back(name);
        }
    }

    /// Returns the next name to look up; `handle_lookup` must follow.
    pub(crate) fn poll_lookup(&mut self) -> Option<Name> {
        self.queue.pop_front()
    }

    /// Takes the answer to a look-up. A name that had addresses keeps them when there is none.
    pub(crate) fn handle_lookup(&mut self, now: Instant, name: Name, answer: &Answer) {
        self.asked.remove(&name);
        let known = Arc::make_mut(&mut self.names.known);
        let before = known.remove(&name);
        let latest = match before {
            Some(before) if answer.addresses.is_empty() && !before.addresses.is_empty() => Known {
                until: now + ABSENT_FOR,
                ..before
            },
            _ if answer.addresses.is_empty() => Known {
                addresses: Arc::new([]),
                until: now + ABSENT_FOR,
                good_until: now + ABSENT_FOR,
            },
            _ => Known {
                addresses: answer.addresses.as_slice().into(),
                until: now + answer.fresh_for,
                good_until: now + answer.fresh_for,
            },
        };
        self.make_room();
        self.used.entry(name.clone()).or_insert(now);
        Arc::make_mut(&mut self.names.known).insert(name, latest);
        self.refresh(now);
    }

    /// Forgets what is worth least while there is no room for one more.
    fn make_room(&mut self) {
        while self.names.known.len() >= NAMES_MAX {
            let by_worth = self.names.known.iter().min_by_key(|(name, known)| {
                let used = self.used.get(*name).copied();
                (!known.addresses.is_empty(), used)
            });
            let Some((least, _)) = by_worth else { return };
            let least = least.clone();
            self.used.remove(&least);
            Arc::make_mut(&mut self.names.known).remove(&least);
        }
    }

    /// Takes note that an address did not serve.
    pub(crate) fn mark(&mut self, now: Instant, address: SocketAddr) {
        let marks = Arc::make_mut(&mut self.names.marks);
        while marks.len() >= MARKS_MAX && !marks.contains_key(&address) {
            let Some((&oldest, _)) = marks.iter().min_by_key(|(_, marked)| **marked) else {
                break;
            };
            marks.remove(&oldest);
        }
        marks.insert(address, now);
        self.refresh(now);
    }

    /// Does what is due; tells whether anything was.
    pub(crate) fn handle_timeout(&mut self, now: Instant) -> bool {
        let is_due = self.due.is_some_and(|at| at <= now);
        if is_due {
            self.refresh(now);
        }
        is_due
    }

    /// Asks again for what is needed and no longer fresh, and forgets what is old.
    fn refresh(&mut self, now: Instant) {
        Arc::make_mut(&mut self.names.marks).retain(|_, marked| *marked + MARKED_FOR > now);
        let used = &mut self.used;
        Arc::make_mut(&mut self.names.known).retain(|name, known| {
            let stays = known.forgotten_at() > now;
            if !stays {
                used.remove(name);
            }
            stays
        });
        let known = self.names.known.iter();
        let stale = known.filter(|(name, known)| known.until <= now && self.is_used(now, name));
        let stale: Vec<_> = stale.map(|(name, _)| name.clone()).collect();
        for name in stale {
            self.ask(name);
        }
        // What was asked for just now, or is not used, has only to be forgotten.
        let names = self.names.known.values().map(|known| match known.until {
            until if until > now => until,
            _ => known.forgotten_at(),
        });
        let marks = self.names.marks.values().map(|marked| *marked + MARKED_FOR);
        self.due = names.chain(marks).min();
    }

    fn is_used(&self, now: Instant, name: &Name) -> bool {
        self.used
            .get(name)
            .is_some_and(|used| *used + UNUSED_AFTER > now)
    }

    /// Returns when `handle_timeout` is due.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRESH: Duration = Duration::from_secs(60);

    fn name(host: &str) -> Name {
        let (host, port) = (host.into(), None);
        Name { host, port }
    }

    fn address(last: u8) -> SocketAddr {
        ([127, 0, 0, last], 5060).into()
    }

    fn answer(last: u8) -> Answer {
        Answer {
            addresses: vec![address(last)],
            fresh_for: FRESH,
        }
    }

    /// Returns the first address that is known of a name; the inner `None`: it has none.
    fn known(book: &NameBook, host: &str) -> Option<Option<SocketAddr>> {
        let known = book.names().known.get(&name(host))?;
        Some(known.addresses.first().copied())
    }

    /// Lets time pass, and returns what is asked for meanwhile, without an answer to it.
    fn wait(book: &mut NameBook, from: Instant, time: Duration) -> Vec<Name> {
        let until = from + time;
        while let Some(at) = book.poll_timeout().filter(|at| *at <= until) {
            assert!(book.handle_timeout(at));
            assert!(book.poll_timeout().is_none_or(|next| next > at), "goes on");
        }
        std::iter::from_fn(|| book.poll_lookup()).collect()
    }

    #[test]
    fn a_name_in_use_is_asked_for_when_its_answer_runs_out_and_never_forgotten() {
        let (mut book, mut now) = (NameBook::default(), Instant::now());
        book.handle_lookup(now, name("pbx"), &answer(77));
        for _ in 0..300 {
            book.need(now, name("pbx"));
            let just_before = FRESH - Duration::from_millis(1);
            assert_eq!(wait(&mut book, now, just_before), []);
            assert_eq!(wait(&mut book, now, FRESH), [name("pbx")]);
            now += FRESH;
            assert_eq!(known(&book, "pbx"), Some(Some(address(77))), "used on");
            book.handle_lookup(now, name("pbx"), &answer(77));
        }
    }

    #[test]
    fn a_name_that_nobody_answers_for_keeps_its_addresses_for_an_hour() {
        let (mut book, start) = (NameBook::default(), Instant::now());
        book.handle_lookup(start, name("pbx"), &answer(77));
        let (mut now, mut asked) = (start, 0);
        while now < start + FRESH + FORGOTTEN_AFTER {
            assert_eq!(known(&book, "pbx"), Some(Some(address(77))));
            book.need(now, name("pbx"));
            now += ABSENT_FOR;
            for name in wait(&mut book, now, Duration::ZERO) {
                asked += 1;
                book.handle_lookup(now, name, &Answer::default());
            }
        }
        assert!(asked > 100, "asked for {asked} times");
        assert_eq!(known(&book, "pbx"), None);
    }

    #[test]
    fn a_name_that_is_no_longer_used_is_not_asked_for_until_it_is() {
        let (mut book, mut now) = (NameBook::default(), Instant::now());
        book.handle_lookup(now, name("pbx"), &answer(77));
        let mut asked = 0;
        for _ in 0..30 {
            now += FRESH;
            for name in wait(&mut book, now, Duration::ZERO) {
                asked += 1;
                book.handle_lookup(now, name, &answer(77));
            }
        }
        assert_eq!(asked, 9, "once a minute for less than ten");
        assert_eq!(known(&book, "pbx"), Some(Some(address(77))));
        book.need(now, name("pbx"));
        assert_eq!(book.poll_lookup(), Some(name("pbx")));
    }

    #[test]
    fn a_name_that_is_not_known_is_asked_for_again_by_who_needs_it_only() {
        let (mut book, now) = (NameBook::default(), Instant::now());
        book.handle_lookup(now, name("nowhere"), &Answer::default());
        assert_eq!(known(&book, "nowhere"), Some(None));
        assert_eq!(wait(&mut book, now, ABSENT_FOR), []);
        assert_eq!(known(&book, "nowhere"), None);
    }

    #[test]
    fn at_the_bound_unknown_names_give_way_and_then_the_one_that_was_not_used_for_longest() {
        let (mut book, now) = (NameBook::default(), Instant::now());
        let later = |seconds| now + Duration::from_secs(seconds);
        book.handle_lookup(now, name("first"), &answer(1));
        book.handle_lookup(now, name("second"), &answer(2));
        book.handle_lookup(later(1), name("nowhere"), &Answer::default());
        let fill = (3..NAMES_MAX).map(|n| {
            let known = Known {
                addresses: Arc::new([address(3)]),
                until: later(60),
                good_until: later(60),
            };
            (name(&format!("n{n}")), known)
        });
        let fill: BTreeMap<_, _> = fill.collect();
        let names = fill.keys().map(|name| (name.clone(), later(9)));
        book.used.extend(names);
        Arc::make_mut(&mut book.names.known).extend(fill);
        book.need(later(9), name("first"));
        book.handle_lookup(later(10), name("new"), &answer(4));
        assert_eq!(known(&book, "nowhere"), None);
        assert_eq!(known(&book, "second"), Some(Some(address(2))));
        book.handle_lookup(later(11), name("newer"), &answer(5));
        assert_eq!(known(&book, "second"), None);
        assert_eq!(known(&book, "first"), Some(Some(address(1))));
        assert_eq!(known(&book, "newer"), Some(Some(address(5))));
        assert_eq!(book.names().known.len(), NAMES_MAX);
        assert_eq!(book.used.len(), NAMES_MAX);
    }

    #[test]
    fn a_mark_lasts_for_its_time_and_the_oldest_gives_way() {
        let (mut book, now) = (NameBook::default(), Instant::now());
        let number = |number: usize| SocketAddr::from(([127, 0, 0, 1], number as u16));
        book.mark(now, number(0));
        let later = now + Duration::from_secs(1);
        for n in 1..=MARKS_MAX {
            book.mark(later, number(n));
        }
        assert_eq!(book.names().marks.len(), MARKS_MAX);
        assert!(!book.names().marks.contains_key(&number(0)));
        wait(&mut book, now, MARKED_FOR);
        assert_eq!(book.names().marks.len(), MARKS_MAX);
        wait(&mut book, later, MARKED_FOR);
        assert!(book.names().marks.is_empty());
    }
}
