//! Threads for blocking calls: SQLite's reads and the system's name resolver.
//!
//! tokio has one pool of such threads for everything. There, calls of one kind that do not return
//! delay calls of every other kind. So each kind has its own pool here, with its own limit. tokio's
//! pool keeps only the look-ups of the backends' own hosts by the clients of Redis and AWS.
//!
//! # Contract
//!
//! - At most `most` calls run at a time. Further calls wait in the order of their arrival.
//! - A call that has started runs to its end, even if its caller stops waiting. A call that has not
//!   started is dropped then.
//! - Threads start on demand and end after `IDLE` without work.
//! - A call that panics ends neither its thread nor other calls. Its caller gets [`NotRun`].

use std::{
    collections::VecDeque,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use tokio::sync::oneshot;

/// How long an idle thread is kept.
const IDLE: Duration = Duration::from_secs(30);

type Call = Box<dyn FnOnce() + Send>;

/// Why a call has no result.
#[derive(Debug, thiserror::Error)]
pub enum NotRun {
    /// The system gave no thread, and the pool had none.
    #[error("cannot start a thread")]
    NoThread(#[source] io::Error),
    /// The call panicked.
    #[error("the call panicked")]
    Panicked,
}

/// A bounded pool of threads. After a drop, its threads end when their calls have returned.
#[derive(Debug)]
pub struct Threads {
    name: &'static str,
    most: usize,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Call>,
    threads: usize,
    idle: usize,
    is_closed: bool,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("waiting", &self.waiting.len())
            .field("threads", &self.threads)
            .finish_non_exhaustive()
    }
}

impl Threads {
    /// Creates a pool of at most this many threads. The system shows the name for each of them.
    /// Linux allows 15 bytes.
    pub fn new(name: &'static str, most: usize) -> Self {
        Self { name, most, shared: Arc::default() }
    }

    /// Runs the blocking call on a thread of the pool.
    pub async fn run<T, F>(&self, call: F) -> Result<T, NotRun>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        self.start(Box::new(move || {
            if !answer.is_closed() {
                // The caller may have stopped waiting.
                let _ = answer.send(call());
            }
        }))?;
        answered.await.map_err(|_| NotRun::Panicked)
    }

    /// Starts a call without waiting for its result.
    pub(crate) fn start(&self, call: Call) -> Result<(), NotRun> {
        let mut state = self.shared.lock();
        state.waiting.push_back(call);
        if state.idle >= state.waiting.len() || state.threads >= self.most {
            self.shared.changed.notify_one();
            return Ok(());
        }
        state.threads += 1;
        drop(state);
        let shared = Arc::clone(&self.shared);
        let thread = thread::Builder::new().name(self.name.to_owned());
        let Err(error) = thread.spawn(move || shared.work()) else { return Ok(()) };
        let mut state = self.shared.lock();
        state.threads -= 1;
        if state.threads > 0 {
            return Ok(());
        }
        state.waiting.clear();
        Err(NotRun::NoThread(error))
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.shared.lock().is_closed = true;
        self.shared.changed.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        while let Some(call) = self.next() {
            // A call shares no state with others. Its caller gets the error.
            let _ = catch_unwind(AssertUnwindSafe(call));
        }
    }

    /// The next call. `None` if the thread must end.
    fn next(&self) -> Option<Call> {
        let mut state = self.lock();
        state.idle += 1;
        let has_nothing = |state: &mut State| state.waiting.is_empty() && !state.is_closed;
        let waited = self.changed.wait_timeout_while(state, IDLE, has_nothing);
        state = waited.unwrap_or_else(PoisonError::into_inner).0;
        state.idle -= 1;
        let next = state.waiting.pop_front();
        if next.is_none() {
            state.threads -= 1;
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use futures_util::{FutureExt, future::join_all};

    use super::*;

    #[tokio::test]
    async fn calls_beyond_the_limit_wait_their_turn() {
        let threads = Threads::new("test", 2);
        let (let_go, gate) = mpsc::channel::<()>();
        let gate = Arc::new(Mutex::new(gate));
        let hold = || {
            let gate = Arc::clone(&gate);
            Box::pin(threads.run(move || gate.lock().unwrap().recv().unwrap()))
        };
        let mut calls = [hold(), hold(), hold()];
        for call in &mut calls {
            assert!(call.now_or_never().is_none());
        }
        assert_eq!(threads.shared.lock().threads, 2);
        while threads.shared.lock().waiting.len() > 1 {
            thread::yield_now();
        }
        assert_eq!(threads.shared.lock().idle, 0, "both are at work, and the third call waits");
        for _ in &calls {
            let_go.send(()).unwrap();
        }
        assert!(join_all(calls).await.iter().all(Result::is_ok));
        assert_eq!(threads.run(|| 7).await.unwrap(), 7, "threads are used again");
        assert_eq!(threads.shared.lock().threads, 2);
    }

    #[tokio::test]
    async fn a_panic_ends_its_call_alone() {
        let threads = Threads::new("test", 1);
        let panicked: Result<(), NotRun> = threads.run(|| panic!("as the test says")).await;
        assert!(matches!(panicked, Err(NotRun::Panicked)));
        assert_eq!(threads.run(|| 7).await.unwrap(), 7);
    }

    #[test]
    fn threads_end_with_their_pool() {
        let threads = Threads::new("test", 1);
        let shared = Arc::clone(&threads.shared);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(threads.run(|| ())).unwrap();
        drop(threads);
        while Arc::strong_count(&shared) > 1 {
            thread::yield_now();
        }
    }
}
