//! The processes of the demo: started, struck and ended by their process ids.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::net::IpAddr;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use control::registry::v1::member_service_client::MemberServiceClient;
use control::registry::v1::route_service_client::RouteServiceClient;
use control::registry::v1::{
    CreateRouteRequest, Member, MemberKind, Route, RouteResult, SipEndpoint, UpdateMemberRequest,
    route_result::NextHop,
};
use control::router::v1::replication_service_client::ReplicationServiceClient;
use control::router::v1::{GetReplicationStatusRequest, ReplicationStatus};
use control::sbc::v1::status_service_client::StatusServiceClient;
use control::sbc::v1::{DestinationHealth, DestinationStatus, ListDestinationsRequest};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use tempfile::TempDir;
use tonic::transport::Channel;

use super::network::{Block, DMQ_PORT};
use super::{etcd, kamailio};

/// How long the processes may take to find each other.
const READY_MAX: Duration = Duration::from_secs(10);

/// Who the two routers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Routers {
    /// Two Tandem routers.
    Tandem,
    /// A Tandem router and a Kamailio.
    WithKamailio,
}

impl Routers {
    /// Returns the id of router 0 or 1.
    pub(crate) fn name(self, index: usize) -> &'static str {
        match (index, self) {
            (0, _) => "router-1",
            (_, Self::Tandem) => "router-2",
            (_, Self::WithKamailio) => "kamailio",
        }
    }
}

/// Where the registry stores the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Store {
    /// In a file of its own.
    Embedded,
    /// In an etcd of three members.
    Etcd,
}

struct Process {
    name: &'static str,
    child: Child,
    /// Whether it is many processes, in a group of their own.
    is_group: bool,
}

/// Everything that runs; ended when dropped.
pub(crate) struct System {
    block: Block,
    routers: Routers,
    directory: TempDir,
    processes: Vec<Process>,
}

