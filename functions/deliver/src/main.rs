//! The Lambda function `deliver`.

use aws_lambda_events::event::sqs::SqsEvent;
use deliver::Deliver;
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
    let deliver = &Deliver::new(Context::from_config(config)?);
    lambda_runtime::run(service_fn(move |event: LambdaEvent<SqsEvent>| async move {
        let until = deliver.invocation_end(event.context.deadline);
        Ok::<_, Error>(deliver.handle(event.payload, until).await)
    }))
    .await
}
