//! Tandem in the arrangement of `bench/peer`: a registry, an SBC, two routers that replicate, one route
//! to the IPBX.

use std::fs::{self, File};
use std::net::UdpSocket;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use control::registry::v1::route_result::NextHop;
use control::registry::v1::route_service_client::RouteServiceClient;
use control::registry::v1::{Route, RouteResult, UpdateRouteRequest};
use control::router::v1::replication_service_client::ReplicationServiceClient;
use control::router::v1::{GetReplicationStatusRequest, ReplicationStatus};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::shell;

const REGISTRY: &str = "127.0.0.1:7400";
const IPBX: &str = "sip:127.0.0.40:5060";
const ROUTERS: [(&str, &str); 2] = [("router1", "127.0.0.31"), ("router2", "127.0.0.32")];

/// How long the processes may take to be ready, or to end.
const PATIENCE: Duration = Duration::from_secs(15);

/// Running processes; they end when this is dropped.
pub(super) struct Tandem {
    processes: Vec<Process>,
}

struct Process {
    name: &'static str,
    child: Child,
}

impl Tandem {
    /// Starts everything under `directory` and waits until the SBC takes calls.
    pub(super) fn start(directory: &Path) -> Result<Self> {
        let mut tandem = Self {
            processes: Vec::new(),
        };
        tandem.start_all(directory)?;
        Ok(tandem)
    }

    fn start_all(&mut self, directory: &Path) -> Result<()> {
        self.spawn(directory, "registry", "registry", "127.0.0.1", "")?;
        block_on(put_route())?;
        let sip = |address: &str, allow: &str| {
            format!("[sip]\nlisten = [\"{address}:5060\"]\nallow = [{allow}]\n")
        };
        for (name, address) in ROUTERS {
            self.spawn(directory, name, "router", address, &sip(address, ""))?;
        }
        let carrier_and_ipbx = "\"127.0.0.10\", \"127.0.0.40\"";
        self.spawn(
            directory,
            "sbc",
            "sbc",
            "127.0.0.20",
            &sip("127.0.0.20", carrier_and_ipbx),
        )?;
        block_on(wait_until_replicating())?;
        self.wait_until_ready()
    }

    fn spawn(
        &mut self,
        directory: &Path,
        name: &'static str,
        kind: &str,
        address: &str,
        more: &str,
    ) -> Result<()> {
        let state = directory.join(name);
        fs::create_dir(&state)?;
        let mut text =
            format!("cluster = \"bench\"\naddress = {address:?}\nstate_dir = {state:?}\n");
        if kind != "registry" {
            // One worker each: three of them share the machine with SIPp, and one is enough.
            text += &format!("node = {name:?}\nregistry = {REGISTRY:?}\nworkers = 1\n");
        }
        let config = directory.join(format!("{name}.toml"));
        fs::write(&config, text + more)?;
        let file = File::create(directory.join(format!("{name}.log")))?;
        let child = Command::new(binary())
            .args(["run", kind, "--config"])
            .arg(config)
            .stdout(file.try_clone()?)
            .stderr(file)
            // A group of its own: run.py kills a router by its group, as it does Kamailio's processes.
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {}", binary().display()))?;
        self.processes.push(Process { name, child });
        Ok(())
    }

