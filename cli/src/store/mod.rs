//! `tandem store`: moves what a registry stores.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, anyhow};
use clap::{Arg, ArgAction, ArgMatches, Command};
use store::{
    COMMIT_BYTES_MAX, COMMIT_WRITES_MAX, Embedded, Entry, Etcd, OpenError, Store, StoreError, Write,
};
use tandem_registry::StoreConfig;
use tokio::time::timeout;

use crate::exit::Exit;
use crate::lines;

const EXAMPLES: &str = "\
Stop the registry first; nodes go on without it. Set store.backend = \"etcd\" and store.etcd.endpoints in its
file, migrate, and start it again. The file of the embedded store stays as it is: to go back, set
store.backend back.

What is leased (which members live, what they reported) is not taken along: they say it again. The
generations begin anew, and nodes notice.

Examples:
  tandem store migrate --config registry.toml --dry-run
  tandem store migrate --config registry.toml
  tandem store migrate --config registry.toml --from /var/lib/tandem/registry.redb";

/// Keys that members lease. Notes, which are leased too, are in no listing.
const LEASED: &str = "alive/";
/// A registry that finds a store without it begins a new cluster; so it comes last, and whoever
/// starts too early makes the next commit fail.
const CLUSTER_KEY: &str = "secrets/cluster-key";
/// How long etcd may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// Returns the command line.
pub(crate) fn command() -> Command {
    let migrate = tandem_registry::command()
        .name("migrate")
        .about("Copies the embedded store into etcd, which must have nothing of this cluster yet")
        .arg(
            Arg::new("from")
                .long("from")
                .value_name("FILE")
                .value_parser(clap::value_parser!(PathBuf))
                .help("The embedded store [default: registry.redb in state_dir]"),
        )
        .arg(
            Arg::new("dry-run")
                .long("dry-run")
                .action(ArgAction::SetTrue)
                .help("Look at both, change nothing"),
        )
        .mut_arg("check", |check| check.hide(true))
        .after_help(EXAMPLES);
    Command::new("store")
        .about("Moves what a registry stores")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(migrate)
}

/// Runs what [`command`] matched.
pub(crate) async fn run(matches: &ArgMatches) -> anyhow::Result<Exit> {
    let Some(("migrate", matches)) = matches.subcommand() else {
        unreachable!("clap asks for it");
    };
    let usage = |error: anyhow::Error| Exit::Usage.because(error);
    let config = tandem_registry::read_config(matches).map_err(usage)?;
    let StoreConfig::Etcd(etcd) = &config.store else {
        return Err(usage(anyhow!(
            "where to? Set store.backend to etcd and name store.etcd.endpoints: see --help"
        )));
    };
    let from = matches.get_one::<PathBuf>("from").cloned();
    let from = from.unwrap_or_else(|| config.store_path());
    // Opening would make one.
    fs::metadata(&from)
        .with_context(|| format!("{}: --from names the embedded store", from.display()))
        .map_err(usage)?;
    let source = Embedded::open(&from, &config.cluster).await;
    let source = source.map_err(|error| match error {
        OpenError::Held { path } => anyhow!(
            "{}: in use: stop the registry first; nodes go on without it",
            path.display()
        ),
        OpenError::Directory { .. } | OpenError::Schema { .. } | OpenError::Database { .. } => {
            error.into()
        }
    })?;
    let target = Etcd::open(etcd, &config.cluster);
    let place = format!("etcd at {}", etcd.endpoints.join(", "));
    let dry_run = matches.get_flag("dry-run");
    migrate(&source, &target, &config.cluster, &place, dry_run).await
}

async fn migrate(
    source: &dyn Store,
    target: &dyn Store,
    cluster: &str,
    place: &str,
    dry_run: bool,
) -> anyhow::Result<Exit> {
    let stored = source.list("").await.context("the embedded store")?;
    let is_leased = |entry: &Entry| entry.key.starts_with(LEASED);
    let (leased, kept): (Vec<_>, Vec<_>) = stored.entries.into_iter().partition(is_leased);
    if !kept.iter().any(|entry| entry.key == CLUSTER_KEY) {
        return Err(anyhow!(
            "the embedded store has nothing of the cluster {cluster:?}"
        ));
    }
    let found = match timeout(ANSWER_MAX, target.list("")).await {
        Ok(Ok(found)) => found,
        Ok(Err(error)) => return Err(unavailable(place, Some(error))),
        Err(_) => return Err(unavailable(place, None)),
    };
    if !found.entries.is_empty() || found.at.generation > 0 {
        return Err(anyhow!(
            "{place}: has a cluster {cluster:?} already, {} keys at generation {}. To do away with it: \
             etcdctl del --prefix /tandem/v1/{cluster}/",
            found.entries.len(),
            found.at.generation
        ));
    }
    let (keys, generation) = (kept.len(), stored.at.generation);
    let verb = if dry_run { "would copy" } else { "copied" };
    let mut at = found.at;
    if !dry_run {
        for writes in commits(kept) {
            at = target.commit(at, writes).await.with_context(|| {
                format!(
                    "{place}: not finished at generation {}: stop every registry, do away with what is \
                     there (etcdctl del --prefix /tandem/v1/{cluster}/), and begin again",
                    at.generation
                )
            })?;
        }
    }
    lines::say(format_args!(
        "{verb} {keys} keys of the cluster {cluster:?} at generation {generation} to {place}"
    ))?;
    lines::say(format_args!("left away {} that are leased", leased.len()))?;
    if !dry_run {
        lines::say(format_args!(
            "it is at generation {} there; start the registry with store.backend = \"etcd\"",
            at.generation
        ))?;
    }
    Ok(Exit::Good)
}

