//! Our own tables for what peers may write.

use super::*;
use std::net::IpAddr;

fn ip(text: &str) -> Host {
    Host::Ip(text.parse::<IpAddr>().unwrap())
}

fn name(text: &str) -> Host {
    Host::Name(text.into())
}

#[test]
fn authorities() {
    use AuthorityError::{BadHost, BadPort, Missing, NoPort};
    let long = format!("{}.example:80", "a".repeat(64));
    let longer = format!("{}:80", ["a".repeat(63).as_str(); 4].join("."));
    let table = [
        ("10.0.0.1:8080", Ok((ip("10.0.0.1"), 8080))),
        ("[fd00::1]:80", Ok((ip("fd00::1"), 80))),
        ("[FD00:0::0001]:80", Ok((ip("fd00::1"), 80))),
        ("stock.shop.svc.cluster.local:8080", Ok((name("stock.shop.svc.cluster.local"), 8080))),
        ("Stock.Shop.:1", Ok((name("stock.shop"), 1))),
        ("localhost:65535", Ok((name("localhost"), 65535))),
        ("a_b:1", Ok((name("a_b"), 1))),
        ("", Err(Missing)),
        ("10.0.0.1", Err(NoPort)),
        ("[fd00::1]", Err(BadPort)),
        ("10.0.0.1:", Err(BadPort)),
        ("10.0.0.1:0", Err(BadPort)),
        ("10.0.0.1:65536", Err(BadPort)),
        ("10.0.0.1:+80", Err(BadPort)),
        ("10.0.0.1:000080", Err(BadPort)),
        ("10.0.0.1: 80", Err(BadPort)),
        (":80", Err(BadHost)),
        (".:80", Err(BadHost)),
        ("10.0.0:80", Err(BadHost)),
        ("10.0.0.256:80", Err(BadHost)),
        ("010.0.0.1:80", Err(BadHost)),
        ("0x7f000001:80", Ok((name("0x7f000001"), 80))),
        ("2130706433:80", Err(BadHost)),
        ("fd00::1:80", Err(BadHost)),
        ("[fd00::1%eth0]:80", Err(BadHost)),
        ("[::ffff:127.0.0.1]:80", Err(BadHost)),
        ("[fd00::1:80", Err(BadHost)),
        ("fd00::1]:80", Err(BadHost)),
        ("user@10.0.0.1:80", Err(BadHost)),
        ("a..b:80", Err(BadHost)),
        ("-a.b:80", Err(BadHost)),
        ("a/b:80", Err(BadHost)),
        ("bücher.example:80", Err(BadHost)),
        (&long, Err(BadHost)),
        (&longer, Err(BadHost)),
    ];
    for (text, want) in table {
        let want = want.map(|(host, port)| Authority { host, port });
        assert_eq!(Authority::parse(text), want, "{text}");
        if let Ok(authority) = want {
            assert_eq!(Authority::parse(&authority.to_string()), Ok(authority), "{text} again");
        }
    }
}

#[test]
fn an_address_in_an_authority_is_written_in_one_way_only() {
    let mapped: std::net::SocketAddr = "[::ffff:10.0.0.1]:80".parse().unwrap();
    assert_eq!(Authority::from(mapped).to_string(), "10.0.0.1:80");
}

#[test]
fn forwarded_headers() {
    let table = [
        ("for=\"10.0.0.1:4000\"", Some("10.0.0.1:4000"), None),
        ("for=\"[::1]:4000\";host=a.b", Some("[::1]:4000"), Some("a.b")),
        ("for=10.0.0.1:4000;HOST=\"A.b\"", Some("10.0.0.1:4000"), Some("a.b")),
        ("host=a.b;for=\"10.0.0.1:1\";host=c.d", Some("10.0.0.1:1"), Some("a.b")),
        ("for=\"10.0.0.1:1\", for=\"10.0.0.2:2\"", Some("10.0.0.1:1"), None),
        ("for=unknown;proto=https;host=a.b", None, Some("a.b")),
        ("for=_hidden, for=\"10.0.0.2:2\"", None, None),
        ("host=a b", None, None),
        ("host=", None, None),
        ("", None, None),
        (";;;===,,,", None, None),
        ("host=bücher", None, None),
    ];
    for (text, client, host) in table {
        let want = Forwarded { client: client.map(|c| c.parse().unwrap()), host: host.map(Box::from) };
        assert_eq!(Forwarded::parse(text), want, "{text}");
        if let Some(header) = want.to_header() {
            assert_eq!(Forwarded::parse(&header), want, "{text} again");
        }
    }
    assert_eq!(Forwarded::parse(&format!("host=a.b;{}", "x".repeat(1024))), Forwarded::default(), "too long");
    let both = Forwarded { client: Some("[::1]:8".parse().unwrap()), host: Some("a.b".into()) };
    assert_eq!(both.to_header().unwrap(), "for=\"[::1]:8\";host=a.b");
}

