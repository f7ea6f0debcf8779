//! One Kamailio: what it executes, logs, and tells its neighbours.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use dmq_bodies::{
    Cell, Change, DialogDialect, DialogMessage, DialogState, Did, Leg, Numbering, PatternKind,
    Remove, StateChange, TableDialect, TableMessage, Timing, Update, slot,
};
use htable::{Pattern, Value};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use replication::Now;
use sip_types::{HeaderName, Message};

use super::{HASH_SIZE, LONG, SHORT, SHORT_SECONDS, with_message};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// 5.6.3: no `last_modified`, legs are overwritten with whatever comes.
    V56,
    /// 6.2: last write wins, legs are kept when none is told.
    V62,
}

#[derive(Clone, Debug)]
pub struct Dialog {
    pub call_id: Bytes,
    pub state: DialogState,
    pub caller: Leg,
    pub callee: Leg,
    pub variables: BTreeMap<Bytes, Bytes>,
    pub lifetime: u32,
    pub start_ts: u64,
    pub init_ts: u64,
    pub modified: u64,
    pub timer: Option<Instant>,
}

#[derive(Clone, Debug)]
pub struct Stored {
    pub value: Value,
    pub expires: Option<Instant>,
    pub modified: u64,
}

#[derive(Debug, Default)]
pub struct Table {
    pub autoexpire: Option<Duration>,
    pub entries: BTreeMap<Bytes, Stored>,
}

struct Pending {
    to: SocketAddr,
    bytes: Vec<u8>,
    again: Instant,
    wait: Duration,
    ends: Instant,
}

pub struct Kamailio {
    pub address: SocketAddr,
    pub version: Version,
    pub numbering: Numbering,
    /// Everybody it tells things.
    pub nodes: BTreeSet<SocketAddr>,
    pub dialogs: BTreeMap<Did, Dialog>,
    pub tables: BTreeMap<Bytes, Table>,
    /// What it logged an ERROR or CRITICAL for.
    pub log: Vec<String>,
    pub outbox: Vec<(SocketAddr, Vec<u8>)>,
    /// How far its wall clock is ahead, in milliseconds.
    pub ahead: i64,
    pub executed: u64,
    /// A key that it answers 400 for, whatever the reason.
    pub refuses: Option<Bytes>,
    /// It has no shared memory left: it takes no value and no dialog whole.
    pub is_full: bool,
    inbox: BTreeMap<(Instant, u64), (SocketAddr, Vec<u8>)>,
    pending: BTreeMap<Vec<u8>, Pending>,
    removals: Vec<(Instant, Did)>,
    rng: SmallRng,
    count: u64,
}

impl Kamailio {
    pub fn new(
        address: SocketAddr,
        version: Version,
        nodes: BTreeSet<SocketAddr>,
        seed: u64,
    ) -> Self {
        let mut kamailio = Self {
            address,
            version,
            numbering: Numbering::New,
            nodes,
            dialogs: BTreeMap::new(),
            tables: BTreeMap::new(),
            log: Vec::new(),
            outbox: Vec::new(),
            ahead: 0,
            executed: 0,
            refuses: None,
            is_full: false,
            inbox: BTreeMap::new(),
            pending: BTreeMap::new(),
            removals: Vec::new(),
            rng: SmallRng::seed_from_u64(seed),
            count: 0,
        };
        kamailio.restart();
        kamailio
    }

    /// Starts anew with nothing; it has asked nobody yet.
    pub fn restart(&mut self) {
        self.dialogs.clear();
        self.inbox.clear();
        self.pending.clear();
        self.removals.clear();
        self.tables.clear();
        let short = Table {
            autoexpire: Some(Duration::from_secs(SHORT_SECONDS)),
            entries: BTreeMap::new(),
        };
        self.tables.insert(SHORT.into(), short);
        self.tables.insert(LONG.into(), Table::default());
    }

    fn wall(&self, now: Now) -> u64 {
        now.wall.saturating_add_signed(self.ahead)
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        let inbox = self.inbox.keys().next().map(|(at, _)| *at);
        let pending = self.pending.values().map(|it| it.again.min(it.ends));
        let timers = self.dialogs.values().filter_map(|it| it.timer);
        let removals = self.removals.iter().map(|(at, _)| *at);
        pending.chain(inbox).chain(timers).chain(removals).min()
    }

