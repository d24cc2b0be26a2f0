//! Whether other processes know that this process is alive, and under which name.
//!
//! On Redis, a process that holds messages and claims keeps a heartbeat
//! (`context/redis/heartbeat.rs`). When the heartbeat stops, other processes recover what it holds.
//! Then the process must no longer work on it. [`Liveness::hold`] reports that moment.
//!
//! A process whose backends have no heartbeat has no name. No process recovers what it holds, so it
//! never has to stop.

use tokio::sync::watch;

/// The name of a process while its heartbeat continues. A process that lost its heartbeat gets a
/// new name.
pub type ProcessId = u64;

/// The state of this process's heartbeat, shared by everything in the process.
#[derive(Debug, Default)]
pub struct Liveness(watch::Sender<State>);

#[derive(Clone, Copy, Debug, Default)]
struct State {
    id: Option<ProcessId>,
    losses: u64,
}

/// Work that must stop when the heartbeat is lost.
#[derive(Debug)]
pub struct Hold {
    state: watch::Receiver<State>,
    losses: u64,
}

impl Liveness {
    /// The name to write into claims and messages of this process. `None`: no process recovers
    /// them.
    pub fn id(&self) -> Option<ProcessId> {
        self.0.borrow().id
    }

    /// The heartbeat with this name has begun.
    pub fn begin(&self, id: ProcessId) {
        self.0.send_modify(|state| state.id = Some(id));
    }

    /// The heartbeat was missing for too long. All work that began before must stop.
    pub fn lose(&self) {
        self.0.send_modify(|state| *state = State { id: None, losses: state.losses + 1 });
    }

    /// Call this before the work claims or receives anything.
    pub fn hold(&self) -> Hold {
        let state = self.0.subscribe();
        let losses = state.borrow().losses;
        Hold { state, losses }
    }
}

impl Hold {
    /// Returns when the heartbeat is lost, even if that was before the call.
    pub async fn lost(mut self) {
        let losses = self.losses;
        if self.state.wait_for(|state| state.losses != losses).await.is_err() {
            // The process ends, and with it this work.
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::Liveness;

    #[test]
    fn work_stops_when_the_heartbeat_is_lost_after_it_began() {
        let liveness = Liveness::default();
        let unnamed = liveness.hold();
        liveness.begin(7);
        let named = liveness.hold();
        assert_eq!(liveness.id(), Some(7));
        assert!(liveness.hold().lost().now_or_never().is_none());
        liveness.lose();
        assert_eq!(liveness.id(), None);
        assert!(named.lost().now_or_never().is_some());
        assert!(
            unnamed.lost().now_or_never().is_some(),
            "it may have claimed under the name since"
        );
        liveness.begin(8);
        assert!(liveness.hold().lost().now_or_never().is_none(), "what begins later goes on");
    }
}
