//! Policies against the filters that Istio gives a TCP chain: the same verdict for every connection tried.

mod conjuncts;
mod connections;

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use culvert_policy::{
    Action, AuthorizationPolicy, Explanation, Facts, MeshSettings, PolicyName, Reason, RuleSet, RuleTruth, Subject,
    TrustDomains, explain,
    istio::{self, Policy},
};
use serde_json::Value;

use super::{Judged, Run};
use crate::{
    case::{Case, texts},
    directory::Directory,
    envoy::{self, Filter},
};

pub(crate) fn run(run: &mut Run<'_>) -> Result<()> {
    let content = run.directory.json(run.file)?;
    let proxy = &content["proxy"];
    let labels: BTreeMap<String, String> = serde_json::from_value(proxy["labels"].clone()).unwrap_or_default();
    let subject =
        Subject { namespace: proxy["namespace"].as_str().unwrap_or_default(), labels: &labels, services: &[] };
    // `index-tcp.json` speaks of files in `tcp/` beside it.
    let folder = run.file.trim_end_matches(".json").replace("index-", "");
    let directory = run.directory;
    let cases = content.get("cases").and_then(Value::as_array).context("no list `cases`")?;
    for (index, value) in cases.iter().enumerate() {
        run.judge(index, value, |case| {
            judge(case, directory, &folder, subject)
                .unwrap_or_else(|error| Err(("the documented format".to_owned(), format!("{error:#}"))))
        });
    }
    Ok(())
}

fn judge(case: &Case<'_>, directory: &Directory, folder: &str, subject: Subject<'_>) -> Result<Judged> {
    let policies = policies(&directory.yaml(&format!("{folder}/{}", case.text("input")))?)?;
    let mut filters = Vec::new();
    for name in texts(case.expected("want")) {
        for filter in directory.yaml(&format!("{folder}/{name}"))? {
            filters.extend(Filter::read(&filter)?);
        }
    }
    let bundle = case.field("tdBundle");
    let own = bundle["trustDomain"].as_str().filter(|own| !own.is_empty()).unwrap_or("cluster.local");
    let settings = MeshSettings::new(TrustDomains::new(own.to_owned(), texts(&bundle["aliases"])));
    let set = RuleSet::compile(subject, &settings, &policies, []);
    let upstream = Upstream { filters };
    for connection in connections::around(&policies, own) {
        let explanation = explain(&set, &connection);
        if let Err((wanted, got)) = upstream.agrees(&explanation, &connection.facts()) {
            return Ok(Err((format!("{wanted} for {connection:?}"), got)));
        }
    }
    let samples = connections::one_by_one(&policies, own);
    Ok(conjuncts::agree(&policies, &settings, &upstream, &samples))
}

fn policies(documents: &[Value]) -> Result<Vec<AuthorizationPolicy>> {
    let read = |document| match istio::read(document) {
        Some(Ok(istio::Accepted { policy: Policy::Authorization(policy), .. })) => Ok(policy),
        Some(Err(rejected)) => bail!("an input policy is refused: {:?}", rejected.complaints),
        _ => bail!("an input is not an AuthorizationPolicy"),
    };
    documents.iter().map(read).collect()
}

/// Istio's side.
struct Upstream {
    filters: Vec<Filter>,
}

impl Upstream {
    fn agrees(&self, explanation: &Explanation, facts: &Facts<'_>) -> Judged {
        for rule in &explanation.rules {
            self.agrees_on_rule(rule, facts)?;
        }
        if self.differs_by_design(explanation) {
            return Ok(());
        }
        let wanted = self.filters.iter().all(|filter| filter.passes(facts));
        if wanted == explanation.allowed() {
            return Ok(());
        }
        Err((if wanted { "allow" } else { "deny" }.to_owned(), format!("{:?}", explanation.decision)))
    }

    /// Each rule must be true exactly where Envoy's is (may hold, for DENY, AUDIT and CUSTOM). A rule that Istio does not
    /// send to a TCP chain is an ALLOW rule with L7 parts, or a CUSTOM rule whose provider cannot serve TCP.
    fn agrees_on_rule(&self, rule: &RuleTruth, facts: &Facts<'_>) -> Judged {
        let Some(truth) = self.node(rule).map(|node| node.truth(facts)) else { return Ok(()) };
        let (wanted, got) = match rule.action {
            Action::Allow => (truth.holds(), rule.truth.holds()),
            Action::Deny | Action::Audit | Action::Custom => (truth.may_hold(), rule.truth.may_hold()),
        };
        if wanted == got { Ok(()) } else { Err((format!("{rule:?} to match: {wanted}"), format!("{got}"))) }
    }

    /// Two differences are stated in the policy semantics: Istio drops an ALLOW rule with any L7 part, also where
    /// another branch of it is true (culvert: narrowed); and only culvert refuses what a CUSTOM rule may match.
    fn differs_by_design(&self, explanation: &Explanation) -> bool {
        match &explanation.decision {
            culvert_policy::Decision::Deny(denial) => denial.reason == Reason::CustomUnavailable,
            culvert_policy::Decision::Allow(culvert_policy::Basis::Rule(basis)) => explanation
                .rules
                .iter()
                .filter(|rule| rule.policy == basis.policy && rule.rule == basis.rule)
                .any(|rule| self.node(rule).is_none()),
            culvert_policy::Decision::Allow(_) => false,
        }
    }

    /// Envoy's condition for a rule.
    fn node(&self, rule: &RuleTruth) -> Option<&envoy::Node> {
        self.find(&rule.policy, rule.rule, rule.dry_run || rule.action == Action::Custom)
    }

    fn find(&self, policy: &PolicyName, rule: usize, shadow: bool) -> Option<&envoy::Node> {
        let key = format!("ns[{}]-policy[{}]-rule[{rule}]", policy.namespace, policy.name);
        let rules =
            self.filters.iter().filter_map(|filter| if shadow { &filter.shadow } else { &filter.enforced }.as_ref());
        rules.flat_map(|rules| &rules.policies).find(|(name, _)| name.ends_with(&key)).map(|(_, node)| node)
    }
}
