//! The program `tandem` as an operator runs it, against a registry that is the same program.

#![allow(dead_code, reason = "every test file uses its own part")]

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// How long anything may take here.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A process that is killed when dropped.
pub(crate) struct Process(pub(crate) Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _over_already = self.0.kill();
        let _status = self.0.wait();
    }
}

/// What a command printed, and its status.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) status: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ran {
    /// Returns what it printed, if it ended with this status.
    #[track_caller]
    pub(crate) fn with(self, status: i32) -> String {
        assert_eq!(self.status, status, "{self:#?}");
        self.out
    }

    /// Returns what it complained of, if it ended with this status.
    #[track_caller]
    pub(crate) fn complaint(self, status: i32) -> String {
        assert_eq!(self.status, status, "{self:#?}");
        self.err
    }
}

/// A registry of its own, and a directory for files.
pub(crate) struct Cluster {
    pub(crate) directory: TempDir,
    pub(crate) address: String,
    registry: Option<Process>,
}

impl Cluster {
    /// Starts a registry at an address that only this test uses.
    pub(crate) fn start(address: &str) -> Self {
        let mut cluster = Self::new(address);
        cluster.run_registry(&[]);
        cluster
    }

    /// The same, without a registry.
    pub(crate) fn new(address: &str) -> Self {
        Self {
            directory: TempDir::new().unwrap(),
            address: address.to_owned(),
            registry: None,
        }
    }

    /// Starts the registry and waits until it answers.
    pub(crate) fn run_registry(&mut self, arguments: &[&str]) {
        self.spawn_registry(arguments);
        eventually("the registry answers", || {
            self.tandem(&["get", "sets"]).status == 0
        });
    }

    pub(crate) fn spawn_registry(&mut self, arguments: &[&str]) {
        let registry = program()
            .args(["run", "registry", "--address", &self.address, "--state-dir"])
            .arg(self.directory.path().join("registry"))
            .args(arguments)
            .stderr(self.log("registry"))
            .spawn();
        self.registry = Some(Process(registry.unwrap()));
    }

    /// Kills the registry.
    pub(crate) fn kill_registry(&mut self) {
        self.registry = None;
    }

    /// Starts a node of this cluster.
    pub(crate) fn run_node(&self, kind: &str, id: &str, address: &str) -> Process {
        let node = program()
            .args(["run", kind, "--node", id, "--address", address])
            .args(["--registry", &self.registry_address(), "--state-dir"])
            .arg(self.directory.path().join(id))
            .stderr(self.log(id))
            .spawn();
        Process(node.unwrap())
    }

    pub(crate) fn registry_address(&self) -> String {
        format!("{}:7400", self.address)
    }

    /// Writes a file; returns its path.
    pub(crate) fn file(&self, name: &str, content: &str) -> String {
        let path = self.directory.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path.display().to_string()
    }

    /// Runs a command against the registry of this cluster.
    pub(crate) fn tandem(&self, arguments: &[&str]) -> Ran {
        self.tandem_with(arguments, "")
    }

    /// The same, with something on its standard input.
    pub(crate) fn tandem_with(&self, arguments: &[&str], input: &str) -> Ran {
        let mut command = self.command(arguments);
        command.env("TANDEM_REGISTRY", self.registry_address());
        run(command, input)
    }

    /// Returns a command that knows nothing of this cluster but the path of its configuration.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = program();
        command
            .args(arguments)
            .env("TANDEM_CONFIG", self.config())
            .current_dir(self.directory.path());
        command
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.directory.path().join("config.toml")
    }

    fn log(&self, name: &str) -> fs::File {
        let path = self.directory.path().join(name).with_extension("log");
        fs::File::options()
            .create(true)
            .append(true)
            .open(path)
            .unwrap()
    }
}

/// Returns the program, with nothing in its environment that is for it.
pub(crate) fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tandem"));
    for name in ["TANDEM_REGISTRY", "TANDEM_CONTEXT", "TANDEM_CONFIG"] {
        command.env_remove(name);
    }
    command
}

/// Runs a command to its end.
pub(crate) fn run(mut command: Command, input: &str) -> Ran {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let _it_may_not_read = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    Ran {
        status: output.status.code().unwrap(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Waits until something is so.
#[track_caller]
pub(crate) fn eventually(what: &str, mut reached: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !reached() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
