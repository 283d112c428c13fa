//! Services of every shape: each works, or is refused with a reason that the caller's agent records.
//!
//! Not here: dual stack (`tests/dual.rs`, on a cluster of its own) and `internalTrafficPolicy` (came with 1.21: this API server drops the field; what culvert makes of it
//! is tried in `culvert-manifests` and `culvert-workload`).

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use culvert_cluster::{App, Cluster, Namespace, within};
use serde_json::{Value, json};

/// How often a service with several endpoints is called: with two, one of them is missed once in a million runs.
const CALLS: usize = 20;

/// A Service, and what becomes of calls to its ports.
struct Shape {
    name: &'static str,
    spec: Value,
    /// `subsets` of its Endpoints, where nothing is selected.
    endpoints: Option<Value>,
    /// A port, and all servers that must be found behind it with their own ports and by what; or the reason for none.
    calls: Vec<(u16, Wanted)>,
}

enum Wanted {
    Servers(&'static str, Vec<(&'static str, u16)>),
    Refused(&'static str),
}

fn served(transport: &'static str, servers: &[(&'static str, u16)]) -> Wanted {
    Wanted::Servers(transport, servers.to_vec())
}

fn shape(name: &'static str, spec: Value, calls: Vec<(u16, Wanted)>) -> Shape {
    Shape { name, spec, endpoints: None, calls }
}

fn shapes(two: &str, outside: &str) -> Vec<Shape> {
    let one = json!({"app": "one"});
    let to = |address: &str, port: u16| Some(json!([{"addresses": [{"ip": address}], "ports": [{"port": port}]}]));
    let named = json!([{"name": "a", "port": 80, "targetPort": "http"}, {"name": "b", "port": 81, "targetPort": 9090}]);
    vec![
        shape(
            "number",
            json!({"selector": one, "ports": [{"port": 80, "targetPort": 8080}]}),
            vec![(80, served("hbone", &[("one", 8080)]))],
        ),
        shape(
            "differing-name",
            json!({"selector": {"group": "pair"}, "ports": [{"port": 80, "targetPort": "http"}]}),
            vec![(80, served("hbone", &[("one", 8080), ("two", 8081)]))],
        ),
        shape(
            "several-ports",
            json!({"selector": one, "ports": named}),
            vec![
                (80, served("hbone", &[("one", 8080)])),
                (81, served("hbone", &[("one", 9090)])),
                (82, Wanted::Refused("unknown_service_port")),
            ],
        ),
        shape(
            "unready",
            json!({"selector": {"app": "unready"}, "ports": [{"port": 80, "targetPort": 8080}]}),
            vec![(80, Wanted::Refused("no_endpoint"))],
        ),
        shape(
            "unready-published",
            json!({"selector": {"app": "unready"}, "publishNotReadyAddresses": true, "ports": [{"port": 80, "targetPort": 8080}]}),
            vec![(80, served("hbone", &[("unready", 8080)]))],
        ),
        shape(
            "host-network",
            json!({"selector": {"app": "host"}, "ports": [{"port": 80, "targetPort": 18080}]}),
            vec![(80, served("passthrough", &[("node2", 18080)]))],
        ),
        Shape {
            endpoints: to(two, 8081),
            ..shape(
                "pod-by-address",
                json!({"ports": [{"port": 80, "targetPort": 8081}]}),
                vec![(80, served("hbone", &[("two", 8081)]))],
            )
        },
        Shape {
            endpoints: to(outside, 18080),
            ..shape(
                "node-by-address",
                json!({"ports": [{"port": 80, "targetPort": 18080}]}),
                vec![(80, served("passthrough", &[("node2", 18080)]))],
            )
        },
        shape("nobody", json!({"ports": [{"port": 80}]}), vec![(80, Wanted::Refused("no_endpoint"))]),
    ]
}

fn backends(space: &Namespace) -> Result<()> {
    let ports = |ports: &[(&str, u16)]| {
        let ports: Vec<Value> = ports.iter().map(|(name, port)| json!({"name": name, "containerPort": port})).collect();
        json!({"ports": ports})
    };
    let never = json!({"exec": {"command": ["/usr/local/bin/cluster-app", "call", "127.0.0.1:1"]}});
    let pair = json!({"group": "pair"});
    space.run(&[
        App {
            labels: pair.clone(),
            container: ports(&[("http", 8080), ("admin", 9090)]),
            ..App::doing("one", "node1", &["serve", "8080", "9090"])
        },
        App { labels: pair, container: ports(&[("http", 8081)]), ..App::doing("two", "node2", &["serve", "8081"]) },
        App { spec: json!({"hostNetwork": true}), ..App::doing("host", "node2", &["serve", "18080"]) },
        App::idle("client", "node1"),
    ])?;
    space.create(&[App { container: json!({"readinessProbe": never}), ..App::server("unready", "node2") }])?;
    within(Duration::from_secs(30), "the pod that is never ready", || space.address("unready").map(drop))
}

