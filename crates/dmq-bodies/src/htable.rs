//! Channel `htable`: one change of one table, a request for everything, or a batch of cells.
//!
//! The numbers of actions changed between Kamailio 5.4 and 5.5 without a sign on the wire; reading
//! tells them apart by the shape of the message, writing follows a [`TableDialect`]. Source:
//! Kamailio htable, ht_dmq.c, as seen in captures of 5.3.9, 5.6.3, 6.1.4 and 6.2.

use ::htable::{By, Value};
use bytes::Bytes;

use crate::json::{BODY_BYTES_MAX, Object, Writer};
use crate::{DecodeError, EncodeError};

/// The length of a batch that still travels in one packet, in bytes.
pub const BATCH_BYTES_DEFAULT: usize = 1200;

/// The bit of `type` that says the value is text; the other bits mean nothing here.
const TYPE_IS_TEXT: u64 = 2;

/// How actions are numbered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Numbering {
    /// Up to Kamailio 5.4: SET is 1, SYNC is 5.
    Old,
    /// From Kamailio 5.5 on: SYNC is 1, SET is 2.
    New,
}

/// What a receiver understands. There is no negotiation: it shows in what the node itself sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TableDialect {
    /// How it numbers actions.
    pub numbering: Numbering,
    /// Whether it knows `last_modified` (6.2); older ones answer 400 to a SET that has it.
    pub last_modified: bool,
}

/// What the operand of a deletion is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PatternKind {
    /// A POSIX extended regular expression, case-insensitive.
    Regex,
    /// The beginning, byte for byte. New numbering only.
    Prefix,
}

/// One entry of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cell {
    /// The table.
    pub table: Bytes,
    /// The key.
    pub key: Bytes,
    /// The value.
    pub value: Value,
    /// When it ends, in UNIX seconds; `None`: the receiver's table decides.
    pub expire: Option<u64>,
    /// When it was written, in UNIX milliseconds.
    pub last_modified: Option<u64>,
}

/// A message of channel `htable`.
///
/// Numbers of 64 bits travel as doubles: they are exact below 2^53.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TableMessage {
    /// Asks for all cells, or for those of one table (5.8 and later; others send all).
    Sync {
        /// The table.
        table: Option<Bytes>,
    },
    /// Sets a key.
    Set {
        /// The table.
        table: Bytes,
        /// The key.
        key: Bytes,
        /// The value.
        value: Value,
        /// When it was written, in UNIX milliseconds. Never 0.
        last_modified: Option<u64>,
    },
    /// Lets a key end some time after receipt.
    SetExpire {
        /// The table.
        table: Bytes,
        /// The key.
        key: Bytes,
        /// How long from receipt; zero or less: never.
        seconds: i32,
    },
    /// Deletes a key.
    Delete {
        /// The table.
        table: Bytes,
        /// The key.
        key: Bytes,
    },
    /// Deletes all entries that match.
    RemoveMatching {
        /// The table.
        table: Bytes,
        /// What is compared.
        by: By,
        /// How it is compared.
        pattern: PatternKind,
        /// With what it is compared.
        operand: Bytes,
    },
    /// Sets many keys, in answer to a [`Sync`](Self::Sync).
    Cells(Vec<Cell>),
}

impl TableMessage {
    /// Reads a body, and how its sender numbers actions; a batch does not tell.
    ///
    /// # Errors
    ///
    /// The body is no message; [`DecodeError::status`] is the answer.
    pub fn decode(body: &[u8]) -> Result<(Self, Option<Numbering>), DecodeError> {
        let object = Object::read(body)?;
        if let Some((b"cells", cells)) = object.first() {
            return Ok((Self::Cells(cells.objects("cells", Cell::read)?), None));
        }
        let (message, numbering) = read_action(&object)?;
        Ok((message, Some(numbering)))
    }

