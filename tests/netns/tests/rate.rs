//! Many connections of one client to one port: source ports must be had again in time.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use culvert_netns_tests::peer::{self, at};
use culvert_netns_tests::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// More than there are ports for app legs (22,528), so that each port is used again, many of them
/// while their last connection is in TIME_WAIT.
const CONNECTIONS: usize = 30_000;
const AT_ONCE: usize = 32;

#[derive(Clone, Copy, Debug, PartialEq)]
enum First {
    Client,
    Server,
}

/// An app that answers one byte and lets either side close first.
fn serve(pod: &Pod, address: SocketAddr, first: First) -> Result<()> {
    let listener = pod.netns().enter(|| peer::listen(address))?;
    listener.set_nonblocking(true)?;
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut byte = [0];
                    stream.read_exact(&mut byte).await?;
                    stream.write_all(&byte).await?;
                    if first == First::Client {
                        let _end = stream.read(&mut byte).await?;
                    }
                    stream.shutdown().await?;
                    stream.read(&mut byte).await
                });
            }
        });
    });
    Ok(())
}

/// One app leg from start to end, as the agent has it when it carries one connection.
async fn exchange(mut stream: TcpStream, first: First) -> Result<()> {
    let mut byte = [7];
    stream.write_all(&byte).await?;
    stream.read_exact(&mut byte).await?;
    if first == First::Server {
        ensure!(stream.read(&mut byte).await? == 0, "more bytes");
    }
    stream.shutdown().await?;
    ensure!(stream.read(&mut byte).await? == 0, "more bytes");
    Ok(())
}

fn run(taken: &Taken, client: std::net::IpAddr, address: SocketAddr, first: First) -> Result<Duration> {
    let started = Instant::now();
    let netns = taken.pod.netns.clone();
    taken.block_on(async move {
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..CONNECTIONS {
            if tasks.len() >= AT_ONCE {
                tasks.join_next().await.context("no task")???;
            }
            let netns = netns.clone();
            tasks.spawn(async move {
                let leg = tokio::time::timeout(agent::PATIENCE, netns.connect_app(client, address)).await??;
                exchange(leg.stream, first).await
            });
        }
        while let Some(done) = tasks.join_next().await {
            done??;
        }
        Ok(())
    })?;
    Ok(started.elapsed())
}

fn flood(first: First) -> Result<()> {
    let lab = Lab::two_nodes()?;
    let pod = lab.node(1).pod("app", &PodOptions::default())?;
    let agent = Agent::start(lab.node(1))?;
    let taken = agent.enrol(&pod)?;
    for (v6, port) in [(false, 8080), (true, 8081)] {
        let address = at(own(&pod, v6)?, port);
        serve(&pod, address, first)?;
        let client = if v6 { "2001:db8::77".parse()? } else { "198.51.100.77".parse()? };
        let took = run(&taken, client, address, first)?;
        println!("{CONNECTIONS} app legs, IPv6 {v6}, {first:?} closes first: {took:?}");
    }
    // Nothing is left over in the kernel's map.
    let path = format!("{}/culvert/v1/node1/maps/app_legs", culvert_lab::sandbox::BPFFS);
    let map = aya::maps::Map::HashMap(aya::maps::MapData::from_pin(path)?);
    let legs: aya::maps::HashMap<_, culvert_abi::FlowKey, u32> = map.try_into()?;
    ensure!(legs.keys().count() == 0, "{} entries are left", legs.keys().count());
    Ok(())
}

#[test]
fn one_client_may_close_first_as_often_as_it_likes() {
    in_sandbox!(|| flood(First::Client));
}

#[test]
fn the_server_may_close_first_as_often_as_it_likes() {
    in_sandbox!(|| flood(First::Server));
}

/// Connections of the pod's own processes, through a relay, to one address outside.
fn flood_outbound(first: First) -> Result<()> {
    let lab = Lab::two_nodes()?;
    let pod = lab.node(1).pod("app", &PodOptions::default())?;
    let server = lab.node(2).pod("server", &PodOptions::default())?;
    let agent = Agent::start(lab.node(1))?;
    let relay = agent.enrol(&pod)?.relay()?;
    // Fewer ports than by default: each is used again many times within the run.
    pod.netns().sysctl("net/ipv4/ip_local_port_range", "40000 52000")?;
    let address = at(own(&server, false)?, 8080);
    serve(&server, address, first)?;
    let started = Instant::now();
    pod.netns().enter(move || {
        tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async move {
            let mut tasks = tokio::task::JoinSet::new();
            for _ in 0..CONNECTIONS {
                if tasks.len() >= AT_ONCE {
                    tasks.join_next().await.context("no task")???;
                }
                tasks.spawn(async move {
                    exchange(tokio::time::timeout(agent::PATIENCE, TcpStream::connect(address)).await??, first).await
                });
            }
            while let Some(done) = tasks.join_next().await {
                done??;
            }
            Ok(())
        })
    })?;
    println!("{CONNECTIONS} outbound connections, {first:?} closes first: {:?}", started.elapsed());
    ensure!(relay.tally.failures() == 0, "{} legs failed", relay.tally.failures());
    relay.stop()
}

#[test]
fn a_pod_may_close_its_outbound_connections_first() {
    in_sandbox!(|| flood_outbound(First::Client));
}

#[test]
fn a_server_may_close_a_pods_outbound_connections_first() {
    in_sandbox!(|| flood_outbound(First::Server));
}
