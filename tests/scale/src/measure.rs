//! The run itself: start, steady changes, a restart of the control plane, and what was seen of it.

use std::{
    collections::HashMap,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use culvert_workload::WorkloadUid;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use serde_json::Value;

use crate::{
    Size,
    agents::{Agents, Awaited, Event},
    api::Api,
    cluster::{Cluster, Pod},
    watchers::{Control, Use, used},
};

const MB: u64 = 1 << 20;
/// Patience for what takes no time when it works.
const PATIENCE: Duration = Duration::from_secs(120);

/// Targets that were missed.
#[derive(Default)]
struct Missed(Vec<String>);

impl Missed {
    fn hold(&mut self, holds: bool, what: &str) {
        if !holds {
            self.0.push(what.to_owned());
        }
    }
}

/// Runs all of it and prints it.
pub(crate) async fn measure(size: &Size) -> Result<ExitCode> {
    let folder = tempfile::tempdir()?;
    let cluster = Cluster::new(size);
    println!("{} pods, {} services, {} agents", size.pods, size.services, size.agents);
    let (api, address) = Api::start(Arc::clone(&cluster)).await?;
    let mut control = Control::start(folder.path(), address, size.whole_up_to).await?;
    let start = control.used()?;
    println!("control plane: serves {:.1} s after its start, {}", control.begun.elapsed().as_secs_f64(), shown(start));
    let roots = roots(address).await?;
    let before = used(std::process::id())?;
    let begun = Instant::now();
    let agents = Agents::start(&cluster, folder.path(), control.address, &roots).await?;
    agents.synced(PATIENCE).await?;
    println!("agents: joined and at a state within {:.1} s", begun.elapsed().as_secs_f64());
    let begun = Instant::now();
    agents.call(PATIENCE).await?;
    let calls = size.calls;
    println!("agents: {calls} services asked for by each, answered within {:.1} s", begun.elapsed().as_secs_f64());
    let mut missed = Missed::default();
    directory(&agents, before, &mut missed)?;
    steady(&cluster, &api, &control, &agents, &mut missed).await?;
    storm(&mut control, &agents, &mut missed).await?;
    let end = control.used()?;
    println!("control plane: at the end {}", shown(end));
    for target in &missed.0 {
        println!("MISSED: {target}");
    }
    Ok(if size.hold && !missed.0.is_empty() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn shown(used: Use) -> String {
    let Use { resident, most, processor } = used;
    format!("{} MB resident ({} MB at most), {:.1} s of processor", resident / MB, most / MB, processor.as_secs_f64())
}

/// The roots as operators give them to nodes: from the ConfigMap.
async fn roots(api: std::net::SocketAddr) -> Result<String> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut stream = tokio::net::TcpStream::connect(api).await?;
        let request = "GET /api/v1/namespaces/culvert-system/configmaps/culvert-root HTTP/1.0\r\n\r\n";
        stream.write_all(request.as_bytes()).await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        let body = text.split("\r\n\r\n").nth(1).unwrap_or_default();
        let map: Value = serde_json::from_str(body).unwrap_or(Value::Null);
        if let Some(pem) = map["data"]["root.pem"].as_str() {
            return Ok(pem.to_owned());
        }
        anyhow::ensure!(Instant::now() < deadline, "the roots are not shown");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn directory(agents: &Agents, before: Use, missed: &mut Missed) -> Result<()> {
    let now = used(std::process::id())?;
    let (workloads, services, compiled) = agents.held();
    let count = agents.all.len() as u64;
    let each = now.resident.saturating_sub(before.resident) / count;
    println!(
        "agents: {} workloads, {} services, {} rule sets on average; {:.2} MB each, connection and identity included",
        workloads as u64 / count,
        services as u64 / count,
        compiled / count,
        each as f64 / MB as f64
    );
    missed.hold(each < 60 * MB, "an agent's directory takes 60 MB or more");
    Ok(())
}

async fn steady(
    cluster: &Arc<Cluster>,
    api: &Arc<Api>,
    control: &Control,
    agents: &Agents,
    missed: &mut Missed,
) -> Result<()> {
    let size = &cluster.size;
    let (before, begun) = (control.used()?, Instant::now());
    let (own, first) = (used(std::process::id())?, control.sample("generation").await?);
    let sent = control.sample("xds_resources_sent_total").await?;
    let mut changes = Changes { cluster, api, agents, random: StdRng::seed_from_u64(7), busy: HashMap::new() };
    let mut events = Vec::new();
    let mut tick = tokio::time::interval(Duration::from_secs(1) / size.rate);
    while begun.elapsed() < size.measured() {
        tick.tick().await;
        events.push(changes.one());
    }
    let (after, took) = (control.used()?, begun.elapsed());
    let deadline = Instant::now() + PATIENCE;
    while events.iter().any(|event| event.missing.load(Ordering::Relaxed) > 0) && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let lost = events.iter().filter(|event| event.missing.load(Ordering::Relaxed) > 0).count();
    let mut latencies: Vec<u64> = events.iter().map(|event| event.last.load(Ordering::Relaxed) / 1000).collect();
    latencies.sort_unstable();
    let part = |part: f64| latencies[((latencies.len() - 1) as f64 * part) as usize];
    let cores = (after.processor - before.processor).as_secs_f64() / took.as_secs_f64();
    let agents_cores = (used(std::process::id())?.processor - own.processor).as_secs_f64() / took.as_secs_f64();
    println!(
        "{} changes in {:.0} s: {} generations, {} resources sent",
        events.len(),
        took.as_secs_f64(),
        control.sample("generation").await? - first,
        control.sample("xds_resources_sent_total").await? - sent
    );
    println!(
        "latency to the last concerned agent: p50 {} ms, p99 {} ms, most {} ms; {lost} never seen",
        part(0.5),
        part(0.99),
        part(1.0)
    );
    println!("control plane meanwhile: {cores:.2} cores, {}", shown(after));
    println!("stand-in and agents meanwhile: {agents_cores:.2} cores");
    missed.hold(lost == 0, "a change was never seen");
    missed.hold(part(0.99) < size.latency, "the latency's 99th percentile is too long");
    missed.hold(cores < 1.0, "the control plane takes a core or more");
    missed.hold(after.most < 1500 * MB, "the control plane takes 1.5 GB or more");
    Ok(())
}

/// Makes changes.
struct Changes<'c> {
    cluster: &'c Arc<Cluster>,
    api: &'c Arc<Api>,
    agents: &'c Agents,
    random: StdRng,
    /// Pods whose last change may still be on its way: they rest, so that each change can be seen.
    busy: HashMap<usize, Arc<Event>>,
}

impl Changes<'_> {
    /// A pod becomes ready or unready, or is replaced.
    fn one(&mut self) -> Arc<Event> {
        self.busy.retain(|_, event| event.missing.load(Ordering::Relaxed) > 0);
        let number = loop {
            let number = self.random.random_range(0..self.cluster.size.pods);
            if !self.busy.contains_key(&number) {
                break number;
            }
        };
        let replaced = self.random.random_bool(0.3);
        let event = Arc::new(Event { at: Instant::now(), last: AtomicU64::new(0), missing: AtomicU64::new(0) });
        // Awaited before it happens: it may be seen at once.
        let concerned = self.agents.concerned(number);
        let (before, now) = self.api.change(
            number,
            |pod| edit(pod, replaced),
            |before, now| {
                for agent in &concerned {
                    let expect = |uid: String, turn| {
                        event.missing.fetch_add(1, Ordering::Relaxed);
                        agent.expect(Awaited { uid: WorkloadUid::new(&uid), turn, event: Arc::clone(&event) });
                    };
                    if replaced {
                        expect(self.cluster.uid_of(before), None);
                    }
                    expect(self.cluster.uid_of(now), Some(now.turn));
                }
            },
        );
        debug_assert_eq!(before.turn + 1, now.turn);
        self.busy.insert(number, Arc::clone(&event));
        event
    }
}

fn edit(pod: &mut Pod, replaced: bool) -> &'static str {
    pod.turn += 1;
    if replaced {
        (pod.life, pod.ready) = (pod.life + 1, true);
        return "REPLACED";
    }
    pod.ready = !pod.ready;
    "MODIFIED"
}

