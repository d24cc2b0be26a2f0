//! The conformance suite on the embedded backend. Store and queue share one file. Each case has its
//! own file, and the second handle has its own connections, as in another process.

#![allow(clippy::unwrap_used, reason = "a backend that does not start fails its case")]

use std::{path::PathBuf, process::ExitCode, sync::Arc};

use async_trait::async_trait;
use conformance::{self, Backend, TestClock};
use rusqlite::{Connection, OptionalExtension};
use shared::{
    applications::id::ApplicationId,
    clock::Timestamp,
    id::WebhookId,
    queue::{Queue, sqlite::SqliteQueue},
    sqlite::Database,
    store::{Store, sqlite::SqliteStore},
    traffic::target::TargetKey,
};
use tempfile::TempDir;

fn main() -> ExitCode {
    conformance::run("sqlite", || async { Box::new(Sqlite::start()) as Box<dyn Backend> })
}

#[derive(Debug)]
struct Sqlite {
    database: Database,
    clock: Arc<TestClock>,
    folder: TempDir,
}

impl Sqlite {
    fn start() -> Self {
        let folder = TempDir::new().unwrap();
        let database = Database::open(&folder.path().join("posthaste.db")).unwrap();
        Self { database, clock: Arc::default(), folder }
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("posthaste.db")
    }
}

#[async_trait]
impl Backend for Sqlite {
    fn store(&self) -> Arc<dyn Store> {
        Arc::new(SqliteStore::new(self.database.clone(), self.clock()))
    }

    fn queue(&self) -> Arc<dyn Queue> {
        Arc::new(SqliteQueue::new(self.database.clone(), self.clock()))
    }

    fn clock(&self) -> Arc<TestClock> {
        Arc::clone(&self.clock)
    }

    async fn second_store(&self) -> Arc<dyn Store> {
        Arc::new(SqliteStore::new(Database::open(&self.file()).unwrap(), self.clock()))
    }

    async fn second_queue(&self) -> Arc<dyn Queue> {
        Arc::new(SqliteQueue::new(Database::open(&self.file()).unwrap(), self.clock()))
    }

    async fn plant_record(&self, id: &WebhookId, json: &str) {
        let connection = Connection::open(self.file()).unwrap();
        let sql = "UPDATE webhooks SET record = ?2, revision = revision + 1 WHERE task = ?1";
        let mut key = id.task.as_bytes().to_vec();
        key.extend(id.endpoint.map(|endpoint| endpoint.to_string()).unwrap_or_default().bytes());
        assert_eq!(connection.execute(sql, (key, json)).unwrap(), 1);
    }

    async fn plant_application(&self, id: &ApplicationId, json: &str) {
        let connection = Connection::open(self.file()).unwrap();
        let sql = "UPDATE applications SET document = ?2, revision = revision + 1 WHERE id = ?1";
        assert_eq!(connection.execute(sql, (id.as_str(), json)).unwrap(), 1);
    }

    async fn plant_target(&self, key: &TargetKey, json: &str) {
        let connection = Connection::open(self.file()).unwrap();
        let sql = "UPDATE targets SET target = ?2 WHERE key = ?1";
        assert_eq!(connection.execute(sql, (key.as_str(), json)).unwrap(), 1);
    }

    async fn has_content(&self, id: &WebhookId) -> bool {
        let connection = Connection::open(self.file()).unwrap();
        let sql = "SELECT EXISTS (SELECT 1 FROM contents WHERE instr(payload, ?1))";
        connection.query_row(sql, [id.task.to_string()], |row| row.get(0)).unwrap()
    }

    async fn plant_older_position(&self, at: Timestamp) {
        let connection = Connection::open(self.file()).unwrap();
        let sql = "INSERT OR REPLACE INTO sweep (name, value) VALUES ('audited_until', ?1)";
        connection.execute(sql, [at.as_millis()]).unwrap();
    }

    async fn older_position(&self) -> Option<Timestamp> {
        let connection = Connection::open(self.file()).unwrap();
        let sql = "SELECT value FROM sweep WHERE name = 'audited_until'";
        connection
            .query_row(sql, [], |row| row.get(0))
            .optional()
            .unwrap()
            .map(Timestamp::from_millis)
    }
}
