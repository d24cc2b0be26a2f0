//! `GET /`: the operator's page, one HTML document with its style and script, built from `page/` at
//! compile time.
//!
//! The page contains no data, so it needs no API key. Its requests do. All its URLs are relative,
//! so it works wherever this router is mounted: at a function URL, below a stage of API Gateway, on
//! this machine.
//!
//! Its content security policy allows its own script and style, by their hashes, and requests to
//! its own origin. Everything else is blocked, and no text can become markup: `trusted-types
//! 'none'` disables every way to do that.

use std::sync::LazyLock;

use axum::{
    extract::RawQuery,
    response::{IntoResponse, Response},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use sha2::{Digest, Sha256};

use crate::{input::query, problem::Problem};

const DOCUMENT: &str = include_str!("../../page/page.html");

const STYLE: &str =
    concat!(include_str!("../../page/layout.css"), include_str!("../../page/parts.css"));

/// One module. A file can use the declarations of the files before it.
const SCRIPT: &str = concat!(
    include_str!("../../page/dom.js"),
    include_str!("../../page/format.js"),
    include_str!("../../page/json.js"),
    include_str!("../../page/api.js"),
    include_str!("../../page/parts.js"),
    include_str!("../../page/chart.js"),
    include_str!("../../page/overview.js"),
    include_str!("../../page/webhooks.js"),
    include_str!("../../page/timeline.js"),
    include_str!("../../page/webhook.js"),
    include_str!("../../page/dead_letters.js"),
    include_str!("../../page/applications.js"),
    include_str!("../../page/send.js"),
    include_str!("../../page/start.js"),
);

/// The placeholders in the document.
const STYLE_PLACEHOLDER: &str = "/* style */";
const SCRIPT_PLACEHOLDER: &str = "/* script */";

struct Page {
    html: String,
    policy: HeaderValue,
    etag: HeaderValue,
}

static PAGE: LazyLock<Page> = LazyLock::new(|| {
    let html =
        DOCUMENT.replacen(STYLE_PLACEHOLDER, STYLE, 1).replacen(SCRIPT_PLACEHOLDER, SCRIPT, 1);
    let policy = format!(
        "default-src 'none'; script-src '{}'; style-src '{}'; img-src data:; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for \
         'script'; trusted-types 'none'",
        hash(SCRIPT),
        hash(STYLE)
    );
    let etag = format!("\"{}\"", hash(&html));
    Page { policy: ascii(&policy), etag: ascii(&etag), html }
});

/// The hash in the format of a content security policy.
fn hash(text: &str) -> String {
    format!("sha256-{}", BASE64_STANDARD.encode(Sha256::digest(text)))
}

fn ascii(text: &str) -> HeaderValue {
    HeaderValue::from_str(text)
        .unwrap_or_else(|_| unreachable!("it consists of base64 and literals"))
}

/// The page, or a 304 if the browser has this version. Browsers may cache it but must revalidate it
/// each time, so that they show a new version at once.
pub(crate) async fn page_get(
    RawQuery(query): RawQuery,
    request: HeaderMap,
) -> Result<Response, Problem> {
    query::none(query.as_deref())?;
    let page = &*PAGE;
    let headers: [(HeaderName, HeaderValue); 7] = [
        (header::CONTENT_SECURITY_POLICY, page.policy.clone()),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        (
            HeaderName::from_static("cross-origin-opener-policy"),
            HeaderValue::from_static("same-origin"),
        ),
        (
            HeaderName::from_static("cross-origin-resource-policy"),
            HeaderValue::from_static("same-origin"),
        ),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        (header::ETAG, page.etag.clone()),
    ];
    let known =
        request.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let etag = page.etag.to_str().unwrap_or_default();
    // A cache may have turned the tag into a weak one.
    let is_current = known
        .flat_map(|tags| tags.split(','))
        .any(|tag| tag.trim().trim_start_matches("W/") == etag);
    if is_current {
        return Ok((StatusCode::NOT_MODIFIED, headers).into_response());
    }
    let html = [(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"))];
    Ok((headers, html, page.html.as_str()).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What would end the element early, or not be hashed as it is served.
    #[test]
    fn style_and_script_stand_whole_in_the_document() {
        let html = &PAGE.html;
        for (start, text, end) in
            [("<style>", STYLE, "</style>"), ("<script type=\"module\">", SCRIPT, "</script>")]
        {
            assert_eq!((html.matches(start).count(), html.matches(end).count()), (1, 1), "{start}");
            let inner = html.split_once(start).unwrap().1.split_once(end).unwrap().0;
            assert!(inner == text, "what stands between {start} and {end} is not what was hashed");
            assert!(!text.contains('\r') && !text.contains("<!--"), "{start}");
        }
    }
}
