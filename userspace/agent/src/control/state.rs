//! Puts the answers of the delta stream together. Pure: no I/O, no clock.
//!
//! Nothing is published before each type has ended its first state with the marker `@synced`; after that, nothing
//! before all types stand at the same generation. A resource that cannot be understood is refused and reported; its
//! last good version stays, and where a policy has none, it refuses what it may select.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

use culvert_identity::TrustDomain;
use culvert_policy::{Action, AuthorizationPolicy, MeshSettings, MtlsMode, PeerAuthentication, PolicyName, Selector};
use culvert_wire::{
    Kind, Resource, ResourceError, SYNCED_NAME, TrustBundle,
    proto::discovery::DeltaDiscoveryResponse,
    resource::{Marker, read_synced},
};
use culvert_workload::{Membership, Mesh, Roster, ServiceName, WorkloadUid};

use crate::{
    coverage::Coverage,
    snapshot::{Snapshot, policy_settings},
};

/// What is known of one type.
#[derive(Debug, Default)]
struct Type {
    /// Version of each resource, for the next connection.
    versions: HashMap<String, String>,
    /// Generation of the last marker.
    synced: Option<u64>,
}

/// Everything that the control plane has said.
#[derive(Debug, Default)]
pub struct State {
    types: BTreeMap<Kind, Type>,
    mesh: Option<Arc<Mesh>>,
    settings: Option<Arc<MeshSettings>>,
    roster: Roster,
    authorizations: BTreeMap<PolicyName, Arc<AuthorizationPolicy>>,
    authentications: BTreeMap<PolicyName, Arc<PeerAuthentication>>,
    bundles: BTreeMap<TrustDomain, Arc<TrustBundle>>,
    namespaces: Arc<BTreeMap<Arc<str>, Membership>>,
    coverage: Coverage,
    published: Option<u64>,
    dirty: bool,
}

/// What to answer to a response.
#[derive(Debug, Default)]
pub struct Applied {
    /// Resources that were refused; the answer is a NACK when there are any.
    pub refused: Vec<ResourceError>,
}

/// A response that is none of ours.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum StateError {
    /// A type that was not asked for.
    #[error("the control plane sent the type {0:?}, which was not asked for")]
    UnknownType(String),
}

impl StateError {
    /// Stable word.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::UnknownType(_) => "unknown_resource_type",
        }
    }
}

impl State {
    /// Versions to begin a new stream of this type with.
    pub fn versions(&self, kind: Kind) -> HashMap<String, String> {
        self.types.get(&kind).map(|known| known.versions.clone()).unwrap_or_default()
    }

    /// A new stream says everything anew: nothing is published before each type has its marker again.
    pub fn begin(&mut self) {
        self.types.values_mut().for_each(|known| known.synced = None);
    }

    /// Takes one response. The domain state changes at once, the published one only by [`State::publish`].
    pub fn apply(&mut self, response: &DeltaDiscoveryResponse) -> Result<Applied, StateError> {
        let kind =
            Kind::of_type_url(&response.type_url).ok_or_else(|| StateError::UnknownType(response.type_url.clone()))?;
        let mut applied = Applied::default();
        let mut roster = self.roster.edit();
        if !(response.resources.is_empty() && response.removed_resources.is_empty()) {
            // Until the marker comes, this type stands at no generation: a part of a state is none.
            self.types.entry(kind).or_default().synced = None;
        }
        for resource in &response.resources {
            if resource.name == SYNCED_NAME {
                match read_synced(resource.resource.as_ref()) {
                    Ok(marker) => self.take_marker(kind, marker),
                    Err(error) => applied.refused.push(error),
                }
                continue;
            }
            match Resource::decode(kind, &resource.name, resource.resource.as_ref()) {
                Ok(decoded) => {
                    self.put(decoded, &mut roster);
                    let versions = &mut self.types.entry(kind).or_default().versions;
                    versions.insert(resource.name.clone(), resource.version.clone());
                }
                Err(error) => {
                    self.refuse(kind, &resource.name, &error);
                    applied.refused.push(error);
                }
            }
            self.dirty = true;
        }
        for name in &response.removed_resources {
            self.remove(kind, name, &mut roster);
            self.types.entry(kind).or_default().versions.remove(name);
            self.dirty = true;
        }
        self.roster = roster.finish();
        Ok(applied)
    }

    /// The state as a snapshot, if it is complete and newer than what was published.
    pub fn publish(&mut self) -> Option<Snapshot> {
        let generation = self.complete()?;
        if self.published == Some(generation) && !self.dirty {
            return None;
        }
        let mesh = self.mesh.clone()?;
        self.published = Some(generation);
        self.dirty = false;
        Some(Snapshot {
            generation,
            settings: self.settings.clone()?,
            mesh,
            roster: self.roster.clone(),
            authorizations: self.authorizations.clone(),
            authentications: self.authentications.clone(),
            bundles: self.bundles.clone(),
            namespaces: Arc::clone(&self.namespaces),
            coverage: self.coverage.clone(),
        })
    }

    /// The addresses that were asked for and answered.
    pub fn answered(&self) -> &HashSet<IpAddr> {
        &self.coverage.answered
    }

