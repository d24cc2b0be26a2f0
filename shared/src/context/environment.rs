//! The settings of the process.

use super::error::ContextError;
use crate::config::{Config, Defaults};

/// Reads the settings from the environment, and the secrets that they refer to from Parameter Store
/// and Secrets Manager.
#[cfg(feature = "aws")]
pub async fn config_from_env(defaults: Defaults) -> Result<Config, ContextError> {
    let secrets = crate::aws::secrets::resolve(|name| std::env::var(name).ok())
        .await
        .map_err(|error| ContextError::Secret(Box::new(error)))?;
    let source = |name: &str| secrets.get(name).map(Into::into).or_else(|| std::env::var_os(name));
    Ok(Config::from_raw_source(defaults, source)?)
}

/// Reads the settings from the environment. A reference to a secret needs the feature `aws`.
#[cfg(not(feature = "aws"))]
#[expect(clippy::unused_async, reason = "reading secrets needs it")]
pub async fn config_from_env(defaults: Defaults) -> Result<Config, ContextError> {
    Ok(Config::from_env(defaults)?)
}