    /// Waits for a 200 to OPTIONS: the SBC says 503 while it has no router.
    fn wait_until_ready(&mut self) -> Result<()> {
        let socket = UdpSocket::bind("127.0.0.10:0")?;
        socket.set_read_timeout(Some(Duration::from_millis(200)))?;
        let end = Instant::now() + PATIENCE;
        let mut attempt = 0;
        let mut answer = "nothing".to_owned();
        while Instant::now() < end {
            self.check_running()?;
            attempt += 1;
            let local = socket.local_addr()?;
            let options = format!(
                "OPTIONS sip:127.0.0.20:5060 SIP/2.0\r\nVia: SIP/2.0/UDP {local};branch=z9hG4bKready{attempt};rport\r\n\
                 From: <sip:bench@127.0.0.10>;tag=ready\r\nTo: <sip:127.0.0.20:5060>\r\nCall-ID: ready-{attempt}@127.0.0.10\r\n\
                 CSeq: {attempt} OPTIONS\r\nMax-Forwards: 70\r\nContent-Length: 0\r\n\r\n"
            );
            socket.send_to(options.as_bytes(), "127.0.0.20:5060")?;
            let mut buffer = [0; 2048];
            if let Ok(length) = socket.recv(&mut buffer) {
                answer = String::from_utf8_lossy(&buffer[..length])
                    .lines()
                    .next()
                    .unwrap_or_default()
                    .to_owned();
                if answer.starts_with("SIP/2.0 200") {
                    // Both routers shall be probed and in the set.
                    std::thread::sleep(Duration::from_secs(3));
                    return Ok(());
                }
                std::thread::sleep(Duration::from_millis(200));
            }
        }
        bail!("the SBC was not ready after {PATIENCE:?}: it answered {answer} to OPTIONS")
    }

    fn check_running(&mut self) -> Result<()> {
        for process in &mut self.processes {
            if let Some(status) = process.child.try_wait()? {
                bail!("{} ended: {status}", process.name);
            }
        }
        Ok(())
    }

    /// Returns the processes under test in the words of `run.py --pids`.
    pub(super) fn pids(&self) -> String {
        let under_test = self
            .processes
            .iter()
            .filter(|process| process.name != "registry");
        under_test
            .map(|process| format!("{}={}", process.name, process.child.id()))
            .collect::<Vec<_>>()
            .join(",")
    }
}

impl Drop for Tandem {
    fn drop(&mut self) {
        // The registry last, so that the others end as they would in service.
        for process in self.processes.iter_mut().rev() {
            process.end();
        }
    }
}

impl Process {
    fn end(&mut self) {
        let running = |child: &mut Child| matches!(child.try_wait(), Ok(None));
        if running(&mut self.child) {
            // It may have ended in between.
            let _ = kill(
                Pid::from_raw(self.child.id().cast_signed()),
                Signal::SIGTERM,
            );
        }
        let end = Instant::now() + PATIENCE;
        while running(&mut self.child) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn block_on(what: impl Future<Output = Result<()>>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(what)
}

/// Puts the one rule into the registry: everything goes to the IPBX.
async fn put_route() -> Result<()> {
    let end = Instant::now() + PATIENCE;
    let mut client = loop {
        match RouteServiceClient::connect(format!("http://{REGISTRY}")).await {
            Ok(client) => break client,
            Err(error) if Instant::now() > end => {
                return Err(error).context("the registry does not answer");
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    };
    let result = RouteResult {
        next_hop: Some(NextHop::Uri(IPBX.to_owned())),
        ..RouteResult::default()
    };
    let route = Route {
        name: "routes/ipbx".to_owned(),
        results: vec![result],
        ..Route::default()
    };
    let request = UpdateRouteRequest {
        route: Some(route),
        allow_missing: true,
        ..UpdateRouteRequest::default()
    };
    client
        .update_route(request)
        .await
        .context("the registry refuses the route")?;
    Ok(())
}

/// Waits until each router has the other on its bus.
async fn wait_until_replicating() -> Result<()> {
    let end = Instant::now() + PATIENCE;
    for (name, address) in ROUTERS {
        while !replication_status(address)
            .await
            .is_ok_and(|status| status.ready && status.nodes_active == 1)
        {
            ensure!(
                Instant::now() < end,
                "{name} did not find the other router on the bus within {PATIENCE:?}"
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    Ok(())
}

async fn replication_status(address: &str) -> Result<ReplicationStatus> {
    let mut client = ReplicationServiceClient::connect(format!("http://{address}:7401")).await?;
    let status = client.get_replication_status(GetReplicationStatusRequest {});
    Ok(status.await?.into_inner())
}

pub(super) fn binary() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| shell::root().join("target"), PathBuf::from);
    target.join("release/tandem")
}
