//! What Envoy's RBAC filter on a TCP chain would answer: a small evaluator, for comparison only.
//!
//! Attributes that culvert's L4 does not know (`deviations.json` names them) are unknown here as well, so that both sides are
//! asked the same question.

use std::net::IpAddr;

use anyhow::{Context, Result, bail};
use culvert_policy::{Facts, Truth, address::AddressBlock};
use regex::Regex;
use serde_json::Value;

/// An RBAC filter.
#[derive(Debug)]
pub(crate) struct Filter {
    /// `rules`: decides.
    pub(crate) enforced: Option<Rules>,
    /// `shadowRules`: only reports.
    pub(crate) shadow: Option<Rules>,
}

/// The rules of a filter.
#[derive(Debug)]
pub(crate) struct Rules {
    pub(crate) action: Action,
    /// By Envoy's policy name, `ns[..]-policy[..]-rule[..]`.
    pub(crate) policies: Vec<(String, Node)>,
}

/// What a match means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Allow,
    Deny,
    Log,
}

/// A condition: permissions and principals share one grammar.
#[derive(Debug)]
pub(crate) enum Node {
    All(Vec<Node>),
    Any(Vec<Node>),
    Not(Box<Node>),
    Always,
    Unknown,
    SourceIp(AddressBlock),
    DestinationIp(AddressBlock),
    Port(u64),
    Ports {
        start: u64,
        end: u64,
    },
    /// A peer with an identity in a certificate, `spiffe://..`; with `None` any such peer.
    Authenticated(Option<Text>),
}

/// A string matcher.
#[derive(Debug)]
pub(crate) enum Text {
    Exact(String),
    Prefix(String),
    Suffix(String),
    Contains(String),
    Regex(Regex),
}

impl Filter {
    /// Reads a filter of a chain; `None` for filters of other kinds.
    pub(crate) fn read(filter: &Value) -> Result<Option<Self>> {
        let config = &filter["typedConfig"];
        if !config["@type"].as_str().context("a filter without type")?.ends_with(".rbac.v3.RBAC") {
            return Ok(None);
        }
        let rules = |name: &str| config.get(name).map(Rules::read).transpose();
        Ok(Some(Self { enforced: rules("rules")?, shadow: rules("shadowRules")? }))
    }

    /// Whether the filter lets the connection pass.
    pub(crate) fn passes(&self, facts: &Facts<'_>) -> bool {
        let Some(rules) = &self.enforced else { return true };
        let truth = Truth::any(rules.policies.iter().map(|(_, node)| node.truth(facts)));
        match rules.action {
            Action::Allow => truth.holds(),
            Action::Deny => !truth.may_hold(),
            Action::Log => true,
        }
    }
}

impl Rules {
    fn read(value: &Value) -> Result<Self> {
        let action = match value.get("action").and_then(Value::as_str) {
            None | Some("ALLOW") => Action::Allow,
            Some("DENY") => Action::Deny,
            Some("LOG") => Action::Log,
            Some(other) => bail!("RBAC action {other:?} is not read"),
        };
        let policies = value.get("policies").and_then(Value::as_object).into_iter().flatten();
        let read = |(name, policy): (&String, &Value)| {
            let part = |part: &str| Ok::<_, anyhow::Error>(Node::Any(nodes(&policy[part])?));
            Ok((name.clone(), Node::All(vec![part("permissions")?, part("principals")?])))
        };
        Ok(Self { action, policies: policies.map(read).collect::<Result<_>>()? })
    }
}

