//! Ordinary SIP around a takeover, captured at Kamailio routers: each message is read, and names its dialog as the
//! captures of channel `dialog` do.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::fs;
use std::path::{Path, PathBuf};

use dmq_bodies::{Did, slot};
use sip_types::{Index, Message, NameAddr};

/// The `hash_size` of the routers.
const HASH_SIZE: u32 = 4096;

/// The call whose INVITE, 200 and BYE were captured, and the one whose callee hung up.
const CALL: &str = "tk-bye-5.6.3@lab";
const CALL_OF_CALLEE: &str = "tk-callee-5.6.3@lab";

const DID: Did = Did {
    h_entry: 2009,
    h_id: 10_592,
};
const DID_OF_CALLEE: Did = Did {
    h_entry: 2439,
    h_id: 3_316,
};

/// Every capture with its method and status, its Call-ID, and the `did` of each entry of Route and Record-Route.
type Expected = (
    &'static str,
    (Option<&'static str>, Option<u16>),
    &'static str,
    &'static [Option<Did>],
);
const CAPTURES: [Expected; 6] = [
    (
        "85-sip-invite-recordrouted",
        (Some("INVITE"), None),
        CALL,
        &[Some(DID), None],
    ),
    (
        "86-sip-200-invite",
        (None, Some(200)),
        CALL,
        &[Some(DID), None],
    ),
    (
        "87-sip-bye-retargeted",
        (Some("BYE"), None),
        CALL,
        &[Some(DID)],
    ),
    (
        "89-sip-bye-forwarded-by-router2",
        (Some("BYE"), None),
        CALL,
        &[],
    ),
    (
        "89-sip-bye-forwarded-by-router2.reply",
        (None, Some(200)),
        CALL,
        &[],
    ),
    (
        "90-sip-bye-from-callee",
        (Some("BYE"), None),
        CALL_OF_CALLEE,
        &[Some(DID_OF_CALLEE), None],
    ),
];

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/dmq")
}

/// Returns the `did` of an entry, if it has one: a proxy that keeps no dialogs writes none.
fn did(entry: &NameAddr<'_>) -> Option<Did> {
    let uri = entry.parsed_uri().unwrap();
    let value = uri.params.get("did")?;
    Some(Did::parse(value.unwrap()).unwrap())
}

#[test]
fn captured_sip_names_its_dialog() {
    for (name, (method, status), call_id, dids) in CAPTURES {
        let bytes = fs::read(directory().join(format!("{name}.sip"))).unwrap();
        let mut index = Index::new();
        let message = Message::parse(&bytes, &mut index).unwrap();
        let start = String::from_utf8_lossy(&bytes);
        let word = start.split(' ').next().unwrap();
        assert_eq!(message.is_request().then_some(word), method, "{name}");
        assert_eq!(message.status(), status, "{name}");
        assert_eq!(message.call_id(), call_id.as_bytes(), "{name}");
        let body = message.body().len();
        assert_eq!(message.content_length(), Some(Ok(body)), "{name}");

        let entries = message.record_routes().chain(message.routes());
        let entries: Vec<_> = entries.map(Result::unwrap).collect();
        let read: Vec<_> = entries.iter().map(did).collect();
        assert_eq!(read, dids, "{name}");
        for (entry, did) in entries.iter().zip(dids) {
            let Some(did) = did else { continue };
            assert_eq!(did.h_entry, slot(message.call_id(), HASH_SIZE), "{name}");
            let written = format!(";did={did}");
            let uri = String::from_utf8_lossy(entry.uri);
            assert!(uri.ends_with(&written), "{name}: {uri}, {written}");
        }
    }
}

#[test]
fn the_heir_told_of_that_dialog() {
    let bytes = fs::read(directory().join("88-dlg-deleted-by-router2.sip")).unwrap();
    let named = format!(r#""h_entry":{},"h_id":{},"#, DID.h_entry, DID.h_id);
    assert!(String::from_utf8_lossy(&bytes).contains(&named), "{named}");
}

#[test]
fn no_capture_of_ordinary_sip_is_left_out() {
    let files = fs::read_dir(directory()).unwrap();
    let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    let mut ordinary: Vec<_> = names.filter(|name| name.contains("-sip-")).collect();
    ordinary.sort();
    let mut read = CAPTURES.map(|(name, ..)| format!("{name}.sip"));
    read.sort();
    assert_eq!(ordinary, read);
}
