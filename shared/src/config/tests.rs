//! Each variable, with valid values and with every kind of bad one.

use super::*;

mod master_key;
mod redis;

fn read(pairs: &[(&str, &str)]) -> Result<Config, ConfigErrors> {
    Config::from_source(Defaults::LOCAL, |name| {
        pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
    })
}

fn good(pairs: &[(&str, &str)]) -> Config {
    read(pairs).unwrap_or_else(|errors| panic!("{errors}"))
}

/// The bad value is reported once, with the variable's name and an example.
fn bad(variable: &str, value: &str, says: &str) {
    let ConfigErrors(errors) = read(&[(variable, value)]).expect_err(value);
    let [error] = errors.as_slice() else { panic!("{errors:?}") };
    assert_eq!(error.variable, variable);
    assert!(error.fault.contains(says), "{error}");
    assert!(!error.example.is_empty());
}

#[test]
fn an_empty_environment_gives_the_documented_defaults() {
    let config = good(&[]);
    assert_eq!(config.rules, Rules::default());
    assert_eq!(config.circuit, circuit::Settings::default());
    assert_eq!(config.delivery_timeout, Duration::from_secs(30));
    assert_eq!(
        (config.batch_size, config.max_payload_bytes, config.prometheus_port),
        (10, 262_144, 8001)
    );
    assert_eq!(config.audit_age, Duration::from_secs(900));
    assert!(
        config.prometheus
            && config.allow_private
            && config.secrets.is_empty()
            && config.allowlist.is_none()
    );
    assert_eq!(config.access, Access::default());
    let lambda = Config::from_source(Defaults::LAMBDA, |_| None).unwrap();
    assert!(!lambda.allow_private);
    assert_eq!((lambda.deliver_concurrency, lambda.deliver_host_concurrency), (10, 10));
    assert_eq!(
        (config.deliver_concurrency, config.deliver_host_concurrency, config.api_concurrency),
        (128, 32, 256)
    );
    assert_eq!(config.api_body_bytes, 134_217_728);
    assert_eq!(good(&[("DELIVER_CONCURRENCY", "1000")]).deliver_host_concurrency, 250);
}

#[test]
fn an_empty_value_counts_as_not_set() {
    assert_eq!(good(&[("BATCH_SIZE", " "), ("API_KEYS", "")]).batch_size, 10);
}

#[test]
fn every_number_is_bounded() {
    for (variable, least, most) in [
        ("BATCH_SIZE", 1, 10),
        ("STATUS_REDIS_WAIT", 0, 10),
        ("DELIVER_CONCURRENCY", 1, 1000),
        ("DELIVER_HOST_CONCURRENCY", 1, 1000),
        ("API_CONCURRENCY", 1, 10_000),
        ("API_BODY_BYTES", 33_554_432, 1_099_511_627_776),
        ("MAX_PAYLOAD_BYTES", 1, 1_048_576),
        ("PROMETHEUS_PORT", 0, 65_535),
        ("CIRCUIT_FAILURES", 0, 10_000),
        ("CIRCUIT_OPEN_MS", 100, 600_000),
        ("AUDIT_AGE_MS", 1000, 86_400_000),
        ("RETENTION_DAYS", 1, 3650),
        ("RETRY_MAX_ATTEMPTS", 1, 50),
        ("RETRY_CLIENT_ERROR_MAX_ATTEMPTS", 1, 50),
        ("RETRY_BASE_DELAY_MS", 0, 604_800_000),
        ("RETRY_MAX_DELAY_MS", 0, 604_800_000),
        ("RETRY_AFTER_CAP_MS", 0, 604_800_000),
        ("MIN_RETRY_DELAY_MS", 0, 3_600_000),
        ("MAX_DEFER_MS", 0, 2_592_000_000_u64),
    ] {
        // The first of two values counts. A batch of one fits every number of attempts.
        good(&[(variable, &least.to_string()), ("BATCH_SIZE", "1")]);
        good(&[(variable, &most.to_string()), ("BATCH_SIZE", "1")]);
        for value in [
            (most + 1).to_string(),
            "-1".to_owned(),
            "x".to_owned(),
            "1.5".to_owned(),
            format!("{most}0000000000000000000"),
        ] {
            bad(variable, &value, &value);
        }
        if least > 0 {
            bad(variable, &(least - 1).to_string(), "must be a whole number");
        }
    }
    for (variable, value) in [
        ("RETRY_FACTOR", "0.5"),
        ("RETRY_FACTOR", "NaN"),
        ("RETRY_JITTER", "1.01"),
        ("RETRY_JITTER", "x"),
    ] {
        bad(variable, value, value);
    }
}

