//! What the programs log when they are asked to.

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use culvert_netns_tests::peer::{self, Echo, Tricks, at};
use culvert_netns_tests::*;

/// Collects what `tracing` prints.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Lines {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

#[test]
fn ebpf_log_shows_one_decision_of_each_kind() {
    in_sandbox!(|| {
        let lines = Lines::default();
        let sink = lines.clone();
        tracing_subscriber::fmt().with_ansi(false).with_writer(move || sink.clone()).init();
        let lab = Lab::two_nodes()?;
        let pod = lab.node(1).pod("app", &PodOptions::default())?;
        let other = lab.node(2).pod("other", &PodOptions::default())?;
        let agent =
            Agent::with(lab.node(1), culvert_redirect::Config { ebpf_log: true, ..agent::config(lab.node(1)) })?;
        let taken = agent.enrol(&pod)?;
        let (here, there) =
            (Echo::start(pod.netns(), at(pod.ip4(), 80))?, Echo::start(other.netns(), at(other.ip4(), 80))?);
        let quick = Tricks { patience: Some(Duration::from_millis(300)), ..Tricks::default() };
        let _out = peer::connect(pod.netns(), there.address)?;
        let _in = peer::connect(other.netns(), here.address)?;
        let _self = peer::connect(pod.netns(), here.address)?;
        let _leg = taken.app_leg(other.ip4().into(), here.address)?;
        let _wire = taken.wire(there.address)?;
        assert!(peer::connect_with(pod.netns(), there.address, Tricks { bind_device: true, ..quick }).is_err());
        pod.netns().ip("addr add 10.99.0.1/32 dev eth0")?;
        lab.node(1).netns().ip(&format!("route add 10.99.0.1 via {} dev {} onlink", pod.ip4(), pod.host_veth()))?;
        assert!(peer::connect_with(lab.node(1).netns(), at(std::net::Ipv4Addr::new(10, 99, 0, 1), 80), quick).is_err());
        let app = pod.ip4();
        for expected in [
            format!("steer decision=steer_outbound pod={} source=::ffff:{app}", taken.pod.host_ifindex),
            "steer decision=steer_inbound".to_owned(),
            "steer decision=steer_self".to_owned(),
            "steer decision=steer_app_leg".to_owned(),
            "steer decision=steer_foreign".to_owned(),
            "guard decision=guard_tagged".to_owned(),
            "guard decision=untagged_tcp".to_owned(),
        ] {
            eventually(&expected, agent::PATIENCE, || Ok(lines.text().contains(&expected)))
                .with_context(|| lines.text())?;
        }
        // Off, the programs write nothing, which is more than that nobody reads it.
        drop((taken, agent));
        let path = format!("{}/culvert/v1/node1/maps/AYA_LOGS", culvert_lab::sandbox::BPFFS);
        let agent = Agent::start(lab.node(1))?;
        let taken = agent.enrol(&pod)?;
        let mut ring: aya::maps::RingBuf<_> =
            aya::maps::Map::RingBuf(aya::maps::MapData::from_pin(path)?).try_into()?;
        while ring.next().is_some() {}
        let _out = peer::connect(pod.netns(), there.address)?;
        taken.outbound(false)?;
        assert!(ring.next().is_none());
        Ok(())
    });
}
