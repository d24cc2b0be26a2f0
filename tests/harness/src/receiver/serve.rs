//! The HTTP/1.1 server, with a task for each connection.
//!
//! It uses hyper directly, because it is also the receiver of the benchmark. Without a journal and
//! kept requests, a request holds locks only briefly and copies no byte of its body.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Notify, Semaphore, watch},
    task::JoinSet,
    time::Sleep,
};

use super::{
    MAX_KEPT_REQUESTS, STOP_BOUND,
    answer::{Behaviour, Received, Reply, ReplyBody, Script},
    count::{Counts, IdHash},
    journal::{self, Journal},
    signature::Secrets,
};

/// The maximum size of a request body. A larger one gets 413.
const MAX_BODY_BYTES: usize = 16 * 1024 * 1024;

/// The maximum number of connections. Others wait to be accepted.
const MAX_CONNECTIONS: usize = 10_000;

/// The wait after a failed accept. The usual cause is a lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// The state that all connections share.
pub(super) struct State {
    pub(super) script: RwLock<Script>,
    pub(super) behaviour: Option<Behaviour>,
    pub(super) secrets: Secrets,
    pub(super) counts: Counts,
    pub(super) kept: Option<Mutex<Vec<Arc<Received>>>>,
    pub(super) arrived: Notify,
    /// Ends the delays of the requests that have arrived.
    pub(super) hang_ups: watch::Sender<()>,
    pub(super) journal: Option<Journal>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("behaviour", &self.behaviour)
            .field("counts", &self.counts)
            .finish_non_exhaustive()
    }
}

static NOTHING_KEPT: Mutex<Vec<Arc<Received>>> = Mutex::new(Vec::new());

impl State {
    pub(super) fn kept(&self) -> MutexGuard<'_, Vec<Arc<Received>>> {
        self.kept.as_ref().unwrap_or(&NOTHING_KEPT).lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, request: &Arc<Received>) {
        if self.kept.is_some() {
            let mut kept = self.kept();
            if kept.len() < MAX_KEPT_REQUESTS {
                kept.push(Arc::clone(request));
            }
            drop(kept);
            self.arrived.notify_waiters();
        }
    }
}

/// Serves until `stop` is true, then waits up to [`STOP_BOUND`] for requests in progress.
pub(super) async fn serve(
    listener: TcpListener,
    state: Arc<State>,
    mut stop: watch::Receiver<bool>,
) {
    let mut connections = JoinSet::new();
    let free = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener, &free) => accepted,
            _ = stop.wait_for(|stopping| *stopping) => break,
        };
        while connections.try_join_next().is_some() {}
        if let Some((stream, permit)) = accepted {
            let state = Arc::clone(&state);
            connections.spawn(async move {
                serve_connection(stream, state).await;
                drop(permit);
            });
        } else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
        }
    }
    drop(listener);
    let idle = async {
        while state.counts.in_flight() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // A response is counted just before its bytes are written.
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let _ = tokio::time::timeout(STOP_BOUND, idle).await;
    connections.shutdown().await;
}

async fn accept(
    listener: &TcpListener,
    free: &Arc<Semaphore>,
) -> Option<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let permit = Arc::clone(free).acquire_owned().await.ok()?;
    let (stream, _) = listener.accept().await.ok()?;
    let _ = stream.set_nodelay(true);
    Some((stream, permit))
}

async fn serve_connection(stream: TcpStream, state: Arc<State>) {
    let service = service_fn(|request| respond(request, &state));
    // An error means that the client disconnected or sent invalid HTTP. If possible, hyper has
    // responded 400.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

/// Closes the connection without a response.
#[derive(Debug, thiserror::Error)]
#[error("the script hangs up")]
struct HangUp;

async fn respond(
    request: Request<Incoming>,
    state: &State,
) -> Result<Response<AnswerBody>, HangUp> {
    match *request.method() {
        Method::POST => receive(request, state).await,
        Method::GET if matches!(request.uri().path(), "/" | "/status") => Ok(status_page(state)),
        Method::GET => Ok(plain(
            404,
            "There is only GET / and GET /status. Send webhooks with POST, to any path.\n",
            None,
        )),
        _ => Ok(plain(
            405,
            "Send webhooks with POST. GET /status shows counts.\n",
            Some((header::ALLOW, "GET, POST")),
        )),
    }
}

async fn receive(
    request: Request<Incoming>,
    state: &State,
) -> Result<Response<AnswerBody>, HangUp> {
    let (head, body) = request.into_parts();
    let body = match read(body).await {
        Ok(body) => body,
        Err(ReadError::Disconnected) => return Err(HangUp),
        Err(ReadError::TooLarge) => {
            return Ok(plain(
                413,
                "The body exceeds 16 MiB.\n",
                Some((header::CONNECTION, "close")),
            ));
        }
    };
    let at = std::time::Instant::now();
    let verdict = state.secrets.verdict(&head.headers, &body);
    let id = state.counts.arrived(
        head.headers.get("webhook-id").map(HeaderValue::as_bytes),
        body.len(),
        verdict,
    );
    let request =
        Received { at, method: head.method, uri: head.uri, headers: head.headers, body, verdict };
    let script = Arc::clone(&state.script.read().unwrap_or_else(PoisonError::into_inner));
    // Before the request is kept, because a test that sees it there may hang up on it.
    let hang_ups = state.hang_ups.subscribe();
    if state.kept.is_none() && state.journal.is_none() {
        let unanswered = Unanswered { state, id, request: None, done: false };
        return answer(script(&request), unanswered, hang_ups).await;
    }
    let request = Arc::new(request);
    state.keep(&request);
    save(state, &request).await;
    let reply = script(&request);
    answer(reply, Unanswered { state, id, request: Some(request), done: false }, hang_ups).await
}

async fn answer(
    reply: Reply,
    mut unanswered: Unanswered<'_>,
    mut hang_ups: watch::Receiver<()>,
) -> Result<Response<AnswerBody>, HangUp> {
    if !reply.delay.is_zero() {
        tokio::select! {
            () = tokio::time::sleep(reply.delay) => {}
            _ = hang_ups.changed() => return Err(HangUp),
        }
    }
    if reply.hang_up {
        return Err(HangUp);
    }
    unanswered.answered(reply.status.as_u16());
    let mut response = Response::new(AnswerBody::from(reply.body));
    *response.status_mut() = reply.status;
    *response.headers_mut() = reply.headers;
    Ok(response)
}

/// A request without a response yet. If the client disconnects, hyper drops the future that owns
/// this.
struct Unanswered<'a> {
    state: &'a State,
    id: Option<IdHash>,
    request: Option<Arc<Received>>,
    done: bool,
}

