//! The environment of a call: command, namespace, and whose pod it is.

use std::{collections::BTreeMap, env, path::PathBuf};

use crate::failure::{Failure, code};

/// `CNI_*`, as given.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    values: BTreeMap<String, String>,
}

/// The pod of a call. A runtime that is not Kubernetes' names none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodName {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID; older runtimes do not say it.
    pub uid: Option<String>,
}

impl Environment {
    /// That of this process.
    pub fn of_process() -> Self {
        Self::from(env::vars_os().filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?))))
    }

    /// Only what concerns a CNI plugin.
    pub fn from(values: impl IntoIterator<Item = (String, String)>) -> Self {
        Self { values: values.into_iter().filter(|(key, _)| key.starts_with("CNI_")).collect() }
    }

    /// A variable that has to be there.
    pub fn required(&self, name: &str) -> Result<&str, Failure> {
        let value = self.values.get(name).map(String::as_str).filter(|value| !value.is_empty());
        value.ok_or_else(|| {
            Failure::new(code::ENVIRONMENT, format!("culvert: {name} is not set"), "the runtime sets it")
        })
    }

    /// The container's network namespace, where the runtime still has one.
    pub fn netns(&self) -> Option<PathBuf> {
        self.values.get("CNI_NETNS").filter(|path| !path.is_empty()).map(PathBuf::from)
    }

    /// The pod in `CNI_ARGS` (`KEY=VALUE;...`).
    pub fn pod(&self) -> Option<PodName> {
        let arguments = self.values.get("CNI_ARGS")?;
        let named = |key: &str| {
            let pairs = arguments.split(';').filter_map(|pair| pair.split_once('='));
            pairs.filter(|(name, _)| *name == key).map(|(_, value)| value.to_owned()).find(|value| !value.is_empty())
        };
        Some(PodName {
            namespace: named("K8S_POD_NAMESPACE").filter(|name| is_name(name))?,
            name: named("K8S_POD_NAME").filter(|name| is_name(name))?,
            uid: named("K8S_POD_UID").filter(|uid| is_name(uid)),
        })
    }
}

/// Names become parts of a URL.
fn is_name(text: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.';
    text.len() <= 253 && !text.starts_with('.') && text.bytes().all(good)
}
