//! The contract of [`Applications`].

use async_trait::async_trait;
use shared::{
    applications::{application::Application, id::ApplicationId},
    store::{Applications, Page, StoreError, WriteApplicationError},
};

use crate::{
    state::State,
    world::{Process, Services},
};

#[async_trait]
impl Applications for Services {
    async fn application(&self, id: &ApplicationId) -> Result<Option<Application>, StoreError> {
        let id = id.clone();
        self.call("application", move |state, _| state.records.applications.get(&id).cloned()).await
    }

    async fn write_application(
        &self,
        before: Option<u64>,
        after: &Application,
    ) -> Result<(), WriteApplicationError> {
        let after = after.clone();
        let write = move |state: &mut State, process: &Process| {
            let stored = state.records.applications.get(&after.id);
            if stored == Some(&after) {
                return Ok(());
            }
            if stored.map(|stored| stored.revision) != before {
                let stored = stored.cloned().map(Box::new);
                return Err(WriteApplicationError::Changed(stored));
            }
            let what = after.changes.last().map_or("?", |change| &*change.what).to_owned();
            state.note(process, || format!("writes application {}: {what}", after.id));
            let keys = process.world.config.master_keys.as_ref();
            state.application_written(process, &after, keys);
            state.records.applications.insert(after.id.clone(), after);
            Ok(())
        };
        let written = self.call("write_application", write).await?;
        if written.is_err() {
            self.0.note_failure();
        }
        written
    }

    async fn applications(
        &self,
        after: Option<&ApplicationId>,
        limit: usize,
    ) -> Result<Page<Application, ApplicationId>, StoreError> {
        let after = after.cloned();
        let page = move |state: &mut State, _: &Process| {
            let all = state.records.applications.values();
            let later = all.filter(|found| after.as_ref().is_none_or(|after| found.id > *after));
            let mut items: Vec<Application> = later.take(limit + 1).cloned().collect();
            let more = items.len() > limit;
            items.truncate(limit);
            Page { next: items.last().filter(|_| more).map(|last| last.id.clone()), items }
        };
        self.call("applications", page).await
    }
}
