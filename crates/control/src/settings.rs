//! Start-up settings of a process: one TOML file, over it the environment, over both flags.
//!
//! Everything is text until it is read with its type, so that one rule serves all three sources,
//! all mistakes are found in one go, and the source of every value can be told. `sip.listen` in a
//! file is `TANDEM_SIP__LISTEN` in the environment and `--sip-listen` on the command line; a list
//! is a TOML array in the file and separated by commas elsewhere.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;
use std::{env, fs};

use clap::{Arg, ArgAction, ArgMatches, Command};

/// One setting that a process knows: what `--help` and docs/configuration.md say of it.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Its name with dots, such as `grpc.listen`.
    pub name: &'static str,
    /// What it says.
    pub help: &'static str,
    /// Unit and range, or what kind of word it is.
    pub unit: &'static str,
    /// What holds when nobody gives it; one for each role, separated by commas, where they differ.
    /// `ADDRESS`, `NODE` and `STATE_DIR` stand for the settings of these names, `LOOPBACK` for
    /// `address` if it is a loopback address, else 127.0.0.1.
    pub default: &'static str,
    /// What comes of a value that can be read and is wrong all the same.
    pub wrong: &'static str,
    /// Whether a change counts while the process runs; most count at the next start.
    pub live: bool,
}

impl Key {
    /// Names a setting that has no default.
    #[must_use]
    pub const fn new(name: &'static str, help: &'static str) -> Self {
        Self {
            name,
            help,
            unit: "",
            default: "none",
            wrong: "",
            live: false,
        }
    }

    /// Says its unit and range.
    #[must_use]
    pub const fn unit(self, unit: &'static str) -> Self {
        Self { unit, ..self }
    }

    /// Says its default.
    #[must_use]
    pub const fn default(self, default: &'static str) -> Self {
        Self { default, ..self }
    }

    /// Says what a wrong value does.
    #[must_use]
    pub const fn wrong(self, wrong: &'static str) -> Self {
        Self { wrong, ..self }
    }

    /// Says that a change counts at once.
    #[must_use]
    pub const fn live(self) -> Self {
        Self { live: true, ..self }
    }

    fn flag(&self) -> String {
        self.name.replace(['.', '_'], "-")
    }

    fn variable(&self) -> String {
        format!("TANDEM_{}", self.name.replace('.', "__").to_uppercase())
    }
}

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Nobody said anything.
    Default,
    /// This file.
    File(PathBuf),
    /// This environment variable.
    Environment(String),
    /// This flag.
    Flag(String),
}

impl Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Environment(name) => f.write_str(name),
            Self::Flag(name) => write!(f, "--{name}"),
        }
    }
}

/// Everything that is wrong with the settings, one line each.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct Mistakes(pub Vec<String>);

/// Builds the command of a process: `--config`, `--check` and a flag for every key.
#[must_use]
pub fn command(name: &'static str, about: &'static str, keys: &[Key]) -> Command {
    let config = Arg::new("config")
        .long("config")
        .value_name("FILE")
        .value_parser(clap::value_parser!(PathBuf))
        .help("TOML file with the settings");
    let check = Arg::new("check")
        .long("check")
        .action(ArgAction::SetTrue)
        .help("Check the settings, print them with their sources, and exit");
    let flags = keys.iter().map(|key| {
        let Key {
            help,
            unit,
            default,
            ..
        } = key;
        let help = format!(
            "{help}: {unit} [default: {default}] [env: {}]",
            key.variable()
        );
        Arg::new(key.name)
            .long(key.flag())
            .value_name("VALUE")
            .help(help)
            .allow_hyphen_values(true)
    });
    Command::new(name)
        .about(about)
        .version(env!("CARGO_PKG_VERSION"))
        .arg(config)
        .arg(check)
        .args(flags)
}

/// Tells whether `--check` was given to a [`command`].
#[must_use]
pub fn is_check(matches: &ArgMatches) -> bool {
    matches.get_flag("check")
}