    /// Writes the body as a receiver of this dialect understands it.
    ///
    /// # Errors
    ///
    /// The body would be too long, or the old numbering has no such action.
    pub fn encode(&self, dialect: TableDialect) -> Result<Bytes, EncodeError> {
        let mut writer = Writer::new();
        match self {
            Self::Sync { table } => {
                writer.number("action", number(dialect, 1, 5));
                if let (Some(table), Numbering::New) = (table, dialect.numbering) {
                    writer.text("htname", table);
                }
            }
            Self::Set {
                table,
                key,
                value,
                last_modified,
            } => {
                writer.number("action", number(dialect, 2, 1));
                write_key(&mut writer, table, key);
                write_value(&mut writer, value);
                write_last_modified(&mut writer, *last_modified, dialect.last_modified);
                writer.number("mode", 1);
            }
            Self::SetExpire {
                table,
                key,
                seconds,
            } => {
                writer.number("action", number(dialect, 3, 2));
                write_key(&mut writer, table, key);
                write_value(&mut writer, &Value::Int(*seconds));
                writer.number("mode", 0);
            }
            Self::Delete { table, key } => {
                writer.number("action", number(dialect, 4, 3));
                write_key(&mut writer, table, key);
                writer.number("mode", 0);
            }
            Self::RemoveMatching {
                table,
                by,
                pattern,
                operand,
            } => {
                writer.number("action", pattern_number(dialect, *pattern)?);
                writer.text("htname", table);
                write_value(&mut writer, &Value::Text(operand.clone()));
                writer.number("mode", i32::from(*by == By::Value));
            }
            Self::Cells(cells) => {
                let cells = cells.iter().map(|cell| cell.encode(dialect.last_modified));
                writer.objects("cells", cells);
            }
        }
        writer.body()
    }
}

impl Cell {
    fn read(object: &Object<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            table: object.required_text("htname")?,
            key: object.required_text("cname")?,
            value: read_value(object)?,
            expire: object.u64("expire")?.filter(|&at| at > 0),
            last_modified: read_last_modified(object)?,
        })
    }

    fn encode(&self, last_modified: bool) -> Vec<u8> {
        let mut writer = Writer::new();
        write_key(&mut writer, &self.table, &self.key);
        write_value(&mut writer, &self.value);
        writer.number("expire", self.expire.unwrap_or(0));
        write_last_modified(&mut writer, self.last_modified, last_modified);
        writer.finish()
    }
}

/// The bodies that carry many cells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batches {
    /// The bodies in the order of the cells, at least one: no cells make an empty batch.
    pub bodies: Vec<Bytes>,
    /// How many cells fit no body at all and were left out.
    pub refused: usize,
}

/// Writes cells into as many bodies as it takes, none longer than `bytes_max`.
///
/// A cell that is longer by itself travels alone. `last_modified` is written if the receiver knows
/// it. Within one body cells are never reordered.
#[must_use]
pub fn batches<'a>(
    cells: impl IntoIterator<Item = &'a Cell>,
    last_modified: bool,
    bytes_max: usize,
) -> Batches {
    let mut groups: Vec<Vec<Vec<u8>>> = vec![Vec::new()];
    let mut refused = 0;
    let mut bytes = FRAME_BYTES;
    for cell in cells {
        let cell = cell.encode(last_modified);
        if FRAME_BYTES + cell.len() > BODY_BYTES_MAX {
            refused += 1;
            continue;
        }
        let group = groups.last_mut().expect("there is always a group");
        bytes += usize::from(!group.is_empty()) + cell.len();
        if group.is_empty() || bytes <= bytes_max.min(BODY_BYTES_MAX) {
            group.push(cell);
        } else {
            bytes = FRAME_BYTES + cell.len();
            groups.push(vec![cell]);
        }
    }
    Batches {
        bodies: groups.into_iter().map(frame).collect(),
        refused,
    }
}

/// The length of a batch without cells.
const FRAME_BYTES: usize = br#"{"cells":[]}"#.len();

fn frame(cells: Vec<Vec<u8>>) -> Bytes {
    let mut writer = Writer::new();
    writer.objects("cells", cells);
    writer.finish().into()
}

