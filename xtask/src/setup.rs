//! What tests and benchmarks need beside the toolchain: packages of the distribution, and a virtual
//! environment of Python with a gRPC client.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::shell;

/// A package of Debian's, and the files of which one shows that it is there, whoever installed it.
type Package = (&'static str, &'static [&'static str]);

/// What `compose-test` needs beside a Docker engine and Compose.
pub(crate) const FOR_COMPOSE: &[Package] = &[("debootstrap", &["/usr/sbin/debootstrap"])];

const PACKAGES: &[Package] = &[
    (
        "kamailio",
        &["/usr/sbin/kamailio", "/usr/local/sbin/kamailio"],
    ),
    (
        "kamailio-extra-modules",
        &[
            "/usr/lib/x86_64-linux-gnu/kamailio/modules/dmq.so",
            "/usr/lib/aarch64-linux-gnu/kamailio/modules/dmq.so",
            "/usr/lib64/kamailio/modules/dmq.so",
        ],
    ),
    ("etcd-server", &["/usr/bin/etcd", "/usr/local/bin/etcd"]),
    (
        "etcd-client",
        &["/usr/bin/etcdctl", "/usr/local/bin/etcdctl"],
    ),
    ("sip-tester", &["/usr/bin/sipp", "/usr/local/bin/sipp"]),
    ("iproute2", &["/usr/sbin/ip", "/sbin/ip", "/usr/bin/ip"]),
    ("python3", &["/usr/bin/python3", "/usr/local/bin/python3"]),
];

/// Installs what tests and benchmarks need. The client in Python is not needed: without it, its test says that it was left out.
pub(crate) fn run() -> Result<()> {
    install(PACKAGES)?;
    if let Err(error) = python() {
        println!("setup: no gRPC client in Python: {error:#}");
    }
    Ok(())
}

fn python() -> Result<()> {
    let environment = shell::root().join("target/python");
    let python = environment.join("bin/python");
    let mut import = Command::new(&python);
    import.args(["-c", "import grpc_reflection"]);
    if python.exists() && shell::output(&mut import).is_ok() {
        return Ok(());
    }
    let mut make = Command::new("python3");
    shell::output(make.args(["-m", "venv"]).arg(&environment)).context("install python3-venv")?;
    let requirements = shell::root().join("tests/interop/requirements.txt");
    let mut install = Command::new(&python);
    let install = install.args(["-m", "pip", "install", "--quiet", "--requirement"]);
    shell::run(install.arg(requirements))
}

/// Installs what is missing; if that cannot be done from here, fails with the command that does it.
pub(crate) fn install(packages: &[Package]) -> Result<()> {
    let missing = missing(packages);
    if missing.is_empty() {
        println!("setup: everything is there");
        return Ok(());
    }
    let by_hand = format!(
        "apt-get update && apt-get install --yes --no-install-recommends {}",
        missing.join(" ")
    );
    if !nix::unistd::geteuid().is_root() {
        bail!(
            "missing: {}. Run as root:\n    {by_hand}",
            missing.join(", ")
        );
    }
    println!("setup: installing {}", missing.join(", "));
    let apt = |arguments: &[&str]| {
        shell::run(
            Command::new("apt-get")
                .args(arguments)
                .env("DEBIAN_FRONTEND", "noninteractive"),
        )
        .with_context(|| {
            format!(
                "missing: {}. Run as root:\n    {by_hand}",
                missing.join(", ")
            )
        })
    };
    apt(&["update"])?;
    apt(&[
        &["install", "--yes", "--no-install-recommends"],
        missing.as_slice(),
    ]
    .concat())?;
    match self::missing(packages).as_slice() {
        [] => Ok(()),
        still => bail!("installed, but still not found: {}", still.join(", ")),
    }
}

fn missing(packages: &[Package]) -> Vec<&'static str> {
    let there = |paths: &[&str]| paths.iter().any(|path| std::path::Path::new(path).exists());
    packages
        .iter()
        .filter(|(_, paths)| !there(paths))
        .map(|(package, _)| *package)
        .collect()
}
