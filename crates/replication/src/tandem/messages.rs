//! What Tandem nodes say on the channel `tandem`, byte for byte: Protocol Buffers, written by hand.
//!
//! No contract for anybody else: nodes of another [`SCHEMA`] refuse each other's bodies. Conversions
//! from and to what a replica holds are in `convert.rs`; `told.rs` is for those who look at the bus.

use prost::{DecodeError, Message, Oneof};

use super::convert::RecordError;

/// The version of these messages. It grows when an old node could misread a new one.
pub const SCHEMA: u32 = 1;

/// A body aims at no more than this: with the header of a KDMQ request it fits one frame of
/// Ethernet, tunnels included.
pub const BODY_BYTES_TARGET: usize = 1000;

/// A record that is larger than [`BODY_BYTES_TARGET`] travels alone, if it is no larger than this.
pub const BODY_BYTES_MAX: usize = dmq::BODY_BYTES_MAX;

/// Records in one body.
pub const RECORDS_MAX: usize = 1024;

/// The longest node id.
pub const NODE_ID_BYTES_MAX: usize = 256;

/// One body.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Body {
    /// [`SCHEMA`] of the sender.
    #[prost(uint32, tag = "1")]
    pub(crate) schema: u32,
    /// What it says.
    #[prost(oneof = "Content", tags = "2, 3, 4, 5, 6, 7, 8")]
    pub(crate) content: Option<Content>,
}

/// What a body says.
#[derive(Clone, PartialEq, Oneof)]
pub(crate) enum Content {
    /// Who I am. 200: a Tandem node; a Kamailio answers 404.
    #[prost(message, tag = "2")]
    Hello(Hello),
    /// Merge these.
    #[prost(message, tag = "3")]
    Records(Records),
    /// A round begins. 200: we hold the same; 202: we do not.
    #[prost(message, tag = "4")]
    Root(Root),
    /// The sums of some partitions; the answer is `Keys`.
    #[prost(message, tag = "5")]
    Partitions(Partitions),
    /// Which partitions differ, and what I hold in them.
    #[prost(message, tag = "6")]
    Keys(Keys),
    /// I hold these, and you do not.
    #[prost(message, tag = "7")]
    Offer(Offer),
    /// Send me these.
    #[prost(message, tag = "8")]
    Pull(Pull),
}

/// Who a node is.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Hello {
    /// Its id in the registry.
    #[prost(string, tag = "1")]
    pub(crate) node_id: String,
    /// Which start of it this is.
    #[prost(uint64, tag = "2")]
    pub(crate) incarnation: u64,
    /// How many slots Kamailio's dialog hash has here.
    #[prost(uint32, tag = "3")]
    pub(crate) hash_size: u32,
}

/// Records as they are here.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Records {
    /// At most [`RECORDS_MAX`].
    #[prost(message, repeated, tag = "1")]
    pub(crate) records: Vec<Record>,
}

/// One record with its key.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Record {
    /// Which kind.
    #[prost(oneof = "What", tags = "1, 2")]
    pub(crate) what: Option<What>,
}

/// A dialog or an entry.
#[derive(Clone, PartialEq, Oneof)]
pub(crate) enum What {
    /// A dialog.
    #[prost(message, tag = "1")]
    Dialog(Box<Dialog>),
    /// An entry.
    #[prost(message, tag = "2")]
    Entry(Entry),
}

/// When something was written, and by whom.
#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct Stamp {
    #[prost(fixed64, tag = "1")]
    pub(crate) clock: u64,
    #[prost(fixed64, tag = "2")]
    pub(crate) node: u64,
}

