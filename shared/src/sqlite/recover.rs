//! Recovers the readable part of a damaged file.
//!
//! It reads each table from its beginning to the first unreadable page, then from its end. It looks
//! up the rows in between one by one, by the keys in the indexes.

use std::{collections::BTreeSet, path::Path};

use rusqlite::{Connection, ErrorCode, OpenFlags, params_from_iter, types::Value};

use super::{
    Total,
    copy::{Copied, CopyError, Partial, check, failed, open},
    data_dir::DataDir,
    open::prepare,
    schema::MIGRATIONS,
};
use crate::{id::TaskId, status::Status};

/// What was recovered, and what was lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// The content of the new file.
    pub saved: Copied,
    /// Tables that were not read completely.
    pub damaged_tables: Vec<String>,
    /// Webhooks that are not in the new file: an index names them but they are unreadable, or they
    /// are unfinished and have lost their payload.
    pub lost_webhooks: Vec<String>,
    /// Finished webhooks without their payload. Their status is kept.
    pub without_payload: u64,
}

/// Copies the readable part of a data directory's database to a new file that only the owner can
/// read.
pub fn recover(folder: &DataDir, target: &Path, overwrite: bool) -> Result<Recovered, CopyError> {
    let path = folder.database();
    let partial = Partial::new(&path, target, overwrite)?;
    let source = open(&path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    let mut recovered = {
        let saved = prepare(partial.path(), MIGRATIONS)?;
        let rescue = Rescue { source: &source, target: &saved };
        let recovered = rescue.run().map_err(|error| failed(&path, error))?;
        // One file without a log.
        let end = saved.query_row("PRAGMA journal_mode = DELETE", (), |_| Ok(()));
        end.map_err(|error| failed(&path, error))?;
        recovered
    };
    recovered.saved = check(partial.path())?;
    partial.publish(target)?;
    Ok(recovered)
}

struct Rescue<'c> {
    source: &'c Connection,
    target: &'c Connection,
}

/// A table, with the columns that both files have.
struct Table {
    name: String,
    columns: Vec<String>,
    key: Vec<String>,
}

impl Table {
    fn select(&self, rest: &str) -> String {
        format!("SELECT {} FROM {} {rest}", self.columns.join(", "), self.name)
    }

    fn insert(&self) -> String {
        let places = vec!["?"; self.columns.len()].join(", ");
        format!("INSERT INTO {} ({}) VALUES ({places})", self.name, self.columns.join(", "))
    }
}

