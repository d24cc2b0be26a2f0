use super::*;

fn guard(allow_private: bool, allowlist: Option<&str>, hosts: &[&str]) -> AddressGuard {
    let allowlist = allowlist.map(|pattern| Regex::new(pattern).unwrap());
    let host_allowlist = hosts.iter().map(|&glob| glob.to_owned()).collect();
    AddressGuard::new(GuardSettings { allow_private, allowlist, host_allowlist }).unwrap()
}

fn check(url: &str) -> Result<String, RefusedUrl> {
    AddressGuard::default().check_url(url).map(String::from)
}

#[test]
fn public_urls_are_accepted_in_their_normal_form() {
    for (written, used) in [
        ("https://example.com", "https://example.com/"),
        ("HTTP://Example.COM:80/a?b#c", "http://example.com/a?b#c"),
        ("https://bücher.example/ä", "https://xn--bcher-kva.example/%C3%A4"),
        ("https://example.com./x", "https://example.com./x"),
        ("https://8.8.8.8:8443/", "https://8.8.8.8:8443/"),
        ("https://[2606:4700::1111]/", "https://[2606:4700::1111]/"),
        ("https://localhost.example.com/", "https://localhost.example.com/"),
        ("https://mylocalhost/", "https://mylocalhost/"),
        ("https://example.com/a@b?c=d@e", "https://example.com/a@b?c=d@e"),
    ] {
        assert_eq!(check(written).as_deref(), Ok(used), "{written}");
    }
}

#[test]
fn every_spelling_of_a_private_address_is_refused() {
    for (class, urls) in [
        (
            "loopback",
            &[
                "http://127.0.0.1/",
                "http://127.1/",
                "http://2130706433/",
                "http://0x7f000001/",
                "http://0x7f.1/",
                "http://0177.0.0.1/",
                "http://017700000001/",
                "http://127.0.0.1./",
                "http://127.0.0.1:9001/runtime",
                "http://%31%32%37.0.0.1/",
                "http://①②⑦.0.0.1/",
                "http://127。0。0。1/",
                "http://[::1]/",
                "http://[0:0:0:0:0:0:0:1]/",
                "http://[::ffff:127.0.0.1]/",
                "http://[::ffff:7f00:1]/",
            ][..],
        ),
        ("this network", &["http://0/", "http://0.0.0.0/", "http://0x0/"]),
        (
            "link-local",
            &[
                "http://169.254.169.254/latest",
                "http://2852039166/",
                "http://[fe80::1]/",
                "http://0xa9.0xfe.43518/",
            ],
        ),
        ("private", &["http://10.0.0.1/", "http://192.168.257/", "http://172.16.0.1:80/"]),
        ("private (unique local)", &["http://[fd00:ec2::254]/"]),
        ("IPv4-compatible", &["http://[::127.0.0.1]/"]),
        ("NAT64", &["http://[64:ff9b::7f00:1]/", "http://[64:ff9b:1::a00:1]/"]),
        ("6to4", &["http://[2002:7f00:1::]/"]),
        ("unspecified", &["http://[::]/"]),
    ] {
        for url in urls {
            assert_eq!(check(url), Err(RefusedUrl::PrivateAddress { class }), "{url}");
            assert!(
                guard(true, None, &[]).check_url(url).is_ok(),
                "{url} with private ones allowed"
            );
        }
    }
}

#[test]
fn localhost_counts_as_loopback() {
    for url in [
        "http://localhost/",
        "https://LOCALHOST:1/",
        "http://localhost./",
        "http://a.b.localhost/",
        "http://x.localhost./",
    ] {
        assert_eq!(check(url), Err(RefusedUrl::Localhost), "{url}");
        assert!(guard(true, None, &[]).check_url(url).is_ok(), "{url} with private ones allowed");
    }
}

#[test]
fn only_http_without_userinfo_even_where_private_is_allowed() {
    for guard in [AddressGuard::default(), guard(true, None, &[])] {
        for url in [
            "ftp://example.com/",
            "file:///etc/passwd",
            "ws://example.com/",
            "javascript:alert(1)",
            "unix:/run/x",
            "data:,x",
        ] {
            assert_eq!(guard.check_url(url), Err(RefusedUrl::Scheme), "{url}");
        }
        for url in [
            "https://u@example.com/",
            "https://u:p@example.com/",
            "https://:p@example.com/",
            "https://@example.com/",
        ] {
            assert_eq!(guard.check_url(url), Err(RefusedUrl::Userinfo), "{url}");
        }
    }
}

