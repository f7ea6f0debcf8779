//! Real etcd, started for one test: members on a block of loopback addresses of their own, struck and
//! ended by their process ids.

#![allow(dead_code, reason = "every user takes its own part")]
#![allow(clippy::print_stdout, reason = "says what is left out, and why")]

use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

/// How long etcd may take to answer after a start.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// How a cluster is set up beyond its size.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Setup<'a> {
    /// Fast elections, so that leases of one second are granted.
    pub(crate) hasty: bool,
    /// Arguments for every member.
    pub(crate) arguments: &'a [&'a str],
    /// Arguments for every etcdctl.
    pub(crate) client: &'a [&'a str],
    /// Whether clients need TLS.
    pub(crate) tls: bool,
    /// Where the members are, from [`free_block`]; a block of its own otherwise.
    pub(crate) block: &'a [Ipv4Addr],
}

/// Members of one etcd cluster; killed when dropped.
#[derive(Debug)]
pub(crate) struct Etcds {
    directory: TempDir,
    members: Vec<Member>,
    setup: Vec<String>,
    client: Vec<String>,
    scheme: &'static str,
}

#[derive(Debug)]
struct Member {
    ip: Ipv4Addr,
    data: PathBuf,
    child: Option<Child>,
}

impl Etcds {
    /// Starts `size` members and waits until they answer; says so and returns nothing if etcd is not
    /// installed.
    pub(crate) fn start(size: usize, setup: Setup<'_>) -> Option<Self> {
        for program in ["etcd", "etcdctl"] {
            if let Err(error) = Command::new(program).arg("version").output() {
                println!("left out: {program} cannot be run here ({error})");
                return None;
            }
        }
        let directory = TempDir::new().unwrap();
        let member = |ip: Ipv4Addr| Member {
            ip,
            data: directory.path().join(ip.to_string()),
            child: None,
        };
        let block = match setup.block {
            [] => free_block(size),
            block => block.to_vec(),
        };
        let members = block.into_iter().map(member).collect();
        let mut arguments: Vec<_> = setup.arguments.iter().map(ToString::to_string).collect();
        if setup.hasty {
            let times = ["--heartbeat-interval=50", "--election-timeout=250"];
            arguments.extend(times.map(str::to_owned));
        }
        let mut etcds = Self {
            directory,
            members,
            setup: arguments,
            client: setup.client.iter().map(ToString::to_string).collect(),
            scheme: if setup.tls { "https" } else { "http" },
        };
        for member in 0..size {
            etcds.run(member);
        }
        etcds.wait_until_ready();
        Some(etcds)
    }

    /// Gives every etcdctl from now on more arguments, such as a user.
    pub(crate) fn authenticate(&mut self, client: &[&str]) {
        self.client.extend(client.iter().map(ToString::to_string));
    }

    /// Returns the client addresses of all members.
    pub(crate) fn endpoints(&self) -> Vec<String> {
        let endpoint = |member| self.endpoint(member);
        (0..self.members.len()).map(endpoint).collect()
    }

    /// Starts a member that is not running.
    pub(crate) fn run(&mut self, member: usize) {
        let all: Vec<_> = self.members.iter().enumerate().map(peer).collect();
        let (client, peer) = (self.endpoint(member), peer_url(&self.members[member]));
        let Member { data, child, .. } = &mut self.members[member];
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(data.with_extension("log"))
            .unwrap();
        let mut command = Command::new("etcd");
        command
            .arg(format!("--name=m{member}"))
            .arg(format!("--data-dir={}", data.display()))
            .arg(format!("--listen-client-urls={client}"))
            .arg(format!("--advertise-client-urls={client}"))
            .arg(format!("--listen-peer-urls={peer}"))
            .arg(format!("--initial-advertise-peer-urls={peer}"))
            .arg(format!("--initial-cluster={}", all.join(",")))
            .args(&self.setup)
            .stdout(Stdio::null())
            .stderr(log);
        assert!(child.is_none(), "it runs already");
        *child = Some(command.spawn().unwrap());
    }