    pub fn receive(&mut self, now: Now, from: SocketAddr, bytes: &[u8]) {
        let response_to = with_message(bytes, |message| {
            message.is_response().then(|| message.call_id().to_vec())
        });
        if let Some(call_id) = response_to {
            self.pending.remove(&call_id);
            return;
        }
        // The first idle worker: what comes close together may be executed in another order.
        let work = Duration::from_micros(self.rng.random_range(50..1_500));
        self.count += 1;
        let slot = (now.monotonic + work, self.count);
        self.inbox.insert(slot, (from, bytes.to_vec()));
    }

    pub fn run(&mut self, now: Now) {
        while let Some(first) = self
            .inbox
            .first_entry()
            .filter(|it| it.key().0 <= now.monotonic)
        {
            let (from, bytes) = first.remove();
            with_message(&bytes, |message| self.execute(now, from, message));
        }
        let due = |at: Instant| at <= now.monotonic;
        self.pending.retain(|_, request| !due(request.ends));
        for request in self.pending.values_mut().filter(|it| due(it.again)) {
            self.outbox.push((request.to, request.bytes.clone()));
            request.wait = (request.wait * 2).min(Duration::from_secs(4));
            request.again = now.monotonic + request.wait;
        }
        let expired = self.dialogs.iter();
        let expired = expired.filter(|(_, it)| it.timer.is_some_and(due));
        for did in expired.map(|(did, _)| *did).collect::<Vec<_>>() {
            self.remove(now, did);
        }
        let (over, later) = std::mem::take(&mut self.removals)
            .into_iter()
            .partition(|(at, _)| due(*at));
        self.removals = later;
        let over: Vec<(Instant, Did)> = over;
        for (_, did) in over {
            self.remove(now, did);
        }
        for table in self.tables.values_mut() {
            let lives = |it: &Stored| it.expires.is_none_or(|at| at > now.monotonic);
            table.entries.retain(|_, it| lives(it));
        }
    }

    fn execute(&mut self, now: Now, from: SocketAddr, message: &Message<'_>) {
        let uri = sip_types::Uri::parse(message.request_uri()).unwrap();
        let channel = String::from_utf8_lossy(uri.user.unwrap()).into_owned();
        let (status, list) = match channel.as_str() {
            "notification_peer" => {
                let line = |node: &SocketAddr| format!("sip:{node};status=active\r\n");
                let own = line(&self.address);
                (200, self.nodes.iter().map(line).fold(own, |a, b| a + &b))
            }
            "dialog" => (self.dialog(now, message.body()), String::new()),
            "htable" => (self.table(now, from, message.body()), String::new()),
            _ => (404, String::new()),
        };
        self.executed += 1;
        let mut reply = format!("SIP/2.0 {status} Whatever\r\n").into_bytes();
        for name in [
            HeaderName::Via,
            HeaderName::From,
            HeaderName::CSeq,
            HeaderName::CallId,
        ] {
            reply.extend_from_slice(message.header(name).unwrap().line());
        }
        let to = message.header(HeaderName::To).unwrap().value();
        reply.extend_from_slice(b"To: ");
        reply.extend_from_slice(to);
        let rest = format!(";tag=x\r\nContent-Length: {}\r\n\r\n{list}", list.len());
        reply.extend_from_slice(rest.as_bytes());
        self.outbox.push((from, reply));
    }

    fn say(&mut self, now: Now, to: SocketAddr, channel: &str, body: &[u8]) {
        self.count += 1;
        let (own, number) = (self.address, self.count);
        let call_id = format!("{number}-{own}");
        let head = format!(
            "KDMQ sip:{channel}@{to} SIP/2.0\r\n\
             Via: SIP/2.0/UDP {own};branch=z9hG4bK{number}\r\n\
             To: <sip:{channel}@{to}>\r\nFrom: <sip:{channel}@{own}>;tag=k{number}\r\n\
             CSeq: 10 KDMQ\r\nCall-ID: {call_id}\r\nContent-Length: {}\r\n\
             Max-Forwards: 1\r\nContent-Type: application/json\r\n\r\n",
            body.len()
        );
        let bytes = [head.as_bytes(), body].concat();
        let wait = Duration::from_millis(500);
        let pending = Pending {
            to,
            bytes: bytes.clone(),
            again: now.monotonic + wait,
            wait,
            ends: now.monotonic + Duration::from_secs(30),
        };
        self.pending.insert(call_id.into_bytes(), pending);
        self.outbox.push((to, bytes));
    }

