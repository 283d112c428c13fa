//! Where identities come from: keys made here, certificates signed by the control plane, renewal in time,
//! erasure with the last pod.
//!
//! ```text
//! let port = ControlPort::new("control:15012", trust.clone(), &domain);
//! let node = match node::load(&run_dir, &domain)? { Some(n) => n, None => node::join(&port, &token, &clock).await? };
//! let node = NodeIdentity::start(node, port.clone(), Some(run_dir), clock.clone(), observer.clone())?;
//! let signer = Signer::new(port.clone(), node.identity().clone());
//! let keeper = Keeper::new(signer, trust, KeeperSettings::default(), clock, observer);
//! let local = keeper.hold(&id, &pod_uid);      // LocalIdentity of culvert-mtls: `no_svid` until the CA answered
//! keeper.release(&pod_uid);                    // the last pod takes the key with it
//! ```

mod answer;
mod channel;
mod clock;
mod issue;
mod keeper;
mod key;
pub mod node;
mod observer;
mod rotation;
mod signer;

pub use channel::{Bearer, ControlChannel, ControlPort};
pub use clock::{Clock, SystemClock, WallOf};
pub use issue::{Issue, IssueError, Request};
pub use keeper::{Keeper, KeeperSettings};
pub use key::Key;
pub use node::{JoinError, NodeCredentials, NodeIdentity, StoreError};
pub use observer::{NoObserver, Observer};
pub use rotation::Status;
pub use signer::Signer;
