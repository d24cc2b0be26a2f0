//! The contract of [`Applications`].

use async_trait::async_trait;

use super::RedisStore;
use crate::{
    applications::{application::Application, id::ApplicationId},
    store::{Applications, Page, StoreError, WriteApplicationError},
};

#[async_trait]
impl Applications for RedisStore {
    async fn application(&self, _id: &ApplicationId) -> Result<Option<Application>, StoreError> {
        todo!()
    }

    async fn write_application(
        &self,
        _before: Option<u64>,
        _after: &Application,
    ) -> Result<(), WriteApplicationError> {
        todo!()
    }

    async fn applications(
        &self,
        _after: Option<&ApplicationId>,
        _limit: usize,
    ) -> Result<Page<Application, ApplicationId>, StoreError> {
        todo!()
    }
}