    fn broadcast(&mut self, now: Now, channel: &str, body: &[u8]) {
        for node in self.nodes.clone() {
            self.say(now, node, channel, body);
        }
    }

    pub fn tell(&mut self, now: Now, message: &DialogMessage) {
        let dialect = DialogDialect {
            last_modified: self.version == Version::V62,
        };
        let body = message.encode(dialect).unwrap();
        self.broadcast(now, "dialog", &body);
    }

    pub fn tell_table(&mut self, now: Now, message: &TableMessage) {
        let body = message.encode(self.dialect()).unwrap();
        self.broadcast(now, "htable", &body);
    }

    fn dialect(&self) -> TableDialect {
        TableDialect {
            numbering: self.numbering,
            last_modified: self.version == Version::V62,
        }
    }

    // What its own script does.

    pub fn invite(&mut self, now: Now, call_id: &str, h_id: u32) -> Did {
        let did = Did {
            h_entry: slot(call_id.as_bytes(), HASH_SIZE),
            h_id,
        };
        let dialog = Dialog {
            call_id: Bytes::copy_from_slice(call_id.as_bytes()),
            state: DialogState::Unconfirmed,
            caller: wire_leg("caller", "1", "sip:alice@10.9.0.1"),
            callee: Leg::default(),
            variables: BTreeMap::from([("who".into(), "alice".into())]),
            lifetime: 600,
            start_ts: 0,
            init_ts: self.wall(now) / 1000,
            modified: self.wall(now) / 1000,
            timer: None,
        };
        let update = self.update_of(did, &dialog);
        self.dialogs.insert(did, dialog);
        self.tell(now, &update);
        did
    }

    pub fn ring(&mut self, now: Now, did: Did) {
        self.enter(now, did, DialogState::Early);
    }

    pub fn confirm(&mut self, now: Now, did: Did) {
        let wall = self.wall(now) / 1000;
        if let Some(dialog) = self.dialogs.get_mut(&did) {
            dialog.callee = wire_leg("callee", "0", "sip:bob@10.9.0.2");
            dialog.start_ts = wall;
            dialog.timer = Some(now.monotonic + secs(dialog.lifetime));
        }
        self.enter(now, did, DialogState::Confirmed);
    }

    pub fn bye(&mut self, now: Now, did: Did) {
        self.enter(now, did, DialogState::Deleted);
        self.removals.push((now.monotonic + secs(5), did));
    }

    fn enter(&mut self, now: Now, did: Did, state: DialogState) {
        let wall = self.wall(now) / 1000;
        let Some(dialog) = self.dialogs.get_mut(&did) else {
            return;
        };
        dialog.state = state;
        dialog.modified = wall;
        let timing = Timing {
            start_ts: Some(dialog.start_ts).filter(|at| *at > 0),
            lifetime: Some(dialog.lifetime),
        };
        let (caller, callee) = (Some(dialog.caller.clone()), Some(dialog.callee.clone()));
        let change = match state {
            DialogState::Early => Change::Early { timing, caller },
            DialogState::Confirmed => Change::Confirmed {
                timing,
                caller,
                callee,
            },
            _ => {
                dialog.timer = None;
                Change::Deleted
            }
        };
        let change = StateChange {
            did,
            last_modified: Some(wall),
            change,
        };
        self.tell(now, &DialogMessage::State(Box::new(change)));
    }

    /// Changes a variable, and tells everybody all of the dialog as when a profile changes with it.
    pub fn set_variable(&mut self, now: Now, did: Did, name: &str, value: &str) {
        let wall = self.wall(now) / 1000;
        let dialog = self.dialogs.get_mut(&did).unwrap();
        dialog.variables.insert(bytes(name), bytes(value));
        dialog.modified = wall;
        self.tell_all_of(now, did);
    }

    /// Tells everybody all of a dialog.
    pub fn tell_all_of(&mut self, now: Now, did: Did) {
        let update = self.update_of(did, &self.dialogs[&did]);
        self.tell(now, &update);
    }