/// What the three sources say, read key by key.
#[derive(Debug, Default)]
pub struct Settings {
    given: BTreeMap<&'static str, (String, Source)>,
    effective: Vec<(&'static str, String, Source)>,
    notes: BTreeMap<&'static str, &'static str>,
    mistakes: Vec<String>,
}

impl Settings {
    /// Gathers the settings of a process from the file `--config` names, the environment and flags.
    #[must_use]
    pub fn gather(keys: &[Key], matches: &ArgMatches) -> Self {
        let mut settings = Self::default();
        if let Some(path) = matches.get_one::<PathBuf>("config") {
            match fs::read_to_string(path) {
                Ok(text) => settings.add_file(keys, path, &text),
                Err(error) => settings
                    .mistakes
                    .push(format!("{}: {error}", path.display())),
            }
        }
        settings.add_environment(keys, |name| env::var(name).ok());
        settings.add_flags(keys, |name| matches.get_one::<String>(name).cloned());
        settings
    }

    /// Adds what the TOML text of `path` says.
    pub fn add_file(&mut self, keys: &[Key], path: &Path, text: &str) {
        let table = match text.parse::<toml::Table>() {
            Ok(table) => table,
            Err(error) => {
                self.mistakes.push(format!(
                    "{}: {}",
                    path.display(),
                    error.to_string().trim_end()
                ));
                return;
            }
        };
        let mut values = Vec::new();
        flatten("", &table, &mut values);
        for (name, value) in values {
            let key = keys.iter().find(|key| key.name == name);
            match (key, text_of(&value)) {
                (Some(key), Some(text)) => {
                    self.given
                        .insert(key.name, (text, Source::File(path.to_owned())));
                }
                (Some(_), None) => self.mistakes.push(format!(
                    "{}: {name}: must be a text, a number, true, false or an array of these",
                    path.display()
                )),
                (None, _) => self
                    .mistakes
                    .push(format!("{}: {name}: no such setting", path.display())),
            }
        }
    }

    /// Adds what the environment says.
    pub fn add_environment(&mut self, keys: &[Key], variable: impl Fn(&str) -> Option<String>) {
        for key in keys {
            let name = key.variable();
            if let Some(text) = variable(&name) {
                self.given
                    .insert(key.name, (text, Source::Environment(name)));
            }
        }
    }

    /// Adds what the flags say, by key name.
    pub fn add_flags(&mut self, keys: &[Key], flag: impl Fn(&str) -> Option<String>) {
        for key in keys {
            if let Some(text) = flag(key.name) {
                self.given
                    .insert(key.name, (text, Source::Flag(key.flag())));
            }
        }
    }

    /// Reads a value; `default` when nobody gave one, or a bad one (which [`finish`](Self::finish) reports).
    pub fn read<T: FromStr<Err: Display> + Display>(&mut self, key: &'static str, default: T) -> T {
        match self.read_optional(key) {
            Some(value) => value,
            None => {
                if !self.given.contains_key(key) {
                    self.effective
                        .push((key, default.to_string(), Source::Default));
                }
                default
            }
        }
    }

    /// Reads a value that may be absent.
    pub fn read_optional<T: FromStr<Err: Display> + Display>(
        &mut self,
        key: &'static str,
    ) -> Option<T> {
        let (text, source) = self.given.get(key)?.clone();
        match text.trim().parse::<T>() {
            Ok(value) => {
                self.effective.push((key, value.to_string(), source));
                Some(value)
            }
            Err(error) => {
                self.mistakes
                    .push(format!("{source}: {key} = {text:?}: {error}"));
                None
            }
        }
    }

