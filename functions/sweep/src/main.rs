//! The Lambda function `sweep`.

use std::time::Duration;

use lambda_runtime::{Error, LambdaEvent, service_fn};
use serde::de::IgnoredAny;
use shared::{context::Context, logging};

/// The part of the invocation's time that is reserved for the report.
const RESERVE: Duration = Duration::from_secs(5);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    logging::init(logging::Format::Json)?;
    let context = &Context::for_lambda().await?;
    // The event does not matter: a run processes whatever is due.
    lambda_runtime::run(service_fn(move |event: LambdaEvent<IgnoredAny>| async move {
        let until = context
            .config
            .invocation_end(event.context.deadline, context.clock.now())
            .minus(RESERVE);
        sweep::handle(context, until).await.map(|_| ()).map_err(Error::from)
    }))
    .await
}
