//! What may leave an enrolled pod.

use culvert_netns_tests::peer::{self, Echo, Tricks, at};
use culvert_netns_tests::*;

#[test]
fn t07_the_guard_drops_the_escape_and_passes_the_agent() {
    in_sandbox!(|| {
        let lab = Lab::two_nodes()?;
        let pod = lab.node(1).pod("app", &PodOptions::default())?;
        let server = lab.node(2).pod("server", &PodOptions::default())?;
        let agent = Agent::start(lab.node(1))?;
        let taken = agent.enrol(&pod)?;
        for ip in server.ips() {
            let echo = Echo::start(server.netns(), at(ip, 80))?;
            peer::ping(&mut taken.wire(echo.address)?, b"from the agent")?;
            assert!(pod.ips().contains(&echo.peer()?.ip()));
            let escape = Tricks { bind_device: true, patience: Some(agent::PATIENCE / 4), ..Tricks::default() };
            let before = agent.count(&pod, Counter::DropUntagged)?;
            assert!(peer::connect_with(pod.netns(), echo.address, escape).is_err());
            assert!(echo.is_unvisited());
            assert!(agent.count(&pod, Counter::DropUntagged)? > before);
        }
        Ok(())
    });
}
