//! What agents report.

use culvert_wire::{
    Kind, Resource,
    proto::culvert::{NodeReport, PodReport, status_service_client::StatusServiceClient},
};
use tonic::{Code, Status};

use super::{
    client::{Caller, word},
    discovery::Watcher,
    plane::{Plane, pod},
};

pub(crate) async fn report(caller: &Caller, pods: Vec<(&str, [u8; 4])>) -> Result<(), Status> {
    let pod = |(pod, address): (&str, [u8; 4])| PodReport {
        uid: format!("uid-{pod}"),
        captured: true,
        reason: String::new(),
        addresses: vec![address.to_vec()],
    };
    let report = NodeReport { enforced_generation: 1, pods: pods.into_iter().map(pod).collect() };
    StatusServiceClient::new(caller.channel()).report(tokio_stream::once(report)).await.map(drop)
}

fn address(watcher: &Watcher, pod: &str) -> Vec<String> {
    match watcher.get(Kind::Workload, &format!("uid-{pod}")) {
        Some(Resource::Workload(workload)) => workload.addresses.iter().map(ToString::to_string).collect(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn addresses_of_pods_without_a_status_come_from_their_own_node() {
    let mut plane = Plane::start(&format!("{}{}", pod("web", "n1"), pod("api", "n2")));
    let (one, two) = (Caller::node(&plane, "n1").await, Caller::node(&plane, "n2").await);
    let mut watcher = Watcher::open(&two).await.unwrap();
    watcher.first_state().await;
    assert!(address(&watcher, "web").is_empty());
    report(&one, vec![("web", [10, 0, 0, 1])]).await.unwrap();
    watcher.next_state().await;
    assert_eq!(address(&watcher, "web"), ["10.0.0.1"]);

    let lie = report(&two, vec![("web", [10, 0, 0, 2])]).await.unwrap_err();
    assert_eq!(word(&lie), (Code::PermissionDenied, "pod_on_other_node".to_owned()));
    let line = plane.audited("report", "pod_on_other_node");
    assert_eq!((line["node"].as_str(), line["pod"].as_str()), (Some("n2"), Some("uid-web")));

    report(&two, vec![("api", [10, 0, 0, 1])]).await.unwrap();
    plane.audited("report", "address_conflict");
    report(&two, vec![("api", [10, 0, 0, 3])]).await.unwrap();
    watcher.next_state().await;
    assert_eq!(
        (address(&watcher, "web"), address(&watcher, "api")),
        (vec!["10.0.0.1".into()], vec!["10.0.0.3".into()])
    );

    plane.kill();
    plane.run();
    let node = Caller::node(&plane, "n1").await;
    let mut watcher = Watcher::open(&node).await.unwrap();
    watcher.first_state().await;
    assert_eq!(address(&watcher, "web"), ["10.0.0.1"], "a restart forgets no address");
}

#[tokio::test]
async fn a_report_that_cannot_be_read_is_refused_whole() {
    let plane = Plane::start(&pod("web", "n1"));
    let node = Caller::node(&plane, "n1").await;
    let pods = vec![PodReport { uid: "uid-web".to_owned(), addresses: vec![vec![1, 2, 3]], ..Default::default() }];
    let report = NodeReport { enforced_generation: 1, pods };
    let refused = StatusServiceClient::new(node.channel()).report(tokio_stream::once(report)).await.unwrap_err();
    assert_eq!(word(&refused), (Code::InvalidArgument, "bad_address".to_owned()));
    assert!(refused.message().contains("pods[0].addresses[0]"));
}
