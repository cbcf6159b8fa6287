//! What a policy says is what the server sees.

use std::net::{IpAddr, SocketAddr};
use std::thread::sleep;
use std::time::Duration;

use anyhow::Result;
use redial_tests::agent::{Agent, Options};
use redial_tests::dial::{Dial, Wait};
use redial_tests::dns::Dns;
use redial_tests::firewall::{Fate, Firewall};
use redial_tests::script::{Played, Step};
use redial_tests::upstream::Upstream;
use redial_tests::world::{Family, SERVER_V4, World};

/// A document with this specification, which is indented by two.
fn document(spec: &str) -> String {
    format!("---\napiVersion: redial.dev/v1alpha1\nkind: RetryPolicy\nmetadata: {{name: p}}\nspec:\n{spec}\n")
}

fn agent(world: &World, config: &str) -> Result<Agent> {
    Agent::start_with(&[&world.cgroup], &Options { config: Some(config), ..Options::default() })
}

fn dial(port: u16) -> Dial {
    Dial::to(Family::V4.server(port))
}

#[test]
fn it_makes_exactly_so_many_attempts() -> Result<()> {
    let world = World::new("attempts")?;
    let firewall = Firewall::new(&world.server)?;
    let of_port = |(port, attempts)| {
        document(&format!("  to: [{{ports: [{port}]}}]\n  tcp: {{maxConnectAttempts: {attempts}}}"))
            .replace("{name: p}", &format!("{{name: p{port}}}"))
    };
    let agent = agent(&world, &[(81, 1), (82, 2), (87, 7)].map(of_port).concat())?;
    for (port, attempts) in [(81, 1), (82, 2), (87, 7), (80, 3)] {
        assert_eq!(world.dial(&dial(port))?.errno.as_deref(), Some("ECONNREFUSED"));
        assert_eq!(firewall.attempts_to(port)?, attempts);
        let record = agent.wait_record(port)?;
        assert_eq!(record.outcomes(), vec!["refused"; attempts]);
        assert_eq!(record.reason, "attempts-exhausted");
    }
    Ok(())
}

#[test]
fn a_failure_that_is_not_listed_is_not_retried() -> Result<()> {
    let world = World::new("retryon")?;
    world.short_syn_timers()?;
    let firewall = Firewall::new(&world.server)?;
    firewall.set(81, Fate::Drop)?;
    let spec = "  tcp: {maxConnectAttempts: 3, connectTimeout: 300ms, retryOn: [timeout]}";
    let agent = agent(&world, &document(spec))?;
    assert_eq!(world.dial(&dial(80))?.errno.as_deref(), Some("ECONNREFUSED"));
    assert_eq!(firewall.attempts_to(80)?, 1);
    assert_eq!(agent.wait_record(80)?.reason, "not-retriable");
    assert_eq!(world.dial(&dial(81))?.errno.as_deref(), Some("ETIMEDOUT"));
    assert_eq!(firewall.attempts_to(81)?, 3);
    assert_eq!(agent.wait_record(81)?.reason, "attempts-exhausted");
    Ok(())
}

/// With a time-out the client hears of it at its first SYN timer, one second after its connect.
#[test]
fn the_overall_timeout_ends_the_attempts() -> Result<()> {
    let world = World::new("timeout")?;
    world.short_syn_timers()?;
    let firewall = Firewall::new(&world.server)?;
    firewall.set(80, Fate::Drop)?;
    let spec = "  tcp: {maxConnectAttempts: 100, connectTimeout: 100ms, timeout: 500ms, backOff: {baseInterval: 1ms, maxInterval: 1ms}}";
    let agent = agent(&world, &document(spec))?;
    let client = world.dial(&dial(80))?;
    assert_eq!(client.errno.as_deref(), Some("ETIMEDOUT"));
    assert!((900..2500).contains(&client.connect_ms), "{client:?}");
    let record = agent.wait_record(80)?;
    assert_eq!(record.reason, "timed-out");
    let attempts = firewall.attempts_to(80)?;
    assert!((2..=6).contains(&attempts), "{attempts} attempts of 100 ms in 500 ms");
    assert_eq!(record.attempts.len(), attempts);
    Ok(())
}