    /// Reads a list; `default` when nobody gave one. An empty text is the empty list.
    pub fn read_list<T: FromStr<Err: Display> + Display>(
        &mut self,
        key: &'static str,
        default: Vec<T>,
    ) -> Vec<T> {
        let (values, source) = match self.given.get(key).cloned() {
            None => (default, Source::Default),
            Some((text, source)) => {
                let mut values = Vec::new();
                for item in text
                    .split(',')
                    .map(str::trim)
                    .filter(|item| !item.is_empty())
                {
                    match item.parse() {
                        Ok(value) => values.push(value),
                        Err(error) => self
                            .mistakes
                            .push(format!("{source}: {key}: {item:?}: {error}")),
                    }
                }
                (values, source)
            }
        };
        let text: Vec<_> = values.iter().map(ToString::to_string).collect();
        self.effective.push((key, text.join(", "), source));
        values
    }

    /// Adds a mistake that only the caller can see, such as a value out of its range.
    pub fn refuse(&mut self, key: &str, reason: impl Display) {
        let source = self
            .given
            .get(key)
            .map_or(&Source::Default, |(_, source)| source);
        self.mistakes.push(format!("{source}: {key}: {reason}"));
    }

    /// Says beside a value what an operator should know of it.
    pub fn note(&mut self, key: &'static str, note: &'static str) {
        self.notes.insert(key, note);
    }

    /// Ends the reading: the values that are in force, or all mistakes.
    ///
    /// # Errors
    ///
    /// Every mistake of every source.
    pub fn finish(self) -> Result<Effective, Mistakes> {
        if self.mistakes.is_empty() {
            Ok(Effective {
                values: self.effective,
                notes: self.notes,
            })
        } else {
            Err(Mistakes(self.mistakes))
        }
    }
}

/// The settings in force, for `--check` and for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effective {
    values: Vec<(&'static str, String, Source)>,
    notes: BTreeMap<&'static str, &'static str>,
}

impl Effective {
    /// Returns the values that nobody gave, by key.
    pub fn defaults(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let values = self.values.iter();
        values
            .filter(|(_, _, source)| *source == Source::Default)
            .map(|(key, value, _)| (*key, value.as_str()))
    }
}

impl Display for Effective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines = self
            .values
            .iter()
            .map(|(key, value, source)| (key, format!("{key} = {value:?}"), source));
        let lines: Vec<_> = lines.collect();
        let width = lines
            .iter()
            .map(|(_, line, _)| line.len())
            .max()
            .unwrap_or_default();
        for (key, line, source) in lines {
            write!(f, "{line:width$}  # {source}")?;
            match self.notes.get(key) {
                Some(note) => writeln!(f, "; {note}")?,
                None => writeln!(f)?,
            }
        }
        Ok(())
    }
}

/// Returns where gRPC and HTTP listen unless an operator says otherwise: on loopback, at the node's
/// own address if that is a loopback address.
#[must_use]
pub fn private_face(address: IpAddr) -> IpAddr {
    if address.is_loopback() {
        address
    } else {
        Ipv4Addr::LOCALHOST.into()
    }
}

/// A duration as people write it: `200ms`, `30s`, `5m`, `24h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

impl FromStr for Span {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let millis = match unit.trim() {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return Err("is not a duration such as 200ms, 30s, 5m or 24h"),
        };
        let number: u64 = number
            .parse()
            .map_err(|_| "is not a duration such as 200ms, 30s, 5m or 24h")?;
        number
            .checked_mul(millis)
            .map(|millis| Self(Duration::from_millis(millis)))
            .ok_or("is too long")
    }
}

impl Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_millis() {
            0 => f.write_str("0s"),
            n if n % 3_600_000 == 0 => write!(f, "{}h", n / 3_600_000),
            n if n % 60_000 == 0 => write!(f, "{}m", n / 60_000),
            n if n % 1_000 == 0 => write!(f, "{}s", n / 1_000),
            n => write!(f, "{n}ms"),
        }
    }
}

fn flatten(prefix: &str, table: &toml::Table, values: &mut Vec<(String, toml::Value)>) {
    for (name, value) in table {
        let name = if prefix.is_empty() {
            name.clone()
        } else {
            format!("{prefix}.{name}")
        };
        if let toml::Value::Table(inner) = value {
            flatten(&name, inner, values);
        } else {
            values.push((name, value.clone()));
        }
    }
}

