//! What a body of the channel says, for those who look at the bus.
//!
//! Nothing here decides anything: what makes no sense to a node is shown as it came, and the status
//! that it is answered with tells what became of it.

use super::HelloData;
use super::convert;
use super::messages::{self, BodyError, Content, Group, List};
use crate::change::{Key, Record};

/// What a body says.
#[derive(Clone, Debug, PartialEq)]
pub enum Told {
    /// Who the sender is.
    Hello(HelloData),
    /// Records, to be merged.
    Records(Vec<(Key, Record)>),
    /// A round of comparing begins.
    Root {
        /// Its number.
        round: u64,
        /// The sum of all that the sender holds, little endian.
        root: Vec<u8>,
        /// Divergent keys in the last finished round.
        divergence: u64,
    },
    /// The sums of some partitions.
    Partitions {
        /// Number of the round.
        round: u64,
        /// The first of them.
        first: u32,
        /// How many.
        count: usize,
        /// Of how many the sender wants to know what is in them.
        wanted: usize,
    },
    /// Which of these differ, and what the sender holds in them.
    Keys {
        /// Number of the round.
        round: u64,
        /// The partitions that differ; a later part of an answer says it no more.
        differing: Vec<u32>,
        /// Partitions of which it is told here what is held, or a part of it.
        held: Vec<Listed>,
    },
    /// What the sender holds and the receiver does not.
    Offer(Vec<Listed>),
    /// What the sender wants.
    Pull(Vec<Listed>),
}

/// Some keys of a partition, by their hashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The partition.
    pub partition: u32,
    /// How many.
    pub keys: usize,
}

/// Reads a body of the channel.
pub fn told(body: &[u8]) -> Result<Told, BodyError> {
    Ok(match messages::decode(body)? {
        Content::Hello(hello) => Told::Hello(HelloData {
            node_id: hello.node_id,
            incarnation: hello.incarnation,
            hash_size: hello.hash_size,
        }),
        Content::Records(records) => {
            let records = records.records.into_iter().map(convert::from_wire);
            Told::Records(records.collect::<Result<_, _>>()?)
        }
        Content::Root(root) => Told::Root {
            round: root.round,
            root: root.root,
            divergence: root.divergence,
        },
        Content::Partitions(partitions) => Told::Partitions {
            round: partitions.round,
            first: partitions.first,
            count: partitions.sums.len() / 8,
            wanted: bits(&partitions.wanted).count(),
        },
        Content::Keys(keys) => {
            let differing = keys.differing.unwrap_or_default();
            let set = bits(&differing.bits);
            Told::Keys {
                round: keys.round,
                differing: set.map(|bit| differing.first.wrapping_add(bit)).collect(),
                held: keys.lists.iter().map(listed).collect(),
            }
        }
        Content::Offer(offer) => Told::Offer(groups(&offer.groups, 16)),
        Content::Pull(pull) => Told::Pull(groups(&pull.groups, 8)),
    })
}

/// Returns the places of the bits that are set.
fn bits(bytes: &[u8]) -> impl Iterator<Item = u32> {
    (0..).zip(bytes).flat_map(|(at, byte)| {
        let set = (0..8).filter(move |bit| byte >> bit & 1 == 1);
        set.map(move |bit| at * 8 + bit)
    })
}

fn listed(list: &List) -> Listed {
    Listed {
        partition: list.partition,
        keys: list.held.len() / 16,
    }
}

/// Returns what groups name; a key takes `width` bytes.
fn groups(groups: &[Group], width: usize) -> Vec<Listed> {
    let groups = groups.iter().map(|group| Listed {
        partition: group.partition,
        keys: group.keys.len() / width,
    });
    groups.collect()
}

#[cfg(test)]
mod tests {
    use super::super::messages::{
        Differing, Entry, Hello, Keys, Offer, Partitions, Pull, Records, Root, What, encode,
    };
    use super::*;
    use crate::entries::EntryKey;

    fn read(content: Content) -> Result<Told, BodyError> {
        told(&encode(content))
    }

    #[test]
    fn every_body_says_what_it_said() {
        let hello = Hello {
            node_id: "a".to_owned(),
            incarnation: 7,
            hash_size: 4096,
        };
        let data = HelloData {
            node_id: "a".to_owned(),
            incarnation: 7,
            hash_size: 4096,
        };
        assert_eq!(read(Content::Hello(hello)), Ok(Told::Hello(data)));
        let root = Content::Root(Root {
            round: 1,
            root: vec![9; 16],
            divergence: 2,
        });
        assert_eq!(
            read(root),
            Ok(Told::Root {
                round: 1,
                root: vec![9; 16],
                divergence: 2
            })
        );
        let partitions = Content::Partitions(Partitions {
            round: 1,
            first: 172,
            sums: vec![0; 84 * 8],
            wanted: vec![0b101, 1],
        });
        assert_eq!(
            read(partitions),
            Ok(Told::Partitions {
                round: 1,
                first: 172,
                count: 84,
                wanted: 3
            })
        );
        let list = List {
            partition: 181,
            lower: 0,
            upper: u64::MAX,
            held: vec![0; 48],
        };
        let keys = Content::Keys(Keys {
            round: 1,
            differing: Some(Differing {
                first: 172,
                bits: vec![0b1000_0001, 0b10],
                lists: 1,
            }),
            lists: vec![list],
        });
        let three = Listed {
            partition: 181,
            keys: 3,
        };
        assert_eq!(
            read(keys),
            Ok(Told::Keys {
                round: 1,
                differing: vec![172, 179, 181],
                held: vec![three]
            })
        );
        let group = |bytes| Group {
            partition: 181,
            keys: vec![0; bytes],
        };
        let offer = Content::Offer(Offer {
            groups: vec![group(48)],
        });
        assert_eq!(read(offer), Ok(Told::Offer(vec![three])));
        let pull = Content::Pull(Pull {
            groups: vec![group(24)],
        });
        assert_eq!(read(pull), Ok(Told::Pull(vec![three])));
    }

    #[test]
    fn records_are_read_with_their_keys() {
        let entry = |table: &[u8]| messages::Record {
            what: Some(What::Entry(Entry {
                table: table.to_vec(),
                key: b"k".to_vec(),
                ..Entry::default()
            })),
        };
        let records = |table| {
            Content::Records(Records {
                records: vec![entry(table)],
            })
        };
        let Ok(Told::Records(found)) = read(records(b"bans")) else {
            panic!("no records");
        };
        let key = EntryKey {
            table: "bans".into(),
            key: "k".into(),
        };
        assert_eq!(found[0].0, Key::Entry(key));
        let why = read(records(b"")).unwrap_err();
        assert_eq!(why.to_string(), "the key of an entry is empty or too long");
    }

    #[test]
    fn what_says_nothing_says_why() {
        let why = |body: &[u8]| told(body).unwrap_err().to_string();
        assert!(why(b"{}").contains("decode"), "{}", why(b"{}"));
        assert_eq!(why(&[8, 9]), "schema 9 is not 1");
        assert_eq!(why(&[8, 1]), "nothing is said");
    }
}