/// Sixty clients with two retries each would double or triple the load on a server that is down.
#[test]
fn the_budget_limits_a_storm() -> Result<()> {
    let world = World::new("budget")?;
    let firewall = Firewall::new(&world.server)?;
    let agent = agent(&world, &document("  budget: {percent: 0, minPerSecond: 1, interval: 10s}"))?;
    let clients: Vec<_> = (0..60).map(|_| world.start_dial(&dial(80))).collect::<Result<_>>()?;
    for client in clients {
        assert_eq!(client.finish()?.errno.as_deref(), Some("ECONNREFUSED"));
    }
    let retries = firewall.attempts_to(80)? - 60;
    // One a second, saved up over ten seconds; the storm itself lasts a few more at most.
    assert!((1..=20).contains(&retries), "{retries} retries");
    let records = agent.wait_records(80, 60)?;
    let refused = records.iter().filter(|record| record.reason == "budget-exhausted").count();
    assert!(refused >= 40, "{refused} connections ended for want of a budget");
    Ok(())
}

#[test]
fn a_retry_goes_to_another_address_of_the_name() -> Result<()> {
    let world = World::new("dns")?;
    world.server.ip(&["address", "add", "10.1.0.3/24", "dev", "eth0"])?;
    let addresses: [IpAddr; 2] = ["10.1.0.2".parse()?, "10.1.0.3".parse()?];
    let _dns = Dns::start(&world.server, (SERVER_V4, 53).into(), &[("db.test", &addresses)])?;
    let files = tempfile::tempdir()?;
    let resolv_conf = files.path().join("resolv.conf");
    std::fs::write(&resolv_conf, format!("nameserver {SERVER_V4}\n"))?;
    let arguments = ["--resolv-conf", resolv_conf.to_str().unwrap_or_default()];
    let config = document("  to: [{hosts: [db.test], ports: [80]}]\n  tcp: {maxConnectAttempts: 2}");
    // The agent itself runs where the name server can be reached.
    let options = Options {
        config: Some(&config),
        arguments: &arguments,
        netns: Some(&world.pod),
        ..Options::default()
    };
    let agent = Agent::start_with(&[&world.cgroup], &options)?;

    let other: SocketAddr = "10.1.0.3:80".parse()?;
    let server = Upstream::start(&world.server, other, &[Step::Send("other".to_owned()), Step::ReceiveAll])?;
    let client = world.dial(&dial(80).play(&[Step::Receive(5)]))?;
    assert_eq!(client.errno, None, "{}", agent.log()?);
    assert_eq!(client.step(0), Some(&Played::Text("other".to_owned())));
    assert_eq!(client.peer, Some(Family::V4.server(80)), "the client is not to notice");
    assert_eq!(client.local, Some(server.wait_played(1)?[0].peer));
    let record = agent.wait_record(80)?;
    assert_eq!(record.outcomes(), ["refused", "connected"]);
    assert_eq!(record.attempts[0].endpoint, Family::V4.server(80));
    assert_eq!(record.endpoint, Some(other));
    Ok(())
}

/// Backoff without a client to wait for it is a storm of its own.
#[test]
fn a_client_that_gives_up_ends_the_attempts() -> Result<()> {
    let world = World::new("giveup")?;
    let firewall = Firewall::new(&world.server)?;
    let spec = "  tcp: {maxConnectAttempts: 1000, backOff: {baseInterval: 20ms, maxInterval: 20ms}}\n  budget: {percent: 100, minPerSecond: 1000}";
    let arguments = ["--node-budget-percent", "100", "--node-budget-min-per-second", "1000"];
    let options = Options { config: Some(&document(spec)), arguments: &arguments, ..Options::default() };
    let agent = Agent::start_with(&[&world.cgroup], &options)?;

    let killed = world.start_dial(&dial(80))?;
    while firewall.attempts_to(80)? < 5 {
        sleep(Duration::from_millis(5));
    }
    killed.kill()?;
    let impatient = world.dial(&Dial { wait: Wait::AtMost(300), ..dial(81) })?;
    assert_eq!(impatient.errno.as_deref(), Some("EINPROGRESS"), "{:?}", agent.records()?);

    for port in [80, 81] {
        assert_eq!(agent.wait_record(port)?.reason, "client-gone");
        let attempts = firewall.attempts_to(port)?;
        sleep(Duration::from_millis(500));
        assert_eq!(firewall.attempts_to(port)?, attempts, "attempts went on");
    }
    Ok(())
}