/// With more messages than attempts, some would be released until the queue gives up on them.
#[test]
fn a_batch_is_no_larger_than_the_attempts_at_a_time() {
    for pairs in
        [&[("DELIVER_CONCURRENCY", "9")][..], &[("DELIVER_CONCURRENCY", "3"), ("BATCH_SIZE", "4")]]
    {
        let ConfigErrors(errors) = read(pairs).expect_err("more messages than attempts");
        let [error] = errors.as_slice() else { panic!("{errors:?}") };
        let text = error.to_string();
        assert!(text.contains("DELIVER_CONCURRENCY") && text.contains("BATCH_SIZE"), "{text}");
    }
    let config = good(&[("DELIVER_CONCURRENCY", "4"), ("BATCH_SIZE", "4")]);
    assert_eq!((config.deliver_concurrency, config.batch_size), (4, 4));
}

#[test]
fn excerpts_are_kept_of_failures_or_of_all_responses() {
    assert_eq!(good(&[]).response_excerpts, Excerpts::Failures);
    assert_eq!(good(&[("RESPONSE_EXCERPTS", "failures")]).response_excerpts, Excerpts::Failures);
    assert_eq!(good(&[("RESPONSE_EXCERPTS", "all")]).response_excerpts, Excerpts::All);
    bad("RESPONSE_EXCERPTS", "none", "must be failures or all");
}

#[test]
fn times_must_nest() {
    bad("DELIVERY_TIMEOUT_MS", "99", "must be a whole number");
    for (variable, value, named) in [
        ("LEASE_MS", "39999", "LEASE_MS"),
        ("DELIVERY_TIMEOUT_MS", "35001", "LEASE_MS"),
        ("REQUEUE_GRACE_MS", "360000", "REQUEUE_GRACE_MS"),
        ("LEASE_MS", "150000", "REQUEUE_GRACE_MS"),
    ] {
        let ConfigErrors(errors) = read(&[(variable, value)]).expect_err(variable);
        assert_eq!(
            errors.iter().map(|error| error.variable.as_str()).collect::<Vec<_>>(),
            [named],
            "{variable}={value}"
        );
    }
    let short = good(&[
        ("LEASE_MS", "1500"),
        ("DELIVERY_TIMEOUT_MS", "1000"),
        ("REQUEUE_GRACE_MS", "12001"),
    ]);
    assert_eq!(
        (short.function_timeout().as_millis(), short.visibility_timeout().as_millis()),
        (2000, 12_000)
    );
    let usual = good(&[]);
    assert_eq!(
        (usual.function_timeout().as_secs(), usual.visibility_timeout().as_secs()),
        (60, 360)
    );
    let long = good(&[("DELIVERY_TIMEOUT_MS", "60000"), ("LEASE_MS", "75000")]);
    assert!(long.function_timeout() > long.rules.limits.lease, "else no claim could ever be made");
}

#[test]
fn an_id_is_never_older_than_what_the_audit_has_read() {
    assert_eq!(good(&[]).max_id_age().as_secs(), 60);
    assert_eq!(good(&[("AUDIT_AGE_MS", "20000")]).max_id_age().as_secs(), 10);
}

#[cfg(unix)]
#[test]
fn a_value_that_is_not_unicode_is_a_fault_and_not_a_missing_variable() {
    use std::os::unix::ffi::OsStringExt;
    let latin_1 =
        |name: &str| (name == "WEBHOOK_ALLOWLIST").then(|| OsString::from_vec(vec![b'^', 0xe9]));
    let ConfigErrors(errors) =
        Config::from_raw_source(Defaults::LOCAL, latin_1).expect_err("not Unicode");
    assert_eq!((errors.len(), errors[0].variable.as_str()), (1, "WEBHOOK_ALLOWLIST"));
}

#[test]
fn a_schedule_gives_waits_and_attempts() {
    let retry = good(&[("RETRY_SCHEDULE", "5s, 5m,30m,2h,500ms,24h")]).rules.retry;
    assert_eq!(retry.max_attempts, 7);
    assert_eq!(
        retry.schedule.iter().map(Duration::as_millis).collect::<Vec<_>>(),
        [5000, 300_000, 1_800_000, 7_200_000, 500, 86_400_000]
    );
    for value in
        ["5", "5x", "s", "169h", ",", "5s,,x", "-5s", "99999999999999999999s", &"1s,".repeat(50)]
    {
        bad("RETRY_SCHEDULE", value, "each with its unit");
    }
    let ConfigErrors(errors) =
        read(&[("RETRY_SCHEDULE", "5s"), ("RETRY_MAX_ATTEMPTS", "3")]).expect_err("contradiction");
    assert_eq!(errors[0].variable, "RETRY_MAX_ATTEMPTS");
}

