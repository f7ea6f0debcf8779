//! `cargo xtask compose-test`: goes through `compose/README.md`, command by command, with calls
//! running, and fails if one of them does.
//!
//! No image is pulled: the base is made of Debian's packages, and the program is the one that was
//! compiled here, so this machine and the base must be the same release of Debian. That leaves the
//! compile stage of `compose/Dockerfile` out. Everything that was made is removed at the end.

mod calls;
mod project;
mod readme;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::{setup, shell};
use project::Project;

/// Where Debian's packages come from unless something else is said.
const MIRROR: &str = "http://deb.debian.org/debian";
/// First three numbers of the addresses unless something else is said.
const NET: &str = "172.30.75";
/// How long the first call may take to come through after everything was started.
const FIRST_CALL_WITHIN: Duration = Duration::from_secs(120);
/// How long calls run after every command: longer than the carrier takes from one line of its
/// progress to the next.
const CALLS_RUN_FOR: Duration = Duration::from_secs(6);

/// Arguments of `compose-test`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// A Debian image of this machine's release to build on, instead of making one
    #[arg(long)]
    base: Option<String>,
    /// A program compiled for that release, instead of compiling it
    #[arg(long)]
    binary: Option<PathBuf>,
    /// Where Debian's packages come from
    #[arg(long, default_value = MIRROR)]
    mirror: String,
    /// First three numbers of the addresses; nothing else may have them
    #[arg(long, default_value = NET)]
    net: String,
    /// Leave images, containers and network as they are at the end
    #[arg(long)]
    keep: bool,
}

impl Default for Arguments {
    fn default() -> Self {
        Self {
            base: None,
            binary: None,
            mirror: MIRROR.to_owned(),
            net: NET.to_owned(),
            keep: false,
        }
    }
}

/// Says why this cannot be done here, if it cannot.
pub(crate) fn missing() -> Option<String> {
    let asked = Command::new("docker")
        .args(["version", "--format", "{{.Server.Version}}"])
        .output();
    match asked {
        Err(error) => Some(format!("docker cannot be run here ({error})")),
        Ok(output) if !output.status.success() => Some(format!(
            "no Docker engine answers here ({})",
            String::from_utf8_lossy(&output.stderr).trim()
        )),
        Ok(_) if project::program().is_none() => {
            Some("neither docker compose nor docker-compose is here".to_owned())
        }
        Ok(_) => None,
    }
}

/// Runs the test.
pub(crate) fn test(arguments: &Arguments) -> Result<()> {
    if let Some(reason) = missing() {
        bail!("compose-test needs a Docker engine and Compose: {reason}");
    }
    let context = context(arguments.binary.as_deref())?;
    let program = project::program().context("Compose went away")?;
    let base = match &arguments.base {
        Some(image) => image.clone(),
        None => make_base(&arguments.mirror)?,
    };
    let project = Project::new(program, &base, context.path(), &arguments.net);
    let started = Instant::now();
    let result = walk(&project);
    if result.is_err() {
        println!("{}", project.logs());
    }
    if arguments.keep {
        println!("kept: `docker ps --filter name={}`", project::NAME);
    } else {
        project.remove()?;
        if arguments.base.is_none() {
            shell::run(Command::new("docker").args(["image", "rm", "--force", &base]))?;
        }
    }
    result?;
    println!("compose-test: passed in {} s", started.elapsed().as_secs());
    Ok(())
}

