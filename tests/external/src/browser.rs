//! Scenarios in a real browser: `tests/browser/NAME.mjs`, run by node, which drives Debian's
//! chromium through playwright-core.
//!
//! The packages are pinned in `tests/browser/package.json` and its lock file, and are installed
//! into cargo's build folder when a test first needs them. What is missing is an error that says
//! how to get it.

use std::{
    fmt::Display,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
    time::Duration,
};

use tokio::time::timeout;

use harness::{binaries::workspace, process::ProcessError};

/// What a scenario may take in all. Each of its waits has a bound of its own, which tells more.
const SCENARIO_BOUND: Duration = Duration::from_secs(300);

/// Debian's, and what others call it.
const BROWSERS: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];

/// What says which packages.
const MANIFESTS: [&str; 2] = ["package.json", "package-lock.json"];

/// Runs `tests/browser/{name}.mjs` with these variables to its end. An error is what it wrote.
pub async fn run(name: &str, variables: &[(&str, &str)]) -> Result<(), ProcessError> {
    let tools = tools()?;
    let scenario = folder().join(format!("{name}.mjs"));
    let mut node = tokio::process::Command::new("node");
    node.arg(&scenario)
        .envs(variables.iter().copied())
        .env("BROWSER_TOOLS", tools)
        .env("CHROMIUM", browser()?);
    node.stdin(Stdio::null()).kill_on_drop(true);
    let output = timeout(SCENARIO_BOUND, node.output())
        .await
        .map_err(|_| {
            ProcessError(format!("{} did not end within {SCENARIO_BOUND:?}", scenario.display()))
        })?
        .map_err(|error| missing("node", &error))?;
    if output.status.success() {
        return Ok(());
    }
    let (said, errors) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    Err(ProcessError(format!(
        "{} ended with {}:\n{said}{errors}",
        scenario.display(),
        output.status
    )))
}

fn folder() -> PathBuf {
    workspace().join("tests/browser")
}

fn missing(what: &str, error: &dyn Display) -> ProcessError {
    ProcessError(format!(
        "{what} cannot be run: {error}; the browser tests need it: apt-get install chromium nodejs \
         npm"
    ))
}

/// The browser's path.
fn browser() -> Result<PathBuf, ProcessError> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut files = BROWSERS
        .iter()
        .flat_map(|name| std::env::split_paths(&path).map(move |folder| folder.join(name)));
    files.find(|file| file.is_file()).ok_or_else(|| missing("chromium", &"it is not in PATH"))
}

/// The folder with `node_modules`, installed if need be.
fn tools() -> Result<&'static Path, ProcessError> {
    static INSTALLED: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let installed = INSTALLED.get_or_init(|| install().map_err(|error| error.to_string()));
    installed.as_deref().map_err(|error| ProcessError(error.clone()))
}

/// Tests that run at the same time in other processes wait for one another.
fn install() -> Result<PathBuf, ProcessError> {
    let own = std::env::current_exe()
        .map_err(|error| ProcessError(format!("this test does not know where it is: {error}")))?;
    // Tests run from TARGET/PROFILE/deps.
    let target = own
        .ancestors()
        .nth(3)
        .ok_or_else(|| ProcessError(format!("no target folder above {}", own.display())))?;
    let tools = target.join("browser-tools");
    fs::create_dir_all(&tools).map_err(ProcessError::at(&tools))?;
    let lock = tools.join("lock");
    let lock_file = File::create(&lock).map_err(ProcessError::at(&lock))?;
    lock_file.lock().map_err(ProcessError::at(&lock))?;
    let is_new = |manifest: &str| {
        fs::read(folder().join(manifest)).ok() != fs::read(tools.join(manifest)).ok()
    };
    if tools.join("installed").is_file() && !MANIFESTS.iter().any(|manifest| is_new(manifest)) {
        return Ok(tools);
    }
    let _ = fs::remove_file(tools.join("installed"));
    for manifest in MANIFESTS {
        let (from, to) = (folder().join(manifest), tools.join(manifest));
        fs::copy(&from, &to).map_err(ProcessError::at(&from))?;
    }
    let npm = Command::new("npm")
        .args(["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier"])
        .current_dir(&tools)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| missing("npm", &error))?;
    if !npm.status.success() {
        let errors = String::from_utf8_lossy(&npm.stderr);
        return Err(ProcessError(format!(
            "npm ci in {} ended with {}:\n{errors}",
            tools.display(),
            npm.status
        )));
    }
    let done = tools.join("installed");
    File::create(&done).map_err(ProcessError::at(&done))?;
    Ok(tools)
}
