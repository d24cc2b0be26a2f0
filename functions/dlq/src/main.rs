//! The Lambda function `dlq`.

use aws_lambda_events::event::sqs::SqsEvent;
use lambda_runtime::{Error, LambdaEvent, service_fn};
use shared::{
    config::{Config, Defaults},
    context::Context,
    logging,
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    logging::init(logging::Format::Json)?;
    let config = Config::from_env(Defaults::LAMBDA)?;
    let context = &Context::from_config(config)?;
    lambda_runtime::run(service_fn(move |event: LambdaEvent<SqsEvent>| async move {
        Ok::<_, Error>(dlq::handle(context, event.payload).await)
    }))
    .await
}
