//! Log lines: JSON on Lambda, readable text locally. What is logged is decided by `RUST_LOG`, a
//! level or a list such as `warn,deliver=info`; `info` if it is not set. Release builds have
//! nothing below `info`.
//!
//! Lines carry `correlation_id` and `webhook_id` as fields. Payloads and secrets are never logged,
//! URLs without query and userinfo.

use tracing_subscriber::{
    Layer,
    filter::{LevelFilter, Targets},
    fmt,
    layer::SubscriberExt,
    registry,
    util::SubscriberInitExt,
};
use url::Url;

/// How the lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One JSON object a line, to standard output, which is where Lambda takes it from.
    Json,
    /// For people, to standard error.
    Text,
}

/// Switches logging on for this process. A bad `RUST_LOG` is an error that names it. A second call
/// does nothing.
pub fn init(format: Format) -> Result<(), String> {
    let filter = match std::env::var("RUST_LOG") {
        Ok(directives) if !directives.trim().is_empty() => {
            directives.trim().parse::<Targets>().map_err(|error| {
                format!("RUST_LOG is '{directives}', but {error}; example: warn,deliver=info")
            })?
        }
        _ => Targets::new().with_default(LevelFilter::INFO),
    };
    // A line that cannot be written is dropped. To report that on standard error would panic if
    // that is gone, too. An error only says that a subscriber is set already, as when tests share a
    // process.
    let _ = match format {
        Format::Json => {
            let lines = fmt::layer()
                .json()
                .log_internal_errors(false)
                .flatten_event(true)
                .with_current_span(false)
                .with_filter(filter);
            registry().with(lines).try_init()
        }
        Format::Text => {
            // https://no-color.org: set to anything but nothing, it asks for none.
            let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
            let colour = !unwanted && std::io::IsTerminal::is_terminal(&std::io::stderr());
            let lines = fmt::layer()
                .log_internal_errors(false)
                .with_ansi(colour)
                .with_target(false)
                .with_writer(std::io::stderr)
                .with_filter(filter);
            registry().with(lines).try_init()
        }
    };
    Ok(())
}

/// A URL as it may be logged: without userinfo, query and fragment.
pub fn loggable_url(url: &str) -> String {
    match Url::parse(url) {
        Ok(mut url) => {
            url.set_query(None);
            url.set_fragment(None);
            // Both fail only for URLs without a host, which have no userinfo either.
            let _ = url.set_username("");
            let _ = url.set_password(None);
            url.into()
        }
        Err(_) => "(not a URL)".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::loggable_url;

    #[test]
    fn a_logged_url_holds_no_secret() {
        assert_eq!(
            loggable_url("https://user:pass@example.com/a/b?token=1#x"),
            "https://example.com/a/b"
        );
        assert_eq!(loggable_url("token=1"), "(not a URL)");
    }
}
