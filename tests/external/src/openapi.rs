//! The tools that judge the OpenAPI document, and the API by it: `tests/aws-stack tools openapi`
//! installs them.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;

use harness::{binaries::workspace, process::ProcessError};

/// One seed for all runs: what is found once is found again.
const SEED: &str = "1";

/// Generated requests for each operation at most, in each way of making them.
const MAX_EXAMPLES: &str = "10";

/// A program of the tools' virtual environment, which is made if need be.
pub fn tool(name: &str) -> Result<PathBuf, ProcessError> {
    let script = here().join("aws-stack");
    let done = Command::new(&script).args(["tools", "openapi"]).stdin(Stdio::null()).output();
    let done = done.map_err(|error| {
        ProcessError(format!("cannot start {}; it needs python3: {error}", script.display()))
    })?;
    if !done.status.success() {
        return Err(ProcessError(String::from_utf8_lossy(&done.stderr).into_owned()));
    }
    let bins: Value = serde_json::from_slice(&done.stdout).unwrap_or_default();
    let folder = bins["openapi"]
        .as_str()
        .ok_or_else(|| ProcessError(format!("{} told no folder", script.display())))?;
    Ok(Path::new(folder).join(name))
}

/// Holds the document in this file against the OpenAPI specification, and its examples against its
/// schemas.
pub fn validate(document: &Path) -> Result<(), ProcessError> {
    run(Command::new(tool("python3")?).arg(here().join("openapi-check")).arg(document)).map(|_| ())
}

/// Has Schemathesis call the API at `url` with what the document in this file describes, and with
/// what it does not. Webhooks go to `destination`; no call may take longer than `bound`. What it
/// found and how long it took, as it prints it; an error if the API does not do as its document
/// says.
pub fn exercise(
    document: &Path,
    url: &str,
    key: &str,
    destination: &str,
    bound: Duration,
) -> Result<String, ProcessError> {
    run(Command::new(tool("schemathesis")?)
        .arg("--no-color")
        .arg(format!("--config-file={}", here().join("schemathesis.toml").display()))
        .arg("run")
        .arg(document)
        .args(["--url", url, "--seed", SEED, "--max-examples", MAX_EXAMPLES])
        .args(["--request-timeout", &bound.as_secs().to_string()])
        .env("SCHEMATHESIS_HOOKS", here().join("schemathesis_hooks.py"))
        .env("API_KEY", key)
        .env("DESTINATION", destination))
}

fn run(command: &mut Command) -> Result<String, ProcessError> {
    // Nothing is looked up outside, and what it writes goes with the folder.
    let folder = TempDir::with_prefix("posthaste-openapi-")
        .map_err(|error| ProcessError(format!("no temporary folder: {error}")))?;
    let done = command
        .current_dir(folder.path())
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("NO_PROXY", "*")
        .stdin(Stdio::null())
        .output();
    let done = done.map_err(|error| {
        ProcessError(format!("cannot start {}: {error}", command.get_program().display()))
    })?;
    let said = String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned();
    if done.status.success() {
        Ok(said)
    } else {
        Err(ProcessError(format!("{}: {said}", done.status)))
    }
}

fn here() -> PathBuf {
    workspace().join("tests")
}
