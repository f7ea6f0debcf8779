//! The processes of the demo: started, struck and ended by their process ids.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use control::registry::v1::route_service_client::RouteServiceClient;
use control::registry::v1::{CreateRouteRequest, Route, RouteResult, route_result::NextHop};
use control::sbc::v1::status_service_client::StatusServiceClient;
use control::sbc::v1::{DestinationHealth, DestinationStatus, ListDestinationsRequest};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tonic::transport::Channel;

use super::network::Block;

/// How long the processes may take to find each other.
const READY_MAX: Duration = Duration::from_secs(10);

/// Returns the id of router 0 or 1.
pub(crate) fn router_name(index: usize) -> String {
    format!("router-{}", index + 1)
}

struct Process {
    name: String,
    child: Child,
}

/// Everything that runs; ended when dropped.
pub(crate) struct System {
    block: Block,
    directory: TempDir,
    processes: Vec<Process>,
}

impl System {
    /// Starts every process. Their order means nothing.
    pub(crate) fn start(block: Block) -> anyhow::Result<Self> {
        let directory = TempDir::with_prefix("tandem-demo-")?;
        let mut system = Self {
            block,
            directory,
            processes: Vec::new(),
        };
        system.spawn("registry", "registry", block.registry(), "")?;
        for index in 0..2 {
            system.spawn("router", &router_name(index), block.router(index).ip(), "")?;
        }
        let allow = format!(
            "[sip]\nallow = [\"{}\", \"{}\"]\n",
            block.carrier().ip(),
            block.ipbx().ip()
        );
        system.spawn("sbc", "sbc", block.sbc().ip(), &allow)?;
        Ok(system)
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn spawn(&mut self, role: &str, name: &str, address: IpAddr, more: &str) -> anyhow::Result<()> {
        let state = self.path().join(name);
        fs::create_dir_all(&state)?;
        let mut config = format!(
            "address = \"{address}\"\nstate_dir = \"{}\"\n",
            state.display()
        );
        if role != "registry" {
            write!(
                config,
                "node = \"{name}\"\nregistry = [\"{}:7400\"]\n{more}",
                self.block.registry()
            )?;
        }
        let file = self.path().join(format!("{name}.toml"));
        fs::write(&file, config)?;
        let log = File::create(self.path().join(format!("{name}.log")))?;
        let child = Command::new(std::env::current_exe()?)
            .args(["run", role, "--config"])
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .with_context(|| format!("starting {name}"))?;
        self.processes.push(Process {
            name: name.to_owned(),
            child,
        });
        Ok(())
    }

    /// Waits until the SBC has found both routers alive, and tells the registry where calls go.
    pub(crate) async fn ready(&mut self) -> anyhow::Result<()> {
        let start = Instant::now();
        let mut routed = false;
        loop {
            self.check()?;
            if !routed {
                routed = self.add_route().await.is_ok();
            } else if self
                .destinations()
                .await
                .is_ok_and(|all| all.len() == 2 && all.iter().all(is_up))
            {
                return Ok(());
            }
            if start.elapsed() > READY_MAX {
                let logs = self.keep_logs();
                bail!(
                    "the processes did not find each other within {READY_MAX:?}; their logs are in {}",
                    logs.display()
                );
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Fails with the log of a process that has ended by itself.
    fn check(&mut self) -> anyhow::Result<()> {
        let directory = self.path().to_owned();
        for process in &mut self.processes {
            if let Some(status) = process.child.try_wait()? {
                let log = fs::read_to_string(directory.join(format!("{}.log", process.name)))?;
                bail!("{} ended with {status}:\n{log}", process.name);
            }
        }
        Ok(())
    }

    async fn add_route(&self) -> anyhow::Result<()> {
        let uri = format!("sip:{}", self.block.ipbx());
        let result = RouteResult {
            next_hop: Some(NextHop::Uri(uri)),
            ..RouteResult::default()
        };
        let route = Route {
            name: "routes/to-the-ipbx".to_owned(),
            results: vec![result],
            ..Route::default()
        };
        let mut client = RouteServiceClient::new(connect(self.block.registry(), 7400).await?);
        client
            .create_route(CreateRouteRequest {
                route: Some(route),
                validate_only: false,
            })
            .await?;
        Ok(())
    }

    async fn destinations(&self) -> anyhow::Result<Vec<DestinationStatus>> {
        let mut client = StatusServiceClient::new(self.sbc_channel().await?);
        let all = client
            .list_destinations(ListDestinationsRequest::default())
            .await?;
        Ok(all.into_inner().destinations)
    }

    pub(crate) async fn sbc_channel(&self) -> anyhow::Result<Channel> {
        connect(self.block.sbc().ip(), 7402).await
    }

    /// Waits until the SBC holds a router inactive; returns how long after `at` that was.
    pub(crate) async fn wait_until_lost(
        &self,
        router: usize,
        at: u64,
        patience: Duration,
    ) -> anyhow::Result<Option<Duration>> {
        let mut client = StatusServiceClient::new(self.sbc_channel().await?);
        let start = Instant::now();
        while start.elapsed() < patience {
            let all = client
                .list_destinations(ListDestinationsRequest::default())
                .await?
                .into_inner()
                .destinations;
            let lost = all.iter().find(|status| {
                status.id == router_name(router) && status.state() == DestinationHealth::Inactive
            });
            if let Some(since) = lost.and_then(|status| status.since) {
                let since = since.seconds as u64 * 1_000_000_000 + since.nanos as u64;
                return Ok(Some(Duration::from_nanos(since.saturating_sub(at))));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(None)
    }

    /// Returns the SIP addresses of the routers.
    pub(crate) fn routers(&self) -> [std::net::SocketAddr; 2] {
        [self.block.router(0), self.block.router(1)]
    }

    pub(crate) fn kill_router(&mut self, index: usize) -> anyhow::Result<()> {
        let process = self.router(index)?;
        process.child.kill()?;
        process.child.wait()?;
        let name = router_name(index);
        self.processes.retain(|process| process.name != name);
        Ok(())
    }

    pub(crate) fn freeze_router(&mut self, index: usize) -> anyhow::Result<()> {
        Ok(kill(self.router(index)?.pid(), Signal::SIGSTOP)?)
    }

    pub(crate) fn thaw_router(&mut self, index: usize) -> anyhow::Result<()> {
        Ok(kill(self.router(index)?.pid(), Signal::SIGCONT)?)
    }

    fn router(&mut self, index: usize) -> anyhow::Result<&mut Process> {
        let name = router_name(index);
        self.processes
            .iter_mut()
            .find(|process| process.name == name)
            .with_context(|| format!("{name} does not run"))
    }

    /// Leaves logs and configurations behind and says where.
    pub(crate) fn keep_logs(&mut self) -> PathBuf {
        self.directory.disable_cleanup(true);
        self.path().to_owned()
    }

    /// Says who can be reached where.
    pub(crate) fn addresses(&self) -> String {
        let (sbc, registry) = (self.block.sbc(), self.block.registry());
        let mut text = format!(
            "left running until Ctrl-C:\n  SIP      {sbc} (send from {} or {}; that is the list of who may)\n  \
             gRPC     SBC {}:7402, registry {registry}:7400 (with reflection)\n  HTTP     http://{}:7482/metrics\n",
            self.block.carrier().ip(),
            self.block.ipbx().ip(),
            sbc.ip(),
            sbc.ip()
        );
        let ipbx = self.block.ipbx();
        let _ = write!(
            text,
            "  try      sipp -sf bench/peer/uas.xml -i {} -p 5060 -bg\n           sipp -sf bench/peer/uac.xml -i {} -p 5060 -s 15145550199 {sbc} -m 10\n           \
             grpcurl -plaintext {}:7402 tandem.sbc.v1.StatusService/ListDestinations",
            ipbx.ip(),
            self.block.carrier().ip(),
            sbc.ip()
        );
        text
    }
}

impl Process {
    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }
}

impl Drop for System {
    fn drop(&mut self) {
        for process in &mut self.processes {
            // A process that has ended already needs no signal.
            let _ = process.child.kill();
            let _ = process.child.wait();
        }
    }
}

fn is_up(status: &DestinationStatus) -> bool {
    status.state() == DestinationHealth::Active && status.reason == "answering" && !status.draining
}

async fn connect(host: IpAddr, port: u16) -> anyhow::Result<Channel> {
    Ok(Channel::from_shared(format!("http://{host}:{port}"))?
        .connect()
        .await?)
}
