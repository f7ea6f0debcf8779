//! What Kamailios complained about, and what of it is nobody's fault but theirs.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use control::mirror::v1::Direction;

use super::mirrors::{Mirrors, Numbers, Told};
use super::{Bus, KAMAILIOS, ROUTERS};
use crate::processes::{fetch, figure};
use crate::quiet::say;

/// What its log calls things that must not happen.
const COMPLAINTS: [&str; 5] = ["ERROR:", "CRITICAL:", "ALERT:", "BUG:", "EMERG"];

/// The second of the two lines that 5.6.3 writes on a second STATE(4): it names the dialog.
const TWICE: &str = "Unable to insert dlg timer ";

/// What it says of the ACK and the BYE of a call of which it learnt no answer.
const CONFIRMED_UNANSWERED: &str = "bogus event 6 in state 1 ";
pub(super) const ENDED_UNANSWERED: &str = "bogus event 7 in state 1 ";

/// A router dies with few INVITEs in hand: two lines for each.
const TAKEN_MAX: usize = 6;

/// A Kamailio dies with few messages told to some and not to others: with calls of 40 a second, those of two tenths.
const TOLD_BY_THE_DYING_MAX: usize = 8;

/// The metric of what Kamailios did not take of a router.
const REFUSED: &str = "tandem_replica_stock_events_total{event=\"refused\"}";

/// What may explain a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Excuse {
    /// The first of the two lines on a second STATE(4): the other is judged.
    FirstOfTwo,
    /// A node that it was told to join at does not answer.
    SeedIsAway,
    /// Another Kamailio, asked for all its dialogs, told everybody of one that is answered.
    ToldByAnother,
    /// What another Kamailio told overtook what creates the dialog. It is the other's own, unless a Tandem spoke
    /// of it, and then that was refused.
    OvertookCreation,
    /// The ACK overtook the 200, in a Kamailio that has several processes.
    OvertookAnswer,
    /// A call that a router which died had begun went on here: this one took it for the same dialog, of which it
    /// learns no answer.
    TakenForTheDeadOnes,
    /// Another Kamailio told twice that a dialog is confirmed, and no Tandem did: it repeats what is not answered
    /// within half a second, and who gets that takes it for something new.
    RepeatedByAnother,
    /// One that is back was told everything and got, besides, what it had left unanswered while it was away. A
    /// survivor was told that a dialog is answered by the one that died, and by the heir whom that had not told.
    ToldAgain,
}

/// The life of a Kamailio, from its start on.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Life {
    /// Where it is on the bus.
    node: Option<SocketAddr>,
    /// When it began, in nanoseconds since 1970.
    began: u64,
    /// Another Kamailio ran at some time of it.
    pub(super) has_company: bool,
    /// The other one, at which it was told to join, did not.
    pub(super) was_alone: bool,
    /// It was killed before.
    pub(super) is_back: bool,
    /// The other one was killed.
    pub(super) is_survivor: bool,
    /// A router of either kind was killed.
    pub(super) has_outlived: bool,
}

impl Life {
    fn allows(self, excuse: Excuse) -> bool {
        match excuse {
            Excuse::FirstOfTwo | Excuse::OvertookAnswer => true,
            Excuse::SeedIsAway => self.was_alone,
            Excuse::ToldByAnother | Excuse::OvertookCreation | Excuse::RepeatedByAnother => {
                self.has_company
            }
            Excuse::ToldAgain => self.is_back || self.is_survivor,
            Excuse::TakenForTheDeadOnes => self.has_outlived,
        }
    }

    /// Tells whether a Tandem may have told it, once or more, that the dialog of this line is confirmed.
    fn was_told_by_us(self, line: &str, mirrors: &Mirrors) -> bool {
        let about = self.node.zip(numbers(line));
        about.is_none_or(|(node, dialog)| mirrors.may_have_told(node, dialog, self.began))
    }
}

/// What is left of a log.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    unexplained: Vec<String>,
    excused: BTreeMap<Excuse, usize>,
}

impl Verdict {
    pub(super) fn add(&mut self, life: Life, log: &[String], mirrors: &Mirrors) {
        let complains = |line: &&String| COMPLAINTS.iter().any(|word| line.contains(word));
        let (mut first, mut second, mut again, mut taken) = (0, 0, 0, 0);
        for line in log.iter().filter(complains) {
            let excuse = excuse(line).map(|excuse| {
                let is_others = excuse == Excuse::ToldAgain && !life.was_told_by_us(line, mirrors);
                if is_others {
                    Excuse::RepeatedByAnother
                } else {
                    excuse
                }
            });
            first += usize::from(excuse == Some(Excuse::FirstOfTwo));
            second += usize::from(line.contains(TWICE));
            again += usize::from(excuse == Some(Excuse::ToldAgain));
            taken += usize::from(excuse == Some(Excuse::TakenForTheDeadOnes));
            match excuse.filter(|excuse| life.allows(*excuse)) {
                Some(excuse) => *self.excused.entry(excuse).or_default() += 1,
                None => self.unexplained.push(line.clone()),
            }
        }
        if life.is_survivor && !life.is_back && again > TOLD_BY_THE_DYING_MAX {
            let told =
                format!("{again} times a survivor was told again, {TOLD_BY_THE_DYING_MAX} at most");
            self.unexplained.push(told);
        }
        if taken > TAKEN_MAX {
            let told = format!("{taken} lines on calls of a dead router, {TAKEN_MAX} at most");
            self.unexplained.push(told);
        }
        if first != second {
            let told = format!("{first} first and {second} second lines on a second STATE(4)");
            self.unexplained.push(told);
        }
    }
}

