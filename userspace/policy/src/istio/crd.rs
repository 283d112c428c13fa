//! The CustomResourceDefinitions of the kinds that are read here, made from the same shapes that check objects.
//!
//! Unknown fields are kept, not pruned: a rule that silently lost a misspelt part would let in more than its author wrote.
//! What a schema cannot say is refused at admission. Nothing uses CEL, which older servers drop: that there is one Mesh is
//! said by the names that it may have.

use serde_json::{Map, Value, json};

use super::{
    GROUP,
    schema::{AUTHENTICATION, AUTHORIZATION, SELECTOR, TARGETS},
    shape::Shape,
};

/// What sets one definition apart from another.
struct Definition {
    group: &'static str,
    kind: &'static str,
    plural: &'static str,
    short: &'static [&'static str],
    scope: &'static str,
    /// The first is the one that is stored.
    versions: &'static [&'static str],
    spec: Value,
    /// The only name that an object may have.
    name: Option<&'static str>,
}

/// All definitions: three of security.istio.io and culvert's own Mesh.
pub fn definitions() -> Vec<Value> {
    let istio = |kind, plural, short, spec| Definition {
        group: GROUP,
        kind,
        plural,
        short,
        scope: "Namespaced",
        versions: &["v1", "v1beta1"],
        spec,
        name: None,
    };
    let mesh = Definition {
        group: "culvert.dev",
        kind: "Mesh",
        plural: "meshes",
        short: &[],
        scope: "Cluster",
        versions: &["v1alpha1"],
        spec: mesh(),
        name: Some("mesh"),
    };
    [
        istio("AuthorizationPolicy", "authorizationpolicies", &["ap"], AUTHORIZATION.schema()),
        istio("PeerAuthentication", "peerauthentications", &["pa"], AUTHENTICATION.schema()),
        istio("RequestAuthentication", "requestauthentications", &["ra"], request_authentication()),
        mesh,
    ]
    .into_iter()
    .map(Definition::object)
    .collect()
}

impl Definition {
    fn object(self) -> Value {
        let versions: Vec<Value> = self.versions.iter().map(|name| self.version(name)).collect();
        let mut names = json!({
            "kind": self.kind,
            "listKind": format!("{}List", self.kind),
            "plural": self.plural,
            "singular": self.kind.to_lowercase(),
        });
        if !self.short.is_empty() {
            names["shortNames"] = json!(self.short);
        }
        json!({
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            // With the definition every object of the kind would go: what removes the chart (Argo CD, say) leaves it.
            "metadata": {"name": format!("{}.{}", self.plural, self.group),
                "annotations": {"helm.sh/resource-policy": "keep"}},
            "spec": {"group": self.group, "names": names, "scope": self.scope, "versions": versions},
        })
    }

    fn version(&self, name: &str) -> Value {
        let status = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
        let mut members = json!({"spec": self.spec, "status": status});
        if let Some(only) = self.name {
            // Of metadata a schema may speak of names alone.
            members["metadata"] = json!({"type": "object", "properties": {"name": {"type": "string", "enum": [only]}}});
        }
        let age = json!({"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"});
        json!({
            "name": name,
            "served": true,
            "storage": self.versions.first() == Some(&name),
            "additionalPrinterColumns": [age],
            "schema": {"openAPIV3Schema": record(members)},
            "subresources": {"status": {}},
        })
    }
}

impl Shape {
    /// As an OpenAPI schema.
    fn schema(&self) -> Value {
        match self {
            Self::Record(fields, required) => {
                let fields: Map<String, Value> =
                    fields.iter().map(|(name, shape)| ((*name).to_owned(), shape.schema())).collect();
                let mut schema = record(Value::Object(fields));
                if !required.is_empty() {
                    schema["required"] = json!(required);
                }
                schema
            }
            Self::Table { value, min, max } => {
                let mut schema = json!({"type": "object", "additionalProperties": value.schema()});
                bounds(&mut schema, "Properties", *min, *max);
                schema
            }
            Self::List(item, max) => {
                let mut schema = json!({"type": "array", "items": item.schema()});
                bounds(&mut schema, "Items", 0, *max);
                schema
            }
            Self::Text { min, max, .. } => {
                let mut schema = json!({"type": "string"});
                bounds(&mut schema, "Length", *min, *max);
                schema
            }
            Self::Choice(words) => json!({"type": "string", "enum": words}),
        }
    }
}

