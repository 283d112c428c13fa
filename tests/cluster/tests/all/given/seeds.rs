//! Every manifest of a folder applies unchanged; of its ALLOW rules those that need layer 7 let nobody in, and the object's
//! condition, an Event and `culvert why` name the fields.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use culvert_cluster::{App, Cluster, Namespace, within};
use serde_json::{Value, json};

/// A policy as it is written.
struct Written {
    namespace: String,
    name: String,
    /// The label `app` of its selector.
    app: String,
    /// Namespaces and service accounts of its principals.
    callers: Vec<(String, String)>,
    /// What only layer 7 can see, by the words of its fields.
    unseen: BTreeSet<String>,
}

fn texts(value: &Value) -> impl Iterator<Item = &str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str)
}

fn written(object: &Value) -> Result<Written> {
    let text = |value: &Value, what: &str| Ok::<_, anyhow::Error>(value.as_str().context(what.to_owned())?.to_owned());
    let (mut callers, mut unseen) = (Vec::new(), BTreeSet::new());
    for rule in object["spec"]["rules"].as_array().into_iter().flatten() {
        for from in rule["from"].as_array().into_iter().flatten() {
            for principal in texts(&from["source"]["principals"]) {
                if let [_, "ns", namespace, "sa", account] = principal.split('/').collect::<Vec<_>>().as_slice() {
                    callers.push(((*namespace).to_owned(), (*account).to_owned()));
                }
            }
            unseen.extend(from["source"].get("requestPrincipals").map(|_| "requestPrincipals".to_owned()));
        }
        for to in rule["to"].as_array().into_iter().flatten() {
            let fields = to["operation"].as_object().into_iter().flat_map(|operation| operation.keys());
            unseen.extend(fields.filter(|field| !field.to_lowercase().contains("ports")).cloned());
        }
        let keys = rule["when"].as_array().into_iter().flatten().filter_map(|when| when["key"].as_str());
        unseen.extend(keys.filter(|key| key.starts_with("request.")).map(str::to_owned));
    }
    Ok(Written {
        namespace: text(&object["metadata"]["namespace"], "a namespace")?,
        name: text(&object["metadata"]["name"], "a name")?,
        app: text(&object["spec"]["selector"]["matchLabels"]["app"], "a label app")?,
        callers,
        unseen,
    })
}

/// The objects of a file, as kubectl reads them.
fn objects(cluster: &Cluster, file: &Path) -> Result<Vec<Value>> {
    let read = cluster.kubectl(&[
        "create",
        "--dry-run=client",
        "--validate=false",
        "-o",
        "json",
        "-f",
        &file.to_string_lossy(),
    ])?;
    let documents = serde_json::Deserializer::from_str(&read).into_iter::<Value>().collect::<Result<Vec<_>, _>>()?;
    let lists = documents.into_iter().flat_map(|document| match document["items"].as_array() {
        Some(items) => items.clone(),
        None => vec![document],
    });
    Ok(lists.collect())
}

fn condition(cluster: &Cluster, policy: &Written, kind: &str) -> Result<Value> {
    let read = cluster.get_json(&["-n", &policy.namespace, "get", "authorizationpolicy", &policy.name])?;
    let conditions = read["status"]["conditions"].as_array().context("no conditions yet")?.clone();
    let found = conditions.into_iter().find(|one| one["type"] == kind);
    found.with_context(|| format!("no condition {kind}: {}", read["status"]))
}

/// Each of these words, in the text.
fn names_all(text: &str, words: &BTreeSet<String>) -> Result<()> {
    let missing: Vec<&String> = words.iter().filter(|word| !text.contains(*word)).collect();
    ensure!(missing.is_empty(), "{missing:?} are not in {text}");
    Ok(())
}

struct World {
    cluster: &'static Cluster,
    spaces: BTreeMap<String, Namespace>,
    policies: Vec<Written>,
}

impl World {
    /// Namespaces, a server for each selector, a caller for each principal and another caller.
    fn make(cluster: &'static Cluster, policies: Vec<Written>) -> Result<World> {
        let mut wanted: BTreeMap<&str, (BTreeSet<&str>, BTreeSet<&str>)> = BTreeMap::new();
        for policy in &policies {
            let (servers, callers) = wanted.entry(&policy.namespace).or_default();
            servers.insert(&policy.app);
            callers.insert("another");
            for (namespace, account) in &policy.callers {
                wanted.entry(namespace).or_default().1.insert(account);
            }
        }
        let mut spaces = BTreeMap::new();
        for (name, (servers, callers)) in wanted {
            let space = Namespace::new(cluster, name, &json!({"culvert.dev/enroll": "true"}))?;
            let servers = servers.into_iter().map(|name| App::server(name, "node2"));
            let callers = callers.into_iter().map(|name| App::idle(name, "node1"));
            space.run(&servers.chain(callers).collect::<Vec<_>>())?;
            spaces.insert(name.to_owned(), space);
        }
        Ok(World { cluster, spaces, policies })
    }

