//! Slots and `did` parameters as live Kamailio nodes computed them.

use dmq_bodies::{Did, hash_size_candidates, slot};
use serde_json::Value;

const VECTORS: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../testdata/dmq/hash-vectors.json"
);

fn vectors(of: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(VECTORS).expect("the vectors");
    let all: Value = serde_json::from_str(&text).expect("JSON");
    all[of].as_array().expect("an array").clone()
}

fn number(vector: &Value, field: &str) -> u32 {
    let number = vector[field].as_u64().expect("a number");
    u32::try_from(number).expect("32 bits")
}

fn call_id(vector: &Value) -> Vec<u8> {
    let digits = vector["callid_hex"].as_str().expect("text");
    let byte = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).expect("a byte");
    (0..digits.len()).step_by(2).map(byte).collect()
}

#[test]
fn call_ids_fall_into_the_slots_that_kamailio_announced() {
    let vectors = vectors("dialog_hash");
    assert_eq!(vectors.len(), 42);
    for vector in &vectors {
        let (call_id, size) = (call_id(vector), number(vector, "hash_size"));
        assert_eq!(slot(&call_id, size), number(vector, "h_entry"), "{vector}");
        let hash = vector["raw_hash_computed"].as_str().expect("text");
        let hash = u32::from_str_radix(hash, 16).expect("a hash");
        assert_eq!(slot(&call_id, 1 << 31), hash & 0x7fff_ffff, "{vector}");
    }
}

#[test]
fn the_size_of_the_table_shows_in_slots() {
    for vector in vectors("dialog_hash") {
        let size = number(&vector, "hash_size");
        let mut sizes = hash_size_candidates(&call_id(&vector), number(&vector, "h_entry"));
        assert!(sizes.any(|candidate| candidate == size), "{vector}");
    }
}

#[test]
fn dids_are_written_as_kamailio_writes_them_and_read_in_both_cases() {
    let vectors = vectors("did");
    assert_eq!(vectors.len(), 37);
    for vector in &vectors {
        let did = Did {
            h_entry: number(vector, "h_entry"),
            h_id: number(vector, "h_id"),
        };
        let written = vector["did"].as_str().expect("text");
        assert_eq!(did.to_string(), written);
        assert_eq!(Did::parse(written.as_bytes()), Ok(did));
        assert_eq!(Did::parse(written.to_uppercase().as_bytes()), Ok(did));
    }
}
