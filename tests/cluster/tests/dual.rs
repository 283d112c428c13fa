//! Services and pods with addresses of both families, on a cluster that has them. `cargo xtask cluster test` runs it.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use culvert_cluster::{App, Cluster, Namespace, within};
use serde_json::{Value, json};

/// A pod's addresses, IPv4 first.
fn addresses(cluster: &Cluster, namespace: &str, pod: &str) -> Result<(String, String)> {
    let pod = cluster.get_json(&["-n", namespace, "get", "pod", pod])?;
    let of = |number: usize| pod["status"]["podIPs"][number]["ip"].as_str().map(str::to_owned);
    Ok((of(0).context("no first address")?, of(1).context("no second address")?))
}

/// An address with a port, as programs take it.
fn at(address: &str, port: u16) -> String {
    address.parse::<IpAddr>().map_or_else(|_| address.to_owned(), |ip| std::net::SocketAddr::new(ip, port).to_string())
}

/// A Service and all its virtual addresses.
fn service(cluster: &Cluster, space: &Namespace, name: &str, spec: &Value) -> Result<Vec<String>> {
    space.service_of(name, spec)?;
    let made = cluster.get_json(&["-n", space.name(), "get", "service", name])?;
    let all = made["spec"]["clusterIPs"].as_array().into_iter().flatten();
    Ok(all.filter_map(Value::as_str).map(str::to_owned).collect())
}

/// A call that must go from client to web by mTLS, and whom web must see.
fn by_mtls(cluster: &'static Cluster, space: &Namespace, to: &str, seen: &str) -> Result<()> {
    let greeting = within(Duration::from_secs(20), to, || space.greeting("client", to))?;
    ensure!((greeting.server.as_str(), greeting.peer.as_str()) == ("web", seen), "{to}: {greeting:?}, not {seen}");
    let about = |record: &culvert_cluster::Record| {
        let called = record.original_dst.as_ref().or(record.hbone_addr.as_ref());
        record.direction == "outbound" && called.is_some_and(|called| called == to)
    };
    let record = cluster.agent("node1")?.record(to, about)?;
    ensure!(record.transport == "hbone", "{to}: {record:?}");
    let identity = record.dst.identity.clone().unwrap_or_default();
    ensure!(identity.ends_with("/ns/both/sa/web"), "{to}: {record:?}");
    Ok(())
}

#[test]
fn dual_stack_services_and_pods_are_reached_by_mtls_over_both_families() -> Result<()> {
    let cluster = Cluster::get()?;
    let space = Namespace::new(cluster, "both", &json!({"culvert.dev/enroll": "true"}))?;
    space.run(&[App::server("web", "node2"), App::idle("client", "node1")])?;
    let web = addresses(cluster, "both", "web")?;
    let client = addresses(cluster, "both", "client")?;
    let ports = json!([{"port": 80, "targetPort": 8080}]);
    let of = |families: Value, policy: &str| json!({"selector": {"app": "web"}, "ports": ports, "ipFamilies": families, "ipFamilyPolicy": policy});
    let dual = service(cluster, &space, "dual", &of(json!(["IPv4", "IPv6"]), "RequireDualStack"))?;
    ensure!(dual.len() == 2, "{dual:?}");
    let six = service(cluster, &space, "six", &of(json!(["IPv6"]), "SingleStack"))?;
    ensure!(six.len() == 1, "{six:?}");
    for (to, seen) in [
        (at(&dual[0], 80), &client.0),
        (at(&dual[1], 80), &client.1),
        (at(&six[0], 80), &client.1),
        (at(&web.0, 8080), &client.0),
        (at(&web.1, 8080), &client.1),
    ] {
        by_mtls(cluster, &space, &to, seen)?;
    }
    Ok(())
}

#[test]
fn dual_stack_pods_are_closed_over_both_families_when_a_policy_says_so() -> Result<()> {
    let cluster = Cluster::get()?;
    let space = Namespace::new(cluster, "closed", &json!({"culvert.dev/enroll": "true"}))?;
    let outside = Namespace::new(cluster, "open", &json!({}))?;
    space.run(&[App::server("web", "node2"), App::idle("client", "node1")])?;
    outside.run(&[App::idle("stranger", "node1")])?;
    let web = addresses(cluster, "closed", "web")?;
    let both = [at(&web.0, 8080), at(&web.1, 8080)];
    for to in &both {
        outside.reaches("stranger", to, "web")?;
        space.reaches("client", to, "web")?;
    }
    space.apply("PeerAuthentication", "default", &json!({"mtls": {"mode": "STRICT"}}))?;
    for to in &both {
        outside.refused("stranger", to)?;
        space.reaches("client", to, "web")?;
    }
    let nobody = json!({"selector": {"matchLabels": {"app": "web"}}, "action": "DENY", "rules": [{}]});
    space.apply("AuthorizationPolicy", "nobody", &nobody)?;
    for to in &both {
        space.refused("client", to)?;
    }
    Ok(())
}