    /// Frees a dialog and tells everybody.
    pub fn remove(&mut self, now: Now, did: Did) {
        if self.dialogs.remove(&did).is_some() {
            let last_modified = Some(self.wall(now) / 1000);
            self.tell(now, &DialogMessage::Remove(Remove { did, last_modified }));
        }
    }

    pub fn set(&mut self, now: Now, table: &str, key: &str, value: &str) {
        let value = Value::Text(Bytes::copy_from_slice(value.as_bytes()));
        let wall = self.wall(now);
        let (table, key) = (bytes(table), bytes(key));
        let stored = self.tables.get(&table).unwrap().entries.get(&key);
        let modified = wall.max(stored.map_or(0, |it| it.modified) + 1);
        self.store(now, &table, &key, value.clone(), Some(modified));
        let set = TableMessage::Set {
            table,
            key,
            value,
            last_modified: Some(modified),
        };
        self.tell_table(now, &set);
    }

    pub fn set_expire(&mut self, now: Now, table: &str, key: &str, seconds: i32) {
        let (table, key) = (bytes(table), bytes(key));
        self.expire(now, &table, &key, seconds);
        let message = TableMessage::SetExpire {
            table,
            key,
            seconds,
        };
        self.tell_table(now, &message);
    }

    pub fn delete(&mut self, now: Now, table: &str, key: &str) {
        let (table, key) = (bytes(table), bytes(key));
        self.tables.get_mut(&table).unwrap().entries.remove(&key);
        self.tell_table(now, &TableMessage::Delete { table, key });
    }

    /// Asks everybody for everything, as after its start.
    pub fn sync(&mut self, now: Now) {
        self.tell(now, &DialogMessage::Sync);
        self.tell_table(now, &TableMessage::Sync { table: None });
    }

    pub fn value(&self, table: &str, key: &str) -> Option<&Value> {
        let table = self.tables.get(table.as_bytes())?;
        table.entries.get(key.as_bytes()).map(|it| &it.value)
    }

    pub fn values(&self, table: &str) -> BTreeMap<Bytes, Value> {
        let entries = self.tables.get(table.as_bytes()).unwrap().entries.iter();
        entries
            .map(|(key, it)| (key.clone(), it.value.clone()))
            .collect()
    }

    /// Has it execute a message that comes from somewhere.
    pub fn hear(&mut self, now: Now, message: &DialogMessage) -> u16 {
        let dialect = DialogDialect {
            last_modified: false,
        };
        let body = message.encode(dialect).unwrap();
        self.dialog(now, &body)
    }

    // What it executes.

    fn dialog(&mut self, now: Now, body: &[u8]) -> u16 {
        let wall = self.wall(now) / 1000;
        let wins = self.version == Version::V62;
        let is_older =
            |dialog: &Dialog, at: Option<u64>| wins && at.is_some_and(|at| dialog.modified > at);
        match DialogMessage::decode(body) {
            Err(_) => self.complain(400, "dialog: no message"),
            Ok(DialogMessage::None) => 200,
            Ok(DialogMessage::Sync) => {
                let dialogs = self.dialogs.iter();
                let all: Vec<_> = dialogs.map(|(did, it)| self.update_of(*did, it)).collect();
                for update in all {
                    self.tell(now, &update);
                }
                200
            }
            Ok(DialogMessage::Remove(remove)) => match self.dialogs.remove(&remove.did) {
                Some(_) => 200,
                None => self.complain(500, "RM of an unknown dialog"),
            },
            Ok(DialogMessage::State(change)) => {
                let Some(dialog) = self.dialogs.get_mut(&change.did) else {
                    return self.complain(500, "STATE of an unknown dialog");
                };
                if is_older(dialog, change.last_modified) {
                    return 200;
                }
                dialog.modified = wall;
                self.state(now, change.did, change.change)
            }
            Ok(DialogMessage::Update(update)) => {
                let update = *update;
                if slot(&update.call_id, HASH_SIZE) != update.did.h_entry {
                    return self.complain(500, "UPDATE with another slot");
                }
                let known = self.dialogs.get(&update.did);
                if known.is_some_and(|it| is_older(it, update.last_modified)) {
                    return 200;
                }
                if self.is_full {
                    return self.complain(500, "no memory");
                }
                self.update(now, update)
            }
        }
    }

