//! The four functions as processes of a [`Lambda`](crate::lambda::Lambda).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "tests call this: its panics are their failures"
)]

use crate::{binaries::binary, lambda::Function, stack::Launch};

/// The names of the functions.
pub const NAMES: [&str; 4] = ["api", "deliver", "sweep", "dlq"];

/// Instances of each function.
pub const CONCURRENCY: usize = 2;

/// The four functions, with the data directory of this stack.
pub fn functions(launch: &Launch, settings: &[(&str, &str)]) -> Vec<Function> {
    let fixed = [
        ("DATA_DIR", &*launch.data_dir().to_string_lossy()),
        ("API_AUTH", "iam"),
        ("ALLOW_PRIVATE_DESTINATIONS", "true"),
    ]
    .map(|(variable, value)| (variable.to_owned(), value.to_owned()));
    let settings =
        settings.iter().map(|(variable, value)| ((*variable).to_owned(), (*value).to_owned()));
    let environment: Vec<(String, String)> = fixed.into_iter().chain(settings).collect();
    NAMES
        .map(|name| Function {
            name,
            binary: binary(name).unwrap(),
            environment: environment.clone(),
            concurrency: CONCURRENCY,
        })
        .to_vec()
}
