//! The Lambda function `deliver`.

use std::sync::Arc;

use aws_lambda_events::event::sqs::SqsEvent;
use deliver::Deliver;
use lambda_runtime::{Error, LambdaEvent, service_fn};
use shared::{context::Context, logging};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    logging::init(logging::Format::Json)?;
    let context = Context::for_lambda().await?;
    let sender = context.http_sender()?;
    let deliver = &Deliver::new(context, Arc::new(sender));
    lambda_runtime::run(service_fn(move |event: LambdaEvent<SqsEvent>| async move {
        let until = deliver.invocation_end(event.context.deadline);
        Ok::<_, Error>(deliver.handle(event.payload, until).await)
    }))
    .await
}
