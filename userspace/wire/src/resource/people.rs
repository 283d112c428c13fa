//! Mesh, namespaces, workloads and services.

use std::{collections::BTreeMap, sync::Arc};

use culvert_identity::SpiffeId;
use culvert_workload::{
    ActionDefault, Membership, Mesh, MtlsDefault, Namespace, Phase, Protocol, Service, ServiceName, ServicePort,
    TargetPort, Workload, WorkloadUid,
};

use crate::{
    proto::culvert::{self as message, service_port::Target},
    read::{Fault, FieldError, Read, address_bytes, addresses, cidrs, pair, port, required, trust_domain},
};

pub(super) fn mesh_message(mesh: &Mesh) -> message::Mesh {
    message::Mesh {
        trust_domain: mesh.trust_domain.to_string(),
        trust_domain_aliases: mesh.trust_domain_aliases.iter().map(ToString::to_string).collect(),
        root_namespace: mesh.root_namespace.to_string(),
        default_strict: mesh.default_mode == MtlsDefault::Strict,
        default_deny: mesh.default_action == ActionDefault::Deny,
        cluster_ranges: mesh.cluster_ranges.iter().map(ToString::to_string).collect(),
    }
}

pub(super) fn read_mesh(raw: message::Mesh) -> Read<Mesh> {
    let alias = |(index, text): (usize, &String)| trust_domain(&format!("trust_domain_aliases[{index}]"), text);
    Ok(Mesh {
        trust_domain: trust_domain("trust_domain", &raw.trust_domain)?,
        trust_domain_aliases: raw.trust_domain_aliases.iter().enumerate().map(alias).collect::<Read<_>>()?,
        root_namespace: required("root_namespace", &raw.root_namespace)?,
        default_mode: if raw.default_strict { MtlsDefault::Strict } else { MtlsDefault::Permissive },
        default_action: if raw.default_deny { ActionDefault::Deny } else { ActionDefault::Allow },
        cluster_ranges: cidrs("cluster_ranges", &raw.cluster_ranges)?,
    })
}

pub(super) fn namespace_message(namespace: &Namespace) -> message::Namespace {
    let membership = match namespace.membership {
        Membership::Enrolled => message::Membership::Enrolled,
        Membership::Mixed => message::Membership::Mixed,
        Membership::Outside => message::Membership::Outside,
    };
    message::Namespace { name: namespace.name.to_string(), membership: membership.into() }
}

pub(super) fn read_namespace(raw: message::Namespace) -> Read<Namespace> {
    let membership = match message::Membership::try_from(raw.membership) {
        Ok(message::Membership::Enrolled) => Membership::Enrolled,
        Ok(message::Membership::Mixed) => Membership::Mixed,
        Ok(message::Membership::Outside) => Membership::Outside,
        Err(_) => return Err(FieldError::new("membership", Fault::UnknownValue)),
    };
    Ok(Namespace { name: required("name", &raw.name)?, membership })
}

pub(super) fn workload_message(workload: &Workload) -> message::Workload {
    let phase = match workload.phase {
        Phase::Pending => message::Phase::Pending,
        Phase::Running => message::Phase::Running,
        Phase::Ended => message::Phase::Ended,
    };
    message::Workload {
        uid: workload.uid.to_string(),
        name: workload.name.to_string(),
        namespace: workload.namespace.to_string(),
        service_account: workload.service_account.to_string(),
        trust_domain: workload.trust_domain.to_string(),
        node: workload.node.to_string(),
        addresses: workload.addresses.iter().map(address_bytes).collect(),
        labels: workload.labels.clone(),
        named_ports: workload.named_ports.iter().map(|(name, port)| (name.clone(), u32::from(*port))).collect(),
        probe_ports: workload.probe_ports.iter().copied().map(u32::from).collect(),
        enrolled: workload.protocol == Protocol::Hbone,
        ready: workload.ready,
        phase: phase.into(),
        host_network: workload.host_network,
        deny_non_tcp: workload.deny_non_tcp,
        services: workload.services.iter().map(ToString::to_string).collect(),
        kubelet_uid: workload.kubelet_uid.as_deref().unwrap_or_default().to_owned(),
    }
}