#[test]
fn flags_backends_and_patterns() {
    assert!(!good(&[("ENABLE_PROMETHEUS", "False")]).prometheus);
    assert!(!good(&[("ALLOW_PRIVATE_DESTINATIONS", "0")]).allow_private);
    bad("ENABLE_PROMETHEUS", "maybe", "true or false");
    bad("ALLOW_PRIVATE_DESTINATIONS", "2", "true or false");
    bad("STATUS_BACKEND", "mysql", "mysql");
    bad("QUEUE_BACKEND", "kafka", "kafka");
    assert_eq!(good(&[("STATUS_BACKEND", "redis")]).status_backend, StoreBackend::Redis);
    bad("WEBHOOK_ALLOWLIST", "(", "regular expression");
    assert!(good(&[("WEBHOOK_ALLOWLIST", r"^https://.*\.example\.com/.*$")]).allowlist.is_some());
    assert_eq!(
        good(&[("WEBHOOK_HOST_ALLOWLIST", "A.example, *.b.example")]).host_allowlist,
        ["a.example", "*.b.example"]
    );
    bad("WEBHOOK_HOST_ALLOWLIST", "https://a.example/", "not a host name");
    bad("WEBHOOK_HOST_ALLOWLIST", "a[", "not a host name");
    bad("WEBHOOK_HOST_ALLOWLIST", ",", "names no host");
}

/// A rate that an operator mistyped must not be left out: the start stops.
#[test]
fn rate_limits_are_read_and_a_bad_one_stops_the_start() {
    assert!(
        good(&[]).rate_limits.is_empty() && good(&[("RATE_LIMITS", "")]).rate_limits.is_empty()
    );
    let limits = good(&[("RATE_LIMITS", "hooks.example.com=10/1s, *.partner.net=100/60s")]);
    for (destination, rate) in [
        ("https://hooks.example.com:443", Some("10/1s")),
        ("http://a.partner.net:8080", Some("100/60s")),
        ("https://partner.net:443", None),
        ("https://other.example.com:443", None),
    ] {
        let found = limits.rate_limits.of_destination(destination).map(|rate| rate.to_string());
        assert_eq!(found.as_deref(), rate, "{destination}");
    }
    for (value, says) in [
        ("hooks.example.com", "has 'hooks.example.com', which is not a host and a rate"),
        ("a.example=1/1s,=1/1s", "has '', which is not a host name"),
        ("https://a.example=1/1s", "has 'https://a.example', which is not a host name"),
        ("a.example:443=1/1s", "has 'a.example:443', which is not a host name"),
        ("a[=1/1s", "has 'a[', which is not a host name"),
        ("a.example=10", "has 'a.example=10', whose limit is not a rate"),
        ("a.example=10/1m", "whose limit is not a rate"),
        ("a.example=0/1s", "must allow 1 to 1000000 requests"),
        ("a.example=1000001/1s", "must allow 1 to 1000000 requests"),
        ("a.example=1/0s", "must have a period of 1 to 86400 seconds"),
        ("a.example=1/86401s", "must have a period of 1 to 86400 seconds"),
        (",", "names no host"),
    ] {
        bad("RATE_LIMITS", value, says);
    }
    let errors = read(&[("RATE_LIMITS", "a=ten")]).expect_err("a word is no number");
    let text = errors.to_string();
    assert!(text.contains("RATE_LIMITS") && text.contains("hooks.example.com=10/1s"), "{text}");
}

