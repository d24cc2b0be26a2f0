//! `cargo lambda` as a tool: found or installed, and `cargo lambda watch` as a process of its own.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde_json::Value;

use harness::{
    binaries::workspace,
    process::{ProcessError, free_ports},
};

/// The script that installs what comes from Python's package index, pinned, into cargo's build
/// folder.
const INSTALLER: &str = "tests/aws-stack";

/// The folder of `cargo-lambda`, installed if need be.
pub fn installed() -> Result<PathBuf, ProcessError> {
    installed_set("cargo")
}

/// The folder of the programs of one of the script's sets, among them its own `python`; installed
/// if need be.
pub fn installed_set(set: &str) -> Result<PathBuf, ProcessError> {
    let failed = |why: &dyn std::fmt::Display| {
        ProcessError(format!("{INSTALLER} tools {set} does not install it: {why}"))
    };
    let output = Command::new(workspace().join(INSTALLER))
        .args(["tools", set])
        .current_dir(workspace())
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| failed(&error))?;
    if !output.status.success() {
        return Err(failed(&output.status));
    }
    let found: Value = serde_json::from_slice(&output.stdout).map_err(|error| failed(&error))?;
    found[set].as_str().map(PathBuf::from).ok_or_else(|| failed(&found))
}

/// A running `cargo lambda watch`, from the root of the workspace. Dropping it kills it and the
/// functions that it runs.
#[derive(Debug)]
pub struct Watch {
    child: Child,
    endpoint: String,
}

impl Watch {
    /// At a free port of 127.0.0.1, with these variables set; what it and the functions write goes
    /// to the log. The functions are built before, as it would build them at their first calls, so
    /// that no test waits for a compiler.
    pub fn start(environment: &[(&str, &str)], log: &Path) -> Result<Self, ProcessError> {
        let [port] = free_ports()
            .map_err(|error| ProcessError(format!("no free port was found: {error}")))?;
        build()?;
        Self::start_at(port, environment, log)
    }

    /// At this port.
    pub fn start_at(
        port: u16,
        environment: &[(&str, &str)],
        log: &Path,
    ) -> Result<Self, ProcessError> {
        let output =
            File::options().create(true).append(true).open(log).map_err(ProcessError::at(log))?;
        let errors = output.try_clone().map_err(ProcessError::at(log))?;
        let child = Command::new(installed()?.join("cargo-lambda"))
            .args([
                "lambda",
                "watch",
                "--ignore-changes",
                "--invoke-address",
                "127.0.0.1",
                "--invoke-port",
                &port.to_string(),
            ])
            // Tests have no second to wait between attempts.
            .env("MIN_RETRY_DELAY_MS", "0")
            .envs(environment.iter().copied())
            .current_dir(workspace())
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .spawn()
            .map_err(|error| {
                ProcessError(format!("cargo lambda watch cannot be started: {error}"))
            })?;
        Ok(Self { child, endpoint: format!("http://127.0.0.1:{port}") })
    }

    /// What `local --functions` is told.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The process that runs this function, if it does.
    pub fn pid(&self, name: &str) -> Option<u32> {
        descendants(self.child.id()).into_iter().find(|pid| {
            let binary = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
            binary.file_name().is_some_and(|file| file == name)
        })
    }

    /// Kills it and the functions that it runs, as a crash would.
    pub fn crash(mut self) {
        self.kill();
    }

    fn kill(&mut self) {
        let below = descendants(self.child.id());
        // Neither is an error: any of them may have ended by itself.
        let _ = self.child.kill();
        for pid in below.into_iter().filter_map(|pid| Pid::from_raw(pid as i32)) {
            // It starts each function in a group of its own.
            let _ = kill_process_group(pid, Signal::KILL);
            let _ = kill_process(pid, Signal::KILL);
        }
        let _ = self.child.wait();
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What `cargo lambda watch` builds when a function is first called, with the features that the
/// workspace's metadata name for it.
fn build() -> Result<(), ProcessError> {
    for name in ["api", "deliver", "sweep", "dlq"] {
        let status = Command::new("cargo")
            .args(["build", "--quiet", "--features", "sqlite", "--bin", name])
            .current_dir(workspace())
            .stdin(Stdio::null())
            .status()
            .map_err(|error| {
                ProcessError(format!("cargo cannot be started to build {name}: {error}"))
            })?;
        if !status.success() {
            return Err(ProcessError(format!("building {name} ended with {status}")));
        }
    }
    Ok(())
}

/// The processes that it has started, and those that they have.
fn descendants(root: u32) -> Vec<u32> {
    let parents: Vec<(u32, u32)> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
            // The name is in parentheses, and may hold anything.
            let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?;
            Some((pid, parent))
        })
        .collect();
    let mut found = vec![root];
    let mut next = 0;
    while let Some(parent) = found.get(next).copied() {
        found.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| *pid));
        next += 1;
    }
    found.split_off(1)
}