    fn update(&mut self, now: Now, update: Update) -> u16 {
        let wall = self.wall(now) / 1000;
        let did = update.did;
        let dialog = self.dialogs.entry(did).or_insert_with(|| Dialog {
            call_id: update.call_id.clone(),
            state: DialogState::Unconfirmed,
            caller: update.caller.clone(),
            callee: Leg::default(),
            variables: BTreeMap::new(),
            lifetime: 0,
            start_ts: 0,
            init_ts: 0,
            modified: wall,
            timer: None,
        });
        dialog.modified = wall;
        dialog.init_ts = update.init_ts;
        dialog.start_ts = update.timing.start_ts.unwrap_or(0);
        dialog.variables.extend(update.variables);
        if dialog.state == update.state {
            return 200;
        }
        let (timing, caller) = (update.timing, Some(update.caller));
        let change = match update.state {
            DialogState::Early => Change::Early { timing, caller },
            DialogState::Confirmed => Change::Confirmed {
                timing,
                caller,
                callee: update.callee,
            },
            DialogState::Deleted => Change::Deleted,
            DialogState::Unconfirmed if dialog.state > update.state => return 200,
            _ => return self.complain(500, "unhandled state"),
        };
        self.state(now, did, change)
    }

    fn state(&mut self, now: Now, did: Did, change: Change) -> u16 {
        let keeps = self.version == Version::V62;
        let dialog = self.dialogs.get_mut(&did).unwrap();
        let state = change.state();
        if state < dialog.state {
            return 200;
        }
        let replace = |own: &mut Leg, told: Option<Leg>| match told {
            None if keeps => {}
            told => *own = told.unwrap_or_default(),
        };
        let mut set_timing = |timing: Timing| {
            dialog.start_ts = timing.start_ts.unwrap_or(0);
            dialog.lifetime = timing.lifetime.unwrap_or(0);
        };
        let mut is_repeated = false;
        match change {
            Change::Early { timing, caller } => {
                set_timing(timing);
                replace(&mut dialog.caller, caller);
            }
            Change::Confirmed {
                timing,
                caller,
                callee,
            } => {
                set_timing(timing);
                replace(&mut dialog.caller, caller);
                replace(&mut dialog.callee, callee);
                is_repeated = dialog.timer.is_some();
                let ends = now.monotonic + secs(dialog.lifetime);
                dialog.timer.get_or_insert(ends);
            }
            Change::Deleted => dialog.timer = None,
        }
        dialog.state = state;
        if is_repeated {
            self.log.push("CRITICAL: timer runs already".to_owned());
        }
        200
    }

    fn table(&mut self, now: Now, from: SocketAddr, body: &[u8]) -> u16 {
        let Ok((message, numbering)) = TableMessage::decode(body) else {
            return self.complain(400, "htable: no message");
        };
        if numbering.is_some_and(|it| it != self.numbering) {
            return self.complain(500, "htable: another numbering");
        }
        match message {
            TableMessage::Sync { .. } => {
                self.answer(now, from);
                200
            }
            TableMessage::Set {
                table,
                key,
                value,
                last_modified,
            } => {
                if self.version == Version::V56 && last_modified.is_some() {
                    return self.complain(400, "htable: unknown field");
                }
                if self.refuses.as_ref() == Some(&key) {
                    return 400;
                }
                if !self.tables.contains_key(&table) {
                    return self.complain(500, "unknown table");
                }
                if self.is_full {
                    return self.complain(500, "no memory");
                }
                self.store(now, &table, &key, value, last_modified);
                200
            }
            TableMessage::SetExpire {
                table,
                key,
                seconds,
            } => {
                if !self.tables.contains_key(&table) {
                    return self.complain(500, "unknown table");
                }
                self.expire(now, &table, &key, seconds);
                200
            }
            TableMessage::Delete { table, key } => match self.tables.get_mut(&table) {
                None => self.complain(500, "unknown table"),
                Some(table) => {
                    table.entries.remove(&key);
                    200
                }
            },
            TableMessage::RemoveMatching {
                table,
                by,
                pattern,
                operand,
            } => {
                let pattern = match pattern {
                    PatternKind::Regex => Pattern::regex(&operand).unwrap(),
                    PatternKind::Prefix => Pattern::prefix(&operand).unwrap(),
                };
                let table = self.tables.get_mut(&table).unwrap();
                table
                    .entries
                    .retain(|key, it| !pattern.matches(by, key, &it.value));
                200
            }
            TableMessage::Cells(cells) => {
                let wall = self.wall(now) / 1000;
                for cell in cells {
                    let Some(table) = self.tables.get(&cell.table) else {
                        continue;
                    };
                    let lifetime = cell.expire.map_or(0, |at| at.saturating_sub(wall));
                    let expires = table.autoexpire.is_some() && lifetime > 0;
                    self.store(now, &cell.table, &cell.key, cell.value, cell.last_modified);
                    if expires {
                        self.expire(now, &cell.table, &cell.key, lifetime as i32);
                    }
                }
                200
            }
        }
    }