/// Returns what may explain a line.
fn excuse(line: &str) -> Option<Excuse> {
    let of_a_kamailio = |upto: &str| {
        let dialog = line.split_once(upto).map(|(dialog, _)| dialog);
        dialog.is_some_and(ends_with_a_kamailios_number)
    };
    match line {
        _ if line.contains("Trying to insert a bogus dlg") => Some(Excuse::FirstOfTwo),
        _ if line.contains("not deleting notification peer") => Some(Excuse::SeedIsAway),
        _ if line.contains("unhandled state update to state 3") => Some(Excuse::ToldByAnother),
        _ if line.ends_with("] not found") && of_a_kamailio("] not found") => {
            Some(Excuse::OvertookCreation)
        }
        _ if line.contains(CONFIRMED_UNANSWERED) && of_a_kamailio("] with clid ") => {
            Some(Excuse::OvertookAnswer)
        }
        _ if line.contains(ENDED_UNANSWERED) || line.contains(CONFIRMED_UNANSWERED) => {
            Some(Excuse::TakenForTheDeadOnes)
        }
        _ if line.contains(TWICE)
            && line
                .strip_suffix(']')
                .is_some_and(ends_with_a_kamailios_number) =>
        {
            Some(Excuse::ToldAgain)
        }
        _ => None,
    }
}

/// Reads slot and number of the dialog with which a line ends.
fn numbers(line: &str) -> Option<Numbers> {
    let (_, numbers) = line.strip_suffix(']')?.rsplit_once('[')?;
    let (slot, number) = numbers.split_once(':')?;
    Some((slot.parse().ok()?, number.parse().ok()?))
}

/// Their numbers of dialogs are small, ours are of the upper half.
fn ends_with_a_kamailios_number(line: &str) -> bool {
    let number = line.rsplit_once(':').map(|(_, number)| number.parse());
    matches!(number, Some(Ok(0..0x8000_0000_u32)))
}

impl Bus {
    /// Asserts that no Kamailio had anything to complain about that came from us, and that none refused us
    /// anything but, without a line in its log, what each router had to say of a dialog that died with it.
    pub(super) fn assert_no_complaints(&self) {
        let all = self.complaints();
        assert!(all.is_empty(), "Kamailio complained:\n{}", all.join("\n"));
        say("Kamailio's logs hold no other complaint");
    }

    /// Returns what Kamailios had to complain about, and what they refused; says what is excused.
    pub(super) fn complaints(&self) -> Vec<String> {
        let mut verdict = Verdict::default();
        let living = self.kamailios.iter();
        let living = living.map(|(name, kamailio)| (self.lives[name], kamailio.log_lines()));
        for (life, log) in self.logs.iter().cloned().chain(living) {
            verdict.add(life, &log, &self.mirrors);
            let twice = log.iter().filter(|line| line.contains(TWICE));
            // One that is back asks for everything, and gets it from others in several ways.
            let is_telling = |line: &&String| {
                let is_others = !life.was_told_by_us(line, &self.mirrors);
                verdict.unexplained.contains(line) || is_others && !life.is_back
            };
            for line in twice.filter(is_telling) {
                say(line);
                let told = numbers(line).map(|dialog| self.mirrors.of(dialog, 0));
                for told in told.unwrap_or_default() {
                    say(&told.to_string());
                }
            }
        }
        if !verdict.excused.is_empty() {
            say(&format!("excused lines: {:?}", verdict.excused));
        }
        let mut all = verdict.unexplained;
        for router in ROUTERS.into_iter().filter(|router| self.runs(router)) {
            let metrics = fetch(&self.system, router, "/metrics");
            let refused = figure(&metrics, REFUSED);
            let most = self.died_with_them as u64;
            let told = format!("{refused} requests of {router} were refused, {most} may be");
            match refused > most {
                true => all.push(told),
                false => say(&told),
            }
        }
        all
    }

    /// A Kamailio begins its life.
    pub(super) fn note_start(&mut self, name: &'static str) {
        let node = self.dmq(name);
        let other = KAMAILIOS.into_iter().find(|other| *other != name);
        let other = other.and_then(|other| self.lives.get_mut(other));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let life = Life {
            node: Some(node),
            began: now.as_nanos() as u64,
            has_company: other.is_some(),
            was_alone: other.is_none(),
            is_back: self.killed.contains(name),
            is_survivor: false,
            has_outlived: false,
        };
        if let Some(other) = other {
            other.has_company = true;
        }
        self.lives.insert(name, life);
    }