/// Makes the context of the build: the Dockerfile and the program.
fn context(binary: Option<&Path>) -> Result<tempfile::TempDir> {
    let directory = tempfile::Builder::new()
        .prefix("tandem-compose-")
        .tempdir()?;
    let root = shell::root();
    fs::create_dir(directory.path().join("compose"))?;
    let dockerfile = "compose/Dockerfile";
    fs::copy(root.join(dockerfile), directory.path().join(dockerfile))?;
    // As the Dockerfile compiles it: without what only debuggers read.
    let mut strip = Command::new("strip");
    strip.args(["--strip-debug", "-o"]);
    strip.arg(directory.path().join(project::BINARY));
    match binary {
        Some(binary) => strip.arg(binary),
        None => {
            shell::run(shell::cargo().args(["build", "--release", "--package", "tandem"]))?;
            let target = std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
            strip.arg(root.join(target).join("release/tandem"))
        }
    };
    shell::run(&mut strip)?;
    Ok(directory)
}

/// Makes an image of this machine's release of Debian from packages, and returns its name.
fn make_base(mirror: &str) -> Result<String> {
    setup::install(setup::FOR_COMPOSE)?;
    let release = release()?;
    let image = format!("{}-base", project::NAME);
    let directory = tempfile::Builder::new().prefix("tandem-base-").tempdir()?;
    let root = directory.path().join("root");
    println!("compose-test: making {image} from the packages of Debian {release}");
    let log = shell::output(
        Command::new("debootstrap")
            .args(["--variant=minbase", &release])
            .arg(&root)
            .arg(mirror),
    )?;
    if let Some(last) = log.lines().next_back() {
        println!("{last}");
    }
    import(&root, &image)?;
    Ok(image)
}

/// Makes an image of the files below `root`.
fn import(root: &Path, image: &str) -> Result<()> {
    let mut tar = Command::new("tar");
    let tar = tar.arg("-C").arg(root).args(["-c", "."]);
    let mut tar = tar.stdout(std::process::Stdio::piped()).spawn()?;
    let files = tar.stdout.take().context("tar writes to a pipe")?;
    shell::run(
        Command::new("docker")
            .args(["import", "-", image])
            .stdin(files),
    )?;
    ensure!(tar.wait()?.success(), "tar failed");
    Ok(())
}

/// Returns the name of this machine's release of Debian: what was compiled here runs there.
fn release() -> Result<String> {
    let text = fs::read_to_string("/etc/os-release").context("/etc/os-release")?;
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        Some(line.trim_matches('"').to_owned())
    };
    match (value("ID=").as_deref(), value("VERSION_CODENAME=")) {
        (Some("debian"), Some(release)) => Ok(release),
        (other, _) => bail!(
            "this is {other:?}, and what is compiled here may not run on Debian; name a base image \
             that it runs on with --base"
        ),
    }
}

/// Goes through the README.
fn walk(project: &Project) -> Result<()> {
    let steps = readme::steps(&fs::read_to_string(
        shell::root().join("compose/README.md"),
    )?)?;
    let mut completed = 0;
    let mut title = "";
    for step in &steps {
        if step.title != title {
            title = &step.title;
            println!("\n== {title}");
        }
        println!("$ {}", step.command);
        project.run(&step.command)?;
        if step.command.contains(" stop carrier") {
            calls::all_completed(project, completed)?;
            continue;
        }
        if calls::are_running(project)? {
            completed = calls_go_on(project, completed)?;
        }
    }
    Ok(())
}

/// Lets calls run for a while; fails if one did, or none went on. Returns how many completed so far.
fn calls_go_on(project: &Project, before: u32) -> Result<u32> {
    let start = Instant::now();
    while calls::last_line(project)?.is_none() {
        ensure!(
            start.elapsed() < FIRST_CALL_WITHIN,
            "no call came through within {FIRST_CALL_WITHIN:?}"
        );
        sleep(Duration::from_millis(500));
    }
    sleep(CALLS_RUN_FOR);
    let line = calls::last_line(project)?.context("the carrier is silent")?;
    println!("   ({line})");
    let counts = calls::Counts::read(&line)?;
    ensure!(counts.failed == 0, "calls failed");
    ensure!(counts.completed > before, "no call was completed");
    ensure!(calls::are_running(project)?, "the carrier ended");
    Ok(counts.completed)
}
