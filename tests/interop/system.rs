//! The processes under test: started, struck and ended by their ids.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use control::registry::v1::route_service_client::RouteServiceClient;
use control::registry::v1::status_service_client::StatusServiceClient as RegistryStatusClient;
use control::registry::v1::{
    GetConfigStatusRequest, Route, RouteResult, UpdateRouteRequest, route_result::NextHop,
};
use control::sbc::v1::status_service_client::StatusServiceClient;
use control::sbc::v1::{
    DestinationHealth, DestinationStatus, GetStatusRequest, ListDestinationsRequest, Status,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tempfile::TempDir;
use tonic::transport::{Channel, Endpoint};

use crate::quiet::{binary, say};

/// How long anything may take that should take a moment.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// The processes under test, in the order in which they are started.
pub(crate) const NODES: [&str; 4] = ["registry", "router-1", "router-2", "sbc"];

/// Both routers.
pub(crate) const ROUTERS: [&str; 2] = ["router-1", "router-2"];

/// Where a node or a user agent lives.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) ip: Ipv4Addr,
    /// The network namespace, if it is not the one of this process.
    pub(crate) namespace: Option<String>,
}

/// Where everybody lives: the nodes, `carrier` and `ipbx`.
#[derive(Clone, Debug)]
pub(crate) struct Places(pub(crate) BTreeMap<&'static str, Place>);

impl Places {
    /// Finds a block of 127.0.0.0/8 on which nobody holds the ports.
    pub(crate) fn on_loopback() -> Self {
        let mut random = StdRng::from_os_rng();
        loop {
            // `tandem demo` looks for its block from 127.64 on.
            let (x, y) = (random.random_range(16..64), random.random_range(1..250));
            let place = |host| Place {
                ip: Ipv4Addr::new(127, x, y, host),
                namespace: None,
            };
            let places = Self(BTreeMap::from([
                ("registry", place(1)),
                ("registry-2", place(2)),
                ("carrier", place(10)),
                ("sbc", place(20)),
                ("sbc-2", place(21)),
                ("sbc-3", place(22)),
                ("router-1", place(31)),
                ("router-2", place(32)),
                ("kamailio-1", place(33)),
                ("kamailio-2", place(34)),
                ("ipbx", place(40)),
            ]));
            let free = |place: &Place| UdpSocket::bind((place.ip, 5060)).is_ok();
            if places.0.values().all(free) && TcpListener::bind(places.grpc("registry")).is_ok() {
                return places;
            }
        }
    }

    pub(crate) fn of(&self, name: &str) -> &Place {
        &self.0[name]
    }

    pub(crate) fn sip(&self, name: &str) -> SocketAddr {
        SocketAddr::new(self.of(name).ip.into(), 5060)
    }

    pub(crate) fn grpc(&self, name: &str) -> SocketAddr {
        SocketAddr::new(self.of(name).ip.into(), 7400 + face(name))
    }

    pub(crate) fn http(&self, name: &str) -> SocketAddr {
        SocketAddr::new(self.of(name).ip.into(), 7480 + face(name))
    }

    /// Returns a command that runs a program where `name` lives.
    pub(crate) fn command(&self, name: &str, program: impl AsRef<Path>) -> Command {
        match &self.of(name).namespace {
            None => Command::new(program.as_ref()),
            Some(namespace) => {
                let mut command = Command::new("ip");
                command
                    .args(["netns", "exec", namespace])
                    .arg(program.as_ref());
                command
            }
        }
    }

    /// Runs `f` on a thread of its own where `name` lives; its sockets stay there.
    pub(crate) fn within<T: Send>(&self, name: &str, f: impl FnOnce() -> T + Send) -> T {
        let namespace = self.of(name).namespace.clone();
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                if let Some(namespace) = namespace {
                    let file = File::open(Path::new("/run/netns").join(namespace)).unwrap();
                    nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
                }
                f()
            });
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

fn face(name: &str) -> u16 {
    match name {
        "registry" | "registry-2" => 0,
        "sbc" | "sbc-2" | "sbc-3" => 2,
        _ => 1,
    }
}

/// Everything that runs; killed when dropped.
pub(crate) struct System {
    pub(crate) places: Places,
    /// Members of the etcd that two registries share; without any there is one registry with a store
    /// of its own.
    pub(crate) etcd: Vec<String>,
    directory: Option<TempDir>,
    running: BTreeMap<&'static str, Child>,
}

impl System {
    /// Starts everything on loopback and waits until calls can be placed.
    pub(crate) fn ready() -> Self {
        Self::ready_at(Places::on_loopback())
    }

    /// Starts everything at these places and waits until calls can be placed.
    pub(crate) fn ready_at(places: Places) -> Self {
        let mut system = Self::at(places);
        for node in NODES {
            system.start(node);
        }
        system.put_route();
        system.wait_until_ready();
        system
    }

    /// Starts nothing yet.
    pub(crate) fn at(places: Places) -> Self {
        Self {
            places,
            etcd: Vec::new(),
            directory: Some(TempDir::with_prefix("tandem-interop-").unwrap()),
            running: BTreeMap::new(),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory
            .as_ref()
            .expect("is kept until the end")
            .path()
    }

    pub(crate) fn sip(&self, name: &str) -> SocketAddr {
        self.places.sip(name)
    }

    /// Writes the configuration of a node and returns its path.
    pub(crate) fn config(&self, name: &str) -> PathBuf {
        let (place, state) = (self.places.of(name), self.path().join(name));
        fs::create_dir_all(&state).unwrap();
        let mut text = format!("address = \"{}\"\nstate_dir = {state:?}\n", place.ip);
        let is_registry = name.starts_with("registry");
        if !is_registry {
            let addresses = self
                .registries()
                .map(|name| self.places.grpc(name).to_string());
            let registries: Vec<_> = addresses.collect();
            writeln!(text, "node = {name:?}\nregistry = {registries:?}").unwrap();
        } else if !self.etcd.is_empty() {
            let store = format!("backend = \"etcd\"\netcd.endpoints = {:?}", self.etcd);
            writeln!(text, "[store]\n{store}").unwrap();
        }
        let (grpc, http) = (self.places.grpc(name), self.places.http(name));
        writeln!(
            text,
            "[grpc]\nlisten = \"{grpc}\"\n[http]\nlisten = \"{http}\""
        )
        .unwrap();
        if name.starts_with("sbc") {
            let [carrier, ipbx] = ["carrier", "ipbx"].map(|name| self.places.of(name).ip);
            writeln!(text, "[sip]\nallow = [\"{carrier}\", \"{ipbx}\"]").unwrap();
        }
        let file = self.path().join(format!("{name}.toml"));
        fs::write(&file, text).unwrap();
        file
    }

    /// Returns the call records that a router has written; not a line that it is about to finish.
    pub(crate) fn records(&self, router: &str) -> Vec<serde_json::Value> {
        let text = fs::read_to_string(self.path().join(router).join("calls.jsonl")).unwrap();
        let line = |line| serde_json::from_str(line).unwrap();
        let lines = text.split_inclusive('\n');
        let finished = lines.filter_map(|line| line.strip_suffix('\n'));
        finished.map(line).collect()
    }

    /// Returns the registries that nodes are told of.
    pub(crate) fn registries(&self) -> impl Iterator<Item = &'static str> {
        let several = !self.etcd.is_empty();
        let second = several.then_some("registry-2");
        std::iter::once("registry").chain(second)
    }

    /// Returns the command that runs a node in the foreground.
    pub(crate) fn command(&self, name: &str) -> Command {
        let role = name.split('-').next().unwrap();
        let mut command = self.places.command(name, binary());
        command
            .args(["run", role, "--config"])
            .arg(self.config(name));
        command.stdin(Stdio::null());
        command
    }

    /// Starts a node; its log is added to that of its earlier life.
    pub(crate) fn start(&mut self, name: &'static str) {
        let log = self.path().join(format!("{name}.log"));
        let log = File::options().create(true).append(true).open(log).unwrap();
        let mut command = self.command(name);
        let child = command.stdout(log.try_clone().unwrap()).stderr(log).spawn();
        let before = self.running.insert(name, child.unwrap());
        assert!(before.is_none(), "{name} runs already");
    }

    /// Puts the one rule into the registry: everything goes to the IPBX.
    pub(crate) fn put_route(&self) {
        let uri = format!("sip:{}", self.sip("ipbx"));
        let result = RouteResult {
            next_hop: Some(NextHop::Uri(uri)),
            ..RouteResult::default()
        };
        let route = Some(Route {
            name: "routes/to-the-ipbx".to_owned(),
            results: vec![result],
            ..Route::default()
        });
        let request = UpdateRouteRequest {
            route,
            allow_missing: true,
            ..UpdateRouteRequest::default()
        };
        self.ask("registry", async |channel| {
            RouteServiceClient::new(channel)
                .update_route(request)
                .await
                .unwrap();
        });
    }

    /// Waits until all have the configuration, and the SBC hears both routers.
    pub(crate) fn wait_until_ready(&self) {
        eventually("all nodes have the configuration in force", || {
            self.ask("registry", async |channel| {
                let mut client = RegistryStatusClient::new(channel);
                let status = client
                    .get_config_status(GetConfigStatusRequest {})
                    .await
                    .unwrap();
                status.into_inner().nodes_in_force == 3
            })
        });
        self.wait_until_up(&ROUTERS);
    }

    /// Waits until the SBC hears these routers.
    pub(crate) fn wait_until_up(&self, routers: &[&str]) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let is_up = |status: &DestinationStatus| {
                let is_active = status.state() == DestinationHealth::Active;
                is_active && status.reason == "answering" && !status.draining
            };
            let all = self.destinations();
            if routers.iter().all(|router| {
                all.iter()
                    .any(|status| status.id == *router && is_up(status))
            }) {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "the SBC does not hear {routers:?}: {all:#?}"
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub(crate) fn destinations(&self) -> Vec<DestinationStatus> {
        self.ask("sbc", async |channel| {
            let request = ListDestinationsRequest::default();
            let all = StatusServiceClient::new(channel)
                .list_destinations(request)
                .await;
            all.unwrap().into_inner().destinations
        })
    }

    pub(crate) fn health(&self, router: &str) -> DestinationHealth {
        let all = self.destinations();
        let status = all.iter().find(|status| status.id == router);
        status
            .unwrap_or_else(|| panic!("no {router} in {all:?}"))
            .state()
    }

    pub(crate) fn sbc_status(&self) -> Status {
        self.ask("sbc", async |channel| {
            let status = StatusServiceClient::new(channel)
                .get_status(GetStatusRequest {})
                .await;
            status.unwrap().into_inner()
        })
    }

    /// Asks a node over gRPC, as soon as it can be reached.
    pub(crate) fn ask<T: Send>(
        &self,
        name: &str,
        question: impl AsyncFnOnce(Channel) -> T + Send,
    ) -> T {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.places.grpc(name))).unwrap();
        self.places.within(name, || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime.unwrap().block_on(async {
                let deadline = Instant::now() + PATIENCE;
                let channel = loop {
                    match endpoint.connect().await {
                        Ok(channel) => break channel,
                        Err(error) if Instant::now() > deadline => panic!("{name}: {error:?}"),
                        Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
                    }
                };
                let answer = tokio::time::timeout(6 * PATIENCE, question(channel)).await;
                answer.unwrap_or_else(|_| panic!("{name} does not answer"))
            })
        })
    }

    /// Tells whether a node was started and neither killed nor seen to end.
    pub(crate) fn runs(&self, name: &str) -> bool {
        self.running.contains_key(name)
    }

    pub(crate) fn pid(&self, name: &str) -> Pid {
        Pid::from_raw(self.running[name].id().cast_signed())
    }

    pub(crate) fn signal(&self, name: &str, signal: Signal) {
        kill(self.pid(name), signal).unwrap();
    }

    /// Kills a node as nothing kinder would.
    pub(crate) fn kill(&mut self, name: &str) {
        let mut child = self.running.remove(name).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Asks a node to end.
    pub(crate) fn terminate(&self, name: &str) {
        self.signal(name, Signal::SIGTERM);
    }

    pub(crate) fn is_running(&mut self, name: &str) -> bool {
        self.running
            .get_mut(name)
            .unwrap()
            .try_wait()
            .unwrap()
            .is_none()
    }

    /// Waits for the end of a node.
    pub(crate) fn ended(&mut self, name: &str, patience: Duration) -> ExitStatus {
        let mut child = self.running.remove(name).unwrap();
        let deadline = Instant::now() + patience;
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                return status;
            }
            if Instant::now() > deadline {
                child.kill().unwrap();
                child.wait().unwrap();
                panic!("{name} still ran after {patience:?}");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for System {
    fn drop(&mut self) {
        for child in self.running.values_mut() {
            // One that has ended by itself needs no signal.
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking()
            && let Some(directory) = self.directory.take()
        {
            say(&format!("the logs are in {}", directory.keep().display()));
        }
    }
}

/// Waits until something holds, and no longer than is reasonable.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
