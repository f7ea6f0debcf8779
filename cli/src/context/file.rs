//! The file of contexts.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

use anyhow::{Context as _, anyhow};
use control::channel::ClientTls;
use serde::Deserialize;

/// How to reach one cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Context {
    /// Its registries, as `host:port`; tried in turn.
    #[serde(default)]
    pub(crate) registries: Vec<String>,
    /// The cluster that they must be of.
    pub(crate) cluster: Option<String>,
    /// File with the certificates (PEM) that the registries' are signed with; makes it TLS.
    pub(crate) ca: Option<PathBuf>,
    /// File with our certificate (PEM).
    pub(crate) cert: Option<PathBuf>,
    /// File with its key.
    pub(crate) key: Option<PathBuf>,
    /// What the registries' certificates are for, if not their hosts.
    pub(crate) server_name: Option<String>,
}

impl Context {
    /// Returns how to speak TLS; `None` in the clear.
    pub(crate) fn tls(&self) -> Option<ClientTls> {
        Some(ClientTls {
            ca: self.ca.clone()?,
            identity: self.cert.clone().zip(self.key.clone()),
            server_name: self.server_name.clone(),
        })
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    current: Option<String>,
    #[serde(default)]
    contexts: BTreeMap<String, Context>,
}

/// All contexts; none if there is no file.
#[derive(Clone, Debug)]
pub(crate) struct Contexts {
    path: PathBuf,
    text: String,
    content: Content,
}

impl Contexts {
    /// Reads `$TANDEM_CONFIG` or `~/.config/tandem/config.toml`.
    pub(crate) fn load() -> anyhow::Result<Self> {
        let home = || env::var_os("HOME").map(|home| Path::new(&home).join(".config"));
        let path = match env::var_os("TANDEM_CONFIG") {
            Some(path) => PathBuf::from(path),
            None => home().unwrap_or_default().join("tandem/config.toml"),
        };
        Self::read(path)
    }

    fn read(path: PathBuf) -> anyhow::Result<Self> {
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error).context(path.display().to_string()),
        };
        let content = toml::from_str(&text).with_context(|| path.display().to_string())?;
        let contexts = Self {
            path,
            text,
            content,
        };
        for (name, context) in contexts.all() {
            let wrong = |what: &str| {
                let path = contexts.path.display();
                anyhow!("{path}: contexts.{name}: {what}")
            };
            if context.registries.is_empty() {
                return Err(wrong("registries is needed, such as [\"192.0.2.1:7400\"]"));
            }
            if context.cert.is_some() != context.key.is_some() {
                return Err(wrong("cert and key come together"));
            }
            let needs_ca = context.cert.is_some() || context.server_name.is_some();
            if needs_ca && context.ca.is_none() {
                return Err(wrong("cert and server_name need ca, too"));
            }
        }
        Ok(contexts)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn current(&self) -> Option<&str> {
        self.content.current.as_deref()
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = (&str, &Context)> {
        let all = self.content.contexts.iter();
        all.map(|(name, context)| (name.as_str(), context))
    }

    /// Returns the named context, else the current one, else an empty one; files by their full paths.
    pub(crate) fn choose(&self, name: Option<&str>) -> anyhow::Result<Context> {
        let Some(name) = name.or(self.current()) else {
            return Ok(Context::default());
        };
        let found = self.content.contexts.get(name);
        let mut context = found.cloned().ok_or_else(|| self.unknown(name))?;
        let directory = self.path.parent().unwrap_or(Path::new(""));
        for path in [&mut context.ca, &mut context.cert, &mut context.key] {
            *path = path.take().map(|path| directory.join(path));
        }
        Ok(context)
    }

    /// Writes the file with another current context; everything else in it stays as it is.
    pub(crate) fn make_current(&self, name: &str) -> anyhow::Result<()> {
        if !self.content.contexts.contains_key(name) {
            return Err(self.unknown(name));
        }
        let line = format!("current = {}", toml::Value::from(name));
        let mut lines: Vec<&str> = self.text.lines().collect();
        // Keys of the file itself stand before its first table.
        let tables = lines
            .iter()
            .position(|line| line.trim_start().starts_with('['));
        let is_current = |line: &&str| {
            let key = line.split('=').next().unwrap_or_default();
            key.trim() == "current"
        };
        let top = &lines[..tables.unwrap_or(lines.len())];
        match top.iter().position(is_current) {
            Some(found) => lines[found] = &line,
            None => lines.insert(0, &line),
        }
        // A file that is half written must not take the place of a good one.
        let new = self.path.with_extension("toml.new");
        fs::write(&new, lines.join("\n") + "\n")
            .and_then(|()| fs::rename(&new, &self.path))
            .with_context(|| self.path.display().to_string())
    }

    fn unknown(&self, name: &str) -> anyhow::Error {
        let known: Vec<_> = self.content.contexts.keys().map(String::as_str).collect();
        let path = self.path.display();
        match known[..] {
            [] => {
                anyhow!("{path}: has no context {name:?}, nor any other; see tandem context --help")
            }
            _ => anyhow!(
                "{path}: has no context {name:?}; it has {}",
                known.join(", ")
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
# mine
[contexts.a]
registries = [\"192.0.2.1:7400\"]   # one
ca = \"ca.pem\"
[contexts.b]
registries = [\"192.0.2.2:7400\", \"192.0.2.3:7400\"]
cluster = \"b\"
";

    fn contexts(directory: &Path, text: &str) -> anyhow::Result<Contexts> {
        let path = directory.join("config.toml");
        fs::write(&path, text).unwrap();
        Contexts::read(path)
    }

    #[test]
    fn one_context_is_current() {
        let directory = tempfile::tempdir().unwrap();
        let read = contexts(directory.path(), TEXT).unwrap();
        assert_eq!(read.choose(None).unwrap(), Context::default());
        assert_eq!(
            read.choose(Some("b")).unwrap().cluster.as_deref(),
            Some("b")
        );

        read.make_current("a").unwrap();
        let read = Contexts::read(read.path).unwrap();
        assert_eq!(read.text, format!("current = \"a\"\n{TEXT}"));
        let ca = read.choose(None).unwrap().ca;
        assert_eq!(ca, Some(directory.path().join("ca.pem")));

        read.make_current("b").unwrap();
        let read = Contexts::read(read.path).unwrap();
        assert_eq!(read.text, format!("current = \"b\"\n{TEXT}"));
        let error = read.make_current("c").unwrap_err().to_string();
        assert!(
            error.ends_with("has no context \"c\"; it has a, b"),
            "{error}"
        );
    }

    #[test]
    fn without_a_file_there_is_none() {
        let read = Contexts::read("/nowhere/config.toml".into()).unwrap();
        assert_eq!(read.choose(None).unwrap(), Context::default());
        assert!(read.choose(Some("a")).is_err());
    }

    #[test]
    fn mistakes_are_said() {
        let directory = tempfile::tempdir().unwrap();
        for (text, said) in [
            ("[contexts.a]\n", "contexts.a: registries is needed"),
            (
                "[contexts.a]\nregistry = \"x\"\n",
                "unknown field `registry`",
            ),
            (
                "[contexts.a]\nregistries = [\"a:1\"]\ncert = \"c\"\n",
                "cert and key come together",
            ),
        ] {
            let error = contexts(directory.path(), text).unwrap_err();
            assert!(format!("{error:#}").contains(said), "{error:#}");
        }
    }
}
