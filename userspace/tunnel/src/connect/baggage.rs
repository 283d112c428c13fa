//! `baggage` (W3C): what the sender says about its workload.

use std::fmt::Write;

/// More than this, over all header lines together, is not looked at, in bytes.
const MAX_TEXT: usize = 8 * 1024;
/// A longer value is treated as absent, in bytes.
const MAX_VALUE: usize = 256;

/// What kind of object owns a workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WorkloadKind {
    /// A Deployment.
    Deployment,
    /// A CronJob.
    CronJob,
    /// A Pod without an owner.
    Pod,
    /// A Job.
    Job,
}

/// The values of `baggage` that hbone knows. Absent, empty and unreadable are the same.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Baggage {
    /// `k8s.cluster.name`.
    pub cluster: Option<Box<str>>,
    /// `k8s.namespace.name`.
    pub namespace: Option<Box<str>>,
    /// `k8s.<kind>.name`.
    pub workload: Option<(WorkloadKind, Box<str>)>,
    /// `service.name`: Istio's canonical name.
    pub service: Option<Box<str>>,
    /// `service.version`: Istio's canonical revision.
    pub revision: Option<Box<str>>,
    /// `cloud.region`.
    pub region: Option<Box<str>>,
    /// `cloud.availability_zone`.
    pub zone: Option<Box<str>>,
}

impl WorkloadKind {
    const ALL: [Self; 4] = [Self::Deployment, Self::CronJob, Self::Pod, Self::Job];

    fn key(self) -> &'static str {
        match self {
            Self::Deployment => "k8s.deployment.name",
            Self::CronJob => "k8s.cronjob.name",
            Self::Pod => "k8s.pod.name",
            Self::Job => "k8s.job.name",
        }
    }
}

impl Baggage {
    /// Reads the values of all `baggage` lines of a request; the last value of a key counts.
    pub fn parse<'a>(lines: impl IntoIterator<Item = &'a str>) -> Self {
        let mut found = Self::default();
        let mut budget = MAX_TEXT;
        for line in lines {
            let Some(left) = budget.checked_sub(line.len()) else { break };
            budget = left;
            for member in line.split(',') {
                // A member may carry properties after a semicolon; nothing here uses them.
                let member = member.split(';').next().unwrap_or_default();
                if let Some((key, value)) = member.split_once('=') {
                    found.set(key.trim(), value.trim());
                }
            }
        }
        found
    }

    fn set(&mut self, key: &str, value: &str) {
        if value.is_empty() || value.len() > MAX_VALUE || !value.bytes().all(|b| b.is_ascii_graphic()) {
            return;
        }
        let slot = match key {
            "k8s.cluster.name" => &mut self.cluster,
            "k8s.namespace.name" => &mut self.namespace,
            "service.name" => &mut self.service,
            "service.version" => &mut self.revision,
            "cloud.region" => &mut self.region,
            "cloud.availability_zone" => &mut self.zone,
            _ => {
                if let Some(kind) = WorkloadKind::ALL.into_iter().find(|kind| kind.key() == key) {
                    self.workload = Some((kind, value.into()));
                }
                return;
            }
        };
        *slot = Some(value.into());
    }

    /// The header's value, or nothing when there is nothing to say. Values that the format cannot carry are left out.
    pub fn to_header(&self) -> Option<String> {
        let workload = self.workload.as_ref().map(|(kind, name)| (kind.key(), name));
        let members = [
            self.cluster.as_ref().map(|v| ("k8s.cluster.name", v)),
            self.namespace.as_ref().map(|v| ("k8s.namespace.name", v)),
            workload,
            self.service.as_ref().map(|v| ("service.name", v)),
            self.revision.as_ref().map(|v| ("service.version", v)),
            self.region.as_ref().map(|v| ("cloud.region", v)),
            self.zone.as_ref().map(|v| ("cloud.availability_zone", v)),
        ];
        let mut text = String::new();
        for (key, value) in members.into_iter().flatten().filter(|(_, value)| is_value(value)) {
            // Writing to a String cannot fail.
            let _ = write!(text, "{}{key}={value}", if text.is_empty() { "" } else { "," });
        }
        (!text.is_empty()).then_some(text)
    }
}

fn is_value(value: &str) -> bool {
    !value.is_empty()
        && value.len() <= MAX_VALUE
        && value.bytes().all(|b| b.is_ascii_graphic() && !b",;=\"\\".contains(&b))
}
