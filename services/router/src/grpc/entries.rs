//! `tandem.router.v1.TableEntryService`: what is in the tables of the cell, read and written here.

use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use control::router::v1::delete_matching_table_entries_request::Pattern as Wanted;
use control::router::v1::table_entry::Value as Shown;
use control::router::v1::table_entry_service_server::TableEntryService;
use control::router::v1::watch_table_entries_response::Event;
use control::router::v1::{
    DeleteMatchingTableEntriesRequest, DeleteMatchingTableEntriesResponse, DeleteTableEntryRequest,
    DeleteTableEntryResponse, FlushTableRequest, FlushTableResponse, GetTableEntryRequest,
    ListTableEntriesRequest, ListTableEntriesResponse, PatternSubject, SetTableEntryRequest,
    TableEntry, WatchTableEntriesRequest, WatchTableEntriesResponse,
};
use host::pages;
use host::tap::Reading;
use htable::{By, Pattern, Value, WriteError};
use prost_types::Timestamp;
use replication::{EntryError, EntryKey, EntryRecord, Now, Origin, Replica};
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status};

use super::base64url;
use super::cell::Cell;
use super::watch::{Watch, cut};

/// How many entries are looked at while the node is locked once.
const CHUNK: usize = 256;

pub(super) struct Entries {
    pub(super) cell: Cell,
    pub(super) watch: Arc<Watch>,
}

#[tonic::async_trait]
impl TableEntryService for Entries {
    async fn get_table_entry(
        &self,
        request: Request<GetTableEntryRequest>,
    ) -> Result<Response<TableEntry>, Status> {
        let name = request.into_inner().name;
        let key = parse_name(&name)?;
        let entry = self.record(&key)?;
        let entry = entry.filter(|record| record.value.is_some());
        let entry = entry.ok_or_else(|| {
            Status::not_found(format!("{name}: there is no such key in the table"))
        })?;
        Ok(Response::new(shown(&key, Some(&entry))))
    }

    async fn list_table_entries(
        &self,
        request: Request<ListTableEntriesRequest>,
    ) -> Result<Response<ListTableEntriesResponse>, Status> {
        let request = request.into_inner();
        let size = pages::size(request.page_size)?;
        let table = parse_table(&request.parent)?;
        let after = match request.page_token.as_str() {
            "" => None,
            token => Some(base64url::decode(token).ok_or_else(pages::bad_token)?),
        };
        let now = self.cell.now();
        let page = self.cell.look(|replication| {
            let found = replication.replica().entries().tables().table(&table)?;
            let entries = found.iter_after(now, after.as_deref());
            let copies = entries.map(|(key, entry)| (key.clone(), entry.clone()));
            Some(copies.take(size).collect::<Vec<_>>())
        })?;
        let page = page.ok_or_else(|| refused(&table, EntryError::NoTable))?;
        let next_page_token = match page.last() {
            Some((key, _)) if page.len() == size => base64url::encode(key),
            Some(_) | None => String::new(),
        };
        let entries = page.into_iter().map(|(key, entry)| {
            let table = table.clone();
            let record = EntryRecord {
                value: Some(entry.value),
                write: entry.stamp,
                remaining: entry.expires.map(|at| at.saturating_duration_since(now)),
                gone_hash: 0,
            };
            shown(&EntryKey { table, key }, Some(&record))
        });
        Ok(Response::new(ListTableEntriesResponse {
            table_entries: entries.collect(),
            next_page_token,
        }))
    }

    type WatchTableEntriesStream =
        Pin<Box<dyn Stream<Item = Result<WatchTableEntriesResponse, Status>> + Send>>;

    async fn watch_table_entries(
        &self,
        request: Request<WatchTableEntriesRequest>,
    ) -> Result<Response<Self::WatchTableEntriesStream>, Status> {
        let table = match request.into_inner().parent.as_str() {
            "" => String::new(),
            parent => table_name(parent)?.to_owned(),
        };
        let entries = self.watch.entries(table).await?;
        let responses = entries.map(|reading| {
            let event = Some(match reading {
                Reading::Item(entry) => Event::TableEntry(entry),
                Reading::Cut { reason, missed } => Event::Cut(cut(reason, missed)),
            });
            Ok(WatchTableEntriesResponse { event })
        });
        Ok(Response::new(Box::pin(responses)))
    }