impl System {
    /// Starts every process. Their order means nothing.
    pub(crate) fn start(block: Block, routers: Routers, store: Store) -> anyhow::Result<Self> {
        let directory = TempDir::with_prefix("tandem-demo-")?;
        let mut system = Self {
            block,
            routers,
            directory,
            processes: Vec::new(),
        };
        let mut stored = String::new();
        if store == Store::Etcd {
            for (index, name) in (0..).zip(etcd::NAMES) {
                let command = etcd::command(block, index, &system.path().join(name));
                system.start_process(name, command, false)?;
            }
            stored = etcd::settings(block);
        }
        system.spawn("registry", "registry", block.registry(), &stored)?;
        for index in system.tandem_routers() {
            system.spawn("router", routers.name(index), block.router(index).ip(), "")?;
        }
        if routers == Routers::WithKamailio {
            system.spawn_kamailio()?;
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

    fn spawn(
        &mut self,
        role: &str,
        name: &'static str,
        address: IpAddr,
        more: &str,
    ) -> anyhow::Result<()> {
        let state = self.path().join(name);
        fs::create_dir_all(&state)?;
        let mut config = format!(
            "address = \"{address}\"\nstate_dir = \"{}\"\n",
            state.display()
        );
        if role != "registry" {
            write!(
                config,
                "node = \"{name}\"\nregistry = [\"{}:7400\"]\n",
                self.block.registry()
            )?;
        }
        config += more;
        let file = self.path().join(format!("{name}.toml"));
        fs::write(&file, config)?;
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["run", role, "--config"]).arg(&file);
        self.start_process(name, command, false)
    }

    fn spawn_kamailio(&mut self) -> anyhow::Result<()> {
        let name = self.routers.name(1);
        let program = kamailio::program().context("Kamailio is not installed any more")?;
        let file = self.path().join(format!("{name}.cfg"));
        let control = self.path().join(format!("{name}.control"));
        fs::write(&file, kamailio::config(self.block, &control))?;
        let mut command = Command::new(program);
        command.arg("-f").arg(file);
        command.args(["-DD", "-E", "-m", "256", "-M", "16"]);
        // Its children outlive it when it is killed.
        command.process_group(0);
        self.start_process(name, command, true)
    }

    fn start_process(
        &mut self,
        name: &'static str,
        mut command: Command,
        is_group: bool,
    ) -> anyhow::Result<()> {
        let log = File::create(self.path().join(format!("{name}.log")))?;
        let command = command.stdin(Stdio::null()).stdout(Stdio::null());
        let child = command.stderr(log).spawn();
        self.processes.push(Process {
            name,
            child: child.with_context(|| format!("starting {name}"))?,
            is_group,
        });
        Ok(())
    }

    /// Waits until the SBC has found both routers alive and they each other, and tells the registry
    /// where calls go.
    pub(crate) async fn ready(&mut self) -> anyhow::Result<()> {
        let start = Instant::now();
        let mut described = false;
        loop {
            self.check()?;
            if !described {
                described = self.describe().await.is_ok();
            } else if self
                .destinations()
                .await
                .is_ok_and(|all| all.len() == 2 && all.iter().all(is_up))
                && self
                    .replication_status(0)
                    .await
                    .is_ok_and(|status| status.nodes_active == 1)
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

    /// Tells the registry what it cannot find out.
    async fn describe(&self) -> anyhow::Result<()> {
        let registry = connect(self.block.registry(), 7400).await?;
        if self.routers == Routers::WithKamailio {
            self.add_kamailio(registry.clone()).await?;
        }
        self.add_route(registry).await
    }

    async fn add_kamailio(&self, registry: Channel) -> anyhow::Result<()> {
        let address = self.block.router(1);
        let member = Member {
            name: format!("members/{}", self.routers.name(1)),
            kind: MemberKind::StockRouter.into(),
            address: address.ip().to_string(),
            sip: vec![SipEndpoint {
                address: address.to_string(),
                ..SipEndpoint::default()
            }],
            dmq_port: DMQ_PORT.into(),
            ..Member::default()
        };
        let request = UpdateMemberRequest {
            member: Some(member),
            allow_missing: true,
            ..UpdateMemberRequest::default()
        };
        MemberServiceClient::new(registry)
            .update_member(request)
            .await?;
        Ok(())
    }

    async fn add_route(&self, registry: Channel) -> anyhow::Result<()> {
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
        RouteServiceClient::new(registry)
            .create_route(CreateRouteRequest {
                route: Some(route),
                ..CreateRouteRequest::default()
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

    pub(crate) async fn router_channel(&self, router: usize) -> anyhow::Result<Channel> {
        connect(self.block.router(router).ip(), 7401).await
    }

    /// Asks a Tandem router for the state of its replica.
    pub(crate) async fn replication_status(
        &self,
        router: usize,
    ) -> anyhow::Result<ReplicationStatus> {
        let mut client = ReplicationServiceClient::new(self.router_channel(router).await?);
        let status = client.get_replication_status(GetReplicationStatusRequest {});
        Ok(status.await?.into_inner())
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
                status.id == self.routers.name(router)
                    && status.state() == DestinationHealth::Inactive
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

    /// Returns which routers are Tandem's.
    pub(crate) fn tandem_routers(&self) -> std::ops::Range<usize> {
        match self.routers {
            Routers::Tandem => 0..2,
            Routers::WithKamailio => 0..1,
        }
    }

    /// Returns which of them were not killed.
    pub(crate) fn living_tandem_routers(&self) -> impl Iterator<Item = usize> {
        let runs = |name| self.processes.iter().any(|process| process.name == name);
        self.tandem_routers()
            .filter(move |router| runs(self.routers.name(*router)))
    }

    pub(crate) fn kill_router(&mut self, index: usize) -> anyhow::Result<()> {
        let process = self.router(index)?;
        process.signal(Signal::SIGKILL)?;
        process.child.wait()?;
        let name = self.routers.name(index);
        self.processes.retain(|process| process.name != name);
        Ok(())
    }

    pub(crate) fn freeze_router(&mut self, index: usize) -> anyhow::Result<()> {
        self.router(index)?.signal(Signal::SIGSTOP)
    }

    pub(crate) fn thaw_router(&mut self, index: usize) -> anyhow::Result<()> {
        self.router(index)?.signal(Signal::SIGCONT)
    }

    fn router(&mut self, index: usize) -> anyhow::Result<&mut Process> {
        let name = self.routers.name(index);
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
        for router in self.living_tandem_routers() {
            let (name, host) = (self.routers.name(router), self.block.router(router).ip());
            let _ = writeln!(
                text,
                "  bus      tandem bus watch --address {host}:7401 ({name})"
            );
        }
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
    fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = Pid::from_raw(self.child.id().cast_signed());
        match self.is_group {
            true => killpg(pid, signal)?,
            false => kill(pid, signal)?,
        }
        Ok(())
    }
}

impl Drop for System {
    fn drop(&mut self) {
        for process in &mut self.processes {
            // A process that has ended already needs no signal.
            if let Ok(None) = process.child.try_wait() {
                let _ = process.signal(Signal::SIGKILL);
                let _ = process.child.wait();
            }
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
