//! One question to the agent: a line of JSON each way.

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use anyhow::{Context, bail};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(30);

/// Asks; gives what the agent answered, or its own words for why there is no answer.
pub(crate) fn ask(socket: &Path, question: &Value) -> anyhow::Result<Value> {
    let mut stream = UnixStream::connect(socket).with_context(|| {
        format!(
            "no agent answers at {} (does it run, and are you root? --socket FILE names another one)",
            socket.display()
        )
    })?;
    stream.set_read_timeout(Some(PATIENCE))?;
    writeln!(stream, "{question}").context("the agent does not listen")?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).context("the agent does not answer")?;
    let mut answer: Value = serde_json::from_str(&line).context("the agent's answer is not JSON")?;
    if let Some(ok) = answer.get_mut("ok") {
        return Ok(ok.take());
    }
    let field = |name: &str| answer["error"][name].as_str().unwrap_or("unknown").to_owned();
    bail!("{} ({})", field("message"), field("reason"))
}