    async fn set_table_entry(
        &self,
        request: Request<SetTableEntryRequest>,
    ) -> Result<Response<TableEntry>, Status> {
        let SetTableEntryRequest { table_entry, ttl } = request.into_inner();
        let entry =
            table_entry.ok_or_else(|| Status::invalid_argument("table_entry: is required"))?;
        let key = match entry.name.as_str() {
            "" => key(&entry.table, entry.key)?,
            name => parse_name(name)?,
        };
        let value = match entry.value {
            Some(Shown::Number(number)) => Value::Int(number),
            Some(Shown::Text(text)) => Value::Text(text.into()),
            None => return Err(Status::invalid_argument("table_entry.value: is required")),
        };
        let ttl = ttl.map(whole_seconds).transpose()?;
        self.check_ttl(&key, ttl)?;
        let written = self.cell.change(|replication, now| {
            replication.write(now, |replica| {
                replica.set(now, &key, value, Origin::Local)?;
                if let Some(seconds) = ttl {
                    replica.set_expire(now, &key, seconds, Origin::Local)?;
                }
                Ok(replica.entries().record(now.monotonic, &key))
            })
        })?;
        let written = written.map_err(|error| refused(&key.table, error))?;
        Ok(Response::new(shown(&key, written.as_ref())))
    }

    async fn delete_table_entry(
        &self,
        request: Request<DeleteTableEntryRequest>,
    ) -> Result<Response<DeleteTableEntryResponse>, Status> {
        let key = parse_name(&request.into_inner().name)?;
        let existed = self.cell.change(|replication, now| {
            replication.write(now, |replica| {
                let entry = replica.entries().record(now.monotonic, &key);
                replica.delete(now, &key, Origin::Local)?;
                Ok(entry.is_some_and(|entry| entry.value.is_some()))
            })
        })?;
        let existed = existed.map_err(|error| refused(&key.table, error))?;
        Ok(Response::new(DeleteTableEntryResponse { existed }))
    }

    async fn delete_matching_table_entries(
        &self,
        request: Request<DeleteMatchingTableEntriesRequest>,
    ) -> Result<Response<DeleteMatchingTableEntriesResponse>, Status> {
        let request = request.into_inner();
        let by = match request.subject() {
            PatternSubject::Unspecified | PatternSubject::Key => By::Key,
            PatternSubject::Value => By::Value,
        };
        let (field, pattern) = match &request.pattern {
            Some(Wanted::Regex(operand)) => ("regex", Pattern::regex(operand)),
            Some(Wanted::Prefix(operand)) => ("prefix", Pattern::prefix(operand)),
            None => return Err(Status::invalid_argument("regex or prefix: is required")),
        };
        let pattern =
            pattern.map_err(|error| Status::invalid_argument(format!("{field}: {error}")))?;
        let deleted = self.delete(&request.parent, Some((by, &pattern)))?;
        Ok(Response::new(DeleteMatchingTableEntriesResponse {
            deleted,
        }))
    }

    async fn flush_table(
        &self,
        request: Request<FlushTableRequest>,
    ) -> Result<Response<FlushTableResponse>, Status> {
        let deleted = self.delete(&request.into_inner().parent, None)?;
        Ok(Response::new(FlushTableResponse { deleted }))
    }
}

impl Entries {
    fn record(&self, key: &EntryKey) -> Result<Option<EntryRecord>, Status> {
        let now = self.cell.now();
        let found = self.cell.look(|replication| {
            let entries = replication.replica().entries();
            let is_table = entries.tables().table(&key.table).is_some();
            is_table.then(|| entries.record(now, key))
        })?;
        found.ok_or_else(|| refused(&key.table, EntryError::NoTable))
    }

    /// Refuses a lifetime where the table knows none: the write would keep it for ever.
    fn check_ttl(&self, key: &EntryKey, ttl: Option<i64>) -> Result<(), Status> {
        let expires = self.cell.look(|replication| {
            let table = replication.replica().entries().tables().table(&key.table);
            table.is_none_or(|table| table.definition().autoexpire.is_some())
        })?;
        if ttl.is_some() && !expires {
            return Err(Status::failed_precondition(
                "ttl: entries of this table do not expire; set autoexpire in its definition first",
            ));
        }
        Ok(())
    }

    /// Deletes what matches, or everything. The node is locked for some entries at a time; what is set
    /// meanwhile may stay.
    fn delete(&self, parent: &str, pattern: Option<(By, &Pattern)>) -> Result<u64, Status> {
        let table = parse_table(parent)?;
        let (mut deleted, mut after) = (0, None);
        loop {
            let done = self.cell.change(|replication, now| {
                replication.write(now, |replica| {
                    delete_some(now, replica, &table, pattern, after.as_deref())
                })
            })?;
            let (count, last) = done.map_err(|error| refused(&table, error))?;
            deleted += count;
            match last {
                Some(_) => after = last,
                None => return Ok(deleted),
            }
        }
    }
}

