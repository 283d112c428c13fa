use super::*;
use crate::call::Target;

fn objects(text: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(text).unwrap()
}

#[test]
fn the_examples_are_five_pods_on_two_nodes_with_one_outside_the_mesh() {
    let world = World::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/examples")).unwrap();
    assert_eq!(world.nodes, ["node1", "node2"]);
    let outside: Vec<String> = world.pods.iter().filter(|pod| !pod.enrolled).map(PodSpec::full_name).collect();
    assert_eq!((world.pods.len(), outside), (5, vec!["legacy/cron".to_owned()]));
    assert!(world.pods.iter().map(|pod| pod.calls.len()).sum::<usize>() >= 10);
    for pod in &world.pods {
        for call in &pod.calls {
            let (Target::Service(name) | Target::Pod(name) | Target::Pod6(name)) = &call.target;
            assert!(world.services.contains_key(name) || world.pod(name).is_ok(), "nobody is {name}");
        }
    }
}

#[test]
fn a_pod_is_enrolled_with_its_namespace_unless_it_opts_out_and_host_network_pods_are_left_alone() {
    let world = World::of(&objects(
        "{kind: Namespace, metadata: {name: a, labels: {culvert.dev/enroll: 'true'}}}\n---\n\
         {kind: Pod, metadata: {name: in, namespace: a, uid: u1}, spec: {nodeName: n1}}\n---\n\
         {kind: Pod, metadata: {name: out, namespace: a, labels: {culvert.dev/enroll: 'false'}}, spec: {nodeName: n1}}\n---\n\
         {kind: Pod, metadata: {name: other, namespace: b}, spec: {nodeName: n0}}\n---\n\
         {kind: Pod, metadata: {name: host, namespace: a}, spec: {nodeName: n1, hostNetwork: true}}",
    ))
    .unwrap();
    let enrolled: Vec<(&str, bool)> = world.pods.iter().map(|pod| (pod.name.as_str(), pod.enrolled)).collect();
    assert_eq!(enrolled, [("in", true), ("out", false), ("other", false)]);
    assert_eq!(world.pods[0].uid, "u1");
    assert_eq!(world.pods[2].uid, culvert_manifests::pod_uid("b", "other").as_str());
    assert_eq!(world.nodes, ["n0", "n1"]);
}

#[test]
fn lists_json_sidecars_and_pods_that_have_ended_are_read_as_the_control_plane_reads_them() {
    let folder = tempfile::tempdir().unwrap();
    let list = "{kind: List, items: [{kind: Namespace, metadata: {name: a, labels: {culvert.dev/enroll: 'true'}}}, \
                {kind: PodList, items: [{metadata: {name: p, namespace: a}, spec: {nodeName: n1, \
                initContainers: [{ports: [{containerPort: 1}]}, {restartPolicy: Always, ports: [{containerPort: 9000}]}], \
                containers: [{ports: [{containerPort: 80}]}]}}]}]}";
    std::fs::write(folder.path().join("a.yaml"), list).unwrap();
    let json = "{\"kind\": \"List\", \"items\": [{\"kind\": \"Pod\", \"metadata\": {\"name\": \"q\"}, \
                \"spec\": {\"nodeName\": \"n2\"}}]}";
    std::fs::write(folder.path().join("b.json"), json).unwrap();
    let ended = "{kind: Pod, metadata: {name: done}, spec: {nodeName: n3}, status: {phase: Succeeded}}";
    std::fs::write(folder.path().join("c.yml"), ended).unwrap();
    let world = World::read(folder.path()).unwrap();
    let pods: Vec<_> = world.pods.iter().map(|pod| (pod.full_name(), pod.enrolled, pod.ports.clone())).collect();
    assert_eq!(pods, [("a/p".to_owned(), true, vec![9000, 80]), ("default/q".to_owned(), false, vec![])]);
    assert_eq!(world.nodes, ["n1", "n2"]);
}

#[test]
fn a_pod_without_a_node_and_a_call_that_is_not_understood_are_refused_by_name() {
    let lost = World::of(&objects("{kind: Pod, metadata: {name: lost, namespace: a}, spec: {}}")).unwrap_err();
    assert!(format!("{lost:#}").contains("a/lost"), "{lost:#}");
    let bad = objects(
        "{kind: Pod, metadata: {name: p, namespace: a, annotations: {demo.culvert.dev/calls: 'x.y:1 perhaps'}}, \
         spec: {nodeName: n1}}",
    );
    let error = World::of(&bad).unwrap_err();
    assert!(format!("{error:#}").contains("perhaps"), "{error:#}");
}
