//! Where identities come from: keys, signing client, rotation.
