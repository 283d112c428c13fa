//! The rule set of one workload: only what concerns it, ready to be evaluated.

use std::sync::Arc;

use crate::{
    model::{Action, AuthorizationPolicy, PeerAuthentication, PolicyName},
    mtls::EffectiveMtls,
    rule::NormalPolicy,
    settings::{DefaultAction, DefaultMode, MeshSettings, Subject},
};

/// Everything that decides about connections to one workload. Its size, and so the cost of a decision, depends only on
/// the policies that select the workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleSet {
    /// Objects that could not be understood.
    pub(crate) invalid: Vec<(PolicyName, Arc<str>)>,
    pub(crate) custom: Vec<NormalPolicy>,
    pub(crate) deny: Vec<NormalPolicy>,
    pub(crate) allow: Vec<NormalPolicy>,
    pub(crate) audit: Vec<NormalPolicy>,
    pub(crate) dry_run: Vec<NormalPolicy>,
    pub(crate) mtls: EffectiveMtls,
    pub(crate) default_action: DefaultAction,
}

impl RuleSet {
    /// Selects what concerns the workload and gives it its meaning. Policies are taken in order of their names, so that the
    /// same objects always give the same answer with the same deciding rule.
    pub fn compile<'a>(
        subject: Subject<'_>,
        settings: &MeshSettings,
        authorizations: impl IntoIterator<Item = &'a AuthorizationPolicy>,
        authentications: impl IntoIterator<Item = &'a PeerAuthentication>,
    ) -> Self {
        let mut policies: Vec<NormalPolicy> = authorizations
            .into_iter()
            .filter(|policy| settings.selects(&policy.name.namespace, &policy.selector, subject))
            .map(|policy| NormalPolicy::of(policy, &settings.domains))
            .collect();
        policies.sort_by(|a, b| a.name.cmp(&b.name));
        let (understood, broken): (Vec<_>, Vec<_>) = authentications
            .into_iter()
            .filter(|object| settings.selects(&object.name.namespace, &object.selector, subject))
            .partition(|object| object.invalid.is_none());
        let mtls = EffectiveMtls::compose(&settings.root_namespace, settings.default_mode, understood);
        let mut set = Self::assemble(policies, mtls, settings.default_action);
        set.invalid.extend(broken.into_iter().filter_map(|o| Some((o.name.clone(), o.invalid.clone()?))));
        set
    }

    /// Puts policies in normal form together; all of them concern the workload.
    pub fn assemble(policies: Vec<NormalPolicy>, mtls: EffectiveMtls, default_action: DefaultAction) -> Self {
        let mut set = Self {
            invalid: Vec::new(),
            custom: Vec::new(),
            deny: Vec::new(),
            allow: Vec::new(),
            audit: Vec::new(),
            dry_run: Vec::new(),
            mtls,
            default_action,
        };
        for policy in policies {
            match (&policy.invalid, policy.dry_run, policy.action) {
                (_, true, _) => set.dry_run.push(policy),
                // It decides nothing, broken or not.
                (Some(_), false, Action::Audit) => set.audit.push(policy),
                (Some(text), false, _) => set.invalid.push((policy.name, Arc::clone(text))),
                (None, false, Action::Custom) => set.custom.push(policy),
                (None, false, Action::Deny) => set.deny.push(policy),
                (None, false, Action::Allow) => set.allow.push(policy),
                (None, false, Action::Audit) => set.audit.push(policy),
            }
        }
        set
    }

    /// A rule set that refuses everything, for workloads about which nothing is known yet.
    pub fn closed() -> Self {
        let mtls = EffectiveMtls::compose("", DefaultMode::Strict, []);
        Self::assemble(Vec::new(), mtls, DefaultAction::Deny)
    }

    /// A rule set that refuses nothing: of a workload that is not the mesh's any more, while its connections still pass
    /// through.
    pub fn open() -> Self {
        let mtls = EffectiveMtls::compose("", DefaultMode::Permissive, []);
        Self::assemble(Vec::new(), mtls, DefaultAction::Allow)
    }

    /// The merged mTLS mode.
    pub fn mtls(&self) -> &EffectiveMtls {
        &self.mtls
    }

    /// Objects that could not be understood, each with what is wrong with it.
    pub fn invalid(&self) -> impl Iterator<Item = (&PolicyName, &str)> {
        self.invalid.iter().map(|(name, text)| (name, &**text))
    }

    /// The names of all policies in it, enforced or not.
    pub fn policies(&self) -> impl Iterator<Item = &PolicyName> {
        let invalid = self.invalid.iter().map(|(name, _)| name);
        invalid.chain(self.all().map(|policy| &policy.name))
    }

    /// All policies that were understood, in the order of evaluation; dry-run ones last.
    pub(crate) fn all(&self) -> impl Iterator<Item = &NormalPolicy> {
        [&self.custom, &self.deny, &self.allow, &self.audit, &self.dry_run].into_iter().flatten()
    }
}