/// Calls until each of the servers has answered, and nobody else.
fn reaches_all(space: &Namespace, to: &str, servers: &[(&str, u16)]) -> Result<()> {
    let wanted: BTreeSet<(String, u16)> = servers.iter().map(|(name, port)| ((*name).to_owned(), *port)).collect();
    within(Duration::from_secs(20), "each server", || {
        let mut found = BTreeSet::new();
        for _ in 0..CALLS {
            let answer = space.greeting("client", to)?;
            found.insert((answer.server, answer.port));
            if found.len() >= wanted.len() {
                break;
            }
        }
        ensure!(found == wanted, "{found:?} instead of {wanted:?}");
        Ok(())
    })
}

fn check(cluster: &'static Cluster, space: &Namespace, shape: &Shape) -> Result<()> {
    let vip = space.service_of(shape.name, &shape.spec)?;
    if let Some(endpoints) = &shape.endpoints {
        space.apply("Endpoints", shape.name, endpoints)?;
    }
    for (port, wanted) in &shape.calls {
        let to = format!("{vip}:{port}");
        let service = format!("{}/{}", space.name(), shape.name);
        let about = |record: &culvert_cluster::Record| {
            let called = record.original_dst.as_ref().unwrap_or(&record.dst.addr);
            record.direction == "outbound" && *called == to
        };
        match wanted {
            Wanted::Servers(transport, servers) => {
                reaches_all(space, &to, servers).with_context(|| format!("port {port}"))?;
                let record = cluster.agent("node1")?.record("the call", about)?;
                ensure!(record.transport == *transport, "{to}: over {}, not {transport}", record.transport);
                ensure!(record.service.as_deref() == Some(&service), "{to}: {:?}", record.service);
            }
            Wanted::Refused(reason) => {
                space.refused("client", &to)?;
                within(Duration::from_secs(10), reason, || {
                    let _ = space.call("client", &to);
                    let record = cluster.agent("node1")?.record("the refusal", about)?;
                    ensure!(record.reason.as_deref() == Some(*reason), "{to}: {:?}, not {reason}", record.reason);
                    Ok(())
                })?;
            }
        }
    }
    Ok(())
}