/// A dialog.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Dialog {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) call_id: Vec<u8>,
    #[prost(uint32, tag = "2")]
    pub(crate) h_id: u32,
    #[prost(uint32, tag = "3")]
    pub(crate) state: u32,
    #[prost(uint32, tag = "4")]
    pub(crate) epoch: u32,
    /// Address and port: 6 or 18 bytes.
    #[prost(bytes = "vec", tag = "5")]
    pub(crate) owner: Vec<u8>,
    #[prost(uint64, tag = "6")]
    pub(crate) created: u64,
    #[prost(uint64, tag = "7")]
    pub(crate) answered: u64,
    #[prost(bytes = "vec", tag = "8")]
    pub(crate) from_uri: Vec<u8>,
    #[prost(bytes = "vec", tag = "9")]
    pub(crate) to_uri: Vec<u8>,
    #[prost(bytes = "vec", tag = "10")]
    pub(crate) request_uri: Vec<u8>,
    #[prost(message, optional, tag = "11")]
    pub(crate) caller: Option<Leg>,
    #[prost(message, optional, tag = "12")]
    pub(crate) callee: Option<Leg>,
    #[prost(message, repeated, tag = "13")]
    pub(crate) variables: Vec<Variable>,
    #[prost(message, repeated, tag = "14")]
    pub(crate) profiles: Vec<Profile>,
    #[prost(message, optional, tag = "15")]
    pub(crate) profiles_stamp: Option<Stamp>,
    #[prost(message, optional, tag = "16")]
    pub(crate) lifetime_stamp: Option<Stamp>,
    #[prost(uint32, tag = "17")]
    pub(crate) lifetime_seconds: u32,
    /// How long it lasts from now.
    #[prost(uint64, tag = "18")]
    pub(crate) remaining_ms: u64,
    #[prost(message, optional, tag = "19")]
    pub(crate) end: Option<End>,
    #[prost(uint32, tag = "20")]
    pub(crate) iflags: u32,
}

/// One side of a dialog.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Leg {
    #[prost(uint32, tag = "1")]
    pub(crate) cseq: u32,
    #[prost(message, optional, tag = "2")]
    pub(crate) stamp: Option<Stamp>,
    #[prost(bytes = "vec", tag = "3")]
    pub(crate) tag: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    pub(crate) contact: Vec<u8>,
    #[prost(bytes = "vec", tag = "5")]
    pub(crate) route_set: Vec<u8>,
}

/// One variable of a dialog; without value it is deleted.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Variable {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) name: Vec<u8>,
    #[prost(message, optional, tag = "2")]
    pub(crate) stamp: Option<Stamp>,
    #[prost(bytes = "vec", optional, tag = "3")]
    pub(crate) value: Option<Vec<u8>>,
}

/// One profile of a dialog.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Profile {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) name: Vec<u8>,
    #[prost(bytes = "vec", optional, tag = "2")]
    pub(crate) value: Option<Vec<u8>>,
    #[prost(bytes = "vec", tag = "3")]
    pub(crate) puid: Vec<u8>,
    #[prost(uint64, tag = "4")]
    pub(crate) expires: u64,
    #[prost(uint32, tag = "5")]
    pub(crate) flags: u32,
}

/// When and why a dialog ended.
#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct End {
    #[prost(uint64, tag = "1")]
    pub(crate) at: u64,
    #[prost(uint32, tag = "2")]
    pub(crate) cause: u32,
}

/// An entry of a table, or that it is gone.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Entry {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) table: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) key: Vec<u8>,
    #[prost(message, optional, tag = "3")]
    pub(crate) stamp: Option<Stamp>,
    #[prost(fixed64, tag = "4")]
    pub(crate) mark: u64,
    /// None: it is gone.
    #[prost(oneof = "Value", tags = "5, 6")]
    pub(crate) value: Option<Value>,
    /// How long it lasts from now; none: it does not end by itself.
    #[prost(uint64, optional, tag = "7")]
    pub(crate) remaining_ms: Option<u64>,
    /// Of one that is gone: the hash of the value that went; 0: not known.
    #[prost(fixed64, tag = "8")]
    pub(crate) gone_hash: u64,
    /// What Kamailio nodes have shown as `last_modified`; 0: nothing.
    #[prost(uint64, tag = "9")]
    pub(crate) shown: u64,
}

