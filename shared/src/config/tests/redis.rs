//! The settings of Redis.

use super::*;

#[test]
fn redis_is_named_by_its_parts_or_by_a_url() {
    let shown = |pairs: &[(&str, &str)]| {
        let redis = good(pairs).redis;
        (redis.status.to_string(), redis.queue.to_string())
    };
    let expect = |status: &str, queue: &str| (status.to_owned(), queue.to_owned());
    assert_eq!(shown(&[]), expect("redis://localhost:6379/2", "redis://localhost:6379/1"));
    let parts = [
        ("REDIS_HOST", "redis.local"),
        ("REDIS_PORT", "7000"),
        ("CELERY_REDIS_DB", "5"),
        ("STATUS_REDIS_DB", "0"),
    ];
    assert_eq!(shown(&parts), expect("redis://redis.local:7000/0", "redis://redis.local:7000/5"));
    assert_eq!(
        shown(&[("QUEUE_REDIS_DB", "5"), ("CELERY_REDIS_DB", "5")]).1,
        "redis://localhost:6379/5"
    );
    let urls = [
        ("STATUS_REDIS_URL", "rediss://:pw@a.example/3"),
        ("QUEUE_REDIS_URL", "redis://b.example:1"),
        parts[0],
    ];
    assert_eq!(shown(&urls), expect("rediss://a.example:6379/3", "redis://b.example:1/0"));
    let prefixes = |pairs: &[(&str, &str)]| {
        let redis = good(pairs).redis;
        (redis.status_prefix, redis.queue_prefix)
    };
    assert_eq!(prefixes(&[]), expect("posthaste", "posthaste"));
    assert_eq!(prefixes(&[("REDIS_PREFIX", "shop.")]), expect("shop.", "shop."));
    assert_eq!(
        prefixes(&[("REDIS_PREFIX", "shop."), ("QUEUE_REDIS_PREFIX", "q")]),
        expect("shop.", "q")
    );
    assert_eq!(prefixes(&[("STATUS_REDIS_PREFIX", "s")]), expect("s", "posthaste"));
    assert!(!format!("{:?}", good(&urls)).contains("pw"), "passwords are never shown");
}

#[test]
fn a_redis_cluster_is_named_by_some_of_its_nodes() {
    let status = |url: &str| good(&[("STATUS_REDIS_URL", url)]).redis.status;
    let cluster = status("redis+cluster://me:hunter2@A.example:7000,[::1]:7001,c.example/0");
    assert!(cluster.is_cluster());
    assert_eq!(cluster.to_string(), "redis+cluster://a.example:7000,[::1]:7001,c.example:6379");
    let nodes: Vec<&str> = cluster.nodes().collect();
    assert_eq!(
        nodes,
        [
            "redis://me:hunter2@A.example:7000/0",
            "redis://me:hunter2@[::1]:7001/0",
            "redis://me:hunter2@c.example/0"
        ]
    );
    assert!(!format!("{cluster:?}").contains("hunter2"), "passwords are never shown");
    assert_eq!(
        status("rediss+cluster://a,b").nodes().collect::<Vec<_>>(),
        ["rediss://a", "rediss://b"]
    );
    for (value, says) in [
        ("redis+cluster://u:hunter2@a,b/1", "only database 0"),
        ("redis+cluster://u:hunter2@a,,b", "names no host"),
        ("redis+cluster://u:hunter2@a:x,b", "is not a URL"),
        ("redis+cluster://u:hunter2@a,b?x=1", "query"),
        ("redis+sentinel://u:hunter2@a", "redis+cluster://"),
    ] {
        bad("STATUS_REDIS_URL", value, says);
        assert!(
            !read(&[("STATUS_REDIS_URL", value)]).unwrap_err().to_string().contains("hunter2"),
            "passwords are never shown"
        );
    }
}

