//! Synthetic objects, as an API server would show them, and how they change.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use serde_json::{Value, json};

use crate::Size;

/// The label that says how often a pod has changed.
pub(crate) const TURN: &str = "scale/turn";

/// The cluster's shape: everything in it follows from numbers.
#[derive(Debug, Clone)]
pub(crate) struct Cluster {
    pub(crate) size: Size,
    pub(crate) namespaces: usize,
}

/// A pod as it is now.
#[derive(Debug, Clone)]
pub(crate) struct Pod {
    pub(crate) number: usize,
    /// Grows when the pod is replaced by another one of the same name.
    pub(crate) life: u32,
    /// Grows with each change.
    pub(crate) turn: u64,
    pub(crate) ready: bool,
}

impl Cluster {
    pub(crate) fn new(size: &Size) -> Arc<Self> {
        Arc::new(Self { size: size.clone(), namespaces: (size.services / 10).max(1) })
    }

    pub(crate) fn service_of(&self, pod: usize) -> usize {
        pod % self.size.services
    }

    fn namespace_of_service(&self, service: usize) -> String {
        format!("team-{}", service % self.namespaces)
    }

    /// Pods of a service are spread over the nodes.
    pub(crate) fn node_of(&self, pod: usize) -> usize {
        (pod / self.size.services + pod * 7) % self.size.agents
    }

    pub(crate) fn address_of(&self, pod: &Pod) -> IpAddr {
        // Two addresses by turns, so that a pod's address changes with its life.
        let number = u32::try_from(pod.number * 2).unwrap_or(0) + pod.life % 2;
        IpAddr::V4(Ipv4Addr::from(0x0A00_0000 + 256 + number))
    }

    pub(crate) fn vip_of(&self, service: usize) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from(0xAC10_0000 + 256 + u32::try_from(service).unwrap_or(0)))
    }

    pub(crate) fn uid_of(&self, pod: &Pod) -> String {
        format!("{:08x}-0000-4000-8000-{:012x}", pod.number, pod.life)
    }

    /// The services that a node's pods call.
    pub(crate) fn called_by(&self, node: usize) -> Vec<usize> {
        (0..self.size.calls).map(|call| (node * 31 + call * 257) % self.size.services).collect()
    }

    pub(crate) fn pod(&self, pod: &Pod) -> Value {
        let service = self.service_of(pod.number);
        let containers = json!([{"name": "app", "image": "registry.example/app:1",
            "ports": [{"name": "http", "containerPort": 8080}],
            "readinessProbe": {"httpGet": {"path": "/ready", "port": 8080}}}]);
        json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": format!("app-{}-{}", service, pod.number), "namespace": self.namespace_of_service(service),
                "uid": self.uid_of(pod), "resourceVersion": pod.turn.to_string(),
                "labels": {"app": format!("app-{service}"), "pod-template-hash": format!("{:010x}", pod.life),
                    "version": "v1", TURN: pod.turn.to_string()}},
            "spec": {"nodeName": node_name(self.node_of(pod.number)), "serviceAccountName": format!("app-{service}"),
                "containers": containers},
            "status": {"phase": "Running", "podIP": self.address_of(pod), "podIPs": [{"ip": self.address_of(pod)}],
                "conditions": [{"type": "Ready", "status": if pod.ready { "True" } else { "False" }}]}})
    }

    pub(crate) fn service(&self, number: usize) -> Value {
        json!({"apiVersion": "v1", "kind": "Service",
            "metadata": {"name": format!("app-{number}"), "namespace": self.namespace_of_service(number)},
            "spec": {"clusterIP": self.vip_of(number), "clusterIPs": [self.vip_of(number)],
                "selector": {"app": format!("app-{number}")},
                "ports": [{"name": "http", "port": 80, "targetPort": "http"}]}})
    }

    /// Each called namespace admits the accounts of one service.
    pub(crate) fn policy(&self, number: usize) -> Value {
        let principal = format!("cluster.local/ns/team-{number}/sa/app-{number}");
        json!({"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
            "metadata": {"name": "admit", "namespace": format!("team-{}", number % self.namespaces),
                "uid": format!("policy-{number}"), "generation": 1},
            "spec": {"action": "ALLOW", "rules": [{"from": [{"source": {"principals": [principal]}}]}]}})
    }

    pub(crate) fn namespace(&self, number: usize) -> Value {
        json!({"apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": format!("team-{number}"), "labels": {"culvert.dev/enroll": "true"}}})
    }

    pub(crate) fn node(&self, number: usize) -> Value {
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": node_name(number)},
            "spec": {}, "status": {"addresses": [{"type": "InternalIP", "address": self.node_address(number)}]}})
    }

    fn node_address(&self, number: usize) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from(0xC0A8_0000 + 256 + u32::try_from(number).unwrap_or(0)))
    }

    /// The pod of a node's agent.
    pub(crate) fn agent(&self, number: usize) -> Value {
        json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": format!("culvert-agent-{number}"), "namespace": "culvert-system", "uid": agent_uid(number)},
            "spec": {"nodeName": node_name(number), "hostNetwork": true, "serviceAccountName": "culvert-agent",
                "containers": [{"name": "agent", "image": "agent"}]},
            "status": {"phase": "Running", "podIP": self.node_address(number)}})
    }

    /// Everything that is there at the beginning, by the path of its list; pods are kept elsewhere.
    pub(crate) fn listed(&self, path: &str) -> Option<Vec<Value>> {
        let own = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "culvert-system"}});
        Some(match path {
            "/api/v1/namespaces" => (0..self.namespaces).map(|number| self.namespace(number)).chain([own]).collect(),
            "/api/v1/nodes" => (0..self.size.agents).map(|number| self.node(number)).collect(),
            "/api/v1/services" => (0..self.size.services).map(|number| self.service(number)).collect(),
            "/apis/security.istio.io/v1/authorizationpolicies" => {
                (0..self.size.policies.min(self.namespaces)).map(|number| self.policy(number)).collect()
            }
            "/api/v1/serviceaccounts" | "/apis/discovery.k8s.io/v1/endpointslices" => Vec::new(),
            _ => return None,
        })
    }
}

pub(crate) fn node_name(number: usize) -> String {
    format!("node-{number}")
}

pub(crate) fn agent_uid(number: usize) -> String {
    format!("agent-{number}")
}