/// The control plane is killed and started again: every agent comes back at once.
async fn storm(control: &mut Control, agents: &Agents, missed: &mut Missed) -> Result<()> {
    let before = agents.generations();
    let (workloads, services, _) = agents.held();
    control.restart().await?;
    let serves = control.begun.elapsed();
    let deadline = Instant::now() + PATIENCE;
    let back = || agents.generations().iter().zip(&before).filter(|(now, before)| now > before).count();
    while back() < agents.all.len() && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let took = control.begun.elapsed();
    let sent = control.sample("xds_resources_sent_total").await?;
    let held = workloads + services;
    println!(
        "control plane killed: serves again after {:.1} s, {} of {} agents at its state after {:.1} s; {sent} resources \
         sent to agents that hold {held}",
        serves.as_secs_f64(),
        back(),
        agents.all.len(),
        took.as_secs_f64()
    );
    missed.hold(back() == agents.all.len(), "not all agents came back");
    missed.hold(took.saturating_sub(serves) < Duration::from_secs(30), "the agents took 30 s or more to come back");
    // The mesh's settings, its bundle and policies are the same as well; what is sent is what changed meanwhile.
    missed.hold(sent < held as u64 / 10 + 100, "agents were sent what they had");
    control.used().context("it serves").map(drop)
}
