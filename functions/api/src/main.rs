//! The Lambda function `api`.

use api::Access;
use lambda_http::{Body, Error};
use shared::{context::Context, logging};
use tower::util::MapRequest;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    logging::init(logging::Format::Json)?;
    let context = Context::for_lambda().await?;
    let access = Access::for_lambda(&context.config.access);
    // Outside of the router, which chooses the route before it runs anything of its own.
    lambda_http::run(MapRequest::new(api::router(context, access), api::without_stage::<Body>)).await
}
