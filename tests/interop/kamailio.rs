//! Real Kamailio routers: started with `testdata/kamailio/router.cfg`, asked over JSON-RPC on a
//! datagram socket, struck and ended with all their processes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::quiet::repository;
use crate::raw::Raw;
use crate::system::{PATIENCE, Places, System, eventually};

/// How long an answer may take: a list of everything is written by one process.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// The port of its DMQ address, beside SIP on 5060.
pub(crate) const DMQ_PORT: u16 = 5062;

/// A variable and a profile of the dialogs that it makes.
pub(crate) const TENANT: &str = "tenant";

/// One more table and a profile, and what no RPC does: a MESSAGE removes the keys of a table that match,
/// whose call it is becomes a variable of its dialog and the value of its profile, and a call to the node's own
/// address stays there for a while, when the others have been told of it.
const MORE_PARAMETERS: &str = r#"loadmodule "cfgutils.so"
modparam("htable", "htable", "cleared=>size=8;dmqreplicate=1;")
modparam("dialog", "profiles_with_value", "tenant")"#;
const DIALOG_IS_MADE: &str = r#"    if (is_method("INVITE")) dlg_manage();"#;
const KEEP_TENANT: &str = r#"    if (is_method("INVITE") && is_present_hf("X-Tenant")) {
        $dlg_var(tenant) = $hdr(X-Tenant);
        set_dlg_profile("tenant", "$hdr(X-Tenant)");
    }"#;
const STAY: &str = r#"onsend_route {
    if (is_method("INVITE") && $rU == "@IP@") sleep("2");
}"#;
const REMOVE_BY_MESSAGE: &str = r#"    if (is_method("MESSAGE")) {
        if (!sht_rm_name("$hdr(X-Table)", "$hdr(X-Operator)", "$hdr(X-Operand)")) {
            sl_send_reply("500", "Not removed");
            exit;
        }
        sl_send_reply("200", "Removed");
        exit;
    }"#;

/// One value of a table, as a node shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    Number(i64),
    Text(String),
}

/// A running Kamailio and all its processes; killed when dropped.
pub(crate) struct Kamailio {
    name: &'static str,
    sip: SocketAddr,
    main: Child,
    control: PathBuf,
    asker: UnixDatagram,
    asked: AtomicU64,
    log: PathBuf,
    /// How long that was when it was started.
    log_from: usize,
}

/// Returns the DMQ address of a node.
pub(crate) fn dmq(places: &Places, name: &str) -> SocketAddr {
    SocketAddr::new(places.of(name).ip.into(), DMQ_PORT)
}