/// Deletes what matches among the next entries of a table; returns how many, and the last that was
/// looked at if there may be more.
fn delete_some(
    now: Now,
    replica: &mut Replica,
    table: &Bytes,
    pattern: Option<(By, &Pattern)>,
    after: Option<&[u8]>,
) -> Result<(u64, Option<Bytes>), EntryError> {
    let found = replica.entries().tables().table(table);
    let found = found.ok_or(EntryError::NoTable)?;
    let entries = found.iter_after(now.monotonic, after).take(CHUNK);
    let matches = |key: &Bytes, value: &Value| {
        pattern.is_none_or(|(by, pattern)| pattern.matches(by, key, value))
    };
    let looked_at: Vec<(Bytes, bool)> = entries
        .map(|(key, entry)| (key.clone(), matches(key, &entry.value)))
        .collect();
    let last = looked_at.get(CHUNK - 1).map(|(key, _)| key.clone());
    let mut deleted = 0;
    for (key, _) in looked_at.into_iter().filter(|(_, matches)| *matches) {
        let table = table.clone();
        replica.delete(now, &EntryKey { table, key }, Origin::Local)?;
        deleted += 1;
    }
    Ok((deleted, last))
}

/// Returns an entry as it is shown: without a value when it is gone.
pub(super) fn shown(key: &EntryKey, record: Option<&EntryRecord>) -> TableEntry {
    let table = String::from_utf8_lossy(&key.table).into_owned();
    let value = record.and_then(|record| record.value.as_ref());
    let written = record.map(|record| record.write.stamp.wall());
    TableEntry {
        name: format!("tables/{table}/entries/{}", base64url::encode(&key.key)),
        table,
        key: key.key.to_vec(),
        value: value.map(|value| match value {
            Value::Int(number) => Shown::Number(*number),
            Value::Text(text) => Shown::Text(text.to_vec()),
        }),
        remaining: record
            .and_then(|record| record.remaining)
            .and_then(|remaining| remaining.try_into().ok()),
        write_time: written.map(|millis| Timestamp {
            seconds: (millis / 1000) as i64,
            nanos: (millis % 1000 * 1_000_000) as i32,
        }),
    }
}

fn refused(table: &[u8], error: EntryError) -> Status {
    let table = String::from_utf8_lossy(table);
    match error {
        EntryError::NoTable => Status::not_found(format!(
            "tables/{table}: this router has no such table; define it at the registry with \
             tandem.registry.v1.TableDefinitionService"
        )),
        EntryError::Write(WriteError::Full) => {
            Status::resource_exhausted(format!("tables/{table}: {error}: raise its entries_max"))
        }
        EntryError::Write(WriteError::Key | WriteError::Value) => {
            Status::invalid_argument(error.to_string())
        }
    }
}

fn whole_seconds(ttl: prost_types::Duration) -> Result<i64, Status> {
    if ttl.nanos != 0 || !(1..=i64::from(i32::MAX)).contains(&ttl.seconds) {
        return Err(Status::invalid_argument(
            "ttl: is not a whole number of seconds from 1 to 2147483647",
        ));
    }
    Ok(ttl.seconds)
}

fn table_name(parent: &str) -> Result<&str, Status> {
    let table = parent.strip_prefix("tables/");
    let table = table.filter(|table| !table.is_empty() && !table.contains('/'));
    table.ok_or_else(|| Status::invalid_argument(format!("parent: {parent:?} is not tables/TABLE")))
}

fn parse_table(parent: &str) -> Result<Bytes, Status> {
    table_name(parent).map(|table| Bytes::copy_from_slice(table.as_bytes()))
}

fn parse_name(name: &str) -> Result<EntryKey, Status> {
    let parts = name
        .strip_prefix("tables/")
        .and_then(|name| name.split_once("/entries/"));
    let parsed = parts.and_then(|(table, encoded)| Some((table, base64url::decode(encoded)?)));
    let Some((table, bytes)) = parsed else {
        return Err(Status::invalid_argument(format!(
            "name: {name:?} is not tables/TABLE/entries/KEY with the key in base64url, unpadded"
        )));
    };
    key(table, bytes)
}

fn key(table: &str, key: Vec<u8>) -> Result<EntryKey, Status> {
    if table.is_empty() || table.contains('/') {
        return Err(Status::invalid_argument(
            "table: is not the name of a table",
        ));
    }
    Ok(EntryKey {
        table: Bytes::copy_from_slice(table.as_bytes()),
        key: key.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back_as_they_were() {
        let key = EntryKey {
            table: "bans".into(),
            key: Bytes::from_static(b"a/b\xff"),
        };
        let entry = shown(&key, None);
        assert_eq!(entry.name, "tables/bans/entries/YS9i_w");
        assert_eq!(parse_name(&entry.name).unwrap(), key);
        for wrong in ["tables/bans", "tables//entries/YQ", "tables/a/entries/="] {
            assert!(parse_name(wrong).is_err(), "{wrong}");
        }
    }
}
