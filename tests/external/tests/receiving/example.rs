//! The example receivers of `docs/receiving.md` as processes: prepared as the page says, started on
//! a port, ended or killed.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use external::cargo_lambda::installed_set;
use harness::binaries::{binary, workspace};

/// How long one may take to say where it listens, or to handle a webhook; the machine may be busy.
pub(crate) const BOUND: Duration = Duration::from_secs(60);

const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// The language of an example.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Language {
    Python,
    TypeScript,
    Rust,
}

impl Language {
    /// How it is started. What that needs is installed or built first, below cargo's build folder.
    pub(crate) fn command(self) -> Command {
        let mut command = match self {
            Self::Python => Command::new(installed_set("receiving").unwrap().join("python")),
            Self::TypeScript => Command::new("node"),
            Self::Rust => Command::new(binary("receive-webhooks").unwrap()),
        };
        match self {
            Self::Python => command.arg(workspace().join("docs/examples/python/receive.py")),
            Self::TypeScript => {
                static COMPILED: OnceLock<PathBuf> = OnceLock::new();
                command.arg(COMPILED.get_or_init(compiled_typescript))
            }
            Self::Rust => &mut command,
        };
        command
    }
}

/// The compiled TypeScript, after `npm ci` and `npm run build` in a copy of its folder.
fn compiled_typescript() -> PathBuf {
    let source = workspace().join("docs/examples/typescript");
    let folder = build_folder().join("receiving/typescript");
    fs::create_dir_all(&folder).unwrap();
    // Another run of these tests may be at it.
    let lock = File::create(folder.join("lock")).unwrap();
    lock.lock().unwrap();
    let mut wanted = Vec::new();
    for name in ["package.json", "package-lock.json", "tsconfig.json"] {
        wanted.extend(fs::read(source.join(name)).unwrap());
        fs::copy(source.join(name), folder.join(name)).unwrap();
    }
    fs::copy(source.join("receive.ts"), folder.join("receive.ts")).unwrap();
    let installed = folder.join("installed");
    if fs::read(&installed).ok().as_ref() != Some(&wanted) {
        npm(&folder, &["ci", "--ignore-scripts", "--no-audit", "--no-fund"]);
        fs::write(&installed, &wanted).unwrap();
    }
    npm(&folder, &["run", "build"]);
    folder.join("dist/receive.js")
}

fn npm(folder: &Path, arguments: &[&str]) {
    let ran = Command::new("npm").args(arguments).current_dir(folder).stdin(Stdio::null()).output();
    let output = ran.unwrap_or_else(|error| {
        panic!("npm cannot be started: {error}; on Debian: apt-get install nodejs npm")
    });
    let said = [output.stdout, output.stderr].concat();
    assert!(
        output.status.success(),
        "npm {} ended with {}:\n{}",
        arguments.join(" "),
        output.status,
        String::from_utf8_lossy(&said)
    );
}

/// Cargo's build folder: tests run from PROFILE/deps in it.
fn build_folder() -> PathBuf {
    std::env::current_exe().unwrap().ancestors().nth(3).unwrap().to_owned()
}

/// A running example. Dropping it kills it.
pub(crate) struct Example {
    child: Child,
    address: SocketAddr,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Example {
    /// Starts it at this port, 0 for a free one, with this inbox.
    pub(crate) fn start(mut command: Command, port: u16, secret: &str, inbox: &Path) -> Self {
        command.env("PORT", port.to_string()).env("WEBHOOK_SECRET", secret).env("INBOX", inbox);
        let started = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
        let mut child = started.unwrap_or_else(|error| {
            panic!("{} cannot be started: {error}", command.get_program().display())
        });
        let output = BufReader::new(child.stdout.take().unwrap());
        let lines = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&lines);
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                lock(&heard).push(line);
            }
        });
        let mut example = Self { child, address: ([127, 0, 0, 1], 0).into(), lines };
        let line = example.wait_for("listening at http://");
        example.address = line.trim_start_matches("listening at http://").parse().unwrap();
        example
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/hooks/orders", self.address)
    }

    /// Waits for a line that begins so.
    pub(crate) fn wait_for(&mut self, beginning: &str) -> String {
        let deadline = Instant::now() + BOUND;
        loop {
            // Asked before the look: what it wrote before its end is heard a little later.
            let ended = self.child.try_wait().unwrap();
            if let Some(line) = lock(&self.lines).iter().find(|line| line.starts_with(beginning)) {
                return line.clone();
            }
            let said = lock(&self.lines).join("\n");
            assert!(
                ended.is_none() && Instant::now() < deadline,
                "no line '{beginning}…' ({ended:?}); it said:\n{said}"
            );
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    /// How many lines begin so by now.
    pub(crate) fn count(&self, beginning: &str) -> usize {
        lock(&self.lines).iter().filter(|line| line.starts_with(beginning)).count()
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        // Does nothing if it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
