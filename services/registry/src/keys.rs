//! The registry's settings as people read them: in `--help` and docs/configuration.md. `config.rs`
//! reads them, and a test there holds the defaults against these words.

use control::settings::Key;

/// The settings of a registry but those of its gRPC face.
const KEYS: &[Key] = &[
    Key::new(
        "cluster",
        "Name of the cluster, under which everything is stored",
    )
    .unit("1 to 63 of a-z, 0-9 and, inside, -")
    .default("tandem")
    .wrong("Another name sees an empty cluster"),
    Key::new(
        "address",
        "Where the faces bind if it is a loopback address; they stay on 127.0.0.1 otherwise, \
         unless they are set themselves",
    )
    .unit("IP address")
    .default("127.0.0.1")
    .wrong("Not an address of this machine: the start fails and says so"),
    Key::new("grpc.listen", "Where gRPC is served")
        .unit("address with port, TCP")
        .default("LOOPBACK:7400")
        .wrong(
            "Nodes on other machines do not reach loopback and go on with what they have. On \
             another address, without `grpc.tls.client_ca`, anybody who reaches it can change the \
             cluster",
        ),
    Key::new(
        "http.listen",
        "Where `/metrics`, `/healthz` and `/readyz` are served",
    )
    .unit("address with port, TCP")
    .default("LOOPBACK:7480")
    .wrong("The same address as gRPC is refused"),
    Key::new(
        "state_dir",
        "Directory of `registry.redb`, the embedded store; made if it is missing",
    )
    .unit("path")
    .default("/var/lib/tandem")
    .wrong(
        "Another one than before is an empty cluster. A second process on the file fails at its \
         start and names the path",
    ),
    Key::new(
        "store.backend",
        "Where the cluster is stored: in a file of this registry, and no second registry, or in \
         etcd, with any number of registries over it",
    )
    .unit("embedded or etcd")
    .default("embedded")
    .wrong("Another one than before has another cluster in it"),
    Key::new(
        "store.etcd.endpoints",
        "Client addresses of etcd's members, all of them, tried in turn",
    )
    .unit("HOST:PORT, http:// or https:// before it")
    .wrong(
        "The registry waits for etcd, ends connections, and says so in its log. A member that is \
         not listed is not asked",
    ),
    Key::new(
        "store.etcd.user",
        "User at etcd, who may read and write below `/tandem/v1/CLUSTER/`",
    )
    .unit("text")
    .wrong("As if etcd did not answer, with the reason in the log and in `/readyz`"),
    Key::new("store.etcd.password_file", "File with the user's password")
        .unit("path")
        .wrong(
            "Missing: the start fails. Another password: as if etcd did not answer, with the \
             reason in the log and in `/readyz`",
        ),
    Key::new(
        "store.etcd.ca",
        "File with the certificates that etcd's are signed with; makes connections TLS",
    )
    .unit("path, PEM")
    .wrong("Not PEM, or endpoints without https://: the start fails. Another CA: as if etcd did not answer"),
    Key::new(
        "store.etcd.cert",
        "File with our certificate, if etcd wants one",
    )
    .unit("path, PEM")
    .wrong("Without its key, or not PEM: the start fails. Not good at etcd: as if it did not answer"),
    Key::new("store.etcd.key", "File with the key of that certificate")
        .unit("path, PEM")
        .wrong("Without its certificate, or not PEM: the start fails"),
    Key::new(
        "members.forget_after",
        "How long a member that was seen may be without life before it is removed; a stock router \
         never is",
    )
    .unit("duration, 1m or more")
    .default("24h")
    .wrong(
        "Shorter than a node may be away: its desired state and tags are gone when it comes back, \
         and who had it for a destination has it no more",
    ),
    Key::new("log.filter", "What is logged, to standard error")
        .unit("level, or such as info,tandem_registry=debug")
        .default("info")
        .wrong("Too much: the lines that matter are lost among the others"),
    Key::new("log.format", "How a log line looks")
        .unit("text or json")
        .default("text")
        .wrong("Whoever collects the lines cannot take them apart"),
];

/// Returns the settings of a registry, in the order of `--help`.
#[must_use]
pub fn keys() -> Vec<Key> {
    KEYS.iter().chain(face::KEYS).copied().collect()
}
