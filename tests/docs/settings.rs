//! The start-up settings.

use control::settings::Key;
use host::Role;
use tandem_router::Router;
use tandem_sbc::Sbc;

use crate::{Table, head, row};

const HEAD: [&str; 6] = [
    "key",
    "unit, range",
    "default",
    "a change counts",
    "what it is",
    "what a wrong value does",
];

/// Returns the tables of all settings.
pub(crate) fn tables() -> Vec<Table> {
    let (sbc, router) = (
        host::keys(&Sbc::defaults()),
        host::keys(&Router::defaults()),
    );
    let has = |keys: &[Key], name| keys.iter().any(|key| key.name == name);
    let own = |key: &&Key| !has(face::KEYS, key.name);
    let mut nodes = head(&HEAD);
    for key in router.iter().filter(own) {
        let both = has(&sbc, key.name);
        nodes += &line(key, if both { "" } else { "Router only. " });
    }
    for key in sbc.iter().filter(|key| !has(&router, key.name)) {
        nodes += &line(key, "SBC only. ");
    }
    let mut registry = head(&HEAD);
    for key in tandem_registry::keys().iter().filter(own) {
        registry += &line(key, "");
    }
    let mut grpc = head(&HEAD);
    for key in face::KEYS {
        grpc += &line(key, "");
    }
    vec![
        ("SBC and router".to_owned(), nodes),
        ("registry".to_owned(), registry),
        ("gRPC".to_owned(), grpc),
    ]
}

fn line(key: &Key, whose: &str) -> String {
    let Key {
        name,
        help,
        unit,
        default,
        wrong,
        live,
    } = key;
    assert!(!unit.is_empty(), "{name} has no unit");
    assert!(!wrong.is_empty(), "{name}: what does a wrong value do?");
    let default = match *default {
        "none" => "none".to_owned(),
        words if words.contains(' ') && !words.contains(", ") => words.to_owned(),
        words => format!("`{}`", words.replace(", ", "`, `")),
    };
    let counts = if *live {
        "at once"
    } else {
        "at the next start"
    };
    row(&[
        &format!("`{name}`"),
        unit,
        &default,
        counts,
        &format!("{whose}{help}"),
        wrong,
    ])
}
