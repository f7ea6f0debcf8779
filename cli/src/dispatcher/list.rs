//! Kamailio's `dispatcher.list` read and written: `setid destination [flags [priority [attributes]]]`.
//!
//! Source: the documentation of Kamailio's module dispatcher, "Destination list file".

use std::collections::BTreeSet;
use std::fmt::Write;

use control::name::{ID_BYTES_MAX, Name, check_id};
use control::registry::v1::{self, DestinationSet, DestinationState};
use control::view;

/// The set that every cluster has from the start.
const SET_OF_ROUTERS: &str = "1";
/// Kamailio's flags.
const INACTIVE: u32 = 1;
const TRYING: u32 = 2;
const DISABLED: u32 = 4;
const PROBING: u32 = 8;
const NOT_PROBED: u32 = 32;

/// What a file says, as resources with the lines they come from.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Imported {
    pub(super) sets: Vec<(usize, DestinationSet)>,
    pub(super) destinations: Vec<(usize, v1::Destination)>,
    /// What could not be taken over.
    pub(super) notes: Vec<Note>,
    /// Lines of which nothing could.
    pub(super) left_out: usize,
}

/// Something about a line, from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Note {
    pub(super) line: usize,
    pub(super) said: String,
}

/// Reads a file. `renames` gives sets other ids.
pub(super) fn import(text: &str, renames: &[(String, String)], algorithm: u32) -> Imported {
    let mut imported = Imported::default();
    let mut names = BTreeSet::new();
    for (i, line) in text.lines().enumerate() {
        let (line, number) = (line.trim(), i + 1);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let mut notes = Vec::new();
        match entry(line, renames, &mut notes) {
            Ok((set, mut destination)) => {
                destination.name = free_name(&set, &destination.name, &mut names, &mut notes);
                imported.add_set(&set, number, algorithm);
                imported.destinations.push((number, destination));
            }
            Err(reason) => {
                notes.push(format!("left out: {reason}"));
                imported.left_out += 1;
            }
        }
        imported
            .notes
            .extend(notes.into_iter().map(|said| Note { line: number, said }));
    }
    imported
}

impl Imported {
    fn add_set(&mut self, id: &str, line: usize, algorithm: u32) {
        let name = format!("sets/{id}");
        if id != SET_OF_ROUTERS && self.sets.iter().all(|(_, set)| set.name != name) {
            let set = DestinationSet {
                name,
                algorithm,
                ..DestinationSet::default()
            };
            self.sets.push((line, set));
        }
    }
}

/// Reads one line: the id of its set, and the destination, named by its id alone.
fn entry(
    line: &str,
    renames: &[(String, String)],
    notes: &mut Vec<String>,
) -> Result<(String, v1::Destination), String> {
    let words = line
        .split_whitespace()
        .take_while(|word| !word.starts_with('#'));
    let words: Vec<_> = words.collect();
    let (number, uri, rest) = match words[..] {
        [number, uri, ref rest @ ..] if rest.len() <= 3 => (number, uri, rest),
        _ => return Err("is not: setid destination [flags [priority [attributes]]]".to_owned()),
    };
    let set = rename(number, renames);
    check_id(set)
        .map_err(|error| format!("set {number}: {error}; --rename {number}=ID gives another"))?;
    let number = |at: usize, what: &str| match rest.get(at) {
        None => Ok(0),
        Some(word) => word
            .parse::<i32>()
            .map_err(|_| format!("{what} {word} is no number")),
    };
    let flags = number(0, "flags")?;
    let flags = u32::try_from(flags).map_err(|_| format!("flags {flags} are negative"))?;
    let mut destination = v1::Destination {
        uri: uri.to_owned(),
        priority: number(1, "priority")?,
        probing: flags & PROBING != 0 && flags & NOT_PROBED == 0,
        ..v1::Destination::default()
    };
    if flags & DISABLED != 0 {
        destination.set_desired_state(DestinationState::Disabled);
    }
    if flags & (INACTIVE | TRYING) != 0 {
        notes.push("flags 1 and 2: whether it is alive is found by probes".to_owned());
    }
    let unknown = flags & !(INACTIVE | TRYING | DISABLED | PROBING | NOT_PROBED);
    if unknown != 0 {
        notes.push(format!("flags {unknown}: no counterpart, left away"));
    }
    destination.name = id_of_uri(uri);
    let attributes = rest.get(2).copied().unwrap_or_default();
    read_attributes(attributes.trim_matches('"'), &mut destination, notes);
    check(set, &destination)?;
    Ok((set.to_owned(), destination))
}

