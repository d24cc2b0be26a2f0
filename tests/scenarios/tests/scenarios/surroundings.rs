//! The stack's environment: outputs without a reader, callers that hold connections and bodies, and
//! web pages that try its ports. Raw TCP against a real process.

use std::{
    fs::File,
    io::{Read, Write},
    net::{Shutdown, TcpStream},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use harness::{
    binaries::binary,
    client::ApiClient,
    ledger,
    process::{free_ports, peak_kib},
    receiver::{Receiver, Reply},
    stack::{Launch, Stack},
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tempfile::TempDir;

const BOUND: Duration = Duration::from_secs(60);

/// A stack with custom outputs.
struct Bare {
    child: Child,
    port: u16,
    folder: TempDir,
}

impl Bare {
    fn start(stdout: Stdio, stderr: Stdio) -> Self {
        let [port] = free_ports().unwrap();
        let folder = TempDir::new().unwrap();
        let mut command = Command::new(binary("local").unwrap());
        command
            .arg("--listen")
            .arg(format!("127.0.0.1:{port}"))
            .args(["--metrics-listen", "127.0.0.1:0"]);
        command
            .arg("--data-dir")
            .arg(folder.path())
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(stderr);
        Self { child: command.spawn().unwrap(), port, folder }
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn wait_until_ready(&mut self) {
        let started = Instant::now();
        while !TcpStream::connect(("127.0.0.1", self.port))
            .is_ok_and(|stream| get(stream, "/health").starts_with("HTTP/1.1 200 "))
        {
            assert_eq!(self.child.try_wait().unwrap(), None, "the stack exited at start");
            assert!(started.elapsed() < BOUND, "the stack does not start");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn terminate(&mut self) -> ExitStatus {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        self.wait()
    }

    fn wait(&mut self) -> ExitStatus {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(started.elapsed() < BOUND, "the stack does not exit");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn connect(stack: &Stack) -> TcpStream {
    let stream = TcpStream::connect(stack.url().trim_start_matches("http://")).unwrap();
    stream.set_read_timeout(Some(BOUND)).unwrap();
    stream
}

/// The complete response.
fn get(mut stream: TcpStream, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    let mut answer = String::new();
    // A failure shows as a missing response.
    let _ = stream
        .write_all(request.as_bytes())
        .and_then(|()| stream.read_to_string(&mut answer).map(drop));
    answer
}

/// The reader of the log has exited. The stack still finishes the attempt in flight and exits with
/// 0.
#[tokio::test(flavor = "multi_thread")]
async fn shutdown_without_a_log_reader_finishes_the_attempt_in_flight() {
    let receiver = Receiver::builder()
        .script(|_| Reply::status(200).after(Duration::from_millis(700)))
        .start()
        .await
        .unwrap();
    let mut stack = Bare::start(Stdio::piped(), Stdio::piped());
    stack.wait_until_ready();
    drop((stack.child.stdout.take(), stack.child.stderr.take()));
    let api = ApiClient::new(&stack.url(), None).unwrap();
    let id = api.test_webhook(&receiver.url("/x"), &json!({})).await.unwrap().webhook_id;
    receiver.wait_for(1, BOUND).await.unwrap();
    let status = stack.terminate();
    assert!(status.success(), "{status}");
    let folder = stack.folder.path().to_owned();
    let launch = Launch::fresh().unwrap().instead("--data-dir", folder.to_str().unwrap());
    let again = launch.start().unwrap();
    let api = ApiClient::new(&again.url(), None).unwrap();
    let webhook = api.webhook(&id).await.unwrap();
    assert_eq!((webhook.status.as_str(), webhook.attempt_count), ("delivered", 1));
    assert_eq!(receiver.received().len(), 1, "sent once");
    again.stop().unwrap();
}

/// Both outputs are on a full disk.
#[test]
fn full_outputs_do_not_stop_the_stack() {
    let full = || Stdio::from(File::options().write(true).open("/dev/full").unwrap());
    let mut stack = Bare::start(full(), full());
    stack.wait_until_ready();
    let status = stack.terminate();
    assert!(status.success(), "{status}");
    // A stack that cannot start reports it by its exit code.
    let mut refused = Command::new(binary("local").unwrap());
    refused.env("BATCH_SIZE", "many").stdin(Stdio::null()).stdout(full()).stderr(full());
    assert_eq!(refused.status().unwrap().code(), Some(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_closes_its_sending_side_gets_a_response() {
    let launch = Launch::fresh().unwrap();
    let stack = launch.start().unwrap();
    let receiver = Receiver::start().await.unwrap();
    let body = json!({"url": receiver.url("/x"), "payload": 1}).to_string();
    let mut stream = connect(&stack);
    let head = format!(
        "POST /webhooks HTTP/1.1\r\nhost: localhost\r\ncontent-type: \
         application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all((head + &body).as_bytes()).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 202 "), "{answer:?}");
    let accepted: serde_json::Value =
        serde_json::from_str(answer.split("\r\n\r\n").nth(1).unwrap()).unwrap();
    let api = ApiClient::new(&stack.url(), None).unwrap();
    let ids = [accepted["webhook_id"].as_str().unwrap().to_owned()];
    assert_eq!(
        ledger::settle(&api, &ids, BOUND).await.statuses,
        [("delivered".to_owned(), 1)].into()
    );
    ledger::close(&api, stack, &launch).await;
}

/// DNS rebinding: a name that resolves to 127.0.0.1 gives a web page the same origin as the port.
#[test]
fn a_rebound_host_name_reaches_neither_port() {
    let launch = Launch::fresh().unwrap();
    let stack = launch.start().unwrap();
    let metrics = stack.metrics_url();
    let metrics = metrics.trim_start_matches("http://").trim_end_matches("/metrics");
    for (address, path) in
        [(metrics, "/metrics"), (stack.url().trim_start_matches("http://"), "/webhook-statuses")]
    {
        for (host, expected) in
            [("rebound.example:8001", 403), (address, 200), ("localhost:1", 200)]
        {
            let mut stream = TcpStream::connect(address).unwrap();
            let request =
                format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            assert!(
                answer.starts_with(&format!("HTTP/1.1 {expected} ")),
                "{path} as {host}: {answer}"
            );
            assert_eq!(
                answer.contains("# TYPE"),
                expected == 200 && path == "/metrics",
                "{answer}"
            );
        }
    }
}

/// Stalled bodies without a key and with one of two keys, and silent connections.
#[test]
fn stalled_connections_and_bodies_do_not_block_other_callers() {
    let launch = Launch::fresh().unwrap().set("API_KEYS", "loud,quiet").set("API_CONCURRENCY", "4");
    let stack = launch.start().unwrap();
    let silent: Vec<TcpStream> = (0..50).map(|_| connect(&stack)).collect();
    let slow: Vec<TcpStream> = (0..50)
        .map(|_| {
            let mut stream = connect(&stack);
            let head = "POST /webhooks HTTP/1.1\r\nhost: localhost\r\nx-api-key: \
                loud\r\ncontent-length: 1\r\n\r\n";
            stream.write_all(head.as_bytes()).unwrap();
            stream
        })
        .collect();
    for _ in 0..5 {
        let mut stream = connect(&stack);
        let request = "GET /webhook-statuses HTTP/1.1\r\nhost: localhost\r\nx-api-key: \
            quiet\r\nconnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert!(get(connect(&stack), "/health").starts_with("HTTP/1.1 200 "));
    }
    // The stack closes silent connections long before idle ones.
    let started = Instant::now();
    for mut stream in silent {
        assert_eq!(stream.read(&mut [0]).unwrap_or(0), 0);
    }
    assert!(started.elapsed() < Duration::from_secs(25), "{:?}", started.elapsed());
    drop(slow);
}

/// The stack's peak memory in MiB.
fn peak_mib(stack: &Stack) -> u64 {
    peak_kib(stack.pid()).unwrap().unwrap() / 1024
}

/// Endless headers without a key. By default, hyper would buffer 400 KiB for each connection, 117
/// MiB here.
#[test]
fn endless_headers_use_little_memory() {
    const CONNECTIONS: usize = 300;
    let launch = Launch::fresh().unwrap().set("API_KEYS", "key");
    let stack = launch.start().unwrap();
    let before = peak_mib(&stack);
    let mut streams: Vec<TcpStream> = (0..CONNECTIONS).map(|_| connect(&stack)).collect();
    let head = format!("GET / HTTP/1.1\r\nhost: localhost\r\nx: {}", "a".repeat(400_000));
    for stream in &mut streams {
        stream.set_write_timeout(Some(BOUND)).unwrap();
        // The stack closes the connection when the header is too long.
        let _ = stream.write_all(head.as_bytes());
    }
    for stream in &mut streams {
        let _ = stream.read_to_end(&mut Vec::new());
    }
    let grown = peak_mib(&stack) - before;
    println!("{CONNECTIONS} connections with endless headers: {grown} MiB more");
    assert!(grown < 40, "{grown} MiB");
    assert!(get(connect(&stack), "/health").starts_with("HTTP/1.1 200 "));
}

/// Many large batches at once. Some are accepted, the others are refused, and memory stays within
/// its budget.
#[test]
fn many_large_batches_stay_within_the_memory_budget() {
    const BATCHES: usize = 24;
    let launch = Launch::fresh().unwrap().set("API_BODY_BYTES", "33554432");
    let stack = launch.start().unwrap();
    let before = peak_mib(&stack);
    let webhook = json!({"url": "http://127.0.0.1:9/", "payload": "a".repeat(55_000)});
    let body = json!({"webhooks": vec![webhook; 100]}).to_string();
    let answers: Vec<String> = std::thread::scope(|scope| {
        let send = || {
            let mut stream = connect(&stack);
            let head = format!(
                "POST /webhooks/batch HTTP/1.1\r\nhost: localhost\r\ncontent-type: \
                 application/json\r\nconnection: close\r\n\
                 content-length: {}\r\n\r\n",
                body.len()
            );
            // A refused request may be cut off.
            let _ =
                stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes()));
            let mut status = [0; 12];
            let read = stream.read_exact(&mut status);
            read.map_or_else(
                |error| error.kind().to_string(),
                |()| String::from_utf8_lossy(&status).into_owned(),
            )
        };
        let threads: Vec<_> = (0..BATCHES).map(|_| scope.spawn(send)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let grown = peak_mib(&stack) - before;
    let accepted = answers.iter().filter(|answer| *answer == "HTTP/1.1 202").count();
    println!(
        "{BATCHES} batches of {} KiB: {accepted} accepted, {grown} MiB more",
        body.len() / 1024
    );
    assert!((1..BATCHES).contains(&accepted), "{answers:?}");
    assert!(
        grown < 100,
        "{grown} MiB; the bodies alone are {} MiB",
        BATCHES * body.len() / 1024 / 1024
    );
}