fn text_of(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Float(number) => Some(number.to_string()),
        toml::Value::Boolean(flag) => Some(flag.to_string()),
        toml::Value::Array(items) => {
            let mut text = String::new();
            for (i, item) in items.iter().enumerate() {
                let separator = if i == 0 { "" } else { "," };
                write!(text, "{separator}{}", text_of(item)?).ok()?;
            }
            Some(text)
        }
        toml::Value::Datetime(_) | toml::Value::Table(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    const KEYS: &[Key] = &[
        Key::new("node", "id"),
        Key::new("grpc.listen", "address"),
        Key::new("sip.allow", "networks"),
        Key::new("drain_timeout", "duration"),
    ];

    fn env(name: &str) -> Option<String> {
        (name == "TANDEM_GRPC__LISTEN").then(|| "127.0.0.1:2".to_owned())
    }

    #[test]
    fn flags_win_over_the_environment_and_that_over_the_file() {
        let mut settings = Settings::default();
        let file = "node = 'a'\ndrain_timeout = '5s'\n[grpc]\nlisten = '127.0.0.1:1'\n[sip]\nallow = ['10.0.0.1', '10.0.0.2']";
        settings.add_file(KEYS, Path::new("t.toml"), file);
        settings.add_environment(KEYS, env);
        settings.add_flags(KEYS, |name| (name == "node").then(|| "b".to_owned()));

        assert_eq!(settings.read("node", "x".to_owned()), "b");
        let listen: SocketAddr = settings.read("grpc.listen", "127.0.0.1:9".parse().unwrap());
        assert_eq!(listen.port(), 2);
        let allow: Vec<IpAddr> = settings.read_list("sip.allow", vec![]);
        assert_eq!(allow.len(), 2);
        assert_eq!(
            settings.read("drain_timeout", Span(Duration::ZERO)).0,
            Duration::from_secs(5)
        );
        let shown = settings.finish().unwrap().to_string();
        let sources: Vec<_> = shown
            .lines()
            .map(|line| line.split("  # ").last().unwrap())
            .collect();
        assert_eq!(
            sources,
            ["--node", "TANDEM_GRPC__LISTEN", "t.toml", "t.toml"],
            "{shown}"
        );
    }

    #[test]
    fn all_mistakes_are_reported_at_once() {
        let mut settings = Settings::default();
        settings.add_file(KEYS, Path::new("t.toml"), "nod = 1\ndrain_timeout = 'soon'");
        settings.add_flags(KEYS, |name| {
            (name == "grpc.listen").then(|| "here".to_owned())
        });
        settings.read("grpc.listen", SocketAddr::from(([127, 0, 0, 1], 1)));
        settings.read("drain_timeout", Span(Duration::ZERO));
        settings.refuse("node", "is required");
        let mistakes = settings.finish().unwrap_err().0;
        assert_eq!(mistakes.len(), 4, "{mistakes:?}");
        assert!(mistakes[0].contains("nod: no such setting"));
        assert!(
            mistakes[1].starts_with("--grpc-listen: grpc.listen = \"here\""),
            "{}",
            mistakes[1]
        );
        assert!(mistakes[3].starts_with("default: node"));
    }

    #[test]
    fn durations_read_as_they_print() {
        for text in ["200ms", "30s", "5m", "24h", "0s"] {
            assert_eq!(text.parse::<Span>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "5",
            "s",
            "-1s",
            "1d",
            "99999999999999999999h",
            "9999999999999999999h",
        ] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_command_has_a_flag_for_every_key() {
        let matches = command("t", "test", KEYS)
            .try_get_matches_from(["t", "--sip-allow", "10.0.0.1", "--check"])
            .unwrap();
        assert!(is_check(&matches));
        let mut settings = Settings::default();
        settings.add_flags(KEYS, |name| matches.get_one::<String>(name).cloned());
        assert_eq!(settings.read_list::<IpAddr>("sip.allow", vec![]).len(), 1);
    }
}