fn read_attributes(text: &str, destination: &mut v1::Destination, notes: &mut Vec<String>) {
    for attribute in text.split(';').filter(|attribute| !attribute.is_empty()) {
        let (key, value) = attribute.split_once('=').unwrap_or((attribute, ""));
        match key {
            "weight" => match value.parse() {
                Ok(weight @ 0..=1000) => destination.weight = Some(weight),
                Ok(_) | Err(_) => {
                    notes.push(format!("weight={value}: is not 0 to 1000, left away"));
                }
            },
            "duid" => {
                let id = as_id(value);
                if id != value {
                    notes.push(format!("duid={value}: becomes {id}"));
                }
                destination.name = id;
            }
            _ => notes.push(format!("{attribute}: no counterpart, left away")),
        }
    }
}

/// Refuses what the registry would refuse, and what no node could reach.
fn check(set: &str, destination: &v1::Destination) -> Result<(), String> {
    let whole = v1::Destination {
        name: format!("sets/{set}/destinations/{}", destination.name),
        ..destination.clone()
    };
    view::Destination::try_from(&whole).map_err(|refusals| {
        let said = refusals
            .iter()
            .map(|one| format!("{}: {}", one.field, one.reason));
        said.collect::<Vec<_>>().join("; ")
    })?;
    let lower = destination.uri.to_ascii_lowercase();
    match lower.split_once(";transport=") {
        Some((_, rest)) if rest.split([';', '?']).next() != Some("udp") => {
            Err(format!("{}: only UDP is spoken", destination.uri))
        }
        _ => Ok(()),
    }
}

fn free_name(set: &str, id: &str, names: &mut BTreeSet<String>, notes: &mut Vec<String>) -> String {
    let name = |id: &str| format!("sets/{set}/destinations/{id}");
    let mut found = name(id);
    for n in 2.. {
        if names.insert(found.clone()) {
            break;
        }
        let end = format!("-{n}");
        let kept = id
            .get(..id.len().min(ID_BYTES_MAX - end.len()))
            .unwrap_or(id);
        found = name(&format!("{}{end}", kept.trim_end_matches('-')));
    }
    if found != name(id) {
        notes.push(format!(
            "{id} comes twice in set {set}: this one becomes {found}"
        ));
    }
    found
}

/// `sip:a@192.0.2.1:5060;x=y` is `192-0-2-1-5060`.
fn id_of_uri(uri: &str) -> String {
    let rest = uri.split_once(':').map_or(uri, |(_, rest)| rest);
    let rest = rest.rsplit_once('@').map_or(rest, |(_, rest)| rest);
    as_id(rest.split([';', '?']).next().unwrap_or_default())
}

/// Makes an id of any text.
fn as_id(text: &str) -> String {
    let id: String = text
        .to_ascii_lowercase()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .collect();
    let id = id.trim_matches('-');
    let id = id.get(..ID_BYTES_MAX).unwrap_or(id).trim_end_matches('-');
    match id {
        "" => "unnamed".to_owned(),
        id => id.to_owned(),
    }
}

fn rename<'a>(id: &'a str, renames: &'a [(String, String)]) -> &'a str {
    let renamed = renames.iter().find(|(from, _)| from == id);
    renamed.map_or(id, |(_, to)| to)
}