impl Node {
    fn read(value: &Value) -> Result<Self> {
        let members = value.as_object().context("a condition is not an object")?;
        let (kind, value) = members.iter().next().context("an empty condition")?;
        Ok(match kind.as_str() {
            "andRules" => Self::All(nodes(&value["rules"])?),
            "andIds" => Self::All(nodes(&value["ids"])?),
            "orRules" => Self::Any(nodes(&value["rules"])?),
            "orIds" => Self::Any(nodes(&value["ids"])?),
            "notRule" | "notId" => Self::Not(Box::new(Self::read(value)?)),
            "any" => Self::Always,
            "directRemoteIp" => Self::SourceIp(block(value)?),
            "destinationIp" => Self::DestinationIp(block(value)?),
            "destinationPort" => Self::Port(value.as_u64().context("a port is not a number")?),
            "destinationPortRange" => Self::Ports {
                start: value["start"].as_u64().unwrap_or(0),
                end: value["end"].as_u64().context("a port range without end")?,
            },
            "authenticated" => Self::Authenticated(value.get("principalName").map(Text::read).transpose()?),
            // Where the peer of a tunnel is meant, its identity is in the filter state instead.
            "filterState" if value["key"] == "io.istio.peer_principal" => {
                Self::Authenticated(value.get("stringMatch").map(Text::read).transpose()?)
            }
            "remoteIp" | "requestedServerName" | "metadata" | "sourcedMetadata" | "header" | "urlPath" => Self::Unknown,
            other => bail!("condition {other:?} is not read"),
        })
    }

    /// The parts of a policy that is one conjunction of permissions and principals.
    pub(crate) fn conjuncts(&self) -> Option<Vec<&Self>> {
        let Self::All(parts) = self else { return None };
        let mut conjuncts = Vec::new();
        for part in parts {
            let Self::Any(alternatives) = part else { return None };
            let [Self::All(nodes)] = &alternatives[..] else { return None };
            conjuncts.extend(nodes);
        }
        Some(conjuncts)
    }

    /// What the condition says of a connection.
    pub(crate) fn truth(&self, facts: &Facts<'_>) -> Truth {
        match self {
            Self::All(nodes) => Truth::all(nodes.iter().map(|node| node.truth(facts))),
            Self::Any(nodes) => Truth::any(nodes.iter().map(|node| node.truth(facts))),
            Self::Not(node) => !node.truth(facts),
            Self::Always => Truth::True,
            Self::Unknown => Truth::Unknown,
            Self::SourceIp(block) => block.matches(facts.source_ip),
            Self::DestinationIp(block) => block.matches(facts.destination_ip),
            Self::Port(port) => Truth::from(*port == u64::from(facts.destination_port)),
            Self::Ports { start, end } => Truth::from((*start..*end).contains(&u64::from(facts.destination_port))),
            Self::Authenticated(text) => {
                let id = facts.identity.map(|identity| format!("spiffe://{}", identity.principal));
                Truth::from(id.is_some_and(|id| text.as_ref().is_none_or(|text| text.matches(&id))))
            }
        }
    }
}

impl Text {
    fn read(value: &Value) -> Result<Self> {
        let (kind, value) = value.as_object().and_then(|m| m.iter().next()).context("an empty string matcher")?;
        let text = || value.as_str().map(str::to_owned).context("a string matcher without text");
        Ok(match kind.as_str() {
            "exact" => Self::Exact(text()?),
            "prefix" => Self::Prefix(text()?),
            "suffix" => Self::Suffix(text()?),
            "contains" => Self::Contains(text()?),
            // Envoy matches the whole value.
            "safeRegex" => Self::Regex(Regex::new(&format!("^(?:{})$", value["regex"].as_str().context("no regex")?))?),
            other => bail!("string matcher {other:?} is not read"),
        })
    }

    fn matches(&self, value: &str) -> bool {
        match self {
            Self::Exact(text) => value == text,
            Self::Prefix(text) => value.starts_with(text.as_str()),
            Self::Suffix(text) => value.ends_with(text.as_str()),
            Self::Contains(text) => value.contains(text.as_str()),
            Self::Regex(regex) => regex.is_match(value),
        }
    }
}

fn nodes(value: &Value) -> Result<Vec<Node>> {
    value.as_array().context("conditions are not a list")?.iter().map(Node::read).collect()
}

fn block(value: &Value) -> Result<AddressBlock> {
    let address: IpAddr = value["addressPrefix"].as_str().context("no addressPrefix")?.parse()?;
    // Unset, as any zero, is left out.
    let bits = value["prefixLen"].as_u64().unwrap_or(0);
    AddressBlock::parse(&format!("{address}/{bits}")).with_context(|| format!("{address}/{bits}"))
}
