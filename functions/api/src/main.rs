//! The Lambda function `api`.

use api::Access;
use lambda_http::Error;
use shared::{
    config::{Config, Defaults},
    context::Context,
    logging,
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    logging::init(logging::Format::Json)?;
    let config = Config::from_env(Defaults::LAMBDA)?;
    let access = Access::for_lambda(&config.access);
    let context = Context::from_config(config)?;
    lambda_http::run(api::router(context, access)).await
}
