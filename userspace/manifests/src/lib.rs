//! Kubernetes and Istio YAML, read strictly, with file, object, field and remedy in every complaint. Pure.
