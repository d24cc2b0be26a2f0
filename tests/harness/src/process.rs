//! Processes that tests start: their error, their peak memory, and free ports for them.

use std::{
    io,
    net::TcpListener,
    ops::Range,
    path::Path,
    sync::atomic::{AtomicU32, Ordering},
};

/// Why a process failed.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ProcessError(pub String);

impl ProcessError {
    /// An I/O error at this path.
    pub fn at(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        move |error| Self(format!("{}: {error}", path.display()))
    }
}

/// The peak memory of a process in KiB, from `/proc/PID/status`. `None` if the process has exited
/// and its parent has not waited for it.
pub fn peak_kib(pid: u32) -> io::Result<Option<u64>> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    Ok(parse_peak_kib(&status))
}

fn parse_peak_kib(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// The ports that [`free_ports`] chooses from. By default, Linux and macOS give none of them to a
/// connection or to a listener on port 0, so neither takes one before its process listens on it.
const PORTS: Range<u16> = 20_000..32_000;

/// Finds free ports of 127.0.0.1. Each call in this process returns other ports.
pub fn free_ports<const COUNT: usize>() -> io::Result<[u16; COUNT]> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Other processes begin elsewhere.
    let first = std::process::id().wrapping_mul(0x9E37_79B1);
    let mut ports = [0; COUNT];
    let mut found = 0;
    for _ in PORTS {
        if found == COUNT {
            return Ok(ports);
        }
        let turn = first.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = PORTS.start + (turn % PORTS.len() as u32) as u16;
        match TcpListener::bind(("127.0.0.1", port)) {
            Ok(_) => {
                ports[found] = port;
                found += 1;
            }
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::AddrInUse.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peak_memory_is_read_and_a_missing_process_is_an_error() {
        let status = "Name:\tx\nVmHWM:\t   61440 kB\nVmRSS:\t 1 kB\n";
        assert_eq!(parse_peak_kib(status), Some(61_440));
        assert_eq!(parse_peak_kib("Name:\tx\n"), None);
        assert!(peak_kib(std::process::id()).unwrap() > Some(0));
        peak_kib(0).unwrap_err();
    }

    #[test]
    fn free_ports_differ_and_can_be_bound() {
        let ports: [u16; 3] = free_ports().unwrap();
        let listeners = ports.map(|port| TcpListener::bind(("127.0.0.1", port)).unwrap());
        assert_eq!(listeners.map(|listener| listener.local_addr().unwrap().port()), ports);
    }
}