/// The value of an entry.
#[derive(Clone, PartialEq, Oneof)]
pub(crate) enum Value {
    #[prost(sint64, tag = "5")]
    Int(i64),
    #[prost(bytes = "vec", tag = "6")]
    Text(Vec<u8>),
}

/// The beginning of a round.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Root {
    /// Its number; grows.
    #[prost(uint64, tag = "1")]
    pub(crate) round: u64,
    /// 16 bytes, little endian.
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) root: Vec<u8>,
    /// Divergent keys in the last finished round.
    #[prost(uint64, tag = "3")]
    pub(crate) divergence: u64,
}

/// The sums of the partitions from `first` on.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Partitions {
    #[prost(uint64, tag = "1")]
    pub(crate) round: u64,
    #[prost(uint32, tag = "2")]
    pub(crate) first: u32,
    /// The lower 8 bytes of each sum, little endian: the root has told already that something
    /// differs, and is whole.
    #[prost(bytes = "vec", tag = "3")]
    pub(crate) sums: Vec<u8>,
    /// One bit for each: whether I want to know what is in it.
    #[prost(bytes = "vec", tag = "4")]
    pub(crate) wanted: Vec<u8>,
}

/// What an answer to `Partitions` says.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Keys {
    #[prost(uint64, tag = "1")]
    pub(crate) round: u64,
    /// Which partitions differ; in the first part of an answer.
    #[prost(message, optional, tag = "2")]
    pub(crate) differing: Option<Differing>,
    /// What is held in them.
    #[prost(message, repeated, tag = "3")]
    pub(crate) lists: Vec<List>,
}

/// Which of the partitions from `first` on differ.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Differing {
    #[prost(uint32, tag = "1")]
    pub(crate) first: u32,
    /// One bit for each.
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) bits: Vec<u8>,
    /// How many lists follow, here and in further bodies.
    #[prost(uint32, tag = "3")]
    pub(crate) lists: u32,
}

/// All that is held of a partition between two hashes of keys, both included.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct List {
    #[prost(uint32, tag = "1")]
    pub(crate) partition: u32,
    #[prost(fixed64, tag = "2")]
    pub(crate) lower: u64,
    #[prost(fixed64, tag = "3")]
    pub(crate) upper: u64,
    /// Hash of a key and hash of its content, 8 bytes each, little endian.
    #[prost(bytes = "vec", tag = "4")]
    pub(crate) held: Vec<u8>,
}

/// What is held in some partitions and differs at the receiver.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Offer {
    #[prost(message, repeated, tag = "1")]
    pub(crate) groups: Vec<Group>,
}

/// What is wanted of some partitions.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Pull {
    #[prost(message, repeated, tag = "1")]
    pub(crate) groups: Vec<Group>,
}

/// Keys of one partition.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Group {
    #[prost(uint32, tag = "1")]
    pub(crate) partition: u32,
    /// In `Pull` the hash of a key, 8 bytes, little endian; in `Offer` the hash of its content after it.
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) keys: Vec<u8>,
}

/// Returns the body that says `content`.
pub(crate) fn encode(content: Content) -> Vec<u8> {
    let body = Body {
        schema: SCHEMA,
        content: Some(content),
    };
    body.encode_to_vec()
}

/// Why it cannot be told what a body says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// It is no message of Protocol Buffers, or not of this kind.
    #[error(transparent)]
    Unreadable(#[from] DecodeError),
    /// It is of another schema than [`SCHEMA`].
    #[error("schema {0} is not {SCHEMA}")]
    Schema(u32),
    /// There is nothing in it.
    #[error("nothing is said")]
    Nothing,
    /// One of its records makes no sense.
    #[error(transparent)]
    Record(#[from] RecordError),
}

/// Reads what a body says.
pub(crate) fn decode(body: &[u8]) -> Result<Content, BodyError> {
    match Body::decode(body)? {
        Body { schema, .. } if schema != SCHEMA => Err(BodyError::Schema(schema)),
        Body { content, .. } => content.ok_or(BodyError::Nothing),
    }
}