fn record(fields: Value) -> Value {
    json!({"type": "object", "properties": fields, "x-kubernetes-preserve-unknown-fields": true})
}

fn bounds(schema: &mut Value, of: &str, min: usize, max: usize) {
    if min > 0 {
        schema[format!("min{of}")] = json!(min);
    }
    if max < usize::MAX {
        schema[format!("max{of}")] = json!(max);
    }
}

/// Read by a waypoint, not by culvert's L4 layer: only the outer form is checked.
fn request_authentication() -> Value {
    let texts = || json!({"type": "array", "items": {"type": "string"}});
    let headers = record(json!({"name": {"type": "string"}, "prefix": {"type": "string"}}));
    let claims = record(json!({"header": {"type": "string"}, "claim": {"type": "string"}}));
    let rule = record(json!({
        "issuer": {"type": "string"},
        "audiences": texts(),
        "jwksUri": {"type": "string"},
        "jwks_uri": {"type": "string"},
        "jwks": {"type": "string"},
        "fromHeaders": {"type": "array", "items": headers},
        "fromParams": texts(),
        "fromCookies": texts(),
        "outputPayloadToHeader": {"type": "string"},
        "outputClaimToHeaders": {"type": "array", "items": claims},
        "forwardOriginalToken": {"type": "boolean"},
        "timeout": {"type": "string"},
    }));
    record(json!({
        "selector": SELECTOR.schema(),
        "targetRefs": TARGETS.schema(),
        "jwtRules": {"type": "array", "maxItems": 4096, "items": rule},
    }))
}

fn mesh() -> Value {
    let texts = || json!({"type": "array", "items": {"type": "string"}});
    record(json!({
        "trustDomain": {"type": "string", "maxLength": 255},
        "trustDomainAliases": texts(),
        "rootNamespace": {"type": "string"},
        "defaultMode": {"type": "string", "enum": ["PERMISSIVE", "STRICT"]},
        "defaultAction": {"type": "string", "enum": ["ALLOW", "DENY"]},
        "podCIDRs": texts(),
        "serviceCIDRs": texts(),
    }))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// YAML with quoted texts, for people to read in a diff.
    fn yaml(value: &Value, indent: usize, out: &mut String) {
        let pad = " ".repeat(indent);
        match value {
            Value::Object(members) if !members.is_empty() => {
                for (name, member) in members {
                    out.push_str(&format!("\n{pad}{name}:"));
                    yaml(member, indent + 2, out);
                }
            }
            Value::Array(items) if !items.is_empty() => {
                for item in items {
                    out.push_str(&format!("\n{pad}- "));
                    let mut inner = String::new();
                    yaml(item, indent + 2, &mut inner);
                    out.push_str(inner.trim_start());
                }
            }
            other => out.push_str(&format!(" {other}")),
        }
    }

    /// The chart's definitions are these. `CULVERT_WRITE=1 cargo test -p culvert-policy chart` writes them.
    #[test]
    fn the_chart_has_the_definitions_that_follow_from_the_shapes() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/helm/culvert/crds");
        for definition in definitions() {
            let mut text = String::from("# Made from userspace/policy/src/istio; a test compares.");
            yaml(&definition, 0, &mut text);
            text.push('\n');
            let file = folder.join(format!("{}.yaml", definition["spec"]["names"]["plural"].as_str().unwrap()));
            if std::env::var_os("CULVERT_WRITE").is_some() {
                std::fs::write(&file, &text).unwrap();
            }
            let written = std::fs::read_to_string(&file).unwrap_or_default();
            assert!(written == text, "{} is not what the shapes say: run this with CULVERT_WRITE=1", file.display());
        }
    }

    #[test]
    fn every_record_keeps_unknown_fields_for_admission_to_see() {
        fn check(schema: &Value) {
            if schema["properties"].is_object() {
                assert_eq!(schema["x-kubernetes-preserve-unknown-fields"], true, "{schema}");
                schema["properties"].as_object().unwrap().values().for_each(check);
            }
            for inner in ["items", "additionalProperties"] {
                schema.get(inner).into_iter().for_each(check);
            }
        }
        for definition in definitions() {
            for version in definition["spec"]["versions"].as_array().unwrap() {
                let mut schema = version["schema"]["openAPIV3Schema"].clone();
                // Of it a schema can say no more than names.
                schema["properties"].as_object_mut().unwrap().remove("metadata");
                check(&schema);
            }
        }
    }
}
