//! Builds the binaries that tests start, so that a test never runs an outdated one, and describes
//! the workspace that they come from.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
};

use serde_json::Value;

use crate::process::ProcessError;

/// The local stack with every backend, the functions with the embedded backend too, and two
/// receivers. The packages are the default members, as for `cargo lambda watch`, so that both share
/// one build.
const BUILD: &[&str] = &[
    "build",
    "--quiet",
    "--features=sqlite,local/aws",
    "--bin=local",
    "--bin=api",
    "--bin=deliver",
    "--bin=sweep",
    "--bin=dlq",
    "--bin=receive-webhooks",
    "--bin=webhook-receiver",
];

/// One of `local`, `api`, `deliver`, `sweep`, `dlq`, `receive-webhooks` and `webhook-receiver`.
pub fn binary(name: &str) -> Result<PathBuf, ProcessError> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let folder =
        BUILT.get_or_init(build).as_deref().map_err(|error| ProcessError(error.clone()))?;
    let binary = folder.join(name);
    if binary.is_file() {
        Ok(binary)
    } else {
        Err(ProcessError(format!("no binary `{name}` in {}", folder.display())))
    }
}

/// Builds the binaries and returns their folder.
fn build() -> Result<PathBuf, String> {
    let mut cargo = cargo();
    cargo.args(BUILD);
    if !cfg!(debug_assertions) {
        cargo.arg("--release");
    }
    match cargo.status() {
        Ok(status) if status.success() => {}
        Ok(status) => {
            return Err(format!(
                "cargo build of the local stack and the functions failed: {status}"
            ));
        }
        Err(error) => {
            return Err(format!("cannot start cargo to build the local stack: {error}"));
        }
    }
    // Tests run from target/PROFILE/deps, binaries from target/PROFILE.
    let own = std::env::current_exe()
        .map_err(|error| format!("cannot find the path of this test: {error}"))?;
    let found = own.ancestors().skip(1).take(2).find(|folder| folder.join("local").is_file());
    found.map(Path::to_owned).ok_or_else(|| format!("no binary `local` beside {}", own.display()))
}

/// The output of `cargo metadata` for the workspace, without dependencies.
pub fn cargo_metadata() -> Result<Value, ProcessError> {
    let failed = |error: &dyn std::fmt::Display| {
        ProcessError(format!("cargo metadata of the workspace failed: {error}"))
    };
    let output = cargo()
        .args(["metadata", "--no-deps", "--format-version=1", "--offline"])
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| failed(&error))?;
    if !output.status.success() {
        return Err(failed(&output.status));
    }
    serde_json::from_slice(&output.stdout).map_err(|error| failed(&error))
}

/// Cargo in the root of the workspace, with the environment of the cargo that runs this test.
fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(workspace());
    // Cargo describes the package of a test in variables that build scripts depend on. With them,
    // it would build ring and all its dependents again, here and in the next `cargo test`.
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(describes_a_package) {
            cargo.env_remove(name);
        }
    }
    cargo
}

/// Whether cargo sets this variable for each package that it runs.
fn describes_a_package(variable: &str) -> bool {
    ["CARGO_MANIFEST_", "CARGO_PKG_"].iter().any(|prefix| variable.starts_with(prefix))
}

/// The root of the workspace.
pub fn workspace() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With such a variable, each nested build would build ring and its dependents again.
    #[test]
    fn a_nested_cargo_gets_no_variable_of_this_package() {
        let cargo = cargo();
        let removed: Vec<_> = cargo.get_envs().filter(|(_, value)| value.is_none()).collect();
        for variable in ["CARGO_MANIFEST_DIR", "CARGO_PKG_NAME", "CARGO_PKG_VERSION_MAJOR"] {
            assert!(removed.iter().any(|(name, _)| *name == variable), "{variable}: {removed:?}");
        }
    }
}
