//! The settings of an SBC and a router as people read them: in `--help` and docs/configuration.md.
//! `config.rs` reads them, and a test there holds the defaults against these words.

use control::channel;
use control::settings::Key;

use crate::config::RoleDefaults;

/// The settings of all roles but those of TLS and gRPC; [`keys`] are all of one role.
const KEYS: &[Key] = &[
    Key::new("node", "Id of this node in the cluster")
        .unit("1 to 63 of a-z, 0-9 and, inside, -")
        .default("sbc, router")
        .wrong(
            "Two living nodes of one id: the second stays out (ALREADY_EXISTS) until the first is \
             gone. Another id than before is another member; the old one stays listed until it is \
             deleted",
        ),
    Key::new("cluster", "Name of the cluster")
        .unit("as a node's id")
        .default("tandem")
        .wrong(
            "Nothing: a node belongs to the cluster of the registry that it reaches; only the \
             registry uses the name so far",
        ),
    Key::new(
        "cell",
        "Cell of a router: where its heirs are looked for first, and who shares its dialogs",
    )
    .unit("as a node's id")
    .default("default")
    .wrong(
        "The router shares its dialogs with others than its heirs. It counts at the first \
         registration; afterwards the registry's value does",
    ),
    Key::new(
        "address",
        "The one address that all faces bind to unless they are set themselves",
    )
    .unit("IP address")
    .default("127.0.0.1")
    .wrong("Not an address of this machine: the start fails and says so"),
    Key::new(
        "advertise",
        "What others are told instead of `address`, and what stands in Via and Record-Route",
    )
    .unit("IP address")
    .default("ADDRESS")
    .wrong("If packets to it do not arrive here, the node is held dead"),
    Key::new(
        "registry",
        "gRPC addresses of the registries, tried in turn",
    )
    .unit("addresses with ports")
    .default("LOOPBACK:7400")
    .wrong(
        "The node runs on with its last good configuration, or, if it never had one, answers new \
         calls with 503",
    ),
    Key::new(
        "workers",
        "Threads that move SIP, each with sockets of its own",
    )
    .unit("1 to 64")
    .default("one for each core")
    .wrong("Too many: they only wake each other. Too few: a core stays idle under load"),
    Key::new(
        "shards",
        "Independent parts that calls are spread over; limits on calls (1 000 000 requests under \
         way, 500 000 dialogs) are shared out among them",
    )
    .unit("1 to 1024")
    .default("32")
    .wrong("Too few: workers wait for each other's locks"),
    Key::new(
        "state_dir",
        "Directory of the last good configuration, the incarnation and the cluster's addresses; \
         made if it is missing, what holds the cluster key readable to its owner alone",
    )
    .unit("path")
    .default("/var/lib/tandem/NODE")
    .wrong(
        "Emptied: the node needs the registry to start, and no longer knows former addresses. Not \
         writable: the start fails and says so",
    ),
    Key::new(
        "sip.listen",
        "Where SIP is received; an SBC may have two addresses: outside, then inside",
    )
    .unit("addresses with ports, UDP")
    .default("ADDRESS:5060")
    .wrong(
        "The wildcard is refused: the address stands in Via. A taken port: the start fails and \
         names the holder",
    ),
    Key::new(
        "sip.allow",
        "Networks that may send SIP besides the cluster's members; at the SBC carriers and IPBXs, \
         besides those that the registry lists as trunks",
    )
    .unit("networks, such as 192.0.2.0/24")
    .wrong(
        "Too narrow: their messages are dropped without an answer and counted as `not_allowed`. \
         Too wide: strangers place calls",
    ),
    Key::new(
        "sip.egress",
        "How requests leave a router: back to the SBC they came from, which delivers them, or \
         straight to the next hop, without the headers of the inside",
    )
    .unit("sbc or direct")
    .default("sbc")
    .wrong(
        "`direct`: only first requests and carrier-side in-dialog requests fail over, as `--check` \
         says ([failover.md](failover.md#routers-that-send-straight-on)), and `sip.allow` must \
         list the IPBXs: their own requests inside a dialog come straight to the router",
    ),
    Key::new(
        "dmq.listen",
        "Where KDMQ is spoken with the other routers of the cell",
    )
    .unit("address with port, UDP")
    .default("ADDRESS:5062")
    .wrong(
        "Not at `address`, or the address of SIP: refused, since the registry tells the others \
         the port only",
    ),
    Key::new(
        "dmq.allow",
        "Networks that may speak KDMQ besides the cell's members and its `stock_nodes`",
    )
    .unit("networks")
    .wrong("Too wide: strangers write into the cell's dialogs and tables"),
    Key::new(
        "records.path",
        "File that a record of every ended call is added to, one JSON object a line",
    )
    .unit("path")
    .default("STATE_DIR/calls.jsonl")
    .wrong("Cannot be opened: the start fails and says so"),
    Key::new("grpc.listen", "Where gRPC is served")
        .unit("address with port, TCP")
        .default("LOOPBACK:7402, LOOPBACK:7401")
        .wrong(
            "On another address than loopback, without `grpc.tls.client_ca`, anybody who reaches it \
             can operate the node",
        ),
    Key::new(
        "http.listen",
        "Where `/metrics`, `/healthz` and `/readyz` are served",
    )
    .unit("address with port, TCP")
    .default("LOOPBACK:7482, LOOPBACK:7481")
    .wrong("On another address than loopback anybody who reaches it reads the metrics"),
    Key::new(
        "log.filter",
        "What is logged, to standard error, unless the profile in the registry says otherwise",
    )
        .unit("level, or such as info,tandem_sbc=debug")
        .default("info")
        .wrong(
            "At `debug` every decision about a request is a line with its `call_id`; at `info` and \
             above no line says who calls whom",
        ),
    Key::new("log.format", "How a log line looks")
        .unit("text or json")
        .default("text")
        .wrong("Whoever collects the lines cannot take them apart"),
    Key::new(
        "drain_timeout",
        "How long SIGTERM waits, unless the profile in the registry says otherwise: a router for its \
         transactions, an SBC for its dialogs too",
    )
    .unit("duration")
    .default("30s")
    .wrong("Too short: what is still going on is cut off"),
];

/// Returns the settings of one role, in the order of `--help`.
#[must_use]
pub fn keys(defaults: &RoleDefaults) -> Vec<Key> {
    let has = |key: &&Key| match key.name.split_once('.') {
        Some(("sip", "egress")) => defaults.egress,
        Some(("dmq", _)) => defaults.dmq_port.is_some(),
        Some(("records", _)) => defaults.records.is_some(),
        Some(_) | None => true,
    };
    let shared = channel::KEYS.iter().chain(face::KEYS);
    KEYS.iter().filter(has).chain(shared).copied().collect()
}
