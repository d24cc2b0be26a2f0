//! `webhook-receiver`: receives webhooks for tests. See `--help`.

use std::{net::IpAddr, path::PathBuf, process::ExitCode};

use clap::Parser;
use harness::{
    progress::COULD_NOT_RUN,
    receiver::{Behaviour, Journal, Receiver, Secrets, answer, journal::JournalOptions},
};
use tokio::signal::unix::{SignalKind, signal};

/// Receives webhooks: responds to every POST, logs and counts requests, and verifies signatures.
///
/// Returns 200 by default. Two paths override every option: /status-code/CODE returns that code,
/// and /delay/SECONDS returns 200 after that time. /delay/2/status-code/503 does both. GET /status
/// (or /) returns the counts as JSON. Runs until Ctrl-C or SIGTERM.
#[derive(Debug, Parser)]
#[command(
    name = "webhook-receiver",
    version,
    after_help = "Exit codes: 0 stopped by Ctrl-C or SIGTERM, 2 wrong usage, 3 could not run."
)]
struct Options {
    /// Address to listen on.
    #[arg(long, default_value = "127.0.0.1", value_name = "ADDRESS")]
    host: IpAddr,
    /// Port to listen on. 0 chooses a free port and prints it in the first line.
    #[arg(long, default_value_t = 9001)]
    port: u16,
    /// Percentage of requests that fail at random (0 to 100).
    #[arg(long, default_value_t = 0, value_name = "PERCENT",
        value_parser = clap::value_parser!(u8).range(0..=100))]
    failure_rate: u8,
    /// Status code to return (200 to 599) [default: 200]. With --failure-rate, the status code of a
    /// failure [default: 500].
    #[arg(long, value_name = "CODE", value_parser = answer::parse_code)]
    response_code: Option<u16>,
    /// Seconds to wait before each response; may be a decimal. Does not block other requests.
    #[arg(long, default_value = "0", value_name = "SECONDS", value_parser = answer::parse_seconds)]
    delay: f64,
    /// Also append the log to this file.
    #[arg(long, value_name = "FILE")]
    log_file: Option<PathBuf>,
    #[arg(
        long,
        value_name = "FOLDER",
        help = "Save each payload unchanged as webhook_data_*.json in this folder"
    )]
    save_dir: Option<PathBuf>,
    /// Verify signatures with this secret, or with several separated by commas. Base64 with or
    /// without whsec_, else raw bytes.
    #[arg(long, env = "WEBHOOK_HMAC_SECRET", hide_env_values = true)]
    secret: Option<String>,
    /// Print only the listening address to standard output.
    #[arg(long)]
    quiet: bool,
    /// Print one JSON object per line.
    #[arg(long)]
    json: bool,
}

impl Options {
    fn behaviour(&self) -> Result<Behaviour, String> {
        let mut behaviour = Behaviour {
            failure_rate: self.failure_rate,
            delay_seconds: self.delay,
            ..Behaviour::default()
        };
        match self.response_code {
            Some(code) if self.failure_rate > 0 && code < 300 => {
                return Err(format!(
                    "--response-code {code} is a success, which conflicts with --failure-rate {}",
                    self.failure_rate
                ));
            }
            Some(code) if self.failure_rate > 0 => behaviour.failure_code = code,
            Some(code) => behaviour.response_code = code,
            None => {}
        }
        Ok(behaviour)
    }

    fn journal(&self) -> JournalOptions {
        let (log_file, save_dir) = (self.log_file.clone(), self.save_dir.clone());
        JournalOptions { stdout: !self.quiet, json: self.json, log_file, save_dir }
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    let behaviour = options.behaviour().unwrap_or_else(|reason| {
        use clap::{CommandFactory, error::ErrorKind};
        Options::command().error(ErrorKind::ArgumentConflict, reason).exit()
    });
    match run(&options, behaviour).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            shared::complain!("webhook-receiver: {error}");
            ExitCode::from(COULD_NOT_RUN)
        }
    }
}

async fn run(options: &Options, behaviour: Behaviour) -> Result<(), Box<dyn std::error::Error>> {
    // Registered before the first line is printed, because its reader may send the signal.
    let (mut interrupt, mut terminate) =
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let receiver = Receiver::builder()
        .listen((options.host, options.port).into())
        .behaviour(behaviour)
        .secrets(Secrets::parse(options.secret.as_deref().unwrap_or_default()))
        .keep(false)
        .journal(Journal::open(options.journal())?)
        .start()
        .await
        .map_err(|error| format!("{error}; set another port with --port"))?;
    let url = receiver.url("");
    if options.json {
        shared::say!("{}", serde_json::json!({ "listening": url, "answers": behaviour }));
    } else {
        shared::say!("webhook-receiver listens at {url} and returns {}", describe(&behaviour));
        shared::say!("counts: curl {url}status    stop: Ctrl-C");
    }
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    let counts = receiver.stop().await;
    if options.json {
        shared::say!("{}", serde_json::json!({ "stopped": counts }));
    } else {
        shared::say!(
            "stopped after {} requests of {} webhooks",
            counts.received,
            counts.distinct_webhook_ids
        );
    }
    Ok(())
}

fn describe(behaviour: &Behaviour) -> String {
    let code = match behaviour.constant_code() {
        Some(code) => code.to_string(),
        None => format!(
            "{}, but for {} % of the requests {}",
            behaviour.response_code, behaviour.failure_rate, behaviour.failure_code
        ),
    };
    if behaviour.delay_seconds > 0.0 {
        format!("{code} after {} s", behaviour.delay_seconds)
    } else {
        code
    }
}
