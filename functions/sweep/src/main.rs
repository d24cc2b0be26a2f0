//! The Lambda function `sweep`.

use lambda_runtime::{Error, LambdaEvent, service_fn};
use serde::de::IgnoredAny;
use shared::{context::Context, logging};
use std::time::Duration;

/// Kept back from the invocation's time, to write what the run came to.
const RESERVE: Duration = Duration::from_secs(5);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    logging::init(logging::Format::Json)?;
    let context = &Context::for_lambda().await?;
    // What the schedule says does not matter: a run does what is due.
    lambda_runtime::run(service_fn(move |event: LambdaEvent<IgnoredAny>| async move {
        let until = context
            .config
            .invocation_end(event.context.deadline, context.clock.now())
            .minus(RESERVE);
        sweep::handle(context, until).await.map(|_| ()).map_err(Error::from)
    }))
    .await
}
