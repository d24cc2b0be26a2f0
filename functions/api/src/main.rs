//! The Lambda function `api`.

use api::Access;
use lambda_http::{Error, lambda_runtime};
use shared::{context::Context, logging};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    logging::init(logging::Format::Json)?;
    let context = Context::for_lambda().await?;
    let access = Access::for_lambda(&context.config.access);
    lambda_runtime::run(api::on_lambda(api::router(context, access))).await
}
