//! The project that Compose runs, under a name and addresses of its own.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::shell;

/// Name of the project, and prefix of what it makes.
pub(crate) const NAME: &str = "tandem-compose-test";
/// The program in the context of the build.
pub(crate) const BINARY: &str = "tandem";

/// Returns how Compose is called here: Compose v2, or docker-compose 1.29.
pub(crate) fn program() -> Option<&'static str> {
    ["docker compose", "docker-compose"]
        .into_iter()
        .find(|words| {
            let mut command = Command::new("sh");
            command.args(["-c", &format!("{words} version")]);
            command.stdout(Stdio::null()).stderr(Stdio::null());
            command.status().is_ok_and(|status| status.success())
        })
}

/// One project.
pub(crate) struct Project {
    program: &'static str,
    environment: Vec<(&'static str, String)>,
    directory: PathBuf,
}

impl Project {
    pub(crate) fn new(program: &'static str, base: &str, context: &Path, net: &str) -> Self {
        let environment = [
            ("COMPOSE_PROJECT_NAME", NAME),
            ("TANDEM_COMPOSE_BASE", base),
            ("TANDEM_COMPOSE_BUILD_BASE", base),
            ("TANDEM_COMPOSE_BINARY", BINARY),
            ("TANDEM_COMPOSE_SOURCE", &context.display().to_string()),
            ("TANDEM_COMPOSE_IMAGE", NAME),
            ("TANDEM_COMPOSE_NET", net),
        ];
        Self {
            program,
            environment: environment
                .map(|(name, value)| (name, value.to_owned()))
                .into(),
            directory: shell::root().join("compose"),
        }
    }

    /// Runs a command line of the README; what it prints is seen.
    pub(crate) fn run(&self, line: &str) -> Result<()> {
        shell::run(&mut self.shell(line))
    }

    /// Runs Compose and returns what it printed.
    pub(crate) fn output(&self, arguments: &str) -> Result<String> {
        shell::output(&mut self.shell(&format!("docker compose {arguments}")))
    }

    /// Returns the last words of everybody.
    pub(crate) fn logs(&self) -> String {
        self.output("logs --tail=30")
            .unwrap_or_else(|error| format!("no logs: {error:#}"))
    }

    /// Returns the state and exit status of a container that was made.
    pub(crate) fn state(&self, service: &str) -> Result<Option<(String, i32)>> {
        let id = self.output(&format!("ps --quiet --all {service}"));
        // 1.29 knows no --all where it is the default.
        let id = id.or_else(|_| self.output(&format!("ps --quiet {service}")))?;
        if id.trim().is_empty() {
            return Ok(None);
        }
        let inspected = shell::output(Command::new("docker").args([
            "inspect",
            "--format",
            "{{.State.Status}} {{.State.ExitCode}}",
            id.trim(),
        ]))?;
        let (state, status) = inspected
            .trim()
            .split_once(' ')
            .context("docker inspect printed something else")?;
        Ok(Some((state.to_owned(), status.parse()?)))
    }

    /// Removes containers, network, volumes and images of the project.
    pub(crate) fn remove(&self) -> Result<()> {
        self.run("docker compose --profile more down --volumes --remove-orphans --timeout 5")?;
        let images = [NAME.to_owned(), format!("{NAME}-etcd")];
        shell::run(
            Command::new("docker")
                .args(["image", "rm", "--force"])
                .args(images),
        )?;
        // The stages that the images were made in have no names, but a label.
        let stages = format!("label=tandem.stage={NAME}");
        shell::run(
            Command::new("docker")
                .args(["image", "prune", "--force", "--filter"])
                .arg(stages),
        )?;
        let left = shell::output(Command::new("docker").args([
            "ps",
            "--all",
            "--quiet",
            "--filter",
            &format!("label=com.docker.compose.project={NAME}"),
        ]))?;
        ensure!(left.trim().is_empty(), "containers are left: {left}");
        Ok(())
    }

    fn shell(&self, line: &str) -> Command {
        let line = line.replace("docker compose", self.program);
        let mut command = Command::new("sh");
        command
            .args(["-c", &line])
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .current_dir(&self.directory)
            .stdin(Stdio::null());
        command
    }
}