/// Writes a file; says what Kamailio has no word for.
pub(super) fn export(
    destinations: &[v1::Destination],
    renames: &[(String, String)],
) -> (String, Vec<String>) {
    let mut text = "# setid destination flags priority attributes\n".to_owned();
    let mut notes = Vec::new();
    for destination in destinations {
        let name = &destination.name;
        let Ok(Name::Destination { set, id }) = name.parse() else {
            notes.push(format!("{name}: left out: is no name of a destination"));
            continue;
        };
        let set = rename(&set, renames);
        if set.parse::<u32>().is_err() {
            notes.push(format!(
                "{name}: left out: Kamailio's sets are numbers; --rename {set}=NUMBER gives it one"
            ));
            continue;
        }
        let mut flags = if destination.probing { PROBING } else { 0 };
        match destination.desired_state() {
            DestinationState::Unspecified | DestinationState::Active => {}
            DestinationState::Disabled => flags |= DISABLED,
            DestinationState::Draining => {
                notes.push(format!("{name}: drains, which is written as disabled (4)"));
                flags |= DISABLED;
            }
        }
        let weight = destination.weight.map(|weight| format!("weight={weight};"));
        let (uri, priority, weight) = (
            &destination.uri,
            destination.priority,
            weight.unwrap_or_default(),
        );
        let _infallible = writeln!(text, "{set} {uri} {flags} {priority} {weight}duid={id}");
    }
    (text, notes)
}

