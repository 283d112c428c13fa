use culvert_tunnel::{Authority, Refusal};
use culvert_workload::{ServiceName, WorkloadUid};

use super::{
    accept::is_local_only,
    attribute::{AttributeError, resolve},
};
use crate::samples::{ip, pod, service, snapshot};

#[test]
fn a_client_that_would_be_somebody_else_inside_the_pod_is_refused() {
    for bad in [
        "127.0.0.1",
        "::1",
        "169.254.1.1",
        "fe80::1",
        "224.0.0.1",
        "ff02::1",
        "0.0.0.0",
        "::",
        "255.255.255.255",
        "::ffff:127.0.0.1",
    ] {
        assert!(is_local_only(ip(bad)), "{bad}");
    }
    for good in ["10.0.0.1", "192.0.2.1", "fd00::1", "2001:db8::1", "::ffff:10.0.0.1"] {
        assert!(!is_local_only(ip(good)), "{good}");
    }
}

#[test]
fn an_authority_names_the_address_that_the_tunnel_came_to_and_no_port_of_the_mesh() {
    let mut web = pod("web", "10.0.0.2");
    web.services.push(ServiceName::new("shop", "web"));
    let mut other = pod("other", "10.0.0.3");
    other.services.push(ServiceName::new("shop", "elsewhere"));
    let services = [service("web", "10.96.0.1"), service("elsewhere", "10.96.0.2")];
    let state = snapshot([web, other], services, []);
    let ask = |text: &str| {
        let authority = Authority::parse(text).expect("an authority");
        let local = "10.0.0.2:15008".parse().expect("an address");
        resolve(&authority, local, &state.roster, &WorkloadUid::new("web")).map(|to| to.to_string())
    };
    use AttributeError::{AuthorityMismatch, ForbiddenPort, UnknownHost};
    let table: [(&str, Result<&str, AttributeError>); 9] = [
        ("10.0.0.2:80", Ok("10.0.0.2:80")),
        ("10.0.0.3:80", Err(AuthorityMismatch)),
        ("127.0.0.1:80", Err(AuthorityMismatch)),
        ("10.0.0.2:15008", Err(ForbiddenPort)),
        ("10.0.0.2:15001", Err(ForbiddenPort)),
        ("10.0.0.2:15006", Err(ForbiddenPort)),
        ("web.shop.svc.cluster.local:80", Ok("10.0.0.2:8080")),
        ("web.shop.svc:81", Err(UnknownHost)),
        ("elsewhere.shop.svc:80", Err(UnknownHost)),
    ];
    for (text, expected) in table {
        assert_eq!(ask(text), expected.map(str::to_owned), "{text}");
    }
}

#[test]
fn each_refusal_has_its_status() {
    assert_eq!(AttributeError::AuthorityMismatch.refusal(), Refusal::BadRequest);
    for error in [AttributeError::ForbiddenPort, AttributeError::UnknownHost, AttributeError::NotSynced] {
        assert_eq!(error.refusal(), Refusal::Unavailable, "{error}");
    }
}

#[test]
fn the_name_of_a_service_is_no_way_to_a_port_of_the_mesh() {
    let mut web = pod("web", "10.0.0.2");
    web.services.push(ServiceName::new("shop", "web"));
    web.named_ports.insert("http".to_owned(), 15008);
    let state = snapshot([web], [service("web", "10.96.0.1")], []);
    let authority = Authority::parse("web.shop.svc:80").expect("an authority");
    let local = "10.0.0.2:15008".parse().expect("an address");
    let answer = resolve(&authority, local, &state.roster, &WorkloadUid::new("web"));
    assert_eq!(answer, Err(AttributeError::ForbiddenPort));
}
