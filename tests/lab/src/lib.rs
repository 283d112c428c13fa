//! Two nodes and their pods in network namespaces, for tests and the demo.
