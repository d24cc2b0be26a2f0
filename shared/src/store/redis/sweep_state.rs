//! The contract of [`SweepState`] on the hash `sweep`.

use ::redis::cmd;
use async_trait::async_trait;

use super::{RedisStore, SCRIPTS, records::unavailable};
use crate::{
    clock::Timestamp,
    store::{AdvanceAuditError, FIRST_OVERLAP, StoreError, SweepReport, SweepState},
};

#[async_trait]
impl SweepState for RedisStore {
    async fn audited_until(&self) -> Result<Option<Timestamp>, StoreError> {
        let mut command = cmd("HMGET");
        command.arg(self.connection.key("sweep"));
        command.arg("messages_audited_until").arg("audited_until");
        let (own, older): (Option<i64>, Option<i64>) =
            self.connection.ask(&command).await.map_err(unavailable)?;
        let older = older.map(|at| Timestamp::from_millis(at).minus(FIRST_OVERLAP));
        Ok(own.map(Timestamp::from_millis).or(older))
    }

    async fn advance_audit(
        &self,
        from: Option<Timestamp>,
        to: Timestamp,
    ) -> Result<(), AdvanceAuditError> {
        let from = from.map_or_else(String::new, |from| from.as_millis().to_string());
        let mut call = SCRIPTS.advance.on(&[self.connection.key("sweep")]);
        call.arg(from).arg(to.as_millis()).arg(FIRST_OVERLAP.as_millis() as u64);
        let is_moved: bool = self.connection.once(&call).await.map_err(unavailable)?;
        if is_moved { Ok(()) } else { Err(AdvanceAuditError::Moved) }
    }

    async fn report_sweep(&self, report: &SweepReport) -> Result<(), StoreError> {
        let json = serde_json::to_string(report)
            .unwrap_or_else(|_| unreachable!("a report has only string keys"));
        let mut call = SCRIPTS.report.on(&[self.connection.key("sweep")]);
        self.connection.run::<()>(call.arg(json)).await.map_err(unavailable)
    }

    async fn last_sweep(&self) -> Result<Option<SweepReport>, StoreError> {
        let command = cmd("HGET").arg(self.connection.key("sweep")).arg("report").clone();
        let json: Option<String> = self.connection.ask(&command).await.map_err(unavailable)?;
        Ok(json.and_then(|json| serde_json::from_str(&json).ok()))
    }
}
