//! The bodies that Kamailio nodes send. What is read of one is written so that it is read the same.

use dmq_bodies::{DialogDialect, DialogMessage, Numbering, TableDialect, TableMessage};

/// Channel `notification_peer`.
pub(crate) fn node_list(data: &[u8]) {
    let lines = dmq::list::decode(data).count();
    assert!(lines <= data.len());
}

/// Channel `dialog`.
pub(crate) fn dialog(data: &[u8]) {
    let Ok(message) = DialogMessage::decode(data) else {
        return;
    };
    for last_modified in [false, true] {
        let dialect = DialogDialect { last_modified };
        let Ok(written) = message.encode(dialect) else {
            continue;
        };
        let read = DialogMessage::decode(&written).expect("what we write can be read");
        assert_eq!(read.encode(dialect), Ok(written));
    }
}

/// Channel `htable`.
pub(crate) fn table(data: &[u8]) {
    let Ok((message, _)) = TableMessage::decode(data) else {
        return;
    };
    for numbering in [Numbering::Old, Numbering::New] {
        let dialect = TableDialect {
            numbering,
            last_modified: true,
        };
        let Ok(written) = message.encode(dialect) else {
            continue;
        };
        let (read, _) = TableMessage::decode(&written).expect("what we write can be read");
        assert_eq!(read.encode(dialect), Ok(written));
    }
}