    fn space(&self, name: &str) -> Result<&Namespace> {
        self.spaces.get(name).with_context(|| format!("no namespace {name}"))
    }

    /// Everybody who might be meant, and one who is not.
    fn callers<'a>(&self, policy: &'a Written) -> Vec<(&'a str, &'a str)> {
        let named = policy.callers.iter().map(|(namespace, account)| (namespace.as_str(), account.as_str()));
        named.chain([(policy.namespace.as_str(), "another")]).collect()
    }

    fn addresses(&self) -> Result<Vec<String>> {
        let address = |policy: &Written| {
            let space = self.space(&policy.namespace)?;
            space.service(&policy.app, 80, 8080)
        };
        self.policies.iter().map(address).collect()
    }

    fn is_said(&self, policy: &Written) -> Result<()> {
        within(Duration::from_secs(20), "conditions", || {
            let accepted = condition(self.cluster, policy, "Accepted")?;
            ensure!(accepted["status"] == "True", "{accepted}");
            let enforced = condition(self.cluster, policy, "Enforced")?;
            ensure!(enforced["status"] == "True" && enforced["reason"] == "Inexact", "{enforced}");
            names_all(enforced["message"].as_str().unwrap_or_default(), &policy.unseen)
        })?;
        within(Duration::from_secs(10), "an Event", || {
            let about = format!("--field-selector=involvedObject.name={},reason=IneffectiveRules", policy.name);
            let events = self.cluster.get_json(&["-n", &policy.namespace, "get", "events", &about])?;
            names_all(events["items"][0]["message"].as_str().context("none yet")?, &policy.unseen)
        })
    }

    /// What `culvert why` says of a caller whom the policy names.
    fn is_explained(&self, policy: &Written) -> Result<()> {
        let (namespace, account) = self.callers(policy)[0];
        let (source, destination) = (format!("{namespace}/{account}"), format!("{}/{}", policy.namespace, policy.app));
        let why = self.cluster.agent("node1")?.ask(&["why", &source, &destination, "80"])?;
        ensure!(why["allowed"] == false && why["reason"] == "no_allow_matched", "{why}");
        names_all(&why["notes"].to_string(), &policy.unseen)
    }
}

#[test]
fn every_manifest_applies_unchanged_and_lets_nobody_in_by_what_layer_4_cannot_see() -> Result<()> {
    let cluster = Cluster::get()?;
    let mut files: Vec<_> =
        std::fs::read_dir(cluster.seeds()?)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    files.retain(|file| file.extension().is_some_and(|extension| extension == "yaml"));
    files.sort();
    let (mut policies, mut tokens) = (Vec::new(), Vec::new());
    for file in &files {
        for object in objects(cluster, file)? {
            match object["kind"].as_str() {
                Some("AuthorizationPolicy") => policies.push(written(&object)?),
                Some("RequestAuthentication") => tokens.push(object["metadata"].clone()),
                _ => {}
            }
        }
    }
    ensure!(!policies.is_empty(), "no policy in {files:?}");
    let world = World::make(cluster, policies)?;
    let addresses = world.addresses()?;
    for (policy, to) in world.policies.iter().zip(&addresses) {
        for (namespace, account) in world.callers(policy) {
            world.space(namespace)?.reaches(account, to, &policy.app)?;
        }
    }
    for file in &files {
        cluster.kubectl(&["apply", "-f", &file.to_string_lossy()])?;
    }
    for (policy, to) in world.policies.iter().zip(&addresses) {
        for (namespace, account) in world.callers(policy) {
            world.space(namespace)?.refused(account, to)?;
        }
        world.is_said(policy).with_context(|| policy.name.clone())?;
        world.is_explained(policy).with_context(|| policy.name.clone())?;
        println!("{}/{}: nobody by {:?}", policy.namespace, policy.name, policy.unseen);
    }
    for object in &tokens {
        let (namespace, name) =
            (object["namespace"].as_str().unwrap_or_default(), object["name"].as_str().unwrap_or_default());
        within(Duration::from_secs(15), name, || {
            let read = cluster.get_json(&["-n", namespace, "get", "requestauthentication", name])?;
            let conditions = read["status"]["conditions"].as_array().context("no conditions yet")?;
            let enforced = conditions.iter().find(|one| one["type"] == "Enforced").context("not said yet")?;
            ensure!(enforced["status"] == "False" && enforced["reason"] == "NoL7Layer", "{enforced}");
            Ok(())
        })?;
    }
    Ok(())
}