#[test]
fn a_private_ca_for_redis_is_read_at_start() {
    const URL: (&str, &str) = ("STATUS_REDIS_URL", "rediss://redis.example.com");
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let pem = rcgen::generate_simple_self_signed(vec!["redis.example.com".to_owned()])
        .unwrap()
        .cert
        .pem();
    let good_file = file("good", &pem);
    let redis = good(&[URL, ("REDIS_CA_FILE", &good_file)]).redis;
    assert_eq!(
        (redis.status.ca(), redis.queue.ca()),
        (Some(pem.as_bytes()), None),
        "the queue's URL is not TLS"
    );
    let missing = folder.path().join("missing").display().to_string();
    for (value, says) in [
        (missing, "cannot be read"),
        (file("empty", ""), "holds no certificate"),
        (
            file("broken", "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n"),
            "is not PEM",
        ),
        (
            file("other", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
            "cannot judge others",
        ),
    ] {
        let ConfigErrors(errors) = read(&[URL, ("REDIS_CA_FILE", &value)]).expect_err(&value);
        assert!(
            errors[0].variable == "REDIS_CA_FILE" && errors[0].fault.contains(says),
            "{}",
            errors[0]
        );
    }
    bad("REDIS_CA_FILE", &good_file, "begins with rediss");
}

#[test]
fn each_bad_value_about_redis_is_named() {
    bad("REDIS_HOST", "redis://user:hunter2@host", "not a host name");
    for value in ["0", "65536", "x"] {
        bad("REDIS_PORT", value, "must be a whole number from 1 to 65535");
    }
    for variable in ["CELERY_REDIS_DB", "QUEUE_REDIS_DB", "STATUS_REDIS_DB"] {
        for value in ["-1", "65536", "x"] {
            bad(variable, value, "must be a whole number from 0 to 65535");
        }
    }
    for variable in ["STATUS_REDIS_URL", "QUEUE_REDIS_URL"] {
        for (value, says) in [
            ("hunter2", "is not a URL"),
            ("http://u:hunter2@h", "redis://, rediss://"),
            ("redis:///1", "names no host"),
            ("redis://u:hunter2@h/x", "database's number"),
            ("redis://u:hunter2@h/1/2", "database's number"),
            ("rediss://u:hunter2@h/1#insecure", "fragment"),
            ("redis://u:hunter2@h/1?protocol=resp3", "query"),
        ] {
            bad(variable, value, says);
            assert!(
                !read(&[(variable, value)]).unwrap_err().to_string().contains("hunter2"),
                "passwords are never shown"
            );
        }
    }
    for variable in ["REDIS_PREFIX", "STATUS_REDIS_PREFIX", "QUEUE_REDIS_PREFIX"] {
        for value in ["{x}", "a b", &"x".repeat(65)] {
            bad(variable, value, "must be 1 to 64");
        }
    }
    let ConfigErrors(errors) =
        read(&[("QUEUE_REDIS_DB", "4"), ("CELERY_REDIS_DB", "5")]).expect_err("contradiction");
    assert_eq!(errors[0].variable, "CELERY_REDIS_DB");
}

#[test]
fn webhooks_and_messages_must_not_share_a_database() {
    const BOTH: [(&str, &str); 2] = [("STATUS_BACKEND", "redis"), ("QUEUE_BACKEND", "redis")];
    for (other, variable) in [
        (vec![("QUEUE_REDIS_DB", "2")], "STATUS_REDIS_DB"),
        (vec![("STATUS_REDIS_DB", "1")], "STATUS_REDIS_DB"),
        (vec![("STATUS_REDIS_URL", "redis://localhost/1")], "STATUS_REDIS_URL"),
        (vec![("QUEUE_REDIS_URL", "rediss://u:hunter2@LOCALHOST:6379/2")], "QUEUE_REDIS_URL"),
    ] {
        let ConfigErrors(errors) = read(&[&BOTH[..], &other].concat()).expect_err(variable);
        assert_eq!(errors[0].variable, variable);
        assert!(
            errors[0].fault.contains("the same database") && !errors[0].fault.contains("hunter2"),
            "{}",
            errors[0]
        );
        // Only one of them is set, so nothing is shared.
        good(&[&BOTH[..1], &other].concat());
        good(&[&BOTH[1..], &other].concat());
    }
    good(&BOTH);
    let cluster = |queue| [("STATUS_REDIS_URL", "redis+cluster://a,b"), ("QUEUE_REDIS_URL", queue)];
    for queue in ["redis+cluster://b,c", "redis+cluster://B:6379"] {
        let shared = [&BOTH[..], &cluster(queue)].concat();
        let ConfigErrors(errors) = read(&shared).expect_err(queue);
        assert_eq!(errors[0].variable, "QUEUE_REDIS_PREFIX");
        assert!(errors[0].fault.contains("only database 0"), "{}", errors[0]);
        good(&[&shared[..], &[("QUEUE_REDIS_PREFIX", "other")]].concat());
        good(&[&shared[..], &[("STATUS_REDIS_PREFIX", "other")]].concat());
        good(&[&BOTH[..1], &cluster(queue)].concat());
    }
    good(&[&BOTH[..], &cluster("redis+cluster://c:7000")].concat());
    // The same server, as a cluster and as a single server.
    let ConfigErrors(errors) =
        read(&[&BOTH[..], &cluster("redis://a/0")].concat()).expect_err("one server");
    assert_eq!(errors[0].variable, "QUEUE_REDIS_URL");
}
