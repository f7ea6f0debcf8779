//! What the bodies of KDMQ messages say, for people and programs that look at the bus.

use control::mirror::v1::body::Kind;
use control::mirror::v1::table_cell::Value as ShownValue;
use control::mirror::v1::{
    Body, DialogAction, DialogLeg, DialogMessage, DialogVariable, NodeLine, NodeList, TableAction,
    TableCell, TableMessage, TandemMessage, tandem_message, tandem_record,
};
use dmq::list::{self, Status};
use dmq_bodies::{
    Cell, Change, Did, Leg, Numbering, PatternKind, Remove, StateChange, TableMessage as Table,
    Timing, Update,
};
use htable::{By, Value};

use super::tandem;

/// What a reader wants bodies to be about; empty wants all.
pub(super) struct About {
    pub(super) call_id: Vec<u8>,
    pub(super) table: String,
}

impl About {
    /// Tells whether a body that names a dialog by slot and number alone may be about that, so that it
    /// is worth asking which dialog it is.
    pub(super) fn may_include(&self, did: Did, hash_size: u32) -> bool {
        let is_slot = || dmq_bodies::slot(&self.call_id, hash_size) == did.h_entry;
        self.table.is_empty() && (self.call_id.is_empty() || is_slot())
    }

    /// Tells whether a body is about that.
    pub(super) fn includes(&self, body: Option<&Body>) -> bool {
        let kind = body.and_then(|body| body.kind.as_ref());
        let (is_call, is_table) = match kind {
            Some(Kind::Dialog(dialog)) => (dialog.call_id == self.call_id, false),
            Some(Kind::Table(message)) => {
                let mut cells = message.cells.iter();
                (false, cells.any(|cell| cell.table == self.table.as_bytes()))
            }
            Some(Kind::Tandem(message)) => self.is_in(message),
            Some(Kind::NodeList(_) | Kind::Unread(_)) | None => (false, false),
        };
        (self.call_id.is_empty() || is_call) && (self.table.is_empty() || is_table)
    }

    /// Tells whether records are of the dialog, and whether of the table.
    fn is_in(&self, message: &TandemMessage) -> (bool, bool) {
        let Some(tandem_message::Kind::Records(records)) = &message.kind else {
            return (false, false);
        };
        let kinds = || {
            records
                .records
                .iter()
                .filter_map(|record| record.kind.as_ref())
        };
        let is_call = kinds().any(|kind| {
            matches!(kind, tandem_record::Kind::Dialog(dialog) if dialog.call_id == self.call_id)
        });
        let is_table = kinds().any(|kind| {
            matches!(kind, tandem_record::Kind::TableEntry(entry) if entry.table == self.table)
        });
        (is_call, is_table)
    }
}

/// Reads a body as its channel wants it; `None` when there is none.
pub(super) fn read(channel: &[u8], body: &[u8], hash_size: u32) -> Option<Body> {
    if body.is_empty() {
        return None;
    }
    let unread = |error: dmq_bodies::DecodeError| Kind::Unread(error.to_string());
    let kind = match channel {
        b"notification_peer" => Kind::NodeList(node_list(body)),
        b"dialog" => dmq_bodies::DialogMessage::decode(body)
            .map_or_else(unread, |message| Kind::Dialog(dialog(message))),
        b"htable" => Table::decode(body).map_or_else(unread, |(message, numbering)| {
            Kind::Table(TableMessage {
                old_numbering: numbering == Some(Numbering::Old),
                ..table(message)
            })
        }),
        b"tandem" => replication::tandem::told(body).map_or_else(
            |error| Kind::Unread(error.to_string()),
            |told| Kind::Tandem(tandem::shown(told, hash_size)),
        ),
        _ => Kind::Unread("bodies of this channel have no typed form".to_owned()),
    };
    Some(Body { kind: Some(kind) })
}

fn node_list(body: &[u8]) -> NodeList {
    let mut shown = NodeList::default();
    for line in list::decode(body) {
        match line {
            Ok(line) => shown.lines.push(NodeLine {
                node: line.node.to_string(),
                disabled: line.status == Status::Disabled,
            }),
            Err(_) => shown.skipped += 1,
        }
    }
    shown
}

fn dialog(message: dmq_bodies::DialogMessage) -> DialogMessage {
    use dmq_bodies::DialogMessage as Message;
    match message {
        Message::None => of_action(DialogAction::None),
        Message::Update(update) => whole(*update),
        Message::State(change) => state(*change),
        Message::Remove(Remove { did, last_modified }) => DialogMessage {
            last_modified,
            ..named(DialogAction::Remove, did)
        },
        Message::Sync => of_action(DialogAction::Sync),
    }
}

