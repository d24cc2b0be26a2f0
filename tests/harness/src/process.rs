//! Processes that tests start: their error, their peak memory, and free ports for them.

use std::{io, net::TcpListener, path::Path};

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

/// Finds free ports of 127.0.0.1. All are held until all are known, so they differ. Another process
/// may take them afterwards.
pub fn free_ports<const COUNT: usize>() -> io::Result<[u16; COUNT]> {
    let mut held = Vec::with_capacity(COUNT);
    let mut ports = [0; COUNT];
    for port in &mut ports {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        *port = listener.local_addr()?.port();
        held.push(listener);
    }
    Ok(ports)
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
