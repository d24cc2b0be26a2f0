//! The closed loop: N connections, each with one request at a time, as fast as they go.

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

/// A connection that breaks is opened anew; so often in a run at most.
const MAX_RECONNECTS: u32 = 1_000;

/// What came of posting.
#[derive(Clone, Debug, Default)]
pub struct Posted {
    /// When the first request was sent.
    pub first_sent: Option<Instant>,
    /// From then to the last answer.
    pub took: Duration,
    /// Answers by status.
    pub answers: BTreeMap<u16, u64>,
    /// Requests that got no answer.
    pub broken: u64,
    /// The first answer that was not the one wanted, for the message.
    pub first_refusal: Option<String>,
}

impl Posted {
    /// Answers with this status.
    pub fn answered(&self, status: u16) -> u64 {
        self.answers.get(&status).copied().unwrap_or(0)
    }
}

/// What the connections share; they run on one thread.
struct Shared {
    server: Server,
    total: u32,
    wanted: u16,
    next: Cell<u32>,
    reconnects: Cell<u32>,
    posted: RefCell<Posted>,
}

/// Posts `total` requests; `wanted` is the status that each should be answered with.
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
                    posted.first_refusal.get_or_insert_with(|| format!("no answer: {error}"));
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

/// One request and its answer. Tells whether the connection can be used again.
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
        if let Parsed::Whole { status, body, keep } = parse_answer(buffer)? {
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

/// Reads what there is; only if there is nothing does it wait with a bound, since a timer for each
/// request would cost.
async fn read_some(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> io::Result<usize> {
    match tokio::time::timeout(ANSWER_TIMEOUT, stream.read_buf(buffer)).await {
        Ok(count) => count,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}
