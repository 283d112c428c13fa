//! Container ports and probes.

use std::collections::{BTreeMap, BTreeSet};

use super::service::is_tcp;
use crate::fields::{Fields, PortOrName, is_port_name};

const CONTAINER: &[&str] = &[
    "args",
    "command",
    "env",
    "envFrom",
    "image",
    "imagePullPolicy",
    "lifecycle",
    "livenessProbe",
    "name",
    "ports",
    "readinessProbe",
    "resizePolicy",
    "resources",
    "restartPolicy",
    "restartPolicyRules",
    "securityContext",
    "startupProbe",
    "stdin",
    "stdinOnce",
    "terminationMessagePath",
    "terminationMessagePolicy",
    "tty",
    "volumeDevices",
    "volumeMounts",
    "workingDir",
];
const PROBE: &[&str] = &[
    "exec",
    "failureThreshold",
    "grpc",
    "httpGet",
    "initialDelaySeconds",
    "periodSeconds",
    "successThreshold",
    "tcpSocket",
    "terminationGracePeriodSeconds",
    "timeoutSeconds",
];

/// Ports of the whole pod, gathered container by container.
#[derive(Debug, Default)]
pub(super) struct Ports {
    pub(super) named: BTreeMap<String, u16>,
    pub(super) numbers: BTreeMap<u16, String>,
    pub(super) probed: BTreeSet<u16>,
}

impl Ports {
    pub(super) fn read_container(&mut self, container: Fields<'_>) {
        let container = container.known(CONTAINER);
        let own = self.container_ports(&container);
        for key in ["livenessProbe", "readinessProbe", "startupProbe"] {
            let probe = container.inner(key).known(PROBE);
            self.probed.extend(probe_port(&probe, &own));
        }
    }

    /// The container's named ports, which are those that its probes may name.
    fn container_ports(&mut self, container: &Fields<'_>) -> BTreeMap<String, u16> {
        let mut own = BTreeMap::new();
        for entry in container.inners("ports") {
            let entry = entry.known(&["containerPort", "hostIP", "hostPort", "name", "protocol"]);
            let Some(port) = entry.port("containerPort").filter(|_| is_tcp(&entry, "this port of the pod")) else {
                continue;
            };
            self.numbers.entry(port).or_insert_with(|| entry.at("containerPort"));
            if let Some(name) = entry.text("name") {
                self.name_port(&entry, name, port);
                own.insert(name.to_owned(), port);
            }
        }
        own
    }

    fn name_port(&mut self, entry: &Fields<'_>, name: &str, port: u16) {
        if !is_port_name(name) {
            let text = format!("{name:?} is not the name of a port");
            entry.notes().error("bad_port", entry.at("name"), text, "use 1 to 15 of a-z, 0-9 and -, with a letter");
        }
        let other = *self.named.entry(name.to_owned()).or_insert(port);
        if other != port {
            let text = format!("{name:?} is already the name of port {other}");
            entry.notes().warn("duplicate_port", entry.at("name"), text, "give each port its own name");
        }
    }
}

fn probe_port(probe: &Fields<'_>, own: &BTreeMap<String, u16>) -> Option<u16> {
    let http = probe.inner("httpGet").known(&["host", "httpHeaders", "path", "port", "scheme"]);
    let tcp = probe.inner("tcpSocket").known(&["host", "port"]);
    let grpc = probe.inner("grpc").known(&["port", "service"]);
    let handler = [http, tcp, grpc].into_iter().find(Fields::present)?;
    if handler.text("host").is_some_and(|host| !host.is_empty()) {
        let text = "the probe goes to another host: it is no probe of this pod";
        handler.notes().warn("unsupported", handler.at("host"), text, "remove host");
        return None;
    }
    match handler.port_or_name("port") {
        Some(PortOrName::Number(number)) => Some(number),
        Some(PortOrName::Name(name)) => {
            let port = own.get(name).copied();
            if port.is_none() {
                let text = format!("no TCP port of this container is called {name:?}");
                handler.notes().error("unknown_port", handler.at("port"), text, "name the port or write its number");
            }
            port
        }
        None => {
            if !handler.has("port") {
                handler.notes().error("field_missing", handler.at("port"), "the probe has no port", "write port");
            }
            None
        }
    }
}
