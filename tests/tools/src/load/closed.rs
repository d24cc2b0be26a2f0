//! The closed loop: N connections, each with one request at a time, at full speed.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    io,
    rc::Rc,
    time::{Duration, Instant},
};

use futures_util::future::try_join_all;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{
    LoadError,
    wire::{ANSWER_TIMEOUT, Parsed, Server, Template, parse_answer},
};

/// Maximum number of reconnects in a run.
const MAX_RECONNECTS: u32 = 1_000;

/// The result of a closed loop.
#[derive(Clone, Debug, Default)]
pub struct Posted {
    /// When the first request was sent.
    pub first_sent: Option<Instant>,
    /// From the first request to the last response.
    pub took: Duration,
    /// Responses by status code.
    pub answers: BTreeMap<u16, u64>,
    /// Requests without a response.
    pub broken: u64,
    /// The first response with another status code than the wanted one.
    pub first_refusal: Option<String>,
}

impl Posted {
    /// Number of responses with this status code.
    pub fn answered(&self, status: u16) -> u64 {
        self.answers.get(&status).copied().unwrap_or(0)
    }
}

/// Shared by the connections, which run on one thread.
struct Shared {
    server: Server,
    total: u32,
    wanted: u16,
    next: Cell<u32>,
    reconnects: Cell<u32>,
    posted: RefCell<Posted>,
}

/// Posts `total` requests. `wanted` is the expected status code.
pub async fn post_all(
    server: &Server,
    template: &Template,
    total: u32,
    connections: u16,
    wanted: u16,
) -> Result<Posted, LoadError> {
    let mut streams = Vec::new();
    for _ in 0..connections {
        streams.push(connect(server).await?);
    }
    let shared = Rc::new(Shared {
        server: server.clone(),
        total,
        wanted,
        next: Cell::new(0),
        reconnects: Cell::new(0),
        posted: RefCell::new(Posted::default()),
    });
    let start = Instant::now();
    try_join_all(
        streams
            .into_iter()
            .map(|stream| post_in_turn(stream, template.clone(), Rc::clone(&shared))),
    )
    .await?;
    let mut posted = shared.posted.take();
    posted.first_sent = Some(start);
    posted.took = start.elapsed();
    Ok(posted)
}

async fn connect(server: &Server) -> Result<TcpStream, LoadError> {
    let stream = TcpStream::connect(server.address)
        .await
        .map_err(|error| server.error("connect to", error))?;
    let _ = stream.set_nodelay(true);
    Ok(stream)
}

async fn post_in_turn(
    mut stream: TcpStream,
    mut template: Template,
    shared: Rc<Shared>,
) -> Result<(), LoadError> {
    let mut buffer = Vec::with_capacity(4096);
    loop {
        let number = shared.next.get();
        if number >= shared.total {
            return Ok(());
        }
        shared.next.set(number + 1);
        let keep =
            match exchange(&mut stream, template.numbered(number), &mut buffer, &shared).await {
                Ok(keep) => keep,
                Err(error) => {
                    let mut posted = shared.posted.borrow_mut();
                    posted.broken += 1;
                    posted.first_refusal.get_or_insert_with(|| format!("no response: {error}"));
                    false
                }
            };
        if !keep {
            shared.reconnects.set(shared.reconnects.get() + 1);
            if shared.reconnects.get() > MAX_RECONNECTS {
                return Err(LoadError::Protocol(format!(
                    "the server closed more than {MAX_RECONNECTS} connections"
                )));
            }
            stream = connect(&shared.server).await?;
        }
    }
}

/// Sends one request and reads its response. Returns whether the connection stays open.
async fn exchange(
    stream: &mut TcpStream,
    request: &[u8],
    buffer: &mut Vec<u8>,
    shared: &Shared,
) -> io::Result<bool> {
    stream.write_all(request).await?;
    buffer.clear();
    loop {
        if read_some(stream, buffer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if let Parsed::Complete { status, body, keep } = parse_answer(buffer)? {
            let mut posted = shared.posted.borrow_mut();
            *posted.answers.entry(status).or_default() += 1;
            if status != shared.wanted && posted.first_refusal.is_none() {
                posted.first_refusal =
                    Some(format!("{status} {}", String::from_utf8_lossy(&buffer[body])));
            }
            return Ok(keep);
        }
    }
}

/// Reads the available bytes, or waits for some within the timeout.
async fn read_some(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> io::Result<usize> {
    match tokio::time::timeout(ANSWER_TIMEOUT, stream.read_buf(buffer)).await {
        Ok(count) => count,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}