/// Puts entries into commits within the store's limits, the cluster key into the last.
fn commits(mut entries: Vec<Entry>) -> Vec<Vec<Write>> {
    entries.sort_by_key(|entry| entry.key == CLUSTER_KEY);
    let (mut commits, mut bytes) = (vec![Vec::new()], 0);
    for Entry { key, value, .. } in entries {
        let size = key.len() + value.len();
        let current = commits.last_mut().expect("there is one from the start");
        if current.len() < COMMIT_WRITES_MAX && bytes + size <= COMMIT_BYTES_MAX {
            current.push(Write::Put { key, value });
            bytes += size;
        } else {
            commits.push(vec![Write::Put { key, value }]);
            bytes = size;
        }
    }
    commits
}

fn unavailable(place: &str, error: Option<StoreError>) -> anyhow::Error {
    match error {
        Some(error) => {
            Exit::Unavailable.because(anyhow::Error::new(error).context(place.to_owned()))
        }
        None => Exit::Unavailable.because(anyhow!("{place}: no answer within 10 s")),
    }
}

#[cfg(test)]
mod tests {
    use tempfile::tempdir;

    use store::Point;

    use super::*;

    fn put(key: String, bytes: usize) -> Write {
        Write::Put {
            key,
            value: vec![b'x'; bytes],
        }
    }

    #[tokio::test]
    async fn everything_that_is_not_leased_is_copied() {
        let directory = tempdir().unwrap();
        let open = async |name: &str| {
            Embedded::open(&directory.path().join(name), "c")
                .await
                .unwrap()
        };
        let (source, target) = (open("a").await, open("b").await);
        let mut at = Point::default();
        for i in 0..5 {
            let writes = (0..100).map(|n| put(format!("config/routes/{i}-{n}"), 100));
            at = source.commit(at, writes.collect()).await.unwrap();
        }
        for i in 0..6 {
            let large = vec![put(format!("config/tables/{i}"), 250_000)];
            at = source.commit(at, large).await.unwrap();
        }
        let alive = Write::PutLeased {
            key: "alive/a".into(),
            value: b"{}".into(),
            lease: Duration::from_secs(60),
        };
        let key = put(CLUSTER_KEY.into(), 16);
        source.commit(at, vec![alive, key]).await.unwrap();

        let dry = migrate(&source, &target, "c", "there", true).await;
        assert_eq!(dry.unwrap(), Exit::Good);
        assert_eq!(target.list("").await.unwrap().at, Point::default());

        let done = migrate(&source, &target, "c", "there", false).await;
        assert_eq!(done.unwrap(), Exit::Good);
        let content = |entries: Vec<Entry>| -> Vec<_> {
            let entries = entries.into_iter().map(|entry| (entry.key, entry.value));
            entries.filter(|(key, _)| key != "alive/a").collect()
        };
        let (before, after) = (
            source.list("").await.unwrap(),
            target.list("").await.unwrap(),
        );
        assert_eq!(content(before.entries), content(after.entries));

        let again = migrate(&source, &target, "c", "there", false)
            .await
            .unwrap_err();
        assert!(
            again.to_string().contains("has a cluster \"c\" already"),
            "{again}"
        );
    }

    #[tokio::test]
    async fn a_store_without_the_cluster_is_not_copied() {
        let directory = tempdir().unwrap();
        let source = Embedded::open(&directory.path().join("a"), "c")
            .await
            .unwrap();
        let target = Embedded::open(&directory.path().join("b"), "c")
            .await
            .unwrap();
        let error = migrate(&source, &target, "c", "there", false)
            .await
            .unwrap_err();
        assert!(
            error.to_string().contains("nothing of the cluster"),
            "{error}"
        );
    }

    #[test]
    fn the_cluster_key_comes_last() {
        let entry = |key: &str| Entry {
            key: key.into(),
            value: vec![0; 200_000],
            version: 1,
        };
        let mut entries = vec![entry(CLUSTER_KEY)];
        entries.extend((0..20).map(|i| entry(&format!("config/routes/{i}"))));
        let commits = commits(entries);
        assert_eq!(commits.len(), 5);
        let last = commits.last().and_then(|writes| writes.last()).unwrap();
        assert_eq!(last.key(), CLUSTER_KEY);
    }
}
