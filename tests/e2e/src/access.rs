//! What the agents say about connections: the `access` lines of their JSON log, one per connection.

use std::io::{Read as _, Seek as _, SeekFrom};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

/// One connection, as one agent saw it.
#[derive(Clone, Debug)]
pub struct Access {
    fields: Value,
}

impl Access {
    /// A line of the log, if it is about a connection.
    pub fn parse(line: &str) -> Option<Access> {
        let value: Value = serde_json::from_str(line).ok()?;
        if value["target"] != "access" {
            return None;
        }
        let fields = if value["fields"].is_object() { value["fields"].clone() } else { value };
        Some(Access { fields })
    }

    /// A field by its name, such as `outcome` or `src.identity`.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields[name].as_str()
    }

    /// A field that is a socket address.
    pub fn address(&self, name: &str) -> Option<SocketAddr> {
        self.field(name)?.parse().ok()
    }

    /// `outbound` or `inbound`.
    pub fn direction(&self) -> &str {
        self.field("direction").unwrap_or_default()
    }

    /// A field that is a number.
    pub fn number(&self, name: &str) -> Option<u64> {
        self.fields[name].as_u64()
    }

    /// How it ended.
    pub fn outcome(&self) -> &str {
        self.field("outcome").unwrap_or_default()
    }

    /// The deciding policy and rule, if a policy decided.
    pub fn policy(&self) -> Option<String> {
        let policy = self.field("policy")?;
        Some(match self.fields["rule"].as_u64() {
            Some(rule) => format!("{policy} rule {rule}"),
            None => policy.to_owned(),
        })
    }

    /// The whole record, for messages.
    pub fn text(&self) -> String {
        self.fields.to_string()
    }
}

/// Follows one agent's log.
#[derive(Debug)]
pub struct Follower {
    log: PathBuf,
    position: u64,
    rest: String,
    unclaimed: Vec<Access>,
}

impl Follower {
    /// From the present end of the log on.
    pub fn from_now(log: PathBuf) -> Follower {
        let position = std::fs::metadata(&log).map(|metadata| metadata.len()).unwrap_or(0);
        Follower { log, position, rest: String::new(), unclaimed: Vec::new() }
    }

    /// What is new since the last call, and what nobody has claimed before.
    pub fn news(&mut self) -> Result<Vec<Access>> {
        self.read()?;
        Ok(std::mem::take(&mut self.unclaimed))
    }

    fn read(&mut self) -> Result<()> {
        let mut file = std::fs::File::open(&self.log).with_context(|| format!("no log {}", self.log.display()))?;
        file.seek(SeekFrom::Start(self.position))?;
        let mut bytes = Vec::new();
        self.position += file.read_to_end(&mut bytes)? as u64;
        self.rest.push_str(&String::from_utf8_lossy(&bytes));
        while let Some((line, rest)) = self.rest.split_once('\n') {
            self.unclaimed.extend(Access::parse(line));
            self.rest = rest.to_owned();
        }
        Ok(())
    }

    /// Waits for a record that `fits` and claims it; others stay, because two pods of one node share a log.
    pub fn wait_for(&mut self, patience: Duration, fits: impl Fn(&Access) -> bool) -> Result<Option<Access>> {
        let deadline = Instant::now() + patience;
        loop {
            self.read()?;
            if let Some(position) = self.unclaimed.iter().position(&fits) {
                return Ok(Some(self.unclaimed.remove(position)));
            }
            if Instant::now() > deadline {
                return Ok(None);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// As [`Follower::wait_for`], but absence is an error that says what was looked for.
    pub fn demand(&mut self, patience: Duration, what: &str, fits: impl Fn(&Access) -> bool) -> Result<Access> {
        match self.wait_for(patience, fits)? {
            Some(access) => Ok(access),
            None => bail!("no record of {what} within {patience:?} in {}", self.log.display()),
        }
    }
}

/// The inbound record of a connection from `client` to `server`: the wire's client port is the agent's, so it is the
/// two addresses and the application's port that name it.
pub fn is_inbound(access: &Access, client: IpAddr, server: SocketAddr) -> bool {
    let target = access.address("dst.hbone_addr").or_else(|| access.address("dst.addr"));
    access.direction() == "inbound"
        && access.address("src.addr").is_some_and(|address| address.ip() == client)
        && target == Some(server)
}