impl Unanswered<'_> {
    fn answered(&mut self, code: u16) {
        self.done = true;
        self.state.counts.responded(self.id, code);
        self.line(Some(code));
    }

    fn line(&self, code: Option<u16>) {
        if let (Some(journal), Some(request)) = (&self.state.journal, &self.request) {
            journal.line(request, code, request.at.elapsed());
        }
    }
}

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        if !self.done {
            self.state.counts.abandoned();
            self.line(None);
        }
    }
}

async fn save(state: &State, request: &Arc<Received>) {
    let Some(path) = state.journal.as_ref().and_then(|journal| journal.file_for(request)) else {
        return;
    };
    let request = Arc::clone(request);
    let saved = tokio::task::spawn_blocking(move || {
        journal::save(&path, &request.body).map_err(|error| (path, error))
    })
    .await;
    if let Ok(Err((path, error))) = saved {
        shared::complain!("webhook-receiver: cannot save a payload as {}: {error}", path.display());
    }
}

enum ReadError {
    Disconnected,
    TooLarge,
}

/// Reads the whole body. A body of one frame is not copied.
async fn read(mut body: Incoming) -> Result<Bytes, ReadError> {
    let mut whole = Bytes::new();
    let mut pieces = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| ReadError::Disconnected)?.into_data() else { continue };
        if whole.len() + pieces.len() + data.len() > MAX_BODY_BYTES {
            return Err(ReadError::TooLarge);
        }
        if whole.is_empty() && pieces.is_empty() {
            whole = data;
        } else {
            pieces.extend_from_slice(&std::mem::take(&mut whole));
            pieces.extend_from_slice(&data);
        }
    }
    Ok(if pieces.is_empty() { whole } else { pieces.freeze() })
}

fn status_page(state: &State) -> Response<AnswerBody> {
    let mut page = json!({ "status": "running", "answers": state.behaviour,
        "verifies_signatures": !state.secrets.is_empty() });
    if let (Some(page), Ok(serde_json::Value::Object(counts))) =
        (page.as_object_mut(), serde_json::to_value(state.counts.snapshot()))
    {
        page.extend(counts);
    }
    let mut response =
        Response::new(AnswerBody::from(ReplyBody::Whole(format!("{page:#}\n").into())));
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn plain(
    code: u16,
    text: &'static str,
    extra: Option<(header::HeaderName, &'static str)>,
) -> Response<AnswerBody> {
    let mut response =
        Response::new(AnswerBody::from(ReplyBody::Whole(Bytes::from_static(text.as_bytes()))));
    *response.status_mut() =
        StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    if let Some((name, value)) = extra {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// The body of a response that is being sent.
enum AnswerBody {
    Whole(Bytes),
    Dribble { chunk: Bytes, pause: Duration, left: u64, sleep: Option<Pin<Box<Sleep>>> },
}

impl From<ReplyBody> for AnswerBody {
    fn from(body: ReplyBody) -> Self {
        match body {
            ReplyBody::Whole(bytes) => Self::Whole(bytes),
            ReplyBody::Dribble { chunk, pause, chunks } => {
                Self::Dribble { chunk, pause, left: chunks, sleep: None }
            }
        }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Self::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Self::Dribble { left: 0, .. } => Poll::Ready(None),
            Self::Dribble { chunk, pause, left, sleep } => {
                if let Some(pausing) = sleep {
                    std::task::ready!(pausing.as_mut().poll(cx));
                }
                *left -= 1;
                *sleep = Some(Box::pin(tokio::time::sleep(*pause)));
                Poll::Ready(Some(Ok(Frame::data(chunk.clone()))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(bytes) if bytes.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Dribble { .. } => SizeHint::default(),
        }
    }
}
