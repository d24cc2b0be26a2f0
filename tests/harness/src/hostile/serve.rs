//! The server of a hostile receiver.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use super::{Step, Transport};

/// The maximum size of a request head.
const MAX_HEAD_BYTES: usize = 64 * 1024;

/// A hostile receiver on a free port of 127.0.0.1. Dropping it stops it. Its connections end with
/// the runtime of the test.
#[derive(Debug)]
pub struct HostileReceiver {
    address: SocketAddr,
    is_tls: bool,
    connections: Arc<AtomicUsize>,
    server: JoinHandle<()>,
}

impl HostileReceiver {
    /// Starts a receiver that runs these steps on each connection.
    pub async fn start(transport: &Transport, steps: &[Step]) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let connections = Arc::new(AtomicUsize::new(0));
        let tls = match transport {
            Transport::Plain | Transport::Pretended => None,
            Transport::Tls(certificate) => Some(certificate.acceptor()),
        };
        let is_tls = !matches!(transport, Transport::Plain);
        let (steps, counter) = (Arc::<[Step]>::from(steps), Arc::clone(&connections));
        let server = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                counter.fetch_add(1, Ordering::SeqCst);
                let (steps, tls) = (Arc::clone(&steps), tls.clone());
                tokio::spawn(async move {
                    // Clients often close the connection or reject the certificate.
                    let _ = match tls {
                        None => run_plain(stream, &steps).await,
                        Some(tls) => match tls.accept(stream).await {
                            Ok(mut stream) => run_steps(&mut stream, &steps).await.map(drop),
                            Err(error) => Err(error),
                        },
                    };
                });
            }
        });
        Ok(Self { address, is_tls, connections, server })
    }

    /// The URL for webhooks.
    pub fn url(&self) -> String {
        let scheme = if self.is_tls { "https" } else { "http" };
        format!("{scheme}://{}/hook", self.address)
    }

    /// The number of accepted connections.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

impl Drop for HostileReceiver {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn run_plain(mut stream: TcpStream, steps: &[Step]) -> io::Result<()> {
    stream.set_nodelay(true)?;
    if run_steps(&mut stream, steps).await? {
        // With a linger time of zero, the system sends a reset.
        stream.set_zero_linger()?;
    } else {
        stream.shutdown().await?;
    }
    Ok(())
}

/// Runs the steps. Returns whether to close the connection with a reset.
async fn run_steps(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    steps: &[Step],
) -> io::Result<bool> {
    let mut next = steps.iter();
    while let Some(step) = next.next() {
        match step {
            Step::Read => read_request(stream).await?,
            Step::Write(bytes) => write(stream, bytes).await?,
            Step::Drip(bytes, pause) => {
                for byte in bytes.chunks(1) {
                    write(stream, byte).await?;
                    tokio::time::sleep(*pause).await;
                }
            }
            Step::Repeat(bytes, pause) => loop {
                write(stream, bytes).await?;
                if *pause > Duration::ZERO {
                    tokio::time::sleep(*pause).await;
                }
            },
            Step::Stall => while stream.read(&mut [0; 1024]).await? > 0 {},
            Step::Reset => return Ok(true),
            Step::Again => next = steps.iter(),
        }
    }
    Ok(false)
}

async fn write(stream: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> io::Result<()> {
    stream.write_all(bytes).await?;
    stream.flush().await
}

/// Reads the head and the body, which has a `content-length`.
async fn read_request(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<()> {
    let mut bytes = Vec::new();
    let (head, length) = loop {
        if stream.read_buf(&mut bytes).await? == 0 || bytes.len() > MAX_HEAD_BYTES {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
        break (end + 4, length.ok_or(io::ErrorKind::InvalidData)?);
    };
    while bytes.len() < head + length {
        if stream.read_buf(&mut bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(())
}
