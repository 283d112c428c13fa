//! Pods that come and go leave nothing behind.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, ensure};
use culvert_cluster::{App, Cluster, Namespace, within};
use serde_json::json;

const NODES: [&str; 2] = ["node1", "node2"];
const PODS_PER_MINUTE: u32 = 200;
/// As many at a time as two kubelets on two cores keep up with.
const ALIVE: usize = 24;

/// What a node holds for pods, each as a command that prints how many.
const HELD: &[(&str, &str)] = &[
    ("namespaces", "ls /run/netns 2>/dev/null | wc -l"),
    ("links", "ls /sys/class/net | wc -l"),
    ("routes", "ip route show table all | grep -v ^broadcast | wc -l"),
    ("pins", "find /sys/fs/bpf | wc -l"),
    ("book", "ls /run/culvert/agent/pods | wc -l"),
    ("addresses", "ls /var/lib/cni/networks/pods 2>/dev/null | wc -l"),
    // Of the programs that could keep a pod's namespace or sockets alive.
    (
        "keeper",
        "for p in /proc/[0-9]*; do [ \"$(cat $p/comm)\" = culvert-keeper ] && ls $p/fd; done 2>/dev/null | wc -l",
    ),
    (
        "listeners",
        "for p in /proc/[0-9]*; do [ \"$(cat $p/comm)\" = culvert-agent ] && ls -l $p/fd; done 2>/dev/null | grep -c -e socket: -e net: ",
    ),
];

/// Sockets that an agent has open for other reasons than pods, and that may be others a minute later: tunnels of other
/// pods, its control stream, a metrics client.
const OTHER_SOCKETS: usize = 6;

fn held(cluster: &'static Cluster, node: &str) -> Result<BTreeMap<&'static str, usize>> {
    let mut counts = BTreeMap::new();
    for (what, list) in HELD {
        let counted = cluster.on(node, &["sh", "-c", list])?;
        counts.insert(*what, counted.trim().parse().with_context(|| format!("{what}: {counted}"))?);
    }
    let status = cluster.agent(node)?.ask(&["status"])?;
    let count = |what: &str| status[what].as_array().map(Vec::len).with_context(|| format!("{what}: {status}"));
    counts.insert("certificates", count("identities")?);
    counts.insert("pods", count("pods")?);
    Ok(counts)
}

/// Xorshift: which number comes next matters to nobody, only that a run can be repeated.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % limit.max(1) as u64).unwrap_or_default()
    }
}

/// Makes and deletes pods at random until all have been made and the time is over.
fn come_and_go(cluster: &Cluster, space: &Namespace, dice: &mut Dice, minutes: u32) -> Result<()> {
    let pods = usize::try_from(PODS_PER_MINUTE * minutes)?;
    let time = Duration::from_secs(60) * minutes;
    let (begun, mut made) = (Instant::now(), 0);
    let mut alive: Vec<String> = Vec::new();
    while made < pods || begun.elapsed() < time {
        // As many as are due by now, and not more than there is room for.
        let due = usize::try_from(begun.elapsed().as_millis() * u128::from(PODS_PER_MINUTE) / 60_000)?;
        let wanted = due.max(made + 1).min(pods).min(made + ALIVE - alive.len().min(ALIVE));
        let names: Vec<String> = (made..wanted).map(|number| format!("pod-{number}")).collect();
        made = made.max(wanted);
        let account = json!({"serviceAccountName": format!("account-{}", dice.below(5))});
        let apps = names.iter().map(|name| App { spec: account.clone(), ..App::idle(name, NODES[dice.below(2)]) });
        let apps: Vec<App<'_>> = apps.collect();
        if !apps.is_empty() {
            space.create(&apps)?;
        }
        alive.extend(names);
        let goes = dice.below(alive.len() / 2 + 1).max(usize::from(alive.len() >= ALIVE));
        let gone: Vec<String> = (0..goes).map(|_| alive.swap_remove(dice.below(alive.len()))).collect();
        if !gone.is_empty() {
            let mut words = vec!["-n", space.name(), "delete", "pod", "--wait=false"];
            words.extend(gone.iter().map(String::as_str));
            cluster.kubectl(&words)?;
        }
        std::thread::sleep(Duration::from_millis(300));
    }
    println!("{made} pods in {:.0} s, the last {} of them still there", begun.elapsed().as_secs_f32(), alive.len());
    let pods: Vec<String> = alive.iter().map(|name| format!("pod/{name}")).collect();
    let mut words = vec!["-n", space.name(), "wait", "--for=condition=Ready", "--timeout=120s"];
    words.extend(pods.iter().map(String::as_str));
    cluster.kubectl(&words)?;
    cluster.kubectl(&["-n", space.name(), "delete", "pod", "--all", "--wait=true", "--timeout=120s"]).map(drop)
}

fn leave_nothing_behind(name: &str, minutes: u32) -> Result<()> {
    let cluster = Cluster::get()?;
    // Pods of tests before this one are not to be counted.
    within(Duration::from_secs(90), "the end of other tests' pods", || {
        let pods = cluster.kubectl(&["get", "pods", "-A", "--no-headers"])?;
        let others: Vec<&str> = pods.lines().filter(|line| !line.starts_with("culvert-system ")).collect();
        ensure!(others.is_empty(), "{others:?}");
        Ok(())
    })?;
    let space = Namespace::new(cluster, name, &json!({"culvert.dev/enroll": "true"}))?;
    for number in 0..5 {
        cluster.kubectl(&["-n", name, "create", "serviceaccount", &format!("account-{number}")])?;
    }
    let before = [held(cluster, "node1")?, held(cluster, "node2")?];
    let seed = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs() | 1;
    println!("seed {seed}, before {before:?}");
    come_and_go(cluster, &space, &mut Dice(seed), minutes)?;
    within(Duration::from_secs(90), "the last traces", || {
        for (node, before) in NODES.into_iter().zip(&before) {
            let now = held(cluster, node)?;
            let more = |what: &str| if what == "listeners" { OTHER_SOCKETS } else { 0 };
            ensure!(
                now.iter().all(|(what, count)| *count <= before[what] + more(what)),
                "{node}: before {before:?}, now {now:?}"
            );
        }
        Ok(())
    })
}

#[test]
fn two_hundred_pods_that_come_and_go_at_random_leave_nothing_behind() -> Result<()> {
    leave_nothing_behind("churn", 1)
}

#[test]
#[ignore = "takes minutes: --long"]
fn a_thousand_pods_that_come_and_go_at_random_leave_nothing_behind() -> Result<()> {
    leave_nothing_behind("churn-long", 5)
}
