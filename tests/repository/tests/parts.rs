//! `tests/run` runs every test target of the workspace, and installs what each part needs. The
//! script itself runs here with a `PATH` that has stand-ins for `apt-get`, `cargo` and `id`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "these are tests: their panics are verdicts"
)]

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{Command, Output},
};

use harness::binaries::workspace;
use regex::Regex;
use serde_json::Value;
use tempfile::TempDir;

/// What tests of this workspace name if they start a Redis server. Put together, so that this file
/// does not name it.
const STARTS_REDIS: [&str; 2] = [concat!("Redis", "Server::"), concat!("Redis", "Cluster::")];

fn script() -> String {
    fs::read_to_string(workspace().join("tests/run")).unwrap()
}

/// The name and the main file of each test target.
fn targets() -> Vec<(String, PathBuf)> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--no-deps", "--format-version=1", "--offline"])
        .current_dir(workspace())
        .output()
        .unwrap();
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let targets = metadata["packages"].as_array().unwrap().iter().flat_map(|package| {
        package["targets"].as_array().unwrap().iter().filter(|target| target["kind"][0] == "test")
    });
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let targets: Vec<(String, PathBuf)> =
        targets.map(|target| (text(&target["name"]), text(&target["src_path"]).into())).collect();
    assert!(targets.len() > 20, "{targets:?}");
    targets
}

#[test]
fn no_test_target_is_forgotten() {
    let script = script();
    let words: Vec<&str> = script.split([' ', ';', '\n']).collect();
    for (name, _) in targets() {
        let runs = words.windows(2).any(|pair| pair == ["--test", &name]);
        assert!(runs, "no part of tests/run runs `--test {name}`");
    }
}

/// A part whose tests start a Redis server installs Redis.
#[test]
fn the_parts_that_start_redis_need_it() {
    let script = script();
    let needs = needs(&script);
    let functions = Regex::new(r"(?ms)^run_(\w+)\(\) \{(.*?)\}$").unwrap();
    let mut checked = 0;
    for (name, main) in targets() {
        if !starts_redis(&main) {
            continue;
        }
        let runs = Regex::new(&format!(r"--test {name}\b")).unwrap();
        let part = functions.captures_iter(&script).find(|found| runs.is_match(&found[2]));
        let part = part.unwrap()[1].replace('_', "-");
        let has_redis = needs.get(&part).is_some_and(|needs| needs.contains(&"redis".to_owned()));
        assert!(has_redis, "the part {part} runs {name}, which starts a Redis server");
        checked += 1;
    }
    assert!(checked > 5, "only {checked} targets start a Redis server");
}

/// What each part needs, by its name.
fn needs(script: &str) -> BTreeMap<String, Vec<String>> {
    let start = script.find("\nneeds() {").unwrap();
    let text = &script[start..start + script[start..].find("\n}").unwrap()];
    let line = Regex::new(r"(?m)^ +([a-z| -]+)\) echo ([a-z ]+) ;;$").unwrap();
    let mut needs = BTreeMap::new();
    for found in line.captures_iter(text) {
        for part in found[1].split(" | ") {
            let all = found[2].split(' ').map(str::to_owned).collect();
            needs.insert(part.to_owned(), all);
        }
    }
    needs
}

fn starts_redis(main: &Path) -> bool {
    // A target that has a folder has all its files there.
    let files: Vec<PathBuf> = if main.ends_with("main.rs") {
        let folder = fs::read_dir(main.parent().unwrap()).unwrap();
        folder.map(|entry| entry.unwrap().path()).filter(|path| path.is_file()).collect()
    } else {
        vec![main.to_owned()]
    };
    let texts = files.iter().map(|file| fs::read_to_string(file).unwrap_or_default());
    texts.into_iter().any(|text| STARTS_REDIS.iter().any(|name| text.contains(name)))
}

/// A machine of programs that do nothing, beside those that the script uses itself.
struct Machine(TempDir);

