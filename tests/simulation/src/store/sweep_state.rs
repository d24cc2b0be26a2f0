//! The audit's position and the report of the last sweep.

use async_trait::async_trait;
use shared::{
    clock::Timestamp,
    store::{AdvanceAuditError, StoreError, SweepReport, SweepState},
};

use crate::{
    state::State,
    world::{Process, Services},
};

#[async_trait]
impl SweepState for Services {
    async fn audited_until(&self) -> Result<Option<Timestamp>, StoreError> {
        self.call("audited_until", |state, _| state.records.audited_until).await
    }

    async fn advance_audit(
        &self,
        from: Option<Timestamp>,
        to: Timestamp,
    ) -> Result<(), AdvanceAuditError> {
        let advance = move |state: &mut State, process: &Process| {
            if state.records.audited_until != from {
                return Err(AdvanceAuditError::Moved);
            }
            state.note(process, || format!("has audited until {to}"));
            state.records.audited_until = Some(to);
            let now = state.now();
            state.checks.audited(process, to, &state.records, now);
            Ok(())
        };
        self.call("advance_audit", advance).await?
    }

    async fn report_sweep(&self, report: &SweepReport) -> Result<(), StoreError> {
        let report = report.clone();
        self.call("report_sweep", move |state, _| state.records.report = Some(report)).await
    }

    async fn last_sweep(&self) -> Result<Option<SweepReport>, StoreError> {
        self.call("last_sweep", |state, _| state.records.report.clone()).await
    }
}
