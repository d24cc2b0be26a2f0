//! A listener that no request may reach.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpStream},
    time::{Instant, sleep},
};

const BOUND: Duration = Duration::from_secs(60);

/// Counts connections to a loopback port, of both address families if the machine has both.
pub(crate) struct Listener {
    pub(crate) port: u16,
    connections: Arc<AtomicUsize>,
}

impl Listener {
    pub(crate) async fn start() -> Self {
        // Listens on all addresses of this machine, because its name may resolve to one outside
        // loopback.
        let first = TcpListener::bind("0.0.0.0:0").await.unwrap();
        let port = first.local_addr().unwrap().port();
        let second = TcpListener::bind(SocketAddr::from(([0_u16; 8], port))).await.ok();
        let connections = Arc::new(AtomicUsize::new(0));
        for listener in [Some(first), second].into_iter().flatten() {
            let counter = Arc::clone(&connections);
            tokio::spawn(async move {
                while listener.accept().await.is_ok() {
                    counter.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        Self { port, connections }
    }

    fn count(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// Asserts that there was no connection. Then connects itself, to check that the listener
    /// counts.
    pub(crate) async fn assert_no_connection(&self) {
        assert_eq!(self.count(), 0, "there was a connection");
        let _connection = TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        let deadline = Instant::now() + BOUND;
        while self.count() == 0 {
            assert!(Instant::now() < deadline, "the listener does not count");
            sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(self.count(), 1, "only the test's own connection");
    }
}