#[test]
fn baggage_of_one_or_several_lines() {
    let line = "k8s.cluster.name=c1,k8s.namespace.name=shop,k8s.deployment.name=stock-v1,service.name=stock,\
                service.version=v1,cloud.region=eu,cloud.availability_zone=eu-1";
    let full = Baggage::parse([line]);
    assert_eq!(full.to_header().unwrap(), line);
    assert_eq!(full.workload, Some((WorkloadKind::Deployment, "stock-v1".into())));
    assert_eq!(Baggage::parse(line.split(',')), full, "several lines merge");

    let table = [
        ("k8s.pod.name=p", Some((WorkloadKind::Pod, "p")), None),
        ("k8s.job.name=j,k8s.cronjob.name=c", Some((WorkloadKind::CronJob, "c")), None),
        (" service.name = s ;prop=1 , junk , =x, y=", None, Some("s")),
        ("service.name=,service.version=", None, None),
        ("service.name=a b", None, None),
        ("service.name=s\u{7f}", None, None),
    ];
    for (text, workload, service) in table {
        let got = Baggage::parse([text]);
        assert_eq!(got.workload, workload.map(|(kind, name)| (kind, name.into())), "{text}");
        assert_eq!(got.service.as_deref(), service, "{text}");
    }
}

#[test]
fn baggage_is_bounded() {
    let long = format!("service.name={}", "s".repeat(257));
    assert_eq!(Baggage::parse([long.as_str()]), Baggage::default());
    let filler = "x=y,".repeat(2048);
    assert_eq!(Baggage::parse([filler.as_str(), "service.name=s"]), Baggage::default());
    assert_eq!(Baggage::default().to_header(), None);
    let unsendable = Baggage { service: Some("a,b=c".into()), zone: Some("z".into()), ..Baggage::default() };
    assert_eq!(unsendable.to_header().unwrap(), "cloud.availability_zone=z");
}

#[test]
fn traceparents() {
    let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    assert_eq!(Traceparent::parse(good).unwrap().to_string(), good);
    let bad = [
        "",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-1",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-011",
        "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "00-+af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "00-00000000000000000000000000000000-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
        "00_0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-é",
        "é0-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0",
    ];
    for text in bad {
        assert_eq!(Traceparent::parse(text), None, "{text}");
    }
    let random = Traceparent::random();
    assert_eq!(Traceparent::parse(&random.to_string()), Some(random));
    assert_eq!(random.to_string().len(), 55);
    assert_ne!(random, Traceparent::random());
}

/// Text of the characters that matter to these formats, in no order.
fn scramble(seed: u64) -> String {
    const PIECES: [&str; 24] = [
        "for=",
        "host=",
        "\"",
        "[",
        "]",
        ":",
        ";",
        ",",
        "=",
        ".",
        "-",
        "80",
        "10.0.0.1",
        "::1",
        "%",
        "é",
        " ",
        "\t",
        "00-",
        "k8s.pod.name",
        "service.name",
        "aaaaaaaa",
        "0",
        "\u{0}",
    ];
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut text = String::new();
    for _ in 0..seed % 40 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        text.push_str(PIECES[(state % 24) as usize]);
    }
    text
}

#[test]
fn whatever_is_read_can_be_written_and_read_again() {
    let (mut authorities, mut forwarded, mut baggage) = (0, 0, 0);
    for seed in 0..200_000 {
        let text = scramble(seed);
        for text in [text.clone(), format!("{text}:80"), format!("[{text}]:1")] {
            if let Ok(authority) = Authority::parse(&text) {
                authorities += 1;
                assert_eq!(Authority::parse(&authority.to_string()), Ok(authority), "{text:?}");
            }
        }
        let read = Forwarded::parse(&text);
        if let Some(header) = read.to_header() {
            forwarded += 1;
            assert_eq!(Forwarded::parse(&header), read, "{text:?}");
        }
        let read = Baggage::parse([text.as_str()]);
        if let Some(header) = read.to_header() {
            baggage += 1;
            // Values that the format cannot carry are left out, and no others.
            assert_eq!(Baggage::parse([header.as_str()]).to_header(), Some(header), "{text:?}");
        }
        assert_eq!(Traceparent::parse(&text), None);
    }
    assert!(authorities > 100 && forwarded > 100 && baggage > 100, "{authorities} {forwarded} {baggage}");
}