#[test]
fn keys_are_kept_as_hashes_and_never_shown() {
    let plain = good(&[("API_KEYS", "test, other")]).access;
    let hashed = good(&[(
        "API_KEYS",
        "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    )])
    .access;
    assert_eq!(plain.key_hashes[0], hashed.key_hashes[0]);
    assert_eq!(plain.key_hashes.len(), 2);
    for (value, auth) in [("keys", Auth::Keys), ("iam", Auth::Platform), ("local", Auth::Local)] {
        assert_eq!(good(&[("API_AUTH", value)]).access.auth, auth);
    }
    bad("API_AUTH", "none", "none");
    let on_lambda = [("API_AUTH", "local"), ("AWS_LAMBDA_INITIALIZATION_TYPE", "on-demand")];
    let ConfigErrors(errors) = read(&on_lambda).expect_err("a load balancer passes on any Host");
    assert!(errors[0].fault.contains("refused on AWS Lambda"), "{}", errors[0]);
    bad("API_KEYS", "sha256:12", "64 hexadecimal digits");
    // A sign is not a digit.
    bad("API_KEYS", &format!("sha256:{}", "+f".repeat(32)), "64 hexadecimal digits");
    for quoted in ["\"test\"", "'test'", "test,'other'", "\"test,other\""] {
        bad("API_KEYS", quoted, "in quotes");
    }
    for secret in ["\"whsec_YQ==\"", "whsec_hunter2", "whsk_YQ=="] {
        let ConfigErrors(errors) = read(&[("WEBHOOK_HMAC_SECRET", secret)]).expect_err(secret);
        assert!(
            errors[0].fault.starts_with("is not a list of secrets: secret number 1"),
            "{}",
            errors[0]
        );
        assert!(!errors[0].to_string().contains(secret), "a secret is never shown");
    }
    bad("API_KEYS", " , ", "names no key");
    let ConfigErrors(errors) = read(&[("API_KEYS", "sha256:hunter2")]).expect_err("bad hash");
    assert!(!errors[0].to_string().contains("hunter2"));
}

#[test]
fn every_fault_is_reported_at_once() {
    let errors = read(&[("BATCH_SIZE", "0"), ("RETRY_JITTER", "7")]).expect_err("two faults");
    assert_eq!(errors.0.len(), 2);
    assert_eq!(errors.to_string().lines().count(), 2);
}

const AMAZON: [(&str, &str); 7] = [
    ("STATUS_BACKEND", "dynamodb"),
    ("QUEUE_BACKEND", "sqs"),
    ("TABLE_NAME", "posthaste"),
    ("QUEUE_URL", "https://sqs.eu-west-1.amazonaws.com/1/posthaste"),
    ("DEAD_LETTER_QUEUE_URL", "https://sqs.eu-west-1.amazonaws.com/1/posthaste-dead"),
    ("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE"),
    ("AWS_SECRET_ACCESS_KEY", "hunter2"),
];

#[test]
fn the_services_of_amazon_are_read() {
    let mut pairs = AMAZON.to_vec();
    pairs.extend([
        ("AWS_DEFAULT_REGION", "eu-west-1"),
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:4566"),
    ]);
    pairs.push(("AWS_ENDPOINT_URL_SQS", "https://sqs.example"));
    let config = good(&pairs);
    assert_eq!(
        (config.status_backend, config.queue_backend),
        (StoreBackend::DynamoDb, QueueBackend::Sqs)
    );
    assert_eq!(
        (config.aws.region.as_str(), config.aws.table_name.as_str()),
        ("eu-west-1", "posthaste")
    );
    assert_eq!(config.aws.dynamodb_endpoint.as_deref(), Some("http://127.0.0.1:4566"));
    assert_eq!(config.aws.sqs_endpoint.as_deref(), Some("https://sqs.example"));
    assert_eq!(config.aws.credentials.session_token, None);
    pairs.push(("AWS_REGION", "us-east-2"));
    assert_eq!(good(&pairs).aws.region, "us-east-2");
    assert!(!format!("{:?}", good(&pairs)).contains("hunter2"), "a secret is never shown");
}

#[test]
fn what_a_service_of_amazon_needs_and_is_not_there_is_named() {
    for missing in [
        "TABLE_NAME",
        "QUEUE_URL",
        "DEAD_LETTER_QUEUE_URL",
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_REGION",
    ] {
        let mut pairs = AMAZON.to_vec();
        pairs.push(("AWS_REGION", "eu-west-1"));
        pairs.retain(|(variable, _)| *variable != missing);
        let ConfigErrors(errors) = read(&pairs).expect_err(missing);
        let [error] = errors.as_slice() else { panic!("{errors:?}") };
        assert_eq!(error.variable, missing);
        assert!(error.fault.contains("is not set") && !error.example.is_empty(), "{error}");
    }
    // A setting that no backend needs may be missing.
    assert_eq!(good(&[]).aws, AwsSettings::default());
}

#[test]
fn a_bad_setting_of_amazon_is_named() {
    for (variable, value, says) in [
        ("TABLE_NAME", "a table", "3 to 255"),
        ("QUEUE_URL", "posthaste", "http"),
        ("DEAD_LETTER_QUEUE_URL", AMAZON[3].1, "the same as QUEUE_URL"),
        ("AWS_ENDPOINT_URL_DYNAMODB", "127.0.0.1:4566", "http"),
        ("QUEUE_BACKEND", "dynamodb", "sqlite, redis or sqs"),
        ("STATUS_BACKEND", "sqs", "sqlite, redis or dynamodb"),
    ] {
        let mut pairs = AMAZON.to_vec();
        pairs.retain(|(name, _)| *name != variable);
        pairs.extend([("AWS_REGION", "eu-west-1"), (variable, value)]);
        let ConfigErrors(errors) = read(&pairs).expect_err(variable);
        let [error] = errors.as_slice() else { panic!("{errors:?}") };
        assert_eq!(error.variable, variable);
        assert!(error.fault.contains(says), "{error}");
    }
}

#[test]
fn a_client_certificate_needs_its_key_and_a_key_its_certificate() {
    let client = |certificate, key| ClientCertificate { certificate, key };
    let file = |path: &str| Pem::File(path.into());
    let both = good(&[
        ("WEBHOOK_CLIENT_CERT_FILE", "/a/client.pem"),
        ("WEBHOOK_CLIENT_KEY_FILE", "/a/client.key"),
    ]);
    assert_eq!(both.egress.client, Some(client(file("/a/client.pem"), file("/a/client.key"))));
    for (set, missing) in [
        ("WEBHOOK_CLIENT_CERT_FILE", "WEBHOOK_CLIENT_KEY_FILE"),
        ("WEBHOOK_CLIENT_KEY_FILE", "WEBHOOK_CLIENT_CERT_FILE"),
    ] {
        let ConfigErrors(errors) = read(&[(set, "/a/hunter2")]).unwrap_err();
        assert!(
            errors.len() == 1 && errors[0].variable == missing && errors[0].fault.contains(set),
            "{errors:?}"
        );
    }
    // A reference to a secret stands for the text itself.
    let text = "-----BEGIN PRIVATE KEY-----\nhunter2\n-----END PRIVATE KEY-----";
    let both = good(&[
        ("WEBHOOK_CLIENT_CERT_FILE", "/a"),
        ("WEBHOOK_CLIENT_KEY_FILE", text),
        ("WEBHOOK_CA_FILE", text),
    ]);
    assert_eq!(both.egress.client, Some(client(file("/a"), Pem::Text(text.to_owned()))));
    assert_eq!(both.egress.ca, Some(Pem::Text(text.to_owned())));
    assert!(!format!("{both:?}").contains("hunter2"), "keys are never shown");
}

#[test]
fn a_proxy_is_a_url_with_host_and_port() {
    let proxy = |value: &str| good(&[("WEBHOOK_PROXY_URL", value)]).egress.proxy.unwrap();
    for (value, shown, authorization) in [
        ("http://proxy.example.com:3128", "proxy.example.com:3128", None),
        ("HTTP://Proxy/", "proxy:80", None),
        ("http://[::1]:8080", "[::1]:8080", None),
        ("http://user:hunter%32@10.0.0.1:3128/", "10.0.0.1:3128", Some("Basic dXNlcjpodW50ZXIy")),
        ("http://hunter2@10.0.0.1:3128", "10.0.0.1:3128", Some("Basic aHVudGVyMjo=")),
    ] {
        let proxy = proxy(value);
        assert_eq!(
            (proxy.to_string().as_str(), proxy.authorization()),
            (shown, authorization),
            "{value}"
        );
        assert_eq!(format!("{proxy:?}"), shown, "credentials are never shown");
    }
    for (value, says) in [
        ("proxy.example.com", "is not a URL"),
        ("proxy.example.com:3128", "must begin with http://"),
        ("https://hunter2@proxy.example.com:3128", "must begin with http://"),
        ("socks5://hunter2@proxy.example.com", "must begin with http://"),
        ("http://hunter2@", "is not a URL"),
        ("http://hunter2@proxy:99999", "is not a URL"),
        ("http://hunter2@proxy:0", "port 0"),
        ("http://proxy:3128/hunter2", "must end after host and port"),
        ("http://proxy:3128?hunter2", "must end after host and port"),
        ("http://hunter2%ff@proxy:3128", "not UTF-8"),
        ("http://a:hunter2%ff@proxy:3128", "not UTF-8"),
        ("http://hunter2%3a@proxy:3128", "with a colon"),
    ] {
        bad("WEBHOOK_PROXY_URL", value, says);
        assert!(
            !read(&[("WEBHOOK_PROXY_URL", value)]).unwrap_err().to_string().contains("hunter2"),
            "credentials are never shown"
        );
    }
}

/// Other programs' variables for proxies and certificates have no effect.
#[test]
fn the_usual_variables_are_not_looked_at() {
    let usual = [
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "ALL_PROXY",
        "http_proxy",
        "https_proxy",
        "all_proxy",
        "SSL_CERT_FILE",
    ];
    let config = good(&usual.map(|name| (name, "http://proxy.example.com:3128")));
    assert_eq!(config.egress, EgressSettings::default());
}
