//! The contract of [`Applications`] on the table `applications`.

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension};

use super::{SqliteStore, unavailable};
use crate::{
    applications::{application::Application, id::ApplicationId},
    sqlite::{Durability, Transaction},
    store::{Applications, MAX_READ, Page, StoreError, WriteApplicationError},
};

#[async_trait]
impl Applications for SqliteStore {
    async fn application(&self, id: &ApplicationId) -> Result<Option<Application>, StoreError> {
        let name = id.as_str().to_owned();
        let read = self.database.read(move |connection| document(connection, &name));
        let document = read.await.map_err(unavailable)?;
        document.map(|(_, json)| parse(id, &json)).transpose()
    }

    async fn write_application(
        &self,
        before: Option<u64>,
        after: &Application,
    ) -> Result<(), WriteApplicationError> {
        let (name, json) = (after.id.as_str().to_owned(), after.to_json());
        let revision = after.revision as i64;
        let write = move |tx: &mut Transaction<'_>| {
            let stored = document(tx.connection(), &name)?;
            let is_expected = stored.as_ref().map(|(revision, _)| *revision)
                == before.map(|before| before as i64);
            if !is_expected {
                // The same bytes are the same document: an earlier try of this write took effect.
                let is_written = stored.as_ref().is_some_and(|(_, stored)| *stored == json);
                return Ok((is_written, stored));
            }
            tx.execute(
                "INSERT OR REPLACE INTO applications (id, revision, document) VALUES (?1, ?2, ?3)",
                (&name, revision, &json),
            )?;
            Ok((true, None))
        };
        let write = self.database.write(Durability::PowerLoss, write);
        let (is_written, stored) = write.await.map_err(unavailable)?;
        if is_written {
            return Ok(());
        }
        let stored = stored.map(|(_, json)| parse(&after.id, &json)).transpose()?;
        Err(WriteApplicationError::Changed(stored.map(Box::new)))
    }

    async fn applications(
        &self,
        after: Option<&ApplicationId>,
        limit: usize,
    ) -> Result<Page<Application, ApplicationId>, StoreError> {
        let after = after.map_or_else(String::new, |id| id.as_str().to_owned());
        let limit = limit.clamp(1, MAX_READ);
        let read = self.database.read(move |connection| list(connection, &after, limit));
        read.await.map_err(unavailable)
    }
}

/// The document and its revision.
fn document(connection: &Connection, id: &str) -> rusqlite::Result<Option<(i64, String)>> {
    let mut statement =
        connection.prepare_cached("SELECT revision, document FROM applications WHERE id = ?1")?;
    statement.query_row([id], |row| Ok((row.get(0)?, row.get(1)?))).optional()
}

/// Reads one row more than the page, to know whether another page follows.
fn list(
    connection: &Connection,
    after: &str,
    limit: usize,
) -> rusqlite::Result<Page<Application, ApplicationId>> {
    let mut statement = connection.prepare_cached(LIST_SQL)?;
    let mut rows = statement.query((after, limit as i64 + 1))?;
    let (mut items, mut count, mut last) = (Vec::new(), 0, None);
    while let Some(row) = rows.next()? {
        if count == limit {
            return Ok(Page { items, next: last });
        }
        count += 1;
        let name: String = row.get(0)?;
        match Application::from_json(row.get_ref(1)?.as_str()?) {
            Ok(application) => items.push(application),
            Err(error) => {
                tracing::warn!(application = name, %error,
                    "Skipped an application that cannot be read");
            }
        }
        last = name.parse().ok().or(last);
    }
    Ok(Page { items, next: None })
}

pub(super) const LIST_SQL: &str =
    "SELECT id, document FROM applications WHERE id > ?1 ORDER BY id LIMIT ?2";

fn parse(id: &ApplicationId, json: &str) -> Result<Application, StoreError> {
    Application::from_json(json).map_err(|source| StoreError::unreadable(id, source))
}