#[test]
fn ambiguous_urls_are_refused() {
    for url in [
        "",
        "example.com/x",
        "/x",
        "//example.com",
        "http:example.com",
        "http:/example.com",
        "https:///example.com",
        "https://",
        "https://exa mple.com/",
        " https://example.com/",
        "https://example.com/\n",
        "https://example.com/a\tb",
        "https://example.com\\@evil.example/",
        "https://example.com/a\\b",
        "https://example.com:99999/",
        "https://[fe80::1%25eth0]/",
        "https://1.2.3.4.5/",
        "https://a..b^c/",
    ] {
        assert_eq!(check(url), Err(RefusedUrl::Malformed), "{url:?}");
    }
    let longest = format!("https://example.com/{}", "a".repeat(MAX_URL_BYTES - 20));
    assert!(check(&longest).is_ok());
    assert_eq!(check(&format!("{longest}a")), Err(RefusedUrl::TooLong));
}

/// Invalid DNS names, and the longest valid ones.
#[test]
fn a_host_must_be_a_name_or_an_address() {
    let label = "a".repeat(MAX_LABEL_CHARS);
    let longest = format!("{label}.{label}.{label}.{}", &label[2..]);
    assert_eq!(longest.len(), MAX_NAME_CHARS);
    for host in [
        &*label,
        &longest,
        &format!("{longest}."),
        "my_service",
        "-a-.example",
        "xn--bcher-kva.example",
        "1a",
    ] {
        assert!(check(&format!("http://{host}/")).is_ok(), "{host}");
    }
    // 64 characters in the `xn--` form, though fewer as written.
    let long_in_punycode = "ü".repeat(58);
    for host in [
        &*format!("{label}a"),
        &format!("www.{label}a.example"),
        &format!("a{longest}"),
        &long_in_punycode,
        "..",
        "a..b",
        ".example.com",
        "example.com..",
        "*.example.com",
        "*",
        "a,b",
        "$host",
        "(a)",
        "a;b",
        "a&b=c",
        "a!",
        "'a'",
        "a~",
        "a+b",
        "%2A.example.com",
    ] {
        for guard in [guard(false, None, &[]), guard(true, None, &[])] {
            assert_eq!(
                guard.check_url(&format!("http://{host}/")),
                Err(RefusedUrl::HostName),
                "{host}"
            );
        }
    }
}

#[test]
fn port_0_is_refused() {
    for url in [
        "http://example.com:0/",
        "https://8.8.8.8:00000/",
        "http://[2606:4700::1111]:0/",
        "http://127.0.0.1:0/",
    ] {
        for guard in [guard(false, None, &[]), guard(true, None, &[])] {
            assert_eq!(guard.check_url(url), Err(RefusedUrl::Port), "{url}");
        }
    }
    assert!(check("http://example.com:1/").is_ok() && check("http://example.com:65535/").is_ok());
}

/// A typical allowlist, and every way in which text after the host could imitate the host.
#[test]
fn a_path_cannot_imitate_a_host_on_the_allowlist() {
    let guard = guard(false, Some(r"^https://.*\.example\.com/.*$"), &[]);
    for url in [
        "https://hooks.example.com/",
        "https://hooks.example.com/a/b?c",
        "https://A.Example.Com/x#y",
    ] {
        assert!(guard.check_url(url).is_ok(), "{url}");
    }
    for (url, reason) in [
        ("https://evil.example/", RefusedUrl::NotOnAllowlist),
        ("http://hooks.example.com/", RefusedUrl::NotOnAllowlist),
        ("https://evil.example/#.example.com/", RefusedUrl::NotOnAllowlist),
        ("https://evil.example/.example.com/", RefusedUrl::OnAllowlistByPathOnly),
        ("https://evil.example?.example.com/", RefusedUrl::OnAllowlistByPathOnly),
        ("https://evil.example/x?y=.example.com/", RefusedUrl::OnAllowlistByPathOnly),
        ("https://evil.example:444/https://hooks.example.com/", RefusedUrl::OnAllowlistByPathOnly),
        ("https://hooks.example.com@evil.example/.example.com/", RefusedUrl::Userinfo),
    ] {
        assert_eq!(guard.check_url(url), Err(reason), "{url}");
    }
}

#[test]
fn the_allowlist_matches_from_the_beginning() {
    let guard = guard(false, Some(r"https://example\.com/"), &[]);
    assert!(guard.check_url("https://example.com/x").is_ok());
    assert_eq!(
        guard.check_url("http://example.com/?https://example.com/"),
        Err(RefusedUrl::NotOnAllowlist)
    );
}

