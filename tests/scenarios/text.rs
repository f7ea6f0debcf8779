//! Scenarios as text: a script, a line of dashes, and what came of it, in one file.
//!
//! `REWRITE=1 cargo test -p tests --test scenarios` writes what came; the diff is reviewed. A script
//! has one command a line, `#` begins a comment:
//!
//! | command | means |
//! |---|---|
//! | `fabric routers=2 sides=1` | first: what there is |
//! | `call ring=1s hold=2s` | places a call; also `status=486 cancel=1s hangup=1s bye=1s reliable`, and `info=`, `reinvite=`, `update=` with a time from the answer |
//! | `wait 300ms` | lets time pass |
//! | `wait 200 INVITE at router` | until such a message is about to reach a `router`, `sbc`, `carrier` or `ipbx`; `from router`: has left it |
//! | `kill router` | the router of the last call dies; also `cut`, `freeze`, `freeze 300ms`; `others` are the other routers |
//! | `lose it` | the message that was waited for is lost |
//! | `lose router` | what it has sent and what has not arrived is lost |
//! | `restart router 50ms` | it starts anew so much later; `told=200ms` later the SBC hears of it |
//! | `forget router` | the registry removes it |

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use sim::{Arrival, HostId};
use tests::{Death, Fabric, FabricConfig, draw};
use user_agent::{CallId, CallPlan, CalleePlan, InDialog};

/// How long a scenario goes on after its last command.
const AFTERWARDS: Duration = Duration::from_secs(40);

#[test]
fn scripts_give_what_they_gave_before() {
    let rewrite = std::env::var_os("REWRITE").is_some();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let mut files: Vec<_> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "txt"));
    files.sort();
    assert!(!files.is_empty(), "no scripts in {folder:?}");
    let mut differ = vec![];
    for path in files {
        let text = std::fs::read_to_string(&path).unwrap();
        let (script, _) = text.split_once("\n----\n").unwrap_or((text.trim_end(), ""));
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let now = format!("{script}\n----\n{}", Script::run(&name, script));
        if now != text {
            println!("{now}");
            differ.push(name);
            if rewrite {
                std::fs::write(&path, now).unwrap();
            }
        }
    }
    assert!(
        differ.is_empty() || rewrite,
        "REWRITE=1 accepts what is new in {differ:?}"
    );
}

struct Script {
    fabric: Fabric,
    calls: Vec<CallId>,
}

impl Script {
    fn run(name: &str, text: &str) -> String {
        let lines = text
            .lines()
            .map(|line| line.split('#').next().unwrap_or_default().trim());
        let mut lines = lines.filter(|line| !line.is_empty());
        let first = lines.next().unwrap_or_default();
        let config = FabricConfig {
            routers: value(first, "routers").map_or(2, |n| n.parse().expect("a number")),
            two_sides: value(first, "sides") == Some("2"),
            ..FabricConfig::default()
        };
        assert!(first.starts_with("fabric"), "{name} begins with the fabric");
        let fabric = Fabric::new(config);
        let start = fabric.world.now();
        let mut script = Self {
            fabric,
            calls: vec![],
        };
        for line in lines {
            script
                .command(line)
                .unwrap_or_else(|| panic!("{name}: {line}"));
        }
        script.fabric.run_for(AFTERWARDS);
        let mut out = draw(&script.fabric, start);
        script.conclude(&mut out);
        out
    }

    fn command(&mut self, line: &str) -> Option<()> {
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        match verb {
            "call" => {
                let call = self.fabric.call(plan(rest)?);
                self.calls.push(call);
            }
            "wait" => match (rest.split_once(" at "), rest.split_once(" from ")) {
                (Some((beginning, to)), _) => self.wait_for(beginning, |arrival| arrival.to, to)?,
                (_, Some((beginning, from))) => {
                    self.wait_for(beginning, |arrival| arrival.from, from)?
                }
                (None, None) => self.fabric.run_for(time(rest)?),
            },
            "kill" | "cut" | "freeze" => {
                let (who, after) = rest.split_once(' ').unwrap_or((rest, ""));
                let death = match (verb, after) {
                    ("kill", _) => Death::Kill,
                    ("cut", _) => Death::BlackHole,
                    (_, "") => Death::FreezeForGood,
                    (_, after) => Death::Freeze(time(after)?),
                };
                for router in self.routers(who)? {
                    self.fabric.die(router, death);
                }
            }
            "lose" if rest == "it" => self.fabric.world.lose_next(),
            "lose" => {
                for router in self.routers(rest)? {
                    self.fabric
                        .world
                        .lose_in_flight(self.fabric.routers[router].host);
                }
            }
            "restart" => {
                let mut words = rest.split(' ');
                let who = self.routers(words.next()?)?;
                let at = self.fabric.world.now() + time(words.next()?)?;
                let told = value(rest, "told").map_or(Some(Duration::ZERO), time)?;
                for router in who {
                    self.fabric.restart_at(at, router, Duration::ZERO, told);
                }
            }
            "forget" => {
                for router in self.routers(rest)? {
                    self.fabric.forget(router);
                }
            }
            _ => return None,
        }
        Some(())
    }