impl Rescue<'_> {
    fn run(&self) -> rusqlite::Result<Recovered> {
        self.target.execute_batch("PRAGMA synchronous = OFF; BEGIN; DELETE FROM totals")?;
        let (mut damaged_tables, mut lost) = (Vec::new(), BTreeSet::new());
        for table in self.tables()? {
            if self.walk(&table, "ASC")? {
                continue;
            }
            self.walk(&table, "DESC")?;
            for key in self.look_up_by_indexes(&table)? {
                if let (true, Some(Value::Blob(task))) = (table.name == "webhooks", key.first()) {
                    lost.extend(name_of(task));
                }
            }
            damaged_tables.push(table.name);
        }
        if damaged_tables.iter().any(|table| table == "webhooks") {
            self.count_unstarted()?;
        }
        let without_payload = self.settle_contents(&mut lost)?;
        self.count()?;
        self.target.execute_batch("COMMIT")?;
        let saved = Copied { webhooks: 0, unfinished: 0, bytes: 0 };
        Ok(Recovered {
            saved,
            damaged_tables,
            lost_webhooks: lost.into_iter().collect(),
            without_payload,
        })
    }

    /// All tables except the totals, which are recounted. Webhooks come before their contents.
    fn tables(&self) -> rusqlite::Result<Vec<Table>> {
        let names = texts(
            self.target,
            "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite%' AND \
             name <> 'totals'
             ORDER BY name DESC",
            "",
        )?;
        names
            .into_iter()
            .map(|name| {
                let found = texts(self.source, "SELECT name FROM pragma_table_info(?1)", &name)?;
                let columns = texts(
                    self.target,
                    "SELECT name FROM pragma_table_info(?1) ORDER BY cid",
                    &name,
                )?;
                let key = texts(
                    self.target,
                    "SELECT name FROM pragma_table_info(?1) WHERE pk > 0 ORDER BY pk",
                    &name,
                )?;
                let columns = columns.into_iter().filter(|column| found.contains(column)).collect();
                Ok(Table { name, columns, key })
            })
            // A table that the older file lacks is empty.
            .filter(|table| table.as_ref().map_or(true, |table| !table.columns.is_empty()))
            .collect()
    }

    /// Copies rows in this order until the end, a row that exists already, or an unreadable page.
    /// Returns whether it reached the end and read every row.
    fn walk(&self, table: &Table, order: &str) -> rusqlite::Result<bool> {
        let by = table
            .key
            .iter()
            .map(|column| format!("{column} {order}"))
            .collect::<Vec<_>>()
            .join(", ");
        let mut statement = match self.source.prepare(&table.select(&format!("ORDER BY {by}"))) {
            Ok(statement) => statement,
            Err(error) if is_unreadable(&error) => return Ok(false),
            Err(error) => return Err(error),
        };
        let (mut rows, mut is_whole) = (statement.query(())?, true);
        loop {
            let row = match rows.next() {
                Ok(Some(row)) => row,
                Ok(None) => return Ok(is_whole),
                Err(error) if is_unreadable(&error) => return Ok(false),
                Err(error) => return Err(error),
            };
            // Invalid text comes from an overwritten page.
            let Ok(values) = (0..table.columns.len())
                .map(|column| row.get(column))
                .collect::<rusqlite::Result<Vec<_>>>()
            else {
                is_whole = false;
                continue;
            };
            if !self.insert(table, &values)? && order == "DESC" {
                return Ok(false);
            }
        }
    }

    /// Whether the row is new and valid for the table.
    fn insert(&self, table: &Table, values: &[Value]) -> rusqlite::Result<bool> {
        match self.target.prepare_cached(&table.insert())?.execute(params_from_iter(values)) {
            Ok(_) => Ok(true),
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation) => {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Copies rows that an index names. Returns the keys of unreadable rows.
    fn look_up_by_indexes(&self, table: &Table) -> rusqlite::Result<Vec<Vec<Value>>> {
        let keys = match table.name.as_str() {
            // A message shares its content with its deliveries. Rows without a record have none.
            "contents" => {
                rows(self.target, "SELECT DISTINCT content FROM webhooks WHERE content <> 0", 1)?
            }
            _ => self.keys_in_indexes(table)?,
        };
        let is_key = table
            .key
            .iter()
            .map(|column| format!("{column} = ?"))
            .collect::<Vec<_>>()
            .join(" AND ");
        let (select, exists) = (
            table.select(&format!("WHERE {is_key}")),
            format!("SELECT 1 FROM {} WHERE {is_key}", table.name),
        );
        let mut unreadable = Vec::new();
        for key in keys {
            if self.target.prepare_cached(&exists)?.exists(params_from_iter(&key))? {
                continue;
            }
            let found = self.source.prepare_cached(&select).and_then(|mut statement| {
                let values = |row: &rusqlite::Row<'_>| {
                    (0..table.columns.len()).map(|column| row.get(column)).collect()
                };
                statement.query_row(params_from_iter(&key), values)
            });
            let values: Option<Vec<Value>> = found.ok();
            if !values.is_some_and(|values| self.insert(table, &values).unwrap_or(false)) {
                unreadable.push(key);
            }
        }
        Ok(unreadable)
    }

    fn keys_in_indexes(&self, table: &Table) -> rusqlite::Result<Vec<Vec<Value>>> {
        let key = table.key.join(", ");
        let indexes = "SELECT name || ' ' || coalesce(substr(sql, nullif(instr(sql, ' WHERE '), \
            0)), '') FROM (
                SELECT name, replace(sql, char(10), ' ') AS sql FROM sqlite_schema
                WHERE type = 'index' AND tbl_name = ?1
            ) WHERE sql IS NOT NULL";
        let mut keys = Vec::new();
        // Those of the damaged file, which may have an older schema.
        for index in texts(self.source, indexes, &table.name)? {
            for order in ["ASC", "DESC"] {
                let (index, condition) = index.split_once(' ').unwrap_or((&index, ""));
                let first = texts(
                    self.target,
                    "SELECT name FROM pragma_index_info(?1) WHERE seqno = 0",
                    index,
                )?
                .join("");
                let sql = format!(
                    "SELECT {key} FROM {} INDEXED BY {index} {condition} ORDER BY {first} {order}",
                    table.name
                );
                keys.extend(rows(self.source, &sql, table.key.len())?);
            }
        }
        Ok(keys)
    }

    /// An unfinished webhook without its payload could never be delivered. Nor could a message with
    /// deliveries that have not started, or an unfinished delivery without its message.
    fn settle_contents(&self, lost: &mut BTreeSet<String>) -> rusqlite::Result<u64> {
        const WITHOUT: &str = "content <> 0 AND content NOT IN (SELECT id FROM contents)";
        let unfinished =
            format!("status NOT IN ({}, {})", Status::Delivered.code(), Status::Failed.code());
        // A message has the status of an unfinished webhook while a delivery has not started.
        let without_payload = format!("{WITHOUT} AND ({unfinished} OR kind = 1 AND due_at > 0)");
        let without_message = format!(
            "kind = 2 AND {unfinished} AND NOT EXISTS (SELECT 1 FROM webhooks AS message WHERE \
             message.task = substr(webhooks.task, 1, 16) AND message.kind = 1)"
        );
        for condition in [without_payload, without_message] {
            let sql = format!("SELECT task FROM webhooks WHERE {condition}");
            for key in rows(self.target, &sql, 1)? {
                if let Some(Value::Blob(task)) = key.first() {
                    lost.extend(name_of(task));
                    self.target.execute("DELETE FROM webhooks WHERE task = ?1", [task])?;
                }
            }
        }
        let count = format!("SELECT count(*) FROM webhooks WHERE {WITHOUT}");
        self.target.query_row(&count, (), |row| row.get::<_, i64>(0)).map(i64::unsigned_abs)
    }

    /// Counts again which deliveries have no row. One whose row is lost starts again, if its
    /// message is there.
    fn count_unstarted(&self) -> rusqlite::Result<()> {
        self.target.execute_batch(&format!(
            "UPDATE webhooks SET unstarted = max(0, json_array_length(record, '$.plan') - (
                 SELECT count(*) FROM webhooks AS delivery WHERE delivery.task > webhooks.task
                 AND delivery.task < CAST(webhooks.task || x'ff' AS BLOB)))
             WHERE kind = 1 AND json_valid(record);
             UPDATE webhooks SET status = iif(unstarted > 0, {}, {}) WHERE kind = 1",
            Status::Pending.code(),
            Status::Delivered.code()
        ))
    }

    fn count(&self) -> rusqlite::Result<()> {
        for total in Total::ALL {
            let counted = match total {
                Total::Webhooks(status) => {
                    format!("webhooks WHERE kind IN (0, 2) AND status = {}", status.code())
                }
                Total::Messages(lane) => format!("messages WHERE lane = {}", lane.code()),
            };
            self.target.execute(
                &format!("INSERT INTO totals (slot, n) SELECT ?1, count(*) FROM {counted}"),
                [total.slot() as i64],
            )?;
        }
        Ok(())
    }
}

