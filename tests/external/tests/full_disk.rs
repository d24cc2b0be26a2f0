//! A disk that fills up and has space again. Mounts a small file system, which needs root.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "these are tests: their panics are verdicts"
)]

use std::{
    fs::{File, remove_file},
    io::Write,
    path::{Path, PathBuf},
    process::Command,
};

use harness::{
    client::ApiClient,
    health::{BOUND, fresh_health, launch, post, wait_for_health, warnings},
    ledger,
    receiver::Receiver,
};
use http::StatusCode;
use tempfile::TempDir;

const MIB: usize = 1024 * 1024;

/// More than the 64 MiB below which health warns.
const DISK_MIB: usize = 80;

/// A file system in memory.
struct SmallDisk(TempDir);

impl SmallDisk {
    fn mount() -> Self {
        let folder = TempDir::new().unwrap();
        let options = format!("size={DISK_MIB}m,mode=0777");
        let arguments = ["mount", "-t", "tmpfs", "-o", &options, "tmpfs"];
        assert!(
            as_root(&arguments, folder.path()),
            "this test has to mount a file system of {DISK_MIB} MiB: run it as root, or allow \
             `sudo -n mount` and `sudo -n umount`"
        );
        Self(folder)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes this much, or until the disk is full.
    fn fill(&self, name: &str, bytes: usize) {
        let mut file = File::create(self.file(name)).unwrap();
        let block = [0xA5; 4096];
        let mut written = 0;
        while written < bytes && file.write_all(&block).is_ok() {
            written += block.len();
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily, because a failed test may leave a stack running.
        as_root(&["umount", "-l"], self.0.path());
    }
}

fn as_root(arguments: &[&str], path: &Path) -> bool {
    let is_root = rustix::process::getuid().is_root();
    let prefix: &[&str] = if is_root { &[] } else { &["sudo", "-n"] };
    let all: Vec<&str> = prefix.iter().chain(arguments).copied().collect();
    Command::new(all[0]).args(&all[1..]).arg(path).status().is_ok_and(|status| status.success())
}

/// While the disk fills up, health warns before a webhook is refused. From the first refusal on it
/// is unhealthy, even if a ping would still fit. Once there is space again, the stack resumes and
/// delivers all accepted webhooks.
#[tokio::test(flavor = "multi_thread")]
async fn health_reports_a_disk_that_fills_up_before_and_after_it_is_full() {
    let disk = SmallDisk::mount();
    let receiver = Receiver::start().await.unwrap();
    let data_dir = disk.file("data");
    let launch = launch().instead("--data-dir", data_dir.to_str().unwrap());
    let stack = launch.start().unwrap();
    let api = ApiClient::new(&stack.url(), None).unwrap();
    let url = receiver.url("/x");
    let mut accepted = vec![post(&api, &url, 1000).await.unwrap()];
    let health = wait_for_health(&api, "healthy").await;
    let free = health["store"]["disk"]["free_bytes"].as_u64().unwrap() as usize;
    assert!((65 * MIB..DISK_MIB * MIB).contains(&free), "{health}");

    disk.fill("filler", 20 * MIB);
    let health = wait_for_health(&api, "degraded").await;
    assert!(warnings(&health).contains("MiB are free on the disk"), "{health}");
    accepted.push(post(&api, &url, 1000).await.expect("it is a warning only"));

    disk.fill("more", DISK_MIB * MIB);
    // Large payloads: a ping writes less and would still fit.
    let health = loop {
        while let Ok(id) = post(&api, &url, 200_000).await {
            accepted.push(id);
        }
        let (status, health) = fresh_health(&api).await;
        if status == StatusCode::SERVICE_UNAVAILABLE {
            break health;
        }
        let again = post(&api, &url, 200_000).await;
        accepted.push(again.unwrap_or_else(|_| panic!("it refuses webhooks, and says: {health}")));
    };
    assert_eq!(health["status"], "unhealthy", "{health}");
    assert!(warnings(&health).contains("0 MiB are free"), "{health}");

    for filler in ["filler", "more"] {
        remove_file(disk.file(filler)).unwrap();
    }
    wait_for_health(&api, "healthy").await;
    accepted.push(post(&api, &url, 200_000).await.expect("there is space again"));
    let settled = ledger::settle(&api, &accepted, BOUND).await;
    assert_eq!(settled.statuses, [("delivered".to_owned(), accepted.len())].into());
    ledger::end(&api, stack).await;
}

/// Only the queue is on a full disk. The store is elsewhere, so webhooks are accepted, and health
/// reports that they are delayed.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_under_the_queue_alone_degrades() {
    let disk = SmallDisk::mount();
    let server = harness::redis_server::RedisServer::start().unwrap();
    let receiver = Receiver::start().await.unwrap();
    let data_dir = disk.file("data");
    let launch = launch().instead("--data-dir", data_dir.to_str().unwrap());
    let launch = launch.set("STATUS_BACKEND", "redis").set("STATUS_REDIS_URL", &server.url(2));
    let stack = launch.start().unwrap();
    let api = ApiClient::new(&stack.url(), None).unwrap();
    disk.fill("filler", DISK_MIB * MIB);
    // The queue's own writes use up the reserve in its files.
    let (mut accepted, mut rounds) = (Vec::new(), 0..20);
    let health = loop {
        rounds.next().expect("the queue's disk is full, and health does not say so");
        for _ in 0..50 {
            accepted.push(post(&api, &receiver.url("/x"), 100).await.unwrap());
        }
        let (status, health) = fresh_health(&api).await;
        assert!(status.is_success(), "{health}");
        if health["queue"]["status"] == "unhealthy" {
            break health;
        }
    };
    assert_eq!(
        (&health["status"], &health["store"]["backend"]),
        (&"degraded".into(), &"redis".into()),
        "{health}"
    );
    assert!(health["queue"]["warnings"].to_string().contains("0 MiB are free"), "{health}");
    remove_file(disk.file("filler")).unwrap();
    let settled = ledger::settle(&api, &accepted, BOUND).await;
    assert_eq!(settled.statuses, [("delivered".to_owned(), accepted.len())].into());
    ledger::end(&api, stack).await;
}