fn of_action(action: DialogAction) -> DialogMessage {
    DialogMessage {
        action: action.into(),
        ..DialogMessage::default()
    }
}

fn named(action: DialogAction, did: Did) -> DialogMessage {
    DialogMessage {
        h_entry: did.h_entry,
        h_id: did.h_id,
        ..of_action(action)
    }
}

fn whole(update: Update) -> DialogMessage {
    let variables = update.variables.into_iter();
    let variables = variables.map(|(name, value)| DialogVariable {
        name: name.into(),
        value: value.into(),
    });
    let profiles = update.profiles.into_iter();
    DialogMessage {
        state: update.state as u32,
        call_id: update.call_id.into(),
        from_uri: update.from_uri.into(),
        to_uri: update.to_uri.into(),
        request_uri: update.request_uri.into(),
        caller: Some(leg(update.caller)),
        callee: update.callee.map(leg),
        variables: variables.collect(),
        profiles: profiles.map(|profile| profile.name.into()).collect(),
        init_ts: update.init_ts,
        start_ts: update.timing.start_ts,
        lifetime: update.timing.lifetime,
        last_modified: update.last_modified,
        ..named(DialogAction::Update, update.did)
    }
}

fn state(change: StateChange) -> DialogMessage {
    use dmq_bodies::DialogState;
    let (state, timing, caller, callee) = match change.change {
        Change::Early { timing, caller } => (DialogState::Early, timing, caller, None),
        Change::Confirmed {
            timing,
            caller,
            callee,
        } => (DialogState::Confirmed, timing, caller, callee),
        Change::Deleted => (DialogState::Deleted, Timing::default(), None, None),
    };
    DialogMessage {
        state: state as u32,
        caller: caller.map(leg),
        callee: callee.map(leg),
        start_ts: timing.start_ts,
        lifetime: timing.lifetime,
        last_modified: change.last_modified,
        ..named(DialogAction::State, change.did)
    }
}

fn leg(leg: Leg) -> DialogLeg {
    DialogLeg {
        tag: leg.tag.into(),
        cseq: leg.cseq.into(),
        route_set: leg.route_set.into(),
        contact: leg.contact.into(),
    }
}

fn table(message: Table) -> TableMessage {
    let (action, cells, by_value) = match message {
        Table::Sync { table } => (
            TableAction::Sync,
            vec![cell(table.unwrap_or_default(), None, None)],
            false,
        ),
        Table::Set {
            table,
            key,
            value,
            last_modified,
        } => {
            let cell = TableCell {
                last_modified,
                ..cell(table, Some(key), Some(value))
            };
            (TableAction::Set, vec![cell], false)
        }
        Table::SetExpire {
            table,
            key,
            seconds,
        } => {
            let seconds = Some(Value::Int(seconds));
            let cell = cell(table, Some(key), seconds);
            (TableAction::SetExpire, vec![cell], false)
        }
        Table::Delete { table, key } => (
            TableAction::Delete,
            vec![cell(table, Some(key), None)],
            false,
        ),
        Table::RemoveMatching {
            table,
            by,
            pattern,
            operand,
        } => {
            let action = match pattern {
                PatternKind::Regex => TableAction::RemoveRegex,
                PatternKind::Prefix => TableAction::RemovePrefix,
            };
            let cell = cell(table, None, Some(Value::Text(operand)));
            (action, vec![cell], by == By::Value)
        }
        Table::Cells(cells) => {
            let cells = cells.into_iter().map(
                |Cell {
                     table,
                     key,
                     value,
                     expire,
                     last_modified,
                 }| {
                    TableCell {
                        expire,
                        last_modified,
                        ..cell(table, Some(key), Some(value))
                    }
                },
            );
            (TableAction::Cells, cells.collect(), false)
        }
    };
    TableMessage {
        action: action.into(),
        old_numbering: false,
        cells,
        by_value,
    }
}