pub(super) fn read_workload(raw: message::Workload) -> Read<Workload> {
    let phase = match message::Phase::try_from(raw.phase) {
        Ok(message::Phase::Pending) => Phase::Pending,
        Ok(message::Phase::Running) => Phase::Running,
        Ok(message::Phase::Ended) => Phase::Ended,
        Err(_) => return Err(FieldError::new("phase", Fault::UnknownValue)),
    };
    if raw.enrolled && raw.host_network {
        return Err(FieldError::new("enrolled", Fault::UnknownValue));
    }
    let trust_domain = trust_domain("trust_domain", &raw.trust_domain)?;
    let namespace = required("namespace", &raw.namespace)?;
    let service_account = required("service_account", &raw.service_account)?;
    SpiffeId::of_service_account(&trust_domain, &namespace, &service_account)
        .map_err(|error| FieldError::new("service_account", Fault::Identity(error)))?;
    Ok(Workload {
        uid: WorkloadUid(required("uid", &raw.uid)?),
        kubelet_uid: Some(raw.kubelet_uid.into()).filter(|uid: &Arc<str>| !uid.is_empty()),
        name: required("name", &raw.name)?,
        namespace,
        service_account,
        trust_domain,
        node: raw.node.into(),
        addresses: addresses("addresses", &raw.addresses)?,
        labels: raw.labels,
        named_ports: named_ports(raw.named_ports)?,
        probe_ports: probe_ports(&raw.probe_ports)?,
        protocol: if raw.enrolled { Protocol::Hbone } else { Protocol::Plain },
        ready: raw.ready,
        phase,
        host_network: raw.host_network,
        deny_non_tcp: raw.deny_non_tcp,
        services: service_names(&raw.services)?,
    })
}

fn named_ports(raw: BTreeMap<String, u32>) -> Read<BTreeMap<String, u16>> {
    let read = |(name, number): (String, u32)| {
        required("named_ports", &name)?;
        let port = port(&format!("named_ports[{name:?}]"), number)?;
        Ok((name, port))
    };
    raw.into_iter().map(read).collect()
}

fn probe_ports(raw: &[u32]) -> Read<Vec<u16>> {
    raw.iter().enumerate().map(|(index, number)| port(&format!("probe_ports[{index}]"), *number)).collect()
}

fn service_names(raw: &[String]) -> Read<Vec<ServiceName>> {
    let read = |(index, text): (usize, &String)| {
        let (namespace, name) = pair(&format!("services[{index}]"), text)?;
        Ok(ServiceName::new(&namespace, &name))
    };
    raw.iter().enumerate().map(read).collect()
}

pub(super) fn service_message(service: &Service) -> message::Service {
    let port = |port: &ServicePort| message::ServicePort {
        name: port.name.to_string(),
        port: port.port.into(),
        target: Some(match &port.target {
            TargetPort::Number(number) => Target::Number((*number).into()),
            TargetPort::Name(name) => Target::PortName(name.to_string()),
        }),
    };
    message::Service {
        namespace: service.name.namespace.to_string(),
        name: service.name.name.to_string(),
        vips: service.vips.iter().map(address_bytes).collect(),
        ports: service.ports.iter().map(port).collect(),
        publish_not_ready: service.publish_not_ready,
        client_ip_affinity: service.client_ip_affinity,
        local: service.local,
    }
}

pub(super) fn read_service(raw: message::Service) -> Read<Service> {
    let mut ports: Vec<ServicePort> = Vec::with_capacity(raw.ports.len());
    for (index, entry) in raw.ports.iter().enumerate() {
        let entry = service_port(entry).map_err(|error| error.under(format!("ports[{index}]")))?;
        if ports.iter().any(|other| other.port == entry.port) {
            return Err(FieldError::new(format!("ports[{index}].port"), Fault::Duplicate));
        }
        ports.push(entry);
    }
    let (namespace, name) = (required("namespace", &raw.namespace)?, required("name", &raw.name)?);
    Ok(Service {
        name: ServiceName { namespace, name },
        vips: addresses("vips", &raw.vips)?,
        ports,
        publish_not_ready: raw.publish_not_ready,
        client_ip_affinity: raw.client_ip_affinity,
        local: raw.local,
    })
}

fn service_port(raw: &message::ServicePort) -> Read<ServicePort> {
    let target = match &raw.target {
        Some(Target::Number(number)) => TargetPort::Number(port("number", *number)?),
        Some(Target::PortName(name)) => TargetPort::Name(required("port_name", name)?),
        None => return Err(FieldError::new("target", Fault::Missing)),
    };
    Ok(ServicePort { name: Arc::from(raw.name.as_str()), port: port("port", raw.port)?, target })
}