    /// A router of either kind was killed.
    pub(super) fn note_kill(&mut self) {
        for life in self.lives.values_mut() {
            life.has_outlived = true;
        }
    }

    /// A Kamailio ends its life with this log.
    pub(super) fn note_end(&mut self, name: &str, log: Vec<String>) {
        self.logs
            .extend(self.lives.remove(name).map(|life| (life, log)));
        let is_killed = self.killed.contains(name);
        for other in self.lives.values_mut() {
            other.was_alone = true;
            other.is_survivor |= is_killed;
        }
    }
}

#[test]
fn a_line_is_a_kamailios_by_the_number_of_its_dialog() {
    const NOT_FOUND: &str = "ERROR: dialog [dlg_dmq.c:289]: dlg_dmq_handle_msg(): dialog ";
    const TOLD_TWICE: &str =
        "CRITICAL: dialog [dlg_dmq.c:314]: dlg_dmq_handle_msg(): Unable to insert dlg timer 0x7f ";
    const OVERTAKEN: &str = "CRITICAL: dialog [dlg_hash.c:1652]: log_next_state_dlg(): bogus event 6 in state 1 for dlg 0x7f ";
    for (number, is_small) in [("1", true), ("2147483647", true), ("2147483648", false)] {
        for (line, expected) in [
            (
                format!("{NOT_FOUND}[275:{number}] not found"),
                Excuse::OvertookCreation,
            ),
            (format!("{TOLD_TWICE}[275:{number}]"), Excuse::ToldAgain),
            (
                format!("{OVERTAKEN}[275:{number}] with clid 'a' and tags 'b' ''"),
                Excuse::OvertookAnswer,
            ),
        ] {
            let of_ours = line
                .contains(CONFIRMED_UNANSWERED)
                .then_some(Excuse::TakenForTheDeadOnes);
            let expected = if is_small { Some(expected) } else { of_ours };
            assert_eq!(excuse(&line), expected, "{line}");
        }
    }
}

#[test]
fn a_line_is_excused_only_where_its_reason_holds() {
    let first = "CRITICAL: dialog [dlg_timer.c:129]: insert_dlg_timer(): Trying to insert a bogus dlg tl=0x7f";
    let second = "CRITICAL: dialog [dlg_dmq.c:314]: dlg_dmq_handle_msg(): Unable to insert dlg timer 0x7f [1:7]";
    let told =
        "ERROR: dialog [dlg_dmq.c:356]: dlg_dmq_handle_msg(): unhandled state update to state 3";
    let log = [first, second, told].map(str::to_owned);
    let node: SocketAddr = "127.0.0.33:5062".parse().unwrap();
    let mirrors = Mirrors::default();
    let told = |direction, other, at| Told {
        at,
        router: "router-1",
        direction,
        other,
        dialog: (1, 7),
    };
    let left = |life: Life, log: &[String]| {
        let mut verdict = Verdict::default();
        verdict.add(life, log, &mirrors);
        verdict.unexplained.len()
    };
    let alone = Life {
        node: Some(node),
        began: 3,
        ..Life::default()
    };
    let in_company = Life {
        has_company: true,
        ..alone
    };
    let survivor = Life {
        is_survivor: true,
        ..in_company
    };
    let back = Life {
        is_back: true,
        ..in_company
    };
    for told in [
        told(Direction::In, node, 4),
        told(Direction::Out, "127.0.0.34:5062".parse().unwrap(), 4),
        told(Direction::Out, node, 2),
    ] {
        mirrors.add(Some(told));
    }
    assert_eq!(
        (left(alone, &log[..2]), left(in_company, &log[..2])),
        (1, 0)
    );
    let deaf = Mirrors::default();
    deaf.miss("a mirror was not read");
    assert!(in_company.was_told_by_us(second, &deaf));
    mirrors.add(Some(told(Direction::Out, node, 3)));
    assert_eq!(
        (left(alone, &log), left(in_company, &log), left(back, &log)),
        (2, 1, 0)
    );
    assert_eq!(left(back, &log[..1]), 1, "the second line is missing");
    let taken = format!("CRITICAL: {ENDED_UNANSWERED}for dlg 0x7f [275:7] with clid 'a'");
    let outlives = Life {
        has_outlived: true,
        ..alone
    };
    let taken = vec![taken; TAKEN_MAX + 1];
    assert_eq!(
        (
            left(alone, &taken[..1]),
            left(outlives, &taken[..TAKEN_MAX]),
            left(outlives, &taken)
        ),
        (1, 0, 1)
    );
    let many = [first, second].repeat(TOLD_BY_THE_DYING_MAX + 1);
    let many: Vec<_> = many.into_iter().map(str::to_owned).collect();
    assert_eq!(
        (
            left(survivor, &log),
            left(survivor, &many),
            left(back, &many)
        ),
        (0, 1, 0)
    );
}