    /// These addresses are asked for no longer: what is still known of them may grow old.
    pub fn give_up(&mut self, addresses: &[IpAddr]) {
        if addresses.iter().any(|address| self.coverage.answered.contains(address)) {
            let answered = Arc::make_mut(&mut self.coverage.answered);
            answered.retain(|address| !addresses.contains(address));
            self.dirty = true;
        }
    }

    /// The marker behind the services comes after all that it speaks of.
    fn take_marker(&mut self, kind: Kind, marker: Marker) {
        self.types.entry(kind).or_default().synced = Some(marker.generation);
        if kind != Kind::Service {
            return;
        }
        self.dirty |= self.coverage.partial != marker.partial || !marker.addresses.is_empty();
        self.coverage.partial = marker.partial;
        if !marker.addresses.is_empty() {
            Arc::make_mut(&mut self.coverage.answered).extend(marker.addresses);
        }
    }

    /// The generation at which all types stand, if they do.
    fn complete(&self) -> Option<u64> {
        let mut generation = None;
        for kind in Kind::ALL {
            let synced = self.types.get(&kind)?.synced?;
            if *generation.get_or_insert(synced) != synced {
                return None;
            }
        }
        generation
    }

    fn put(&mut self, resource: Resource, roster: &mut culvert_workload::RosterEdit) {
        match resource {
            Resource::Mesh(mesh) => {
                roster.set_cluster_ranges(&mesh.cluster_ranges);
                self.settings = Some(Arc::new(policy_settings(&mesh)));
                self.mesh = Some(Arc::new(mesh));
            }
            Resource::Workload(workload) => roster.put_workload(Arc::new(workload)),
            Resource::Service(service) => roster.put_service(Arc::new(service)),
            Resource::AuthorizationPolicy(policy) => {
                self.authorizations.insert(policy.name.clone(), Arc::new(policy));
            }
            Resource::PeerAuthentication(policy) => {
                self.authentications.insert(policy.name.clone(), Arc::new(policy));
            }
            Resource::Bundle(bundle) => self.put_bundle(bundle),
            Resource::Namespace(namespace) => {
                Arc::make_mut(&mut self.namespaces).insert(namespace.name, namespace.membership);
            }
        }
    }

    /// A bundle with a lower sequence than the held one is old news.
    fn put_bundle(&mut self, bundle: TrustBundle) {
        let held = self.bundles.get(&bundle.trust_domain).map_or(0, |held| held.sequence);
        if bundle.sequence >= held {
            self.bundles.insert(bundle.trust_domain.clone(), Arc::new(bundle));
        }
    }

    fn remove(&mut self, kind: Kind, name: &str, roster: &mut culvert_workload::RosterEdit) {
        match kind {
            // The mesh's settings are never taken away: without them everything would be open or nothing work.
            Kind::Mesh => {}
            Kind::Workload => roster.remove_workload(&WorkloadUid::new(name)),
            Kind::Service => {
                if let Some((namespace, name)) = name.split_once('/') {
                    roster.remove_service(&ServiceName::new(namespace, name));
                }
            }
            Kind::AuthorizationPolicy => {
                policy_name(name).map(|name| self.authorizations.remove(&name));
            }
            Kind::PeerAuthentication => {
                policy_name(name).map(|name| self.authentications.remove(&name));
            }
            Kind::Bundle => {
                TrustDomain::parse(name).ok().map(|domain| self.bundles.remove(&domain));
            }
            Kind::Namespace => self.forget_namespace(name),
        }
    }

    /// Of a namespace that is not spoken of it is not known whether its pods are enrolled.
    fn forget_namespace(&mut self, name: &str) {
        Arc::make_mut(&mut self.namespaces).remove(name);
    }

    /// A policy that was never understood refuses what it may select: the whole namespace, or from the root
    /// namespace everything. A namespace that is not understood is none that is known to be outside. For all other types
    /// the last good version stays, or there is none.
    fn refuse(&mut self, kind: Kind, name: &str, error: &ResourceError) {
        if kind == Kind::Namespace {
            // Not held any more, so that a version that was understood is sent again.
            self.types.entry(kind).or_default().versions.remove(name);
            return self.forget_namespace(name);
        }
        let Some(name) = policy_name(name) else { return };
        let text: Arc<str> = error.to_string().into();
        match kind {
            Kind::AuthorizationPolicy => {
                self.authorizations.entry(name.clone()).or_insert_with(|| {
                    Arc::new(AuthorizationPolicy {
                        name,
                        selector: Selector::Namespace,
                        action: Action::Deny,
                        dry_run: false,
                        rules: Vec::new(),
                        invalid: Some(text),
                    })
                });
            }
            Kind::PeerAuthentication => {
                self.authentications.entry(name.clone()).or_insert_with(|| {
                    Arc::new(PeerAuthentication {
                        name,
                        selector: Selector::Namespace,
                        mode: MtlsMode::Strict,
                        port_modes: BTreeMap::new(),
                        created: 0,
                        invalid: Some(text),
                    })
                });
            }
            Kind::Mesh | Kind::Workload | Kind::Service | Kind::Bundle | Kind::Namespace => {}
        }
    }
}

fn policy_name(name: &str) -> Option<PolicyName> {
    name.split_once('/').map(|(namespace, name)| PolicyName::new(namespace, name))
}
