//! A registry and a node as they run in their processes, with sockets and clocks, in that of the test.

use std::path::Path;
use std::time::Duration;

use control::shutdown::Shutdown;
use host::{HostConfig, Role};
use tokio::time::{Instant, sleep};
use tonic::transport::{Channel, Endpoint};

/// How long a test waits for what has to come.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Starts a registry at an IP address, which keeps its state below `directory`.
pub async fn start_registry(ip: &str, directory: &Path, shutdown: &Shutdown) -> Channel {
    let mut config = tandem_registry::Config::at(ip.parse().unwrap());
    config.state_dir = directory.join("registry");
    let face = config.grpc_listen.to_string();
    tokio::spawn(tandem_registry::run(config, shutdown.clone()));
    connect(&face).await
}

/// Reads the settings of a node, pairs of flag and value; it keeps its state below `directory`.
#[must_use]
pub fn settings<R: Role>(directory: &Path, flags: &[(&str, &str)]) -> HostConfig {
    let defaults = R::defaults();
    let state = directory.join(defaults.node);
    let flags = flags.iter().flat_map(|(flag, value)| [*flag, *value]);
    let arguments = [R::PROGRAM, "--state-dir", state.to_str().unwrap()];
    let arguments = arguments.into_iter().chain(flags).map(str::to_owned);
    let matches = host::command::<R>().get_matches_from(arguments);
    HostConfig::gather(&defaults, &matches).unwrap().0
}

/// Starts a node.
pub async fn start_node<R: Role>(config: HostConfig, shutdown: &Shutdown) -> Channel {
    let face = config.grpc.to_string();
    tokio::spawn(host::run::<R>(config, shutdown.clone()));
    connect(&face).await
}

/// Connects to a gRPC face that may still be starting.
pub async fn connect(address: &str) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    let deadline = Instant::now() + PATIENCE;
    loop {
        match endpoint.connect().await {
            Ok(channel) => return channel,
            Err(error) => assert!(Instant::now() < deadline, "{address}: {error}"),
        }
        sleep(Duration::from_millis(20)).await;
    }
}
