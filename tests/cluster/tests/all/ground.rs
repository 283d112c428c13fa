//! The cluster itself, before culvert has any part in it.

use anyhow::Result;
use culvert_cluster::{App, Cluster, Namespace};
use serde_json::json;

#[test]
fn a_pod_of_each_node_reaches_the_other_over_a_service() -> Result<()> {
    let cluster = Cluster::bare()?;
    let nodes = cluster.kubectl(&["get", "nodes", "--no-headers"])?;
    assert_eq!(nodes.lines().filter(|line| line.contains(" Ready ")).count(), 2, "{nodes}");
    let space = Namespace::new(cluster, "ground", &json!({}))?;
    space.run(&[App::server("one", "node1"), App::server("two", "node2")])?;
    for (from, to) in [("one", "two"), ("two", "one")] {
        let service = space.service(to, 80, 8080)?;
        space.reaches(from, &service, to)?;
        assert_eq!(space.call(from, &service)?, format!("{to} {}", space.address(from)?));
    }
    Ok(())
}
