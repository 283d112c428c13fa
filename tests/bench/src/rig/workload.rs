//! The workloads, by name.

/// One workload.
#[derive(Clone, Debug)]
pub(crate) struct Workload {
    /// Its name, also for `--only`.
    pub(crate) name: String,
    /// What it is, in words.
    pub(crate) title: String,
    /// Arguments of the load.
    pub(crate) words: Vec<String>,
    /// Part of a run that names none.
    pub(crate) usual: bool,
    /// A second load at the same time, whose figures are the bulk's beside the requests.
    pub(crate) beside: Option<Vec<String>>,
}

impl Workload {
    /// All there are.
    pub(crate) fn all() -> Vec<Workload> {
        let mut all = Vec::new();
        for streams in [1, 4, 16] {
            let title = format!("bulk, {streams} stream{}", if streams == 1 { "" } else { "s" });
            all.push(Workload::new(format!("bulk{streams}"), title, format!("bulk --streams {streams}")));
        }
        for connections in [1, 16, 64, 1000] {
            let title = format!("requests of 1 KB, {connections} connections");
            let words = format!("requests --connections {connections}");
            all.push(Workload::new(format!("c{connections}"), title, words));
        }
        for (size, name) in [(64, "64b"), (16384, "16k")] {
            let title = format!("requests of {size} B, 16 connections");
            let words = format!("requests --connections 16 --size {size}");
            all.push(Workload::new(format!("c16-{name}"), title, words));
        }
        for (rate, size, suffix) in [(1000, 1024, ""), (5000, 1024, ""), (5000, 64, "-64b"), (5000, 16384, "-16k")] {
            let title = format!("{rate} requests/s of {size} B at a fixed rate, 16 connections");
            let words = format!("requests --connections 16 --rate {rate} --size {size}");
            all.push(Workload::new(format!("rate{rate}{suffix}"), title, words));
        }
        for (at_a_time, name) in [(16, "connects"), (1, "connects1")] {
            let title = format!("new connections, {at_a_time} at a time");
            all.push(Workload::new(name.to_owned(), title, format!("connects --at-a-time {at_a_time}")));
        }
        let title = "requests of 1 KB, 16 connections, beside one bulk stream".to_owned();
        let mut mice = Workload::new("mice".to_owned(), title, "requests --connections 16".to_owned());
        mice.beside = Some(words("bulk --streams 1"));
        all.push(mice);
        let title = "requests of 1 KB, 16 connections, beside eight streams that nobody reads".to_owned();
        let load = "requests --connections 16".to_owned();
        let mut stalled = Workload::new("c16-stalled".to_owned(), title, load);
        stalled.beside = Some(words("stall --streams 8"));
        all.push(stalled);
        let title = "eight streams that nobody reads".to_owned();
        all.push(Workload::new("stall8".to_owned(), title, "stall --streams 8".to_owned()));
        for connections in [1000, 5000, 10_000] {
            let title = format!("{connections} idle connections, and 30 s after their end");
            let load = format!("idle --connections {connections} --linger 30");
            all.push(Workload::new(format!("idle{connections}"), title, load));
        }
        all
    }

    /// Whether more of something is done by a faster proxy; connections that are only held, and fixed rates, tell nothing.
    pub(crate) fn is_timed(&self) -> bool {
        !["idle", "stall", "rate"].iter().any(|word| self.name.starts_with(word))
    }

    fn new(name: String, title: String, load: String) -> Workload {
        let usual = ["bulk1", "bulk4", "c1", "c16", "c64", "connects", "mice"].contains(&name.as_str());
        Workload { name, title, words: words(&load), usual, beside: None }
    }
}

fn words(load: &str) -> Vec<String> {
    load.split(' ').map(str::to_owned).collect()
}