#[test]
fn every_shape_of_a_service_works_or_is_refused_with_a_reason() -> Result<()> {
    let cluster = Cluster::get()?;
    let space = Namespace::new(cluster, "shapes", &json!({"culvert.dev/enroll": "true"}))?;
    backends(&space)?;
    let (two, node) = (space.address("two")?, space.address("host")?);
    let mut wrong = Vec::new();
    for shape in shapes(&two, &node) {
        match check(cluster, &space, &shape) {
            Ok(()) => println!("{}: as it is to be", shape.name),
            Err(error) => wrong.push(format!("{}: {error:#}", shape.name)),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

#[test]
fn services_without_an_address_leave_pods_reachable_by_their_own_and_say_so() -> Result<()> {
    let cluster = Cluster::get()?;
    let space = Namespace::new(cluster, "addressless", &json!({"culvert.dev/enroll": "true"}))?;
    space.run(&[App::server("web", "node2"), App::idle("client", "node1")])?;
    let headless = json!({"clusterIP": "None", "selector": {"app": "web"}, "ports": [{"port": 8080}]});
    assert_eq!(space.service_of("headless", &headless)?, "None");
    space.service_of("elsewhere", &json!({"type": "ExternalName", "externalName": "example.com"}))?;
    // A name server would give clients this address for the headless service.
    let slice = within(Duration::from_secs(20), "its endpoints", || {
        let endpoints = cluster.get_json(&["-n", "addressless", "get", "endpoints", "headless"])?;
        let address = endpoints["subsets"][0]["addresses"][0]["ip"].as_str().context("none yet")?;
        Ok(format!("{address}:8080"))
    })?;
    space.reaches("client", &slice, "web")?;
    let record = cluster.agent("node1")?.record("the call", |record| {
        record.direction == "outbound" && record.src.workload.as_deref() == Some("client")
    })?;
    assert_eq!((record.transport.as_str(), record.dst.workload.as_deref()), ("hbone", Some("web")));
    for name in ["headless", "elsewhere"] {
        let why = cluster.agent("node1")?.ask(&["why", "addressless/client", &format!("addressless/{name}"), "8080"]);
        let said = format!("{:#}", why.err().with_context(|| format!("{name} has an address"))?);
        assert!(said.contains("no_virtual_address"), "{name}: {said}");
    }
    Ok(())
}

#[test]
fn enrolled_pods_reach_the_api_server_by_its_service() -> Result<()> {
    let cluster = Cluster::get()?;
    let space = Namespace::new(cluster, "apiclient", &json!({"culvert.dev/enroll": "true"}))?;
    space.run(&[App::idle("client", "node1")])?;
    let made = cluster.get_json(&["-n", "default", "get", "service", "kubernetes"])?;
    let address = format!("{}:443", made["spec"]["clusterIP"].as_str().context("an address")?);
    // It speaks TLS, and says in plain words that it was not spoken to in TLS.
    within(Duration::from_secs(10), "the API server's answer", || {
        let answer = space.exec("client", &["ask", &address, "GET / HTTP/1.0"])?;
        ensure!(answer.starts_with("HTTP/1.0 400"), "{answer}");
        Ok(())
    })
}

#[test]
fn an_endpoint_that_is_on_its_way_out_gets_no_new_connections_and_keeps_its_old_ones() -> Result<()> {
    let cluster = Cluster::get()?;
    let space = Namespace::new(cluster, "leaving", &json!({"culvert.dev/enroll": "true"}))?;
    let slow = |name| App {
        labels: json!({"group": "pair"}),
        spec: json!({"terminationGracePeriodSeconds": 12}),
        ..App::server(name, "node2")
    };
    space.run(&[slow("leaves"), slow("stays"), App::idle("client", "node1")])?;
    let vip = space
        .service_of("pair", &json!({"selector": {"group": "pair"}, "ports": [{"port": 80, "targetPort": 8080}]}))?;
    let to = format!("{vip}:80");
    reaches_all(&space, &to, &[("leaves", 8080), ("stays", 8080)])?;
    let direct = format!("{}:8080", space.address("leaves")?);
    space.run(&[App::doing("holder", "node1", &["hold", &direct])])?;
    within(Duration::from_secs(10), "the connection", || {
        ensure!(space.log("holder")?.contains("holds leaves"), "not yet");
        Ok(())
    })?;
    cluster.kubectl(&["-n", "leaving", "delete", "pod", "leaves", "--wait=false"])?;
    // Calls one after the other for as long as it is there: once the word is out, none goes to it.
    within(Duration::from_secs(5), "only the other one", || {
        for _ in 0..CALLS {
            let answer = space.greeting("client", &to)?;
            ensure!(answer.server == "stays", "{answer:?}");
        }
        Ok(())
    })?;
    let pod = cluster.get_json(&["-n", "leaving", "get", "pod", "leaves"])?;
    assert!(!pod["metadata"]["deletionTimestamp"].is_null(), "it was gone before anything could be seen");
    let log = space.log("holder")?;
    assert!(!log.contains("broken"), "its old connection broke while it still runs: {log}");
    Ok(())
}

#[test]
fn client_ip_affinity_brings_a_client_back_to_the_same_pod() -> Result<()> {
    let cluster = Cluster::get()?;
    let space = Namespace::new(cluster, "affinity", &json!({"culvert.dev/enroll": "true"}))?;
    let clients: Vec<String> = (0..6).map(|number| format!("client-{number}")).collect();
    let pair = |name, node| App { labels: json!({"group": "pair"}), ..App::server(name, node) };
    let mut apps = vec![pair("one", "node1"), pair("two", "node2")];
    apps.extend(clients.iter().map(|name| App::idle(name, "node1")));
    space.run(&apps)?;
    let spec = json!({"selector": {"group": "pair"}, "sessionAffinity": "ClientIP", "ports": [{"port": 80, "targetPort": 8080}]});
    let to = format!("{}:80", space.service_of("pair", &spec)?);
    let mut servers = BTreeSet::new();
    for client in &clients {
        let first = within(Duration::from_secs(10), "a first call", || space.greeting(client, &to))?;
        for _ in 0..8 {
            let next = space.greeting(client, &to)?;
            assert_eq!(next.server, first.server, "{client} was sent to another pod");
        }
        servers.insert(first.server);
    }
    println!("{} clients were spread over {servers:?}", clients.len());
    Ok(())
}