    fn routers(&self, who: &str) -> Option<Vec<usize>> {
        let router = self.fabric.router_of(self.calls.last()?)?;
        match who {
            "router" => Some(vec![router]),
            "others" => Some(
                (0..self.fabric.routers.len())
                    .filter(|other| *other != router)
                    .collect(),
            ),
            _ => None,
        }
    }

    fn wait_for(
        &mut self,
        beginning: &str,
        end: impl Fn(&Arrival<'_>) -> HostId,
        place: &str,
    ) -> Option<()> {
        let hosts: Vec<_> = match place {
            "router" => self
                .fabric
                .routers
                .iter()
                .map(|router| router.host)
                .collect(),
            "sbc" => vec![self.fabric.sbc],
            "carrier" => self.fabric.carriers.iter().map(|(host, _)| *host).collect(),
            "ipbx" => self.fabric.ipbxs.iter().map(|(host, _)| *host).collect(),
            _ => return None,
        };
        let until = self.fabric.world.now() + AFTERWARDS;
        let is_it = |arrival: &Arrival<'_>| {
            hosts.contains(&end(arrival)) && label(arrival).starts_with(beginning)
        };
        self.fabric.run_to(until, is_it).then_some(())
    }

    fn conclude(&self, out: &mut String) {
        for call in &self.calls {
            let caller = self.fabric.caller(call);
            let callee = self.fabric.callee(call).map(|callee| callee.outcome);
            let slowest = caller
                .slowest
                .map(|request| format!("{} {:?}", request.method, round(request.elapsed)));
            let _ = writeln!(
                out,
                "caller: {}; callee: {}; slowest request: {}",
                caller
                    .outcome
                    .map_or("still talking".into(), |outcome| format!("{outcome:?}")),
                callee.map_or("never rang".into(), |outcome| {
                    outcome.map_or("still talking".into(), |outcome| format!("{outcome:?}"))
                }),
                slowest.unwrap_or_default(),
            );
        }
        let twice = self.fabric.delivered_twice();
        let _ = writeln!(
            out,
            "delivered twice: {}",
            if twice.is_empty() {
                "nothing".into()
            } else {
                format!("{twice:?}")
            }
        );
    }
}

/// `INVITE`, or `200 INVITE`.
fn label(arrival: &Arrival<'_>) -> String {
    let text = String::from_utf8_lossy(arrival.bytes);
    let method = text
        .lines()
        .find_map(|line| line.strip_prefix("CSeq: ")?.split(' ').nth(1))
        .unwrap_or_default();
    match text.strip_prefix("SIP/2.0 ") {
        Some(rest) => format!("{} {method}", &rest[..3]),
        None => method.to_owned(),
    }
}

fn round(time: Duration) -> Duration {
    Duration::from_millis(time.as_micros().div_ceil(1000).try_into().unwrap())
}

fn value<'a>(words: &'a str, name: &str) -> Option<&'a str> {
    words
        .split(' ')
        .find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
}

fn time(text: &str) -> Option<Duration> {
    match text.strip_suffix("ms") {
        Some(ms) => Some(Duration::from_millis(ms.parse().ok()?)),
        None => Some(Duration::from_secs(text.strip_suffix('s')?.parse().ok()?)),
    }
}

fn plan(words: &str) -> Option<CallPlan> {
    let mut plan = CallPlan::new("1000", Duration::from_secs(2));
    let mut callee = CalleePlan::answer(Duration::from_secs(1));
    for word in words.split(' ').filter(|word| !word.is_empty()) {
        let (name, value) = word.split_once('=').unwrap_or((word, ""));
        match name {
            "ring" => callee.ring = time(value)?,
            "status" => callee.status = value.parse().ok()?,
            "hangup" => callee.hang_up_after = Some(time(value)?),
            "bye" => callee.bye_delay = time(value)?,
            "hold" => plan.hold = time(value)?,
            "cancel" => plan.cancel_after = Some(time(value)?),
            "reliable" => plan.reliable = true,
            "info" => plan.in_dialog.push((time(value)?, InDialog::Info)),
            "reinvite" => plan.in_dialog.push((time(value)?, InDialog::Reinvite)),
            "update" => plan.in_dialog.push((time(value)?, InDialog::Update)),
            _ => return None,
        }
    }
    plan.callee = Some(callee);
    Some(plan)
}
