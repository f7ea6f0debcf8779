//! What a node remembers from one start to the next: its incarnation, the last good view, and what it
//! kept in force beside it.
//!
//! Files are replaced as a whole: written beside, synced, renamed. They hold the cluster key, so only
//! their owner may read them.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use prost::Message;

use super::StartError;
use crate::name::Name;
use crate::registry::v1::{Position, Resource, Version};
use crate::view::Resources;

/// The last good view.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Stored {
    /// What the registry had.
    pub(super) resources: Resources,
    /// What had vanished from it without being deleted.
    pub(super) kept: BTreeMap<Arc<Name>, Arc<Resource>>,
}

/// [`Stored`] as it is written. What it shares with a `Snapshot` has the same fields: a version that knows
/// nothing of the others still reads it.
#[derive(Clone, PartialEq, prost::Message)]
struct Written {
    #[prost(message, optional, tag = "1")]
    position: Option<Position>,
    #[prost(bytes = "vec", tag = "3")]
    cluster_key: Vec<u8>,
    #[prost(message, repeated, tag = "4")]
    resources: Vec<Resource>,
    #[prost(message, repeated, tag = "15")]
    kept: Vec<Resource>,
    #[prost(message, repeated, tag = "16")]
    not_known: Vec<Version>,
}

#[derive(Clone, Debug)]
pub(super) struct Disk {
    view: PathBuf,
    incarnation: PathBuf,
}

impl Disk {
    pub(super) fn open(directory: &Path, id: &str) -> Result<Self, StartError> {
        fs::create_dir_all(directory).map_err(|source| StartError::StateDir {
            path: directory.to_owned(),
            source,
        })?;
        Ok(Self {
            view: directory.join(format!("{id}.view")),
            incarnation: directory.join(format!("{id}.incarnation")),
        })
    }

    /// Takes the next incarnation: wall clock in milliseconds, but always more than the last one.
    pub(super) fn next_incarnation(&self) -> Result<u64, StartError> {
        let failed = |source| StartError::StateDir {
            path: self.incarnation.clone(),
            source,
        };
        let last: u64 = match fs::read_to_string(&self.incarnation) {
            Ok(text) => text
                .trim()
                .parse()
                .map_err(|_| failed(io::Error::other("holds no number; delete it")))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => return Err(failed(error)),
        };
        let wall = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_millis();
        let next = u64::try_from(wall).unwrap_or_default().max(last + 1);
        replace(&self.incarnation, next.to_string().as_bytes()).map_err(failed)?;
        Ok(next)
    }

    /// Returns the last good view; none if there is none, or if it is damaged.
    pub(super) fn load(&self) -> Option<Stored> {
        let bytes = match fs::read(&self.view) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::warn!(path = %self.view.display(), %error, "the stored view cannot be read");
                return None;
            }
        };
        let view = decode(&bytes);
        if view.is_none() {
            tracing::warn!(path = %self.view.display(), "the stored view is damaged");
        }
        view
    }

    pub(super) fn save(&self, stored: &Stored) -> io::Result<()> {
        let resources = &stored.resources;
        let copies = |held: &BTreeMap<Arc<Name>, Arc<Resource>>| {
            let resources = held.values();
            resources
                .map(|resource| Resource::clone(resource))
                .collect()
        };
        let not_known = resources.not_known.iter().map(|(name, etag)| Version {
            name: name.clone(),
            etag: etag.clone(),
        });
        let written = Written {
            position: Some(resources.position()),
            cluster_key: resources.cluster_key.to_vec(),
            resources: copies(&resources.by_name),
            kept: copies(&stored.kept),
            not_known: not_known.collect(),
        };
        replace(&self.view, &written.encode_to_vec())
    }
}

fn decode(bytes: &[u8]) -> Option<Stored> {
    let written = Written::decode(bytes).ok()?;
    let position = written.position?;
    let not_known = written.not_known.into_iter();
    let mut resources = Resources {
        generation: position.generation,
        cluster_key: written.cluster_key.try_into().ok()?,
        not_known: not_known.map(|one| (one.name, one.etag)).collect(),
        ..Resources::default()
    };
    for resource in written.resources {
        resources.insert(resource).ok()?;
    }
    let mut kept = Resources::default();
    for resource in written.kept {
        kept.insert(resource).ok()?;
    }
    (resources.position() == position).then_some(Stored {
        resources,
        kept: kept.by_name,
    })
}

fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let beside = path.with_added_extension("new");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    path.parent()
        .map_or(Ok(()), |directory| File::open(directory)?.sync_all())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::registry::v1::Route;
    use crate::registry::v1::resource::Resource as Kind;

    #[test]
    fn every_start_has_a_greater_incarnation_even_when_the_clock_went_back() {
        let directory = tempfile::tempdir().unwrap();
        let disk = Disk::open(directory.path(), "a").unwrap();
        let first = disk.next_incarnation().unwrap();
        assert!(disk.next_incarnation().unwrap() > first);
        let future = u64::MAX / 2;
        replace(&disk.incarnation, future.to_string().as_bytes()).unwrap();
        assert_eq!(disk.next_incarnation().unwrap(), future + 1);
    }

    #[test]
    fn a_view_comes_back_and_a_damaged_one_does_not() {
        let directory = tempfile::tempdir().unwrap();
        let disk = Disk::open(directory.path(), "a").unwrap();
        assert_eq!(disk.load(), None);
        let route = |name: &str| Resource {
            resource: Some(Kind::Route(Route {
                name: name.into(),
                ..Default::default()
            })),
        };
        let mut kept = Resources::default();
        kept.insert(route("routes/kept")).unwrap();
        let mut stored = Stored {
            resources: Resources {
                generation: 7,
                cluster_key: [9; 16],
                not_known: BTreeMap::from([("new/a".into(), "7-x".into())]),
                ..Resources::default()
            },
            kept: kept.by_name,
        };
        stored.resources.insert(route("routes/a")).unwrap();
        disk.save(&stored).unwrap();
        assert_eq!(disk.load(), Some(stored));
        assert_eq!(
            fs::metadata(&disk.view).unwrap().permissions().mode() & 0o777,
            0o600
        );
        fs::write(&disk.view, b"\xff\xff").unwrap();
        assert_eq!(disk.load(), None);
    }
}
