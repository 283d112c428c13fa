//! A namespace comes into the mesh and leaves it.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use culvert_cluster::{App, Cluster, Namespace, within};
use serde_json::json;

/// From the label to the last pod captured, as the kernel reports it.
const CAPTURE: Duration = Duration::from_secs(5);

fn captured(cluster: &'static Cluster, space: &Namespace, node: &str, pods: &[&str]) -> Result<()> {
    let found = cluster.agent(node)?.captured(space.name())?;
    ensure!(pods.iter().all(|pod| found.iter().any(|name| name == pod)), "captured on {node}: {found:?}");
    Ok(())
}

#[test]
fn a_label_takes_running_pods_into_the_mesh_and_out_again() -> Result<()> {
    let cluster = Cluster::get()?;
    let space = Namespace::new(cluster, "label", &json!({}))?;
    space.run(&[App::server("web", "node2"), App::idle("client", "node1")])?;
    let service = space.service("web", 80, 8080)?;
    space.reaches("client", &service, "web")?;
    let begun = Instant::now();
    space.enrol()?;
    within(CAPTURE, "capture of both pods", || {
        captured(cluster, &space, "node1", &["client"])?;
        captured(cluster, &space, "node2", &["web"])
    })?;
    println!("captured {:.1} s after the label", begun.elapsed().as_secs_f32());
    space.reaches("client", &service, "web")?;
    assert_eq!(space.call("client", &service)?, format!("web {}", space.address("client")?));
    let record = cluster.agent("node2")?.record("an inbound call over mTLS", |record| {
        record.direction == "inbound" && record.dst.workload.as_deref() == Some("web") && record.transport == "hbone"
    })?;
    assert_eq!(record.src.identity.as_deref(), Some("spiffe://cluster.local/ns/label/sa/client"));
    assert_eq!(record.dst.identity.as_deref(), Some("spiffe://cluster.local/ns/label/sa/web"));
    space.withdraw()?;
    within(Duration::from_secs(10), "the way out", || {
        for node in ["node1", "node2"] {
            let found = cluster.agent(node)?.captured(space.name())?;
            ensure!(found.is_empty(), "still captured on {node}: {found:?}");
        }
        Ok(())
    })?;
    space.reaches("client", &service, "web")
}