impl Kamailio {
    /// Starts it and waits until it can be asked. `aliases` are the routers of the cell, `seeds` the
    /// nodes that it is told to join at, `match_mode` how it finds the dialog of a request; the log is added
    /// to that of its earlier life.
    pub(crate) fn start(
        system: &System,
        name: &'static str,
        aliases: &[&str],
        seeds: &[&str],
        match_mode: u8,
    ) -> Self {
        let file = |suffix: &str| system.path().join(format!("{name}.{suffix}"));
        let control = file("control");
        let alias = |name: &&str| format!("alias={}", system.sip(name));
        let seed = |name: &&str| {
            let seed = dmq(&system.places, name);
            format!(r#"modparam("dmq", "notification_address", "sip:{seed}")"#)
        };
        let lines = |lines: Vec<String>| lines.join("\n");
        let text = fs::read_to_string(repository().join("testdata/kamailio/router.cfg")).unwrap();
        let text = format!("{text}\n{STAY}\n")
            .replace("@IP@", &system.places.of(name).ip.to_string())
            .replace("@ALIASES@", &lines(aliases.iter().map(alias).collect()))
            .replace("@NOTIFICATION@", &lines(seeds.iter().map(seed).collect()))
            .replace(
                r#""dlg_match_mode", 0"#,
                &format!(r#""dlg_match_mode", {match_mode}"#),
            )
            .replace(
                "\nrequest_route {\n",
                &format!("{MORE_PARAMETERS}\n\nrequest_route {{\n{REMOVE_BY_MESSAGE}\n"),
            )
            .replace(DIALOG_IS_MADE, &format!("{DIALOG_IS_MADE}\n{KEEP_TENANT}"))
            .replace("@CONTROL@", &control.display().to_string())
            .replace("@IPBX@", &system.sip("ipbx").to_string());
        fs::write(file("cfg"), text).unwrap();

        let log = File::options().create(true).append(true).open(file("log"));
        let log = log.unwrap();
        let log_from = log.metadata().unwrap().len() as usize;
        let mut command = system.places.command(name, "kamailio");
        command
            .arg("-f")
            .arg(file("cfg"))
            .arg("-P")
            .arg(file("pid"));
        command.args(["-DD", "-E", "-m", "256", "-M", "16"]);
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap());
        // Its children end with it only if it can still tell them to.
        let main = command.stderr(log).process_group(0).spawn().unwrap();
        let asker = file("asker");
        // Both sockets may be left over from its earlier life.
        let _ = (fs::remove_file(&asker), fs::remove_file(&control));
        let asker = UnixDatagram::bind(asker).unwrap();
        asker.set_read_timeout(Some(ANSWER_MAX)).unwrap();
        let kamailio = Self {
            name,
            sip: system.sip(name),
            main,
            control,
            asker,
            asked: AtomicU64::new(0),
            log: file("log"),
            log_from,
        };
        eventually("Kamailio can be asked", || kamailio.control.exists());
        eventually("Kamailio answers", || {
            kamailio.try_ask("core.uptime", &json!([])).is_some()
        });
        kamailio
    }

    /// Asks over JSON-RPC; errors are none of ours to expect.
    pub(crate) fn ask(&self, method: &str, params: &Value) -> Value {
        let answer = self.try_ask(method, params);
        let answer = answer.unwrap_or_else(|| panic!("{}: {method} is not answered", self.name));
        assert!(answer.get("error").is_none(), "{method} {params}: {answer}");
        answer["result"].clone()
    }

    /// Asks for something that may be refused, such as to delete what is not there.
    pub(crate) fn ask_to(&self, method: &str, params: &Value) {
        let answer = self.try_ask(method, params);
        assert!(answer.is_some(), "{}: {method} is not answered", self.name);
    }

    /// Removes the keys of a table that match: `operator` is `re` or `sw`.
    pub(crate) fn remove_matching(&self, table: &str, operator: &str, operand: &str) {
        let id = self.asked.fetch_add(1, Ordering::Relaxed);
        let more =
            format!("X-Table: {table}\r\nX-Operator: {operator}\r\nX-Operand: {operand}\r\n");
        let socket = Raw::bind((self.sip.ip(), 0));
        socket.send(self.sip, "MESSAGE", &format!("remove-{id}"), "", &more);
        let _ = socket.receive("200 Removed");
    }

    /// Asks; `None` when no answer comes.
    fn try_ask(&self, method: &str, params: &Value) -> Option<Value> {
        let id = self.asked.fetch_add(1, Ordering::Relaxed);
        let request = json!({"jsonrpc": "2.0", "method": method, "params": params, "id": id});
        let request = request.to_string();
        self.asker.send_to(request.as_bytes(), &self.control).ok()?;
        let mut buffer = vec![0; 1 << 20];
        loop {
            let length = self.asker.recv(&mut buffer).ok()?;
            let text = String::from_utf8_lossy(&buffer[..length]);
            let answer: Value = serde_json::from_str(&text).unwrap();
            // One that came too late is not ours.
            if answer["id"] == id {
                return Some(answer);
            }
        }
    }

    /// Returns the nodes that it holds active, itself included.
    pub(crate) fn active_nodes(&self) -> BTreeSet<SocketAddr> {
        let nodes = self.ask("dmq.list_nodes", &json!([]));
        let nodes = nodes.as_array().unwrap().iter();
        let active = nodes.filter(|node| node["status"] == "active");
        let address = |node: &Value| {
            let part = |name: &str| node[name].as_str().unwrap();
            format!("{}:{}", part("host"), part("port"))
                .parse()
                .unwrap()
        };
        active.map(address).collect()
    }

    /// Returns what is in a table, which may include what has expired: see [`Self::has`].
    pub(crate) fn table(&self, table: &str) -> BTreeMap<String, Content> {
        let slots = self.ask("htable.dump", &json!([table]));
        let mut cells = BTreeMap::new();
        for slot in slots.as_array().unwrap() {
            for cell in slot["slot"].as_array().unwrap() {
                let name = cell["name"].as_str().unwrap().to_owned();
                let value = match cell["value"].as_i64() {
                    Some(number) => Content::Number(number),
                    None => Content::Text(cell["value"].as_str().unwrap().to_owned()),
                };
                let twice = cells.insert(name, value);
                assert!(twice.is_none(), "{} twice in {table}: {cell}", self.name);
            }
        }
        cells
    }

    /// Tells whether a key can be read: a table is shown with what has expired until that is swept out.
    pub(crate) fn has(&self, table: &str, key: &str) -> bool {
        let answer = self.try_ask("htable.get", &json!([table, key]));
        let answer = answer.unwrap_or_else(|| panic!("{}: no answer", self.name));
        answer.get("error").is_none()
    }

    /// Returns the state of every dialog by Call-ID.
    ///
    /// In brief: all that it knows of some hundred dialogs fits no datagram, and then it does not answer.
    pub(crate) fn dialogs(&self) -> BTreeMap<String, u64> {
        let all = self.ask("dlg.briefing", &json!(["cs"]));
        let dialog = |dialog: &Value| {
            let call_id = dialog["call-id"].as_str().unwrap().to_owned();
            (call_id, dialog["state"].as_u64().unwrap())
        };
        all.as_array().unwrap().iter().map(dialog).collect()
    }

    /// Returns all that it knows of the dialog of a call, if it knows it.
    pub(crate) fn dialog(&self, call_id: &str) -> Option<Value> {
        let answer = self.try_ask("dlg.dlg_list", &json!([call_id]));
        let mut answer = answer.unwrap_or_else(|| panic!("{}: no answer", self.name));
        answer
            .get("error")
            .is_none()
            .then(|| answer["result"].take())
    }

    /// Tells how many transactions have not come to their end yet.
    pub(crate) fn open_transactions(&self) -> u64 {
        let stats = self.ask("tm.stats", &json!([]));
        let figure = |name: &str| stats[name].as_u64().unwrap();
        // Those that only wait for repeats are done.
        figure("current").saturating_sub(figure("waiting"))
    }

    /// Kills all its processes as nothing kinder would.
    pub(crate) fn kill(mut self) {
        self.end(Signal::SIGKILL);
    }

    /// Asks it to end, and waits until it has.
    pub(crate) fn stop(mut self) {
        self.end(Signal::SIGTERM);
    }

    fn group(&self) -> Pid {
        Pid::from_raw(self.main.id().cast_signed())
    }

    fn end(&mut self, signal: Signal) {
        if signal == Signal::SIGTERM {
            nix::sys::signal::kill(self.group(), signal).unwrap();
            let deadline = Instant::now() + PATIENCE;
            while self.main.try_wait().unwrap().is_none() {
                assert!(Instant::now() < deadline, "{} does not end", self.name);
                std::thread::sleep(Duration::from_millis(20));
            }
        } else {
            killpg(self.group(), signal).unwrap();
            self.main.wait().unwrap();
        }
    }

    /// Returns the lines of its log since it was started.
    pub(crate) fn log_lines(&self) -> Vec<String> {
        let log = fs::read(&self.log).unwrap();
        let log = String::from_utf8_lossy(&log[self.log_from..]);
        log.lines().map(str::to_owned).collect()
    }
}

impl Drop for Kamailio {
    fn drop(&mut self) {
        if let Ok(None) = self.main.try_wait() {
            // It may end meanwhile.
            let _ = killpg(self.group(), Signal::SIGKILL);
            let _ = self.main.wait();
        }
    }
}
