//! PeerAuthentication: which ports of a workload insist on an authenticated peer.

use std::collections::{BTreeMap, HashMap};

use crate::{
    model::{MtlsMode, PeerAuthentication, PolicyName, Selector},
    settings::DefaultMode,
};

/// The merged mode of a workload. Modes are never [`MtlsMode::Unset`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EffectiveMtls {
    /// The mode of ports without one of their own.
    pub mode: MtlsMode,
    /// The object that supplied `mode`; `None` is the mesh's `defaultMode`.
    pub mode_from: Option<PolicyName>,
    /// Ports with a mode of their own (workload ports).
    pub ports: BTreeMap<u16, MtlsMode>,
    /// The object that supplied `ports`.
    pub ports_from: Option<PolicyName>,
    /// Objects that had no part in it: another one of the same scope is older, or the root namespace takes no selector.
    pub ignored: Vec<Ignored>,
}

/// A PeerAuthentication without effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ignored {
    /// Which one.
    pub name: PolicyName,
    /// Why.
    pub why: WhyIgnored,
}

/// Why a PeerAuthentication has no effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WhyIgnored {
    /// The oldest object of a scope wins; among equally old ones the first by name.
    Older(PolicyName),
    /// It selects labels but lies in the root namespace, where only mesh-wide objects count.
    SelectorInRootNamespace,
}

/// Scope of an object, from wide to narrow.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Scope {
    Mesh,
    Namespace,
    Workload,
}

impl DefaultMode {
    fn mode(self) -> MtlsMode {
        match self {
            Self::Permissive => MtlsMode::Permissive,
            Self::Strict => MtlsMode::Strict,
        }
    }
}

impl EffectiveMtls {
    /// Merges the objects that concern one workload: mesh, then namespace, then workload; UNSET inherits. The workload
    /// scope supplies the mode and the ports together, from one object.
    pub fn compose<'a>(
        root_namespace: &str,
        default: DefaultMode,
        objects: impl IntoIterator<Item = &'a PeerAuthentication>,
    ) -> Self {
        let mut merged = Self {
            mode: default.mode(),
            mode_from: None,
            ports: BTreeMap::new(),
            ports_from: None,
            ignored: Vec::new(),
        };
        let (mut scoped, rooted): (Vec<_>, Vec<_>) = objects
            .into_iter()
            .map(|object| (scope(root_namespace, object), object))
            .partition(|(scope, _)| scope.is_some());
        merged.ignored.extend(
            rooted.iter().map(|(_, o)| Ignored { name: o.name.clone(), why: WhyIgnored::SelectorInRootNamespace }),
        );
        // Narrow scopes last; within a scope the winner last.
        scoped.sort_by(|(a_scope, a), (b_scope, b)| {
            a_scope.cmp(b_scope).then_with(|| (b.created, &b.name).cmp(&(a.created, &a.name)))
        });
        for (index, (scope, object)) in scoped.iter().enumerate() {
            match scoped[index..].iter().rev().find(|(other, _)| other == scope) {
                Some((_, winner)) if winner.name != object.name => {
                    let why = WhyIgnored::Older(winner.name.clone());
                    merged.ignored.push(Ignored { name: object.name.clone(), why });
                }
                _ => merged.apply(*scope == Some(Scope::Workload), object),
            }
        }
        merged
    }

    fn apply(&mut self, workload: bool, object: &PeerAuthentication) {
        if object.mode != MtlsMode::Unset {
            self.mode = object.mode;
            self.mode_from = Some(object.name.clone());
        }
        if workload && !object.port_modes.is_empty() {
            let inherited = self.mode;
            let effective = |mode| if mode == MtlsMode::Unset { inherited } else { mode };
            self.ports = object.port_modes.iter().map(|(port, mode)| (*port, effective(*mode))).collect();
            self.ports_from = Some(object.name.clone());
        }
    }

    /// The mode of a port and the object that set it.
    pub fn on(&self, port: u16) -> (MtlsMode, Option<&PolicyName>) {
        match self.ports.get(&port) {
            Some(mode) => (*mode, self.ports_from.as_ref()),
            None => (self.mode, self.mode_from.as_ref()),
        }
    }

    /// Whether some port takes plaintext.
    pub fn takes_plaintext(&self) -> bool {
        self.mode != MtlsMode::Strict || self.ports.values().any(|mode| *mode != MtlsMode::Strict)
    }
}

/// Why an object has no effect on any workload, if it has none: an older one has its scope (and its labels, where it
/// selects some), or it selects labels in the root namespace.
pub fn without_effect<'a>(
    root_namespace: &str,
    object: &PeerAuthentication,
    all: impl IntoIterator<Item = &'a PeerAuthentication>,
) -> Option<WhyIgnored> {
    let Some(own) = scope(root_namespace, object) else { return Some(WhyIgnored::SelectorInRootNamespace) };
    // What nobody understands refuses, and takes no part in the merging.
    let rivals = all.into_iter().filter(|other| {
        other.invalid.is_none()
            && scope(root_namespace, other) == Some(own)
            && other.name.namespace == object.name.namespace
            && (own != Scope::Workload || other.selector == object.selector)
    });
    let winner = rivals.min_by_key(|other| age(other))?;
    (winner.name != object.name).then(|| WhyIgnored::Older(winner.name.clone()))
}

/// All objects that have no effect, and why.
pub fn all_without_effect<'a>(
    root_namespace: &str,
    all: impl IntoIterator<Item = &'a PeerAuthentication>,
) -> Vec<(&'a PolicyName, WhyIgnored)> {
    let mut by_scope: HashMap<_, Vec<&PeerAuthentication>> = HashMap::new();
    for object in all {
        let labels = match &object.selector {
            Selector::Labels(labels) => Some(labels),
            _ => None,
        };
        by_scope.entry((&object.name.namespace, labels)).or_default().push(object);
    }
    let mut ignored = Vec::new();
    for rivals in by_scope.into_values() {
        // With the winner beside each: of many rivals each is not compared with all.
        let winner = rivals.iter().copied().filter(|object| object.invalid.is_none()).min_by_key(|object| age(object));
        let why = |object: &&'a PeerAuthentication| {
            without_effect(root_namespace, object, winner).map(|why| (&object.name, why))
        };
        ignored.extend(rivals.iter().filter_map(why));
    }
    ignored.sort_by_key(|(name, _)| *name);
    ignored
}

/// The oldest of a scope holds; of several of one age the first by name.
fn age(object: &PeerAuthentication) -> (i64, &PolicyName) {
    (object.created, &object.name)
}

fn scope(root_namespace: &str, object: &PeerAuthentication) -> Option<Scope> {
    let rooted = &*object.name.namespace == root_namespace;
    let labelled = matches!(&object.selector, Selector::Labels(labels) if !labels.is_empty());
    match (rooted, labelled) {
        (true, true) => None,
        (true, false) => Some(Scope::Mesh),
        (false, false) => Some(Scope::Namespace),
        (false, true) => Some(Scope::Workload),
    }
}
