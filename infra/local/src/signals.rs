//! Ctrl-C and SIGTERM: what asks the stack to end.

use std::future::pending;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Both signals, which do not end the process by themselves as long as this is listening.
#[derive(Debug)]
pub struct Signals {
    interrupt: Option<Signal>,
    terminate: Option<Signal>,
}

impl Signals {
    /// Listens from now on. Within a tokio runtime.
    pub fn listen() -> Self {
        // A signal that cannot be listened to ends the process at once, as it always does.
        Self {
            interrupt: signal(SignalKind::interrupt()).ok(),
            terminate: signal(SignalKind::terminate()).ok(),
        }
    }

    /// Returns when one of them has come since the last time.
    pub async fn asked_to_end(&mut self) {
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