    fn store(&mut self, now: Now, table: &Bytes, key: &Bytes, value: Value, modified: Option<u64>) {
        let wins = self.version == Version::V62;
        let table = self.tables.get_mut(table).unwrap();
        let own = table.entries.get(key).map(|it| it.modified);
        if wins && own.is_some() && modified.is_some_and(|at| Some(at) <= own) {
            return;
        }
        let stored = Stored {
            value,
            expires: table.autoexpire.map(|lifetime| now.monotonic + lifetime),
            modified: modified.or(own).unwrap_or(0),
        };
        table.entries.insert(key.clone(), stored);
    }

    fn expire(&mut self, now: Now, table: &Bytes, key: &Bytes, seconds: i32) {
        let table = self.tables.get_mut(table).unwrap();
        let expires = u64::try_from(seconds).ok().filter(|it| *it > 0);
        if table.autoexpire.is_some()
            && let Some(stored) = table.entries.get_mut(key)
        {
            stored.expires = expires.map(|it| now.monotonic + Duration::from_secs(it));
        }
    }

    fn answer(&mut self, now: Now, to: SocketAddr) {
        let wall = self.wall(now);
        let mut cells = Vec::new();
        for (name, table) in &self.tables {
            for (key, stored) in &table.entries {
                let left = |at: Instant| at.saturating_duration_since(now.monotonic);
                let expire = stored
                    .expires
                    .map(|at| (wall + left(at).as_millis() as u64) / 1000);
                if expire.is_some() || table.autoexpire.is_none() {
                    cells.push(Cell {
                        table: name.clone(),
                        key: key.clone(),
                        value: stored.value.clone(),
                        expire,
                        last_modified: Some(stored.modified).filter(|at| *at > 0),
                    });
                }
            }
        }
        let last_modified = self.dialect().last_modified;
        let batches = dmq_bodies::batches(&cells, last_modified, 60_000);
        for body in batches.bodies {
            self.say(now, to, "htable", &body);
        }
    }

    pub fn update_of(&self, did: Did, dialog: &Dialog) -> DialogMessage {
        let variables = dialog.variables.iter();
        DialogMessage::Update(Box::new(Update {
            did,
            last_modified: Some(dialog.modified),
            init_ts: dialog.init_ts,
            iflags: None,
            call_id: dialog.call_id.clone(),
            from_uri: "sip:alice@lab.example".into(),
            to_uri: "sip:bob@lab.example".into(),
            request_uri: "sip:bob@10.9.0.2".into(),
            caller: dialog.caller.clone(),
            callee: Some(dialog.callee.clone()),
            variables: variables.map(|(a, b)| (a.clone(), b.clone())).collect(),
            profiles: Vec::new(),
            state: dialog.state,
            timing: Timing {
                start_ts: Some(dialog.start_ts).filter(|at| *at > 0),
                lifetime: Some(dialog.lifetime),
            },
        }))
    }

    fn complain(&mut self, status: u16, what: &str) -> u16 {
        self.log.push(format!("ERROR: {what}"));
        status
    }
}

fn wire_leg(tag: &'static str, cseq: &'static str, contact: &'static str) -> Leg {
    Leg {
        tag: tag.into(),
        cseq: cseq.into(),
        route_set: Bytes::new(),
        contact: contact.into(),
    }
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn secs(seconds: u32) -> Duration {
    Duration::from_secs(u64::from(seconds))
}
