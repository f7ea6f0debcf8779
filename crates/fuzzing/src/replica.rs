//! What a router takes from others into what it holds: several bodies one after the other, for what one
//! leaves behind another may trip over.

use std::net::SocketAddr;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use htable::Definition;
use replication::tandem::{HelloData, told};
use replication::{DialogsConfig, Now, Replica, stock, tandem};

/// Bodies of one run; more add nothing but time.
const BODIES_MAX: usize = 32;

/// 2027-01-15, milliseconds since 1970.
const WALL: u64 = 1_800_000_000_000;

/// All runs begin at one moment.
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

fn own() -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 31], 5062))
}

fn other() -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 32], 5062))
}

/// The moment of the body of that number.
fn at(number: usize) -> Now {
    let passed = Duration::from_millis(300 * number as u64);
    Now {
        monotonic: *START + passed,
        wall: WALL + passed.as_millis() as u64,
    }
}

fn replica() -> Replica {
    let mut replica = Replica::new(own(), [7; 16], DialogsConfig::default());
    replica.set_members(&[other()].into());
    let table = Definition {
        replicate: true,
        autoexpire: Some(Duration::from_secs(600)),
        ..Definition::new("t")
    };
    replica.define(table).expect("a good definition");
    replica
}

/// What must hold whatever came: an answer, and sums that are those of the records.
fn settle(status: u16, replica: &mut Replica) {
    assert!((200..600).contains(&status), "status {status}");
    while replica.poll_change().is_some() {}
}

fn check(mut replica: Replica) {
    assert_eq!(replica.verify(), 0, "sums are those of the records");
}

/// Bodies of channel `tandem`, each after its length in two bytes, little endian.
pub(crate) fn tandem(mut data: &[u8]) {
    let mut replica = replica();
    let hello = HelloData {
        node_id: "a".to_owned(),
        incarnation: 1,
        hash_size: 4096,
    };
    let mut channel = tandem::Channel::new(at(0), hello, own(), 1);
    channel.node_up(at(0), other());
    for number in 0..BODIES_MAX {
        let Some((length, rest)) = data.split_first_chunk() else {
            break;
        };
        let length = usize::from(u16::from_le_bytes(*length)).min(rest.len());
        let (body, rest) = rest.split_at(length);
        data = rest;
        let is_told = told(body).is_ok();
        let status = channel.handle(at(number), &mut replica, other(), body);
        assert!(is_told || status != 200, "what cannot be told is not taken");
        settle(status, &mut replica);
        replica.handle_timeout(at(number));
        channel.handle_timeout(at(number), &mut replica);
    }
    check(replica);
}

/// Bodies of Kamailio's channels, separated by zero bytes: of `htable` after a `t`, of `dialog` after
/// anything else.
pub(crate) fn stock(data: &[u8]) {
    let mut replica = replica();
    let mut channel = stock::Channel::new(own(), 4096, 1);
    channel.node_up(at(0), &replica, other());
    for (number, part) in data.split(|byte| *byte == 0).take(BODIES_MAX).enumerate() {
        let Some((kind, body)) = part.split_first() else {
            continue;
        };
        let name = match kind {
            b't' => stock::TABLE_CHANNEL,
            _ => stock::DIALOG_CHANNEL,
        };
        let status = channel.handle(at(number), &mut replica, other(), name, body);
        while let Some(change) = replica.poll_change() {
            channel.note(at(number), &replica, &change);
        }
        settle(status, &mut replica);
        replica.handle_timeout(at(number));
        channel.handle_timeout(at(number), &mut replica);
    }
    check(replica);
}
