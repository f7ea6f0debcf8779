//! A gRPC client that nobody here wrote and that has no proto files: Python's grpcio, by reflection.

use std::process::Command;

use crate::quiet::{repository, say, shared};
use crate::system::{ROUTERS, System};

#[test]
fn python_lists_describes_puts_gets_and_watches_without_proto_files() {
    let Some(_permit) = shared(&[]) else { return };
    let python = repository().join("target/python/bin/python");
    if !python.exists() {
        let python = python.display();
        return say(&format!(
            "left out: {python} is missing; `cargo xtask setup` makes it"
        ));
    }
    let system = System::ready();
    let client = Command::new(python)
        .arg(repository().join("tests/interop/grpc_client.py"))
        .arg(system.places.grpc("registry").to_string())
        .arg(system.places.grpc(ROUTERS[0]).to_string())
        .output()
        .unwrap();
    let (out, err) = (&client.stdout, &client.stderr);
    let (out, err) = (String::from_utf8_lossy(out), String::from_utf8_lossy(err));
    out.lines().for_each(say);
    assert!(client.status.success(), "{}\n{out}\n{err}", client.status);
}