impl Machine {
    fn new() -> Self {
        let machine = Self(TempDir::new().unwrap());
        for program in ["bash", "cat", "chmod", "dirname", "env", "tr", "wc"] {
            let path = std::env::var("PATH").unwrap();
            let found = path.split(':').map(|folder| Path::new(folder).join(program));
            let found = found.into_iter().find(|file| file.exists()).expect(program);
            symlink(found, machine.file(program)).unwrap();
        }
        machine.with("sleep", "exit 0").with("cargo", "exit 0")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn with(self, program: &str, text: &str) -> Self {
        let bash = self.file("bash");
        fs::write(self.file(program), format!("#!{}\n{text}\n", bash.display())).unwrap();
        fs::set_permissions(self.file(program), fs::Permissions::from_mode(0o755)).unwrap();
        self
    }

    /// As root if `is_root`; there is no sudo. The first updates fail, as many as `failures`, and
    /// an installation makes `redis-server`.
    fn with_apt(self, is_root: bool, failures: usize) -> Self {
        let calls = self.file("calls").display().to_string();
        let server = self.file("redis-server").display().to_string();
        let apt = format!(
            "echo \"$1\" >> {calls}\n\
             case $1 in\n\
             update) [ \"$(wc -l < {calls})\" -gt {failures} ] ;;\n\
             install) echo > {server}; chmod 755 {server} ;;\n\
             esac"
        );
        let id = if is_root { "echo 0" } else { "echo 1000" };
        self.with("apt-get", &apt).with("id", id)
    }

    fn run(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let Output { status, stdout, stderr } = Command::new(self.file("bash"))
            .arg(workspace().join("tests/run"))
            .args(arguments)
            .env("PATH", self.0.path())
            .output()
            .unwrap();
        let texts = [stdout, stderr].map(|text| String::from_utf8(text).unwrap());
        (status.code(), texts.concat())
    }

    /// What was asked of `apt-get`.
    fn calls(&self) -> Vec<String> {
        let calls = fs::read_to_string(self.file("calls")).unwrap_or_default();
        calls.lines().map(str::to_owned).collect()
    }
}

#[test]
fn an_update_that_fails_is_tried_three_times() {
    let machine = Machine::new().with_apt(true, 2);
    let (code, text) = machine.run(&["--only", "redis", "--only", "full-disk"]);
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(machine.calls(), ["update", "update", "update", "install"]);

    let machine = Machine::new().with_apt(true, 3);
    let (code, text) = machine.run(&["--only", "full-disk"]);
    assert_eq!(code, Some(1), "{text}");
    assert_eq!(machine.calls(), ["update", "update", "update"]);
    assert!(text.contains("the part full-disk needs these packages"), "{text}");
}

#[test]
fn without_root_or_sudo_it_says_what_to_run() {
    let machine = Machine::new().with_apt(false, 0);
    let (code, text) = machine.run(&["--only", "redis"]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("Run: sudo apt-get install redis-server\n"), "{text}");
    assert_eq!(machine.calls(), [""; 0]);
    // With --no-install, sudo is not the reason.
    let (code, text) = machine.run(&["--only", "redis", "--no-install"]);
    assert_eq!((code, text.contains("sudo")), (Some(1), false), "{text}");
}

#[test]
fn the_exit_codes_are_those_of_the_help() {
    let machine = Machine::new();
    let (code, help) = machine.run(&["--help"]);
    assert_eq!(code, Some(0), "{help}");
    let codes = "Exit codes: 0 every part passed, 1 a part failed, 2 invalid usage, 3 could not";
    assert!(help.contains(codes), "{help}");
    assert!(help.contains("All parts pass on Linux only"), "{help}");
    assert_eq!(machine.run(&["--only", "fmt"]).0, Some(0));
    for invalid in [&["--only", "no-such-part"][..], &["--only"], &["--no-such-option"]] {
        assert_eq!(machine.run(invalid).0, Some(2), "{invalid:?}");
    }
    let machine = machine.with("cargo", "exit 101");
    assert_eq!(machine.run(&["--only", "fmt"]).0, Some(1));
    fs::remove_file(machine.file("cargo")).unwrap();
    let (code, text) = machine.run(&["--only", "fmt"]);
    assert_eq!(code, Some(3), "{text}");
    assert!(text.contains("cargo is not installed. Install Rust"), "{text}");
}
