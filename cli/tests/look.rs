//! What looks: get, status, watch; where registries are found; and the program as such.

#![allow(clippy::unwrap_used, reason = "a test: panics are its verdict")]

mod common;

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::sync::mpsc;

use common::{Cluster, PATIENCE, Process, eventually, program, run};

#[test]
fn status_tells_whether_all_is_well() {
    let cluster = Cluster::start("127.0.242.1");
    let router = cluster.run_node("router", "router-1", "127.0.242.31");
    eventually("the router has what counts", || {
        cluster
            .tandem(&["status"])
            .out
            .contains("in force on 1 of 1")
    });
    let json = cluster.tandem(&["status", "-o", "json"]).with(0);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["config"]["cluster"], "tandem");
    assert_eq!(json["nodes"][0]["node"], "members/router-1");
    assert_eq!(json["well"], true);
    let described = cluster.tandem(&["describe", "members", "router-1"]).with(0);
    assert!(
        described.contains("\nConfiguration:\n  in force\n"),
        "{described}"
    );
    assert!(
        described.contains("  sets/1 (has it: router)\n"),
        "{described}"
    );

    drop(router);
    eventually("it is missed", || cluster.tandem(&["status"]).status == 1);
    let status = cluster.tandem(&["status"]).with(1);
    assert!(
        status.contains("members/router-1 was alive and is gone: start it"),
        "{status}"
    );
}

#[test]
fn what_is_not_there_or_not_understood_has_its_status() {
    let cluster = Cluster::start("127.0.242.2");
    for (arguments, status, said) in [
        (
            &["get", "routes", "x"][..],
            1,
            "tandem: routes/x does not exist\n",
        ),
        (
            &["get", "trees"],
            2,
            "tandem: there is no kind \"trees\"; there are members,",
        ),
        (
            &["get", "routes", "X"],
            2,
            "tandem: \"routes/X\": an id is 1 to 63",
        ),
        (&["apply"], 2, "error: the following required arguments"),
        (
            &["apply", "-f", "none.yaml"],
            2,
            "tandem: none.yaml: No such file",
        ),
        (&["describe", "routes"], 2, "tandem: which of the routes?"),
        (&["get", "sets", "--context", "x"], 2, "tandem: "),
        (
            &["get", "sets", "--registry", "nowhere"],
            2,
            "tandem: the registry: \"nowhere\" is not of the form host:port",
        ),
        (
            &["get", "sets", "--registry", "127.0.242.99:7400"],
            3,
            "tandem: no registry is available:\n  127.0.242.99:7400: Connection refused",
        ),
    ] {
        let complaint = cluster.tandem(arguments).complaint(status);
        assert!(complaint.starts_with(said), "{arguments:?}: {complaint}");
    }
    // The next one is asked when one is not there.
    let both = format!("127.0.242.99:7400,{}", cluster.registry_address());
    let sets = cluster
        .tandem(&["get", "sets", "--registry", &both])
        .with(0);
    assert!(sets.contains("sets/1"), "{sets}");
}

#[test]
fn a_context_names_the_registries() {
    let cluster = Cluster::start("127.0.242.3");
    let ask = |arguments: &[&str]| run(cluster.command(arguments), "");
    let none = ask(&["context", "list"]).with(0);
    assert!(none.starts_with("no contexts in "), "{none}");
    let registries = cluster.registry_address();
    cluster.file(
        "config.toml",
        &format!(
            "[contexts.good]\nregistries = [\"127.0.242.99:7400\", \"{registries}\"]\ncluster = \"tandem\"\n\
             [contexts.bad]\nregistries = [\"{registries}\"]\ncluster = \"other\"\n"
        ),
    );
    assert_eq!(
        ask(&["context", "use", "good"]).with(0),
        "the current context is good\n"
    );
    let listed = ask(&["context", "list"]).with(0);
    assert!(listed.contains("\n*  good  127.0.242.99:7400,"), "{listed}");
    assert!(ask(&["get", "sets"]).with(0).contains("sets/1"));
    let said = ask(&["get", "sets", "--context", "bad"]).complaint(2);
    assert!(
        said.contains("is of the cluster \"tandem\", the context says \"other\""),
        "{said}"
    );
    assert!(
        fs::read_to_string(cluster.config())
            .unwrap()
            .starts_with("current = \"good\"\n")
    );
}

#[test]
fn watch_prints_what_changes() {
    let mut cluster = Cluster::start("127.0.242.4");
    let mut watch = cluster.command(&["watch", "routes", "sets/2", "--changes", "-o", "json"]);
    watch
        .env("TANDEM_REGISTRY", cluster.registry_address())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut watch = Process(watch.spawn().unwrap());
    let (said, heard) = mpsc::channel();
    let out = BufReader::new(watch.0.stdout.take().unwrap());
    std::thread::spawn(move || {
        for line in out.lines() {
            if said.send(line.unwrap()).is_err() {
                return;
            }
        }
    });
    let next = || -> (String, String) {
        let line = heard.recv_timeout(PATIENCE).expect("a line");
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        let text = |key: &str| line[key].as_str().unwrap().to_owned();
        (text("event"), text("name"))
    };
    let pair = |event: &str, name: &str| (event.to_owned(), name.to_owned());
    // Until the watch is there, changes are not seen.
    let mut changes = 0;
    eventually("the watch sees a change", || {
        changes += 1;
        let text = format!("name: sets/2\nalgorithm: {}\n", changes % 2 * 4);
        cluster.tandem_with(&["apply", "-f", "-"], &text).with(0);
        heard
            .recv_timeout(std::time::Duration::from_millis(200))
            .is_ok()
    });
    let seen = || {
        heard
            .recv_timeout(std::time::Duration::from_millis(500))
            .is_ok()
    };
    while seen() {}

    let text = "name: sets/3\n---\nname: routes/a\nresults: [{set: sets/2}]\n";
    cluster.tandem_with(&["apply", "-f", "-"], text).with(0);
    assert_eq!(next(), pair("changed", "routes/a"));

    // What happens while no registry is there is told by the next one.
    cluster.kill_registry();
    cluster.run_registry(&[]);
    cluster.tandem(&["delete", "routes/a"]).with(0);
    loop {
        // A registry that has forgotten what happened sends everything again first.
        match next() {
            (event, _) if event == "there" => {}
            (event, name) => break assert_eq!((event, name), pair("deleted", "routes/a")),
        }
    }
}

#[test]
fn the_program_explains_itself() {
    let ask = |arguments: &[&str]| {
        let mut command = program();
        command.args(arguments);
        run(command, "").with(0)
    };
    let help = ask(&["--help"]);
    assert!(help.contains("Exit status:\n  0  done"), "{help}");
    for command in [
        "get", "describe", "apply", "delete", "diff", "watch", "drain", "undrain", "status",
    ] {
        let help = ask(&[command, "--help"]);
        assert!(help.contains("Examples:\n  tandem "), "{command}: {help}");
    }
    for (shell, mark) in [
        ("bash", "complete -F _tandem"),
        ("zsh", "#compdef tandem"),
        ("fish", "complete -c tandem"),
    ] {
        assert!(ask(&["completion", shell]).contains(mark), "{shell}");
    }
}
