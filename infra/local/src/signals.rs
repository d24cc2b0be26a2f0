//! Ctrl-C and SIGTERM, which ask the stack to stop.

use std::future::pending;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Listens to both signals. While it does, neither ends the process by itself.
#[derive(Debug)]
pub struct Signals {
    interrupt: Option<Signal>,
    terminate: Option<Signal>,
}

impl Signals {
    /// Starts to listen. Must be called within a tokio runtime.
    pub fn listen() -> Self {
        // A signal that cannot be listened to keeps its default: it ends the process at once.
        Self {
            interrupt: signal(SignalKind::interrupt()).ok(),
            terminate: signal(SignalKind::terminate()).ok(),
        }
    }

    /// Returns when one of them was received since the last call.
    pub async fn received(&mut self) {
        tokio::select! {
            () = next(&mut self.interrupt) => {}
            () = next(&mut self.terminate) => {}
        }
    }
}

async fn next(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => {
            signal.recv().await;
        }
        None => pending().await,
    }
}
