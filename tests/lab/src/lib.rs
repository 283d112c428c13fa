//! Two nodes and their pods in network namespaces, for tests and the demo.
//!
//! Everything happens in a sandbox ([`sandbox`]) whose first process takes the namespaces, mounts, pins and processes
//! with it when it dies, so that nothing is left on the machine however a run ends.
//!
//! ```no_run
//! use culvert_lab::{Lab, PodOptions, in_sandbox};
//!
//! // In a test file, with `#[test]` on it:
//! fn one_pod_reaches_another_across_the_link() {
//!     in_sandbox!(|| {
//!         let lab = Lab::two_nodes()?;
//!         let client = lab.node(1).pod("client", &PodOptions::default())?;
//!         let server = lab.node(2).pod("server", &PodOptions::default())?;
//!         let listener = server.netns().enter(|| Ok(std::net::TcpListener::bind("0.0.0.0:80")?))?;
//!         let address = (server.ip4(), listener.local_addr()?.port());
//!         let _stream = client.netns().enter(|| Ok(std::net::TcpStream::connect(address)?))?;
//!         Ok(())
//!     })
//! }
//! ```

pub mod capture;
pub mod netns;
pub mod process;
pub mod report;
pub mod sandbox;
mod shell;
pub mod topology;
pub mod ztunnel;

pub use anyhow;

pub use capture::Capture;
pub use netns::Netns;
pub use process::Process;
pub use topology::{Lab, Node, Pod, PodOptions, PodStyle};