/// Tells the numberings apart by what else is in the message.
fn read_action(object: &Object<'_>) -> Result<(TableMessage, Numbering), DecodeError> {
    use Numbering::{New, Old};
    let action = object
        .number("action")?
        .ok_or(DecodeError::Missing("action"))?;
    let has = |name| object.field(name).is_some();
    let mode = object.number("mode")?;
    // A number outside 32 bits becomes one that is no action.
    match action as i32 {
        1 if has("cname") => Ok((read_set(object)?, Old)),
        1 => Ok((read_sync(object)?, New)),
        2 if mode == Some(0.0) && !has("strval") => Ok((read_set_expire(object)?, Old)),
        2 => Ok((read_set(object)?, New)),
        3 if has("intval") => Ok((read_set_expire(object)?, New)),
        3 => Ok((read_delete(object)?, Old)),
        4 if has("strval") => Ok((read_remove(object, PatternKind::Regex)?, Old)),
        4 => Ok((read_delete(object)?, New)),
        5 if has("htname") => Ok((read_remove(object, PatternKind::Regex)?, New)),
        5 => Ok((TableMessage::Sync { table: None }, Old)),
        6 => Ok((read_remove(object, PatternKind::Prefix)?, New)),
        // 7 and 8, "ends with" and "contains", never say with what.
        _ => Err(DecodeError::Unsupported("action")),
    }
}

fn read_sync(object: &Object<'_>) -> Result<TableMessage, DecodeError> {
    Ok(TableMessage::Sync {
        table: object.text("htname")?,
    })
}

fn read_set(object: &Object<'_>) -> Result<TableMessage, DecodeError> {
    Ok(TableMessage::Set {
        table: object.required_text("htname")?,
        key: object.required_text("cname")?,
        value: read_value(object)?,
        last_modified: read_last_modified(object)?,
    })
}

fn read_set_expire(object: &Object<'_>) -> Result<TableMessage, DecodeError> {
    Ok(TableMessage::SetExpire {
        table: object.required_text("htname")?,
        key: object.required_text("cname")?,
        seconds: read_intval(object)?,
    })
}

fn read_delete(object: &Object<'_>) -> Result<TableMessage, DecodeError> {
    Ok(TableMessage::Delete {
        table: object.required_text("htname")?,
        key: object.required_text("cname")?,
    })
}

fn read_remove(object: &Object<'_>, pattern: PatternKind) -> Result<TableMessage, DecodeError> {
    let by = match object.number("mode")? {
        Some(mode) if mode != 0.0 => By::Value,
        _ => By::Key,
    };
    Ok(TableMessage::RemoveMatching {
        table: object.required_text("htname")?,
        by,
        pattern,
        operand: object.required_text("strval")?,
    })
}

fn read_value(object: &Object<'_>) -> Result<Value, DecodeError> {
    let kind = object.u64("type")?.unwrap_or(0);
    if kind & TYPE_IS_TEXT != 0 {
        return Ok(Value::Text(object.required_text("strval")?));
    }
    Ok(Value::Int(read_intval(object)?))
}

/// Reads a number as every Kamailio does: outside 32 bits it becomes the least.
fn read_intval(object: &Object<'_>) -> Result<i32, DecodeError> {
    let number = object
        .number("intval")?
        .ok_or(DecodeError::Missing("intval"))?;
    if (f64::from(i32::MIN)..=f64::from(i32::MAX)).contains(&number) {
        return Ok(number as i32);
    }
    Ok(i32::MIN)
}

fn read_last_modified(object: &Object<'_>) -> Result<Option<u64>, DecodeError> {
    Ok(object.u64("last_modified")?.filter(|&at| at > 0))
}

fn number(dialect: TableDialect, new: i32, old: i32) -> i32 {
    match dialect.numbering {
        Numbering::New => new,
        Numbering::Old => old,
    }
}

fn pattern_number(dialect: TableDialect, pattern: PatternKind) -> Result<i32, EncodeError> {
    match (pattern, dialect.numbering) {
        (PatternKind::Regex, _) => Ok(number(dialect, 5, 4)),
        (PatternKind::Prefix, Numbering::New) => Ok(6),
        (PatternKind::Prefix, Numbering::Old) => Err(EncodeError::NoSuchAction),
    }
}

