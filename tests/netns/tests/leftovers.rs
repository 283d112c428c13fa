//! What is open, or left over, when an agent takes a pod: kept connections, an earlier capture, app legs
//! of an agent that was killed.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use culvert_netns_tests::frame;
use culvert_netns_tests::peer::{self, Echo, Tricks, at};
use culvert_netns_tests::raw::{self, PacketSocket};
use culvert_netns_tests::*;
use culvert_redirect::OpenFlows;

const SHORT: Duration = Duration::from_millis(1200);

fn quick() -> Tricks {
    Tricks { patience: Some(SHORT), ..Tricks::default() }
}

fn pins() -> PathBuf {
    Path::new(culvert_lab::sandbox::BPFFS).join("culvert/v1/node1")
}

#[test]
fn t10d_a_successor_frees_the_ports_of_its_predecessors_app_legs() {
    in_sandbox!(|| {
        let lab = Lab::two_nodes()?;
        let pod = lab.node(1).pod("app", &PodOptions::default())?;
        let client = lab.node(2).pod("client", &PodOptions::default())?;
        let app = Echo::start(pod.netns(), at(pod.ip4(), 80))?;
        let (mut leg, protection) =
            Agent::start(lab.node(1))?.enrol(&pod)?.app_leg(client.ip4().into(), app.address)?;
        peer::ping(&mut leg, b"before")?;
        let source = leg.local_addr()?;
        // As a kill would leave it: nobody removes the entry.
        std::mem::forget(protection);
        let agent = Agent::start(lab.node(1))?;
        let taken = agent.enrol(&pod)?;
        leg.read(&mut [0; 1]).unwrap_err();
        let tricks = Tricks { source: Some(source), ..quick() };
        let _wire = peer::connect_with(client.netns(), app.address, tricks)?;
        assert_eq!(taken.inbound(false)?.client, source);
        // One that lives is left alone when the same agent enrols again.
        let (mut leg, _protection) = taken.app_leg(client.ip4().into(), app.address)?;
        let again = agent.enrol(&pod)?;
        peer::ping(&mut leg, b"still")?;
        let tricks = Tricks { source: Some(leg.local_addr()?), ..quick() };
        assert!(peer::connect_with(client.netns(), app.address, tricks).is_err());
        drop(again);
        Ok(())
    });
}

#[test]
fn t16c_a_kept_connection_is_not_opened_anew_and_ends_when_the_pod_becomes_strict() {
    in_sandbox!(|| {
        let lab = Lab::two_nodes()?;
        let pod = lab.node(1).pod("app", &PodOptions::default())?;
        let other = lab.node(2).pod("other", &PodOptions::default())?;
        let mut pairs = peer::in_each_direction(&pod, &other)?;
        let agent = Agent::start(lab.node(1))?;
        let settings = |open_flows| PodSettings { open_flows, ..PodSettings::default() };
        let keep = OpenFlows::Keep { at_most: 256, at_longest: Duration::from_secs(60) };
        let _taken = agent.enrol_with(&pod, settings(keep))?;
        pairs.iter_mut().try_for_each(peer::talk)?;
        let ours = pairs[0].0.local_addr()?;
        let theirs = pairs[0].0.peer_addr()?;
        let raw = PacketSocket::open(pod.netns(), "eth0")?;
        let untagged = agent.count(&pod, Counter::DropUntagged)?;
        raw.send(&raw::ip_frame(&pod, frame::Segment::new(ours, theirs, frame::flag::SYN).packet())?)?;
        assert_eq!(agent.count(&pod, Counter::DropUntagged)?, untagged + 1);
        // What says nothing about that changes nothing.
        agent.on_node(|redirect| Ok(redirect.update("app", settings(keep))?))?;
        pairs.iter_mut().try_for_each(peer::talk)?;
        agent.on_node(|redirect| Ok(redirect.update("app", settings(OpenFlows::Cut))?))?;
        for (mut client, mut served) in pairs {
            for end in [&mut client, &mut served] {
                end.set_read_timeout(Some(Duration::from_secs(1)))?;
                let kind = end.read(&mut [0; 1]).unwrap_err().kind();
                assert!(
                    matches!(kind, std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::ConnectionAborted),
                    "{kind}"
                );
            }
        }
        assert!(!pod.netns().ip("rule show")?.contains("93:") && !pod.netns().ip("-6 rule show")?.contains("93:"));
        let before = agent.count(&pod, Counter::DropUntagged)?;
        let data = frame::Segment::new(ours, theirs, frame::flag::ACK).with_data(b"late");
        raw.send(&raw::ip_frame(&pod, data.packet())?)?;
        assert_eq!(agent.count(&pod, Counter::DropUntagged)?, before + 1);
        Ok(())
    });
}

#[test]
fn t16d_what_an_agent_has_captured_before_is_not_kept() {
    in_sandbox!(|| {
        let lab = Lab::two_nodes()?;
        let other = lab.node(2).pod("other", &PodOptions::default())?;
        let echo = Echo::start(other.netns(), at(other.ip4(), 80))?;
        let keep = OpenFlows::Keep { at_most: 256, at_longest: Duration::from_secs(60) };
        // What is left of the earlier capture: rules without the pin of steering, that pin without
        // rules, or the pins of another version only.
        for left in ["rules", "steer", "version"] {
            let pod = lab.node(1).pod(left, &PodOptions::default())?;
            let taken = Agent::start(lab.node(1))?.enrol(&pod)?;
            let _client = peer::connect(pod.netns(), echo.address)?;
            let _accepted = taken.outbound(false)?;
            let folder = pins().join("pods").join(left);
            if left != "rules" {
                pod.netns().ip("rule del pref 100")?;
                pod.netns().ip("-6 rule del pref 100")?;
            }
            if left == "steer" {
                // So that its guard is not taken for complete.
                std::fs::remove_file(pins().join("maps/pod_policy"))?;
            } else {
                std::fs::remove_file(folder.join("steer"))?;
            }
            if left == "version" {
                let earlier = Path::new(culvert_lab::sandbox::BPFFS).join("culvert/v0/node1/pods").join(left);
                std::fs::create_dir_all(earlier)?;
            }
            let agent = Agent::start(lab.node(1))?;
            let settings = PodSettings { open_flows: keep, ..PodSettings::default() };
            let _again = agent.enrol_with(&pod, settings)?;
            assert!(!pod.netns().ip("rule show")?.contains("93:"), "{left}");
        }
        Ok(())
    });
}