fn cell(table: bytes::Bytes, key: Option<bytes::Bytes>, value: Option<Value>) -> TableCell {
    let value = value.map(|value| match value {
        Value::Int(number) => ShownValue::Number(number),
        Value::Text(text) => ShownValue::Text(text.into()),
    });
    TableCell {
        table: table.into(),
        key: key.unwrap_or_default().into(),
        value,
        ..TableCell::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn about(call_id: &str, table: &str) -> About {
        About {
            call_id: call_id.into(),
            table: table.into(),
        }
    }

    #[test]
    fn bodies_are_filtered_by_what_they_are_about() {
        let set = br#"{"action":2,"htname":"bans","cname":"k","type":2,"strval":"v","mode":1}"#;
        let body = read(b"htable", set, 4096);
        let Some(Kind::Table(message)) = body.as_ref().and_then(|body| body.kind.as_ref()) else {
            panic!("{body:?}");
        };
        assert_eq!(message.action(), TableAction::Set);
        assert_eq!(message.cells[0].key, b"k");
        assert_eq!(
            message.cells[0].value,
            Some(ShownValue::Text(b"v".to_vec()))
        );
        assert!(about("", "bans").includes(body.as_ref()));
        assert!(about("", "").includes(body.as_ref()));
        assert!(!about("", "others").includes(body.as_ref()));
        assert!(!about("x", "").includes(body.as_ref()));
        assert!(!about("", "bans").includes(None) && about("", "").includes(None));
    }

    /// A field of Protocol Buffers that has bytes.
    fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        [&[number << 3 | 2, bytes.len() as u8], bytes].concat()
    }

    #[test]
    fn records_between_routers_are_read_and_filtered() {
        let entry = [field(1, b"bans"), field(2, b"k"), field(6, b"v")].concat();
        let owner = [192, 0, 2, 1, 0x13, 0xc6];
        let dialog = [
            field(1, b"a@b"),
            vec![2 << 3, 7, 3 << 3, 4],
            field(5, &owner),
        ];
        let records = [field(2, &entry), field(1, &dialog.concat())];
        let records = records.map(|record| field(1, &record)).concat();
        let body = read(b"tandem", &[vec![8, 1], field(3, &records)].concat(), 4096);
        let Some(Kind::Tandem(message)) = body.as_ref().and_then(|body| body.kind.as_ref()) else {
            panic!("{body:?}");
        };
        let Some(tandem_message::Kind::Records(records)) = &message.kind else {
            panic!("{message:?}");
        };
        let [first, second] = &records.records[..] else {
            panic!("{records:?}");
        };
        let Some(tandem_record::Kind::TableEntry(entry)) = &first.kind else {
            panic!("{first:?}");
        };
        assert_eq!(entry.name, "tables/bans/entries/aw");
        let Some(tandem_record::Kind::Dialog(dialog)) = &second.kind else {
            panic!("{second:?}");
        };
        let slot = dmq_bodies::slot(b"a@b", 4096);
        assert_eq!(dialog.name, format!("dialogs/{slot}.7"));
        assert_eq!(dialog.owner, "192.0.2.1:5062");
        for (call_id, table, wanted) in [
            ("a@b", "", true),
            ("", "bans", true),
            ("a@b", "bans", true),
            ("b@a", "", false),
            ("", "others", false),
            ("b@a", "bans", false),
        ] {
            let includes = about(call_id, table).includes(body.as_ref());
            assert_eq!(includes, wanted, "{call_id} {table}");
        }
        let hello = read(b"tandem", &[vec![8, 1], field(2, &[])].concat(), 4096);
        assert!(about("", "").includes(hello.as_ref()));
        assert!(!about("a@b", "").includes(hello.as_ref()));
    }

    #[test]
    fn lists_are_read_line_by_line() {
        let body =
            b"sip:192.0.2.1:5062;status=active\r\nrubbish\r\nsip:192.0.2.2;status=disabled\r\n";
        let Some(Kind::NodeList(list)) = read(b"notification_peer", body, 4096).unwrap().kind
        else {
            panic!("no list");
        };
        let lines: Vec<_> = list
            .lines
            .iter()
            .map(|line| (&*line.node, line.disabled))
            .collect();
        assert_eq!(lines, [("192.0.2.1:5062", false), ("192.0.2.2:5060", true)]);
        assert_eq!(list.skipped, 1);
    }

    #[test]
    fn what_cannot_be_read_says_why() {
        let unread = |channel: &[u8], body: &[u8]| match read(channel, body, 4096).unwrap().kind {
            Some(Kind::Unread(why)) => why,
            kind => panic!("{kind:?}"),
        };
        assert_eq!(unread(b"dialog", b"{"), "no JSON at byte 1");
        assert_eq!(unread(b"tandem", &[8, 9]), "schema 9 is not 1");
        assert!(unread(b"usrloc", b"{}").contains("no typed form"));
        assert_eq!(read(b"dialog", b"", 4096), None);
    }
}