/// With host globs, a pattern can contain paths, and the globs decide about the host.
#[test]
fn host_globs_decide_about_the_host() {
    let by_host = guard(false, None, &["*.example.com", "HOOKS.example.net", "2606:4700::*"]);
    for url in [
        "https://a.example.com/",
        "https://a.b.example.com./x",
        "http://hooks.example.net:81/",
        "https://[2606:4700::1111]/",
    ] {
        assert!(by_host.check_url(url).is_ok(), "{url}");
    }
    for url in [
        "https://example.com/",
        "https://a.example.com.evil.example/",
        "https://evil.example/a.example.com",
    ] {
        assert_eq!(by_host.check_url(url), Err(RefusedUrl::HostNotOnAllowlist), "{url}");
    }

    let with_paths = r"^https://[^/]+/services/.*$";
    let url = "https://hooks.example.com/services/T1";
    assert_eq!(
        guard(false, Some(with_paths), &[]).check_url(url),
        Err(RefusedUrl::OnAllowlistByPathOnly)
    );
    let both = guard(false, Some(with_paths), &["hooks.example.com"]);
    assert!(both.check_url(url).is_ok());
    assert_eq!(both.check_url("https://hooks.example.com/other"), Err(RefusedUrl::NotOnAllowlist));
    assert_eq!(
        both.check_url("https://evil.example/services/T1"),
        Err(RefusedUrl::HostNotOnAllowlist)
    );
}

/// An allowlist with a private address does not allow that address.
#[test]
fn an_allowlist_does_not_allow_private_addresses() {
    let guard = guard(false, Some("^http://127.0.0.1/"), &["127.0.0.1"]);
    assert_eq!(
        guard.check_url("http://127.0.0.1/"),
        Err(RefusedUrl::PrivateAddress { class: "loopback" })
    );
}

#[test]
fn an_invalid_host_glob_is_refused_and_named() {
    for glob in ["[", "*.bücher.example", "{a"] {
        let host_allowlist = vec!["example.com".to_owned(), glob.to_owned()];
        let error = AddressGuard::new(GuardSettings { host_allowlist, ..GuardSettings::default() })
            .unwrap_err();
        assert_eq!(error.glob, glob);
    }
}

#[test]
fn non_public_addresses_are_refused_unless_allowed() {
    let address = |text: &str| text.parse().unwrap();
    for (text, is_public) in
        [("8.8.8.8", true), ("127.0.0.1", false), ("::1", false), ("2606:4700::1111", true)]
    {
        assert_eq!(guard(false, None, &[]).is_allowed(address(text)), is_public, "{text}");
        assert!(guard(true, None, &[]).is_allowed(address(text)), "{text}");
    }
}

#[test]
fn a_destination_is_scheme_host_and_port() {
    for (url, key) in [
        ("https://Example.com/x?y", "https://example.com:443"),
        ("http://example.com.:8080", "http://example.com:8080"),
        ("http://[2606:4700::1111]/", "http://[2606:4700::1111]:80"),
    ] {
        assert_eq!(destination_key(&AddressGuard::default().check_url(url).unwrap()), key);
    }
}

/// The message of a refusal fits and contains nothing of the URL.
#[test]
fn every_refusal_is_short() {
    use RefusedUrl::*;
    let private = PrivateAddress { class: "reserved for protocols (among them Teredo)" };
    let all = [
        TooLong,
        Malformed,
        Scheme,
        Userinfo,
        Port,
        HostName,
        private,
        Localhost,
        NotOnAllowlist,
        OnAllowlistByPathOnly,
        HostNotOnAllowlist,
    ];
    for refusal in all {
        assert!(refusal.to_string().len() <= crate::model::MAX_ERROR_BYTES, "{refusal}");
    }
}

/// With host globs, the pattern need not mark the end of the host.
#[test]
fn a_gap_in_the_allowlist_is_reported_unless_globs_close_it() {
    let open = Some(r"^https://.*\.example\.com");
    assert_eq!(
        guard(false, open, &[]).allowlist_gap().as_deref(),
        Some("https://a.example.com.evil.example/")
    );
    assert!(guard(false, open, &[]).check_url("https://a.example.com.evil.example/").is_ok());
    assert_eq!(guard(false, open, &["*.example.com"]).allowlist_gap(), None);
    assert_eq!(guard(false, None, &[]).allowlist_gap(), None);
}