/// Returns a destination of a view as it would be listed by hand.
pub(super) fn written(destination: &view::Destination) -> v1::Destination {
    let mut written = v1::Destination {
        name: format!("sets/{}/destinations/{}", destination.set, destination.id),
        uri: destination.uri.clone(),
        priority: destination.priority,
        weight: Some(destination.weight),
        probing: destination.probing,
        ..v1::Destination::default()
    };
    written.set_desired_state(match destination.desired_state {
        view::DestinationState::Active => DestinationState::Active,
        view::DestinationState::Draining => DestinationState::Draining,
        view::DestinationState::Disabled => DestinationState::Disabled,
    });
    written
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn notes(imported: &Imported) -> Vec<String> {
        let notes = imported.notes.iter();
        notes
            .map(|note| format!("{}: {}", note.line, note.said))
            .collect()
    }

    #[test]
    fn a_file_becomes_sets_and_destinations() {
        let text = "\
# gateways
1 sip:192.0.2.1:5060 8 0 duid=router-a

2 sip:192.0.2.40:5060;transport=udp 0 10 weight=50;duid=PBX_1;socket=udp:192.0.2.2:5060
2 sip:pbx.example.com 12 5 weight=2000
2 sip:192.0.2.40:5060 # again
2\tsip:192.0.2.40:5060\t17
";
        let imported = import(text, &[("1".into(), "routers".into())], 4);
        let sets: Vec<_> = imported
            .sets
            .iter()
            .map(|(line, set)| (*line, set.name.as_str()))
            .collect();
        assert_eq!(sets, [(2, "sets/routers"), (4, "sets/2")]);
        assert!(imported.sets.iter().all(|(_, set)| set.algorithm == 4));
        let found: Vec<_> = imported
            .destinations
            .iter()
            .map(|(_, d)| {
                (
                    d.name.as_str(),
                    d.priority,
                    d.weight,
                    d.probing,
                    d.desired_state,
                )
            })
            .collect();
        assert_eq!(
            found,
            [
                ("sets/routers/destinations/router-a", 0, None, true, 0),
                ("sets/2/destinations/pbx-1", 10, Some(50), false, 0),
                ("sets/2/destinations/pbx-example-com", 5, None, true, 3),
                ("sets/2/destinations/192-0-2-40-5060", 0, None, false, 0),
                ("sets/2/destinations/192-0-2-40-5060-2", 0, None, false, 0),
            ]
        );
        assert_eq!(
            notes(&imported),
            [
                "4: duid=PBX_1: becomes pbx-1",
                "4: socket=udp:192.0.2.2:5060: no counterpart, left away",
                "5: weight=2000: is not 0 to 1000, left away",
                "7: flags 1 and 2: whether it is alive is found by probes",
                "7: flags 16: no counterpart, left away",
                "7: 192-0-2-40-5060 comes twice in set 2: this one becomes \
                 sets/2/destinations/192-0-2-40-5060-2",
            ]
        );
        assert_eq!(imported.left_out, 0);
    }

    #[test]
    fn set_1_is_there_from_the_start() {
        assert!(import("1 sip:192.0.2.1", &[], 0).sets.is_empty());
    }

    #[test]
    fn lines_that_cannot_be_used_are_left_out_with_the_reason() {
        let text = "1\n-1 sip:a\n1 sips:a\n1 sip:a;transport=tcp\n1 sip:a x\n1 sip:a 0 0 a=b c\n1 sip:a -1\n";
        let imported = import(text, &[], 0);
        assert_eq!((imported.left_out, imported.destinations.len()), (7, 0));
        let notes = notes(&imported);
        for (note, said) in notes.iter().zip([
            "1: left out: is not: setid",
            "2: left out: set -1: an id is 1 to 63 of a-z, 0-9 and, inside, the hyphen; --rename -1=ID",
            "3: left out: uri: \"sips:a\" needs TLS",
            "4: left out: sip:a;transport=tcp: only UDP is spoken",
            "5: left out: flags x is no number",
            "6: left out: is not: setid",
            "7: left out: flags -1 are negative",
        ]) {
            assert!(note.starts_with(said), "{note}");
        }
    }

    #[test]
    fn what_kamailio_has_no_word_for_is_said() {
        let mut draining = v1::Destination {
            name: "sets/2/destinations/a".into(),
            uri: "sip:192.0.2.1".into(),
            ..v1::Destination::default()
        };
        draining.set_desired_state(DestinationState::Draining);
        let elsewhere = v1::Destination {
            name: "sets/ipbx/destinations/a".into(),
            ..draining.clone()
        };
        let (text, notes) = export(&[draining, elsewhere], &[]);
        let lines: Vec<_> = text.lines().skip(1).collect();
        assert_eq!(lines, ["2 sip:192.0.2.1 4 0 duid=a"]);
        assert_eq!(
            notes,
            [
                "sets/2/destinations/a: drains, which is written as disabled (4)",
                "sets/ipbx/destinations/a: left out: Kamailio's sets are numbers; --rename ipbx=NUMBER \
                 gives it one",
            ]
        );
    }

    fn destination() -> impl Strategy<Value = v1::Destination> {
        let uri = (
            prop::option::of("[a-z0-9]{1,8}"),
            prop_oneof![
                "[a-z]{1,10}\\.example",
                Just("192.0.2.7".to_owned()),
                Just("[2001:db8::7]".to_owned())
            ],
            prop::option::of(1..=65_535_u16),
            prop_oneof![Just(""), Just(";transport=udp"), Just(";lr;x=y")],
        );
        let uri = uri.prop_map(|(user, host, port, end)| {
            let user = user.map(|user| format!("{user}@")).unwrap_or_default();
            let port = port.map(|port| format!(":{port}")).unwrap_or_default();
            format!("sip:{user}{host}{port}{end}")
        });
        let rest = (
            any::<i32>(),
            prop::option::of(0..=1000_u32),
            any::<bool>(),
            any::<bool>(),
        );
        (0..5_u32, "[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", uri, rest).prop_map(
            |(set, id, uri, (priority, weight, probing, disabled))| {
                let mut destination = v1::Destination {
                    name: format!("sets/{set}/destinations/{id}"),
                    uri,
                    priority,
                    weight,
                    probing,
                    ..v1::Destination::default()
                };
                if disabled {
                    destination.set_desired_state(DestinationState::Disabled);
                }
                destination
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(
            destinations in prop::collection::btree_map("[a-z]", destination(), 0..20)
        ) {
            let mut destinations: Vec<_> = destinations.into_values().collect();
            destinations.sort_by(|a, b| a.name.cmp(&b.name));
            destinations.dedup_by(|a, b| a.name == b.name);
            let (text, notes) = export(&destinations, &[]);
            prop_assert_eq!(&notes, &Vec::<String>::new());
            let imported = import(&text, &[], 0);
            prop_assert_eq!(&imported.notes, &Vec::new());
            let again: Vec<_> = imported.destinations.into_iter().map(|(_, one)| one).collect();
            prop_assert_eq!(again, destinations);
        }

        #[test]
        fn whatever_a_file_holds_does_no_harm(text in "(?s).{0,200}") {
            let imported = import(&text, &[], 0);
            for (_, destination) in &imported.destinations {
                prop_assert!(view::Destination::try_from(destination).is_ok(), "{:?}", destination);
            }
        }
    }
}