    /// Kills a member with SIGKILL.
    pub(crate) fn kill(&mut self, member: usize) {
        if let Some(mut child) = self.members[member].child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Kills all of them.
    pub(crate) fn kill_all(&mut self) {
        (0..self.members.len()).for_each(|member| self.kill(member));
    }

    /// Starts all of them again, on what they have.
    pub(crate) fn run_all(&mut self) {
        (0..self.members.len()).for_each(|member| self.run(member));
        self.wait_until_ready();
    }

    /// Sends a signal to a member, such as SIGSTOP.
    pub(crate) fn signal(&self, member: usize, signal: Signal) {
        let child = self.members[member].child.as_ref().unwrap();
        kill(Pid::from_raw(child.id().cast_signed()), signal).unwrap();
    }

    /// Returns the number of the leader.
    pub(crate) fn leader(&self) -> usize {
        let deadline = Instant::now() + READY_WITHIN;
        loop {
            let mut members = 0..self.members.len();
            if let Some(leader) = members.find(|member| self.status(*member, 4) == "true") {
                return leader;
            }
            assert!(Instant::now() < deadline, "nobody leads");
            sleep(Duration::from_millis(50));
        }
    }

    /// Makes a member the leader.
    pub(crate) fn lead(&self, member: usize) {
        let leader = self.leader();
        if leader != member {
            let id = self.status(member, 1);
            let moved = self.ctl_at(&self.endpoint(leader), &["move-leader", &id]);
            assert!(moved.status.success(), "{moved:?}");
        }
        assert_eq!(self.leader(), member);
    }

    /// Returns a field of a member's status: endpoint, id, version, size, whether it leads, ...
    fn status(&self, member: usize, field: usize) -> String {
        let status = self.ctl_at(&self.endpoint(member), &["endpoint", "status"]);
        let text = String::from_utf8_lossy(&status.stdout).into_owned();
        text.split(", ").nth(field).unwrap_or_default().to_owned()
    }

    /// Runs etcdctl at all members; returns what it printed.
    pub(crate) fn ctl(&self, arguments: &[&str]) -> String {
        let output = self.ctl_at(&self.endpoints().join(","), arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "etcdctl {arguments:?}: {said}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Forgets every revision before the current one.
    pub(crate) fn compact(&self) {
        let status = self.ctl(&["endpoint", "status", "--write-out=json"]);
        let (_, rest) = status.split_once("\"revision\":").expect("a revision");
        let revision: String = rest.chars().take_while(char::is_ascii_digit).collect();
        self.ctl(&["compact", &revision, "--physical=true"]);
    }

    /// Takes every lease away, with what hangs on it; returns how many there were.
    pub(crate) fn revoke_leases(&self) -> usize {
        let listed = self.ctl(&["lease", "list"]);
        // The first line counts them. One may end by itself meanwhile.
        let gone = |lease: &&str| {
            let revoked = self.ctl_at(&self.endpoints().join(","), &["lease", "revoke", lease]);
            revoked.status.success()
        };
        listed.lines().skip(1).filter(gone).count()
    }

    /// Saves a snapshot; returns its file.
    pub(crate) fn save(&self) -> PathBuf {
        let file = self.directory.path().join("snapshot.db");
        let _none_yet = fs::remove_file(&file);
        let path = file.to_str().unwrap();
        let output = self.ctl_at(&self.endpoint(0), &["snapshot", "save", path]);
        assert!(output.status.success(), "{output:?}");
        file
    }

    /// Kills everybody and starts them again from a snapshot.
    pub(crate) fn restore(&mut self, snapshot: &std::path::Path) {
        self.kill_all();
        let all: Vec<_> = self.members.iter().enumerate().map(peer).collect();
        for (number, member) in self.members.iter().enumerate() {
            fs::remove_dir_all(&member.data).unwrap();
            let restored = Command::new("etcdctl")
                .env("ETCDCTL_API", "3")
                .args(["snapshot", "restore", snapshot.to_str().unwrap()])
                .arg(format!("--name=m{number}"))
                .arg(format!("--data-dir={}", member.data.display()))
                .arg(format!("--initial-cluster={}", all.join(",")))
                .arg(format!(
                    "--initial-advertise-peer-urls={}",
                    peer_url(member)
                ))
                .output()
                .unwrap();
            assert!(restored.status.success(), "{restored:?}");
        }
        self.run_all();
    }

    /// Waits until every member answers with a quorum behind it.
    pub(crate) fn wait_until_ready(&self) {
        let deadline = Instant::now() + READY_WITHIN;
        for endpoint in self.endpoints() {
            while !self.ctl_at(&endpoint, &["get", "ready"]).status.success() {
                assert!(Instant::now() < deadline, "{endpoint} does not answer");
                sleep(Duration::from_millis(50));
            }
        }
    }

    fn endpoint(&self, member: usize) -> String {
        format!("{}://{}:2379", self.scheme, self.members[member].ip)
    }

    fn ctl_at(&self, endpoints: &str, arguments: &[&str]) -> Output {
        Command::new("etcdctl")
            .env("ETCDCTL_API", "3")
            .args(["--endpoints", endpoints, "--dial-timeout=500ms"])
            .args(&self.client)
            .args(arguments)
            .output()
            .unwrap()
    }
}

impl Drop for Etcds {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("etcd's logs were in {}", self.directory.path().display());
        }
        self.kill_all();
    }
}

fn peer_url(member: &Member) -> String {
    format!("http://{}:2380", member.ip)
}

fn peer((number, member): (usize, &Member)) -> String {
    format!("m{number}={}", peer_url(member))
}

/// Finds a block of 127.0.0.0/8 in which nobody holds the ports; no two of this process are the same.
pub(crate) fn free_block(size: usize) -> Vec<Ipv4Addr> {
    /// Second bytes from 200 on, third bytes from 1 on; other tests use others.
    const BLOCKS: u64 = 50 * 250;
    static NEXT: LazyLock<AtomicU64> =
        LazyLock::new(|| AtomicU64::new(RandomState::new().hash_one(std::process::id()) % BLOCKS));
    loop {
        let block = NEXT.fetch_add(1, Ordering::Relaxed) % BLOCKS;
        let [x, y] = [200 + block / 250, 1 + block % 250].map(|n| u8::try_from(n).unwrap());
        let hosts = 1..=u8::try_from(size).unwrap();
        let block: Vec<_> = hosts.map(|host| Ipv4Addr::new(127, x, y, host)).collect();
        let free = |ip: &Ipv4Addr| {
            [2379, 2380].map(|port| TcpListener::bind((*ip, port)).is_ok()) == [true, true]
        };
        if block.iter().all(free) {
            return block;
        }
    }
}