fn write_key(writer: &mut Writer, table: &[u8], key: &[u8]) {
    writer.text("htname", table);
    writer.text("cname", key);
}

fn write_value(writer: &mut Writer, value: &Value) {
    match value {
        Value::Int(number) => {
            writer.number("type", 0);
            writer.number("intval", *number);
        }
        Value::Text(text) => {
            writer.number("type", TYPE_IS_TEXT);
            writer.text("strval", text);
        }
    }
}

fn write_last_modified(writer: &mut Writer, at: Option<u64>, is_known: bool) {
    if let (Some(at), true) = (at, is_known) {
        writer.number("last_modified", at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(body: &str) -> (TableMessage, Option<Numbering>) {
        TableMessage::decode(body.as_bytes()).expect("a message")
    }

    fn set(value: Value) -> TableMessage {
        TableMessage::Set {
            table: "t".into(),
            key: "k".into(),
            value,
            last_modified: None,
        }
    }

    #[test]
    fn each_shape_tells_its_numbering() {
        let old_expire = r#"{"action":2,"htname":"t","cname":"k","type":0,"intval":9,"mode":0}"#;
        let new_expire = r#"{"action":3,"htname":"t","cname":"k","type":0,"intval":9,"mode":0}"#;
        let expire = TableMessage::SetExpire {
            table: "t".into(),
            key: "k".into(),
            seconds: 9,
        };
        assert_eq!(decoded(old_expire), (expire.clone(), Some(Numbering::Old)));
        assert_eq!(decoded(new_expire), (expire, Some(Numbering::New)));

        let new_set = r#"{"action":2,"htname":"t","cname":"k","type":0,"intval":9,"mode":1}"#;
        assert_eq!(decoded(new_set), (set(Value::Int(9)), Some(Numbering::New)));
        let unlocked = r#"{"action":2,"htname":"t","cname":"k","type":2,"strval":"9","mode":0}"#;
        assert_eq!(
            decoded(unlocked),
            (set(Value::Text("9".into())), Some(Numbering::New))
        );
    }

    #[test]
    fn numbers_are_read_into_32_bits() {
        let value = |number: &str| {
            let body =
                format!(r#"{{"action":2,"htname":"t","cname":"k","intval":{number},"mode":1}}"#);
            decoded(&body).0
        };
        for (written, read) in [
            ("2147483647", i32::MAX),
            ("2147483648", i32::MIN),
            ("-2147483648", i32::MIN),
            ("-2147483649", i32::MIN),
            ("9007199254740993", i32::MIN),
            ("1e999", i32::MIN),
            ("-2.9", -2),
        ] {
            assert_eq!(value(written), set(Value::Int(read)), "{written}");
        }
    }

    #[test]
    fn the_second_bit_of_the_type_decides() {
        let body = r#"{"action":2,"htname":"t","cname":"k","type":3,"strval":"v","mode":1}"#;
        assert_eq!(decoded(body).0, set(Value::Text("v".into())));
        let body = r#"{"action":2,"htname":"t","cname":"k","type":1,"intval":5,"mode":1}"#;
        assert_eq!(decoded(body).0, set(Value::Int(5)));
    }

    #[test]
    fn a_batch_is_known_by_its_first_key() {
        let late = r#"{"action":1,"cells":[]}"#;
        let sync = TableMessage::Sync { table: None };
        assert_eq!(decoded(late), (sync, Some(Numbering::New)));
        let early = r#"{"cells":[],"action":1}"#;
        assert_eq!(decoded(early), (TableMessage::Cells(Vec::new()), None));
    }

    #[test]
    fn old_nodes_have_no_prefix_deletion() {
        let message = TableMessage::RemoveMatching {
            table: "t".into(),
            by: By::Key,
            pattern: PatternKind::Prefix,
            operand: "a".into(),
        };
        let dialect = TableDialect {
            numbering: Numbering::Old,
            last_modified: false,
        };
        assert_eq!(message.encode(dialect), Err(EncodeError::NoSuchAction));
    }
}