/// A corrupt page, or one that the disk cannot read.
fn is_unreadable(error: &rusqlite::Error) -> bool {
    let code = error.sqlite_error_code();
    matches!(
        code,
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::SystemIoFailure)
    )
}

/// The end of the webhook's id.
fn name_of(key: &[u8]) -> Option<String> {
    let (task, endpoint) = key.split_at_checked(16)?;
    let task = TaskId::from_bytes(task)?;
    let endpoint = std::str::from_utf8(endpoint).ok()?;
    Some(if endpoint.is_empty() { task.to_string() } else { format!("{task}.{endpoint}") })
}

fn texts(connection: &Connection, sql: &str, parameter: &str) -> rusqlite::Result<Vec<String>> {
    let mut statement = connection.prepare_cached(sql)?;
    let parameters = params_from_iter([parameter].into_iter().take(statement.parameter_count()));
    statement.query_map(parameters, |row| row.get(0))?.collect()
}

/// The readable rows.
fn rows(connection: &Connection, sql: &str, columns: usize) -> rusqlite::Result<Vec<Vec<Value>>> {
    let mut statement = match connection.prepare(sql) {
        Ok(statement) => statement,
        Err(error) if is_unreadable(&error) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let read =
        statement.query_map((), |row| (0..columns).map(|column| row.get(column)).collect())?;
    Ok(read.map_while(Result::ok).collect())
}
