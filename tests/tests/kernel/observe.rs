//! The access log and the metrics tell the same story in the same words.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::process::{Command, Output};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use redial_tests::agent::{Agent, Metrics, Options, Record, admin_socket, binary};
use redial_tests::dial::{Dial, Wait};
use redial_tests::firewall::{Fate, Firewall};
use redial_tests::load::Load;
use redial_tests::script::{Played, Step};
use redial_tests::upstream::Upstream;
use redial_tests::world::{Family, World};
use serde_json::{Value, json};

#[test]
fn log_and_metrics_agree_in_words_and_counts() -> Result<()> {
    let world = World::new("observe")?;
    let firewall = Firewall::new(&world.server)?;
    firewall.set(80, Fate::RefuseFirst(1, 2))?;
    firewall.set(82, Fate::Drop)?;
    let agent = Agent::start_with(&[&world.cgroup], &Options::default())?;
    let closed = Upstream::start(&world.server, Family::V4.server(80), &[Step::Echo])?;
    let _reset = Upstream::start(&world.server, Family::V4.server(81), &[Step::Receive(1), Step::Reset])?;
    let dial = |port| Dial::to(Family::V4.server(port));
    let say = |text: &str| [Step::Send(text.to_owned()), Step::Receive(text.len())];
    for _ in 0..3 {
        assert_eq!(world.dial(&dial(80).play(&say("twelve bytes")))?.errno, None);
    }
    world.dial(&dial(80).play(&[Step::Send("x".to_owned()), Step::Receive(1), Step::Reset]))?;
    world.dial(&dial(81).play(&say("x")))?;
    world.dial(&Dial { wait: Wait::AtMost(200), ..dial(82) })?;
    world.dial(&dial(83))?;
    world.dial(&dial(83))?;
    // One that is left alone.
    world.dial(&Dial::to("127.0.0.1:9".parse()?))?;
    closed.wait_played(4)?;
    for (port, count) in [(80, 4), (81, 1), (82, 1), (83, 2)] {
        agent.wait_records(port, count)?;
    }

    let (records, metrics) = (agent.records()?, agent.metrics()?);
    assert_eq!(records.len(), 8);
    let reasons = count(records.iter().map(|record| record.reason.as_str()));
    let expected: &[(&str, u32)] = &[
        ("attempts-exhausted", 2),
        ("client-gone", 1),
        ("client-reset", 1),
        ("closed", 3),
        ("upstream-reset", 1),
    ];
    assert_eq!(reasons, expected.iter().map(|(word, count)| ((*word).to_owned(), *count)).collect());
    assert_eq!(by_label(&metrics, "redial_connections_total", "reason"), reasons);

    let outcomes = count(
        records.iter().flat_map(|record| record.attempts.iter().map(|attempt| attempt.outcome.as_str())),
    );
    assert_eq!(by_label(&metrics, "redial_connection_attempts_total", "outcome"), outcomes);

    let total = |of: fn(&Record) -> u64| records.iter().map(of).sum::<u64>().to_string();
    let bytes = |direction| metrics.sum("redial_bytes_total", &[("direction", direction)]).to_string();
    assert_eq!(bytes("sent"), total(|record| record.bytes_sent));
    assert_eq!(bytes("received"), total(|record| record.bytes_received));

    let kernel = |action| metrics.sum("redial_interceptions_total", &[("action", action)]).to_string();
    assert_eq!(kernel("redirected"), "8");
    assert_eq!(kernel("held"), "8");
    assert_eq!(kernel("passed_loopback"), "1");
    Ok(())
}

/// Clients that give up in every way at once: all that was held for them is let go.
#[test]
fn abandoned_connects_leave_nothing_behind() -> Result<()> {
    let world = World::new("abandoned")?;
    let firewall = Firewall::new(&world.server)?;
    firewall.set(80, Fate::Drop)?;
    let agent = Agent::start(&[&world.cgroup])?;
    let dial = Dial::to(Family::V4.server(80));
    let killed: Vec<_> = (0..30).map(|_| world.start_dial(&dial)).collect::<Result<_>>()?;
    let impatient: Vec<_> = (0..30)
        .map(|_| world.start_dial(&Dial { wait: Wait::AtMost(300), ..dial.clone() }))
        .collect::<Result<_>>()?;
    while firewall.attempts_to(80)? < 60 {
        sleep(Duration::from_millis(10));
    }
    for client in killed {
        client.kill()?;
    }
    for client in impatient {
        assert_eq!(client.finish()?.errno.as_deref(), Some("EINPROGRESS"));
    }
    let records = agent.wait_records(80, 60)?;
    assert!(records.iter().all(|record| record.reason == "client-gone"), "{records:?}");
    let metrics = agent.metrics()?;
    assert_eq!(metrics.sum("redial_handshakes_held", &[]).to_string(), "0");
    assert_eq!(metrics.sum("redial_connections_active", &[]).to_string(), "0");
    Ok(())
}

/// Now and then a reset overtakes the handshake's last packet, and there is nothing to accept: the server hears of that
/// client too, and nothing is kept for it.
#[test]
fn clients_that_reset_at_once_leave_nothing_behind() -> Result<()> {
    let world = World::new("resets")?;
    let agent = Agent::start(&[&world.cgroup])?;
    let to = Family::V4.server(80);
    let server = Upstream::start(&world.server, to, &[Step::ReceiveAll])?;
    let load = world.start_load(&Load { to, threads: 4, rest_ms: 0, reset: true })?;
    server.wait_seen(15_000)?;
    let report = load.stop_load()?;
    assert_eq!(report.failures().len(), 0, "{:?}", report.failures());
    let clients = report.exchanges.len();
    wait_at_most(Duration::from_secs(2), "the end of every connection", || {
        let ended = agent.metrics()?.sum("redial_connections_total", &[]);
        Ok(ended.to_string() == clients.to_string())
    })?;
    assert_eq!(agent.status()?["connections_active"], json!(0));
    let metrics = agent.metrics()?;
    let reasons = by_label(&metrics, "redial_connections_total", "reason");
    assert!(reasons.keys().all(|reason| ["client-reset", "client-gone"].contains(&&**reason)), "{reasons:?}");
    for gauge in ["redial_connections_active", "redial_handshakes_held"] {
        assert_eq!(metrics.sum(gauge, &[]).to_string(), "0", "{gauge}");
    }
    let held = metrics.sum("redial_interceptions_total", &[("action", "held")]).to_string();
    assert_eq!(held, clients.to_string());
    let seen = server.wait_played(clients)?;
    let reset = Some(vec![Played::Failed("ECONNRESET".to_owned())]);
    let otherwise: Vec<_> = seen.iter().filter(|seen| seen.played != reset).collect();
    assert!(otherwise.is_empty(), "{} of {} were not reset: {otherwise:?}", otherwise.len(), seen.len());
    Ok(())
}

/// As logrotate does it.
#[test]
fn after_sighup_the_access_log_is_a_new_file() -> Result<()> {
    let world = World::new("rotate")?;
    let agent = Agent::start(&[&world.cgroup])?;
    for port in [80, 81] {
        world.dial(&Dial::to(Family::V4.server(port)))?;
        agent.wait_record(port)?;
    }
    let moved = agent.access_log().with_extension("1");
    fs::rename(agent.access_log(), &moved)?;
    // Until it is told, it goes on where it was.
    world.dial(&Dial::to(Family::V4.server(82)))?;
    wait_for("the record in the file that was moved", || Ok(Agent::records_in(&moved)?.len() == 3))?;
    assert!(!agent.access_log().exists());

    agent.signal(Signal::SIGHUP)?;
    wait_for("a new access log", || Ok(agent.access_log().exists()))?;
    for port in [83, 84] {
        world.dial(&Dial::to(Family::V4.server(port)))?;
        agent.wait_record(port)?;
    }
    assert_eq!(ports(&Agent::records_in(&moved)?), [80, 81, 82]);
    assert_eq!(ports(&agent.records()?), [83, 84]);
    assert_eq!(agent.metrics()?.sum("redial_access_log_dropped_total", &[]).to_string(), "0");
    Ok(())
}

fn ports(records: &[Record]) -> Vec<u16> {
    records.iter().map(|record| record.original_destination.port()).collect()
}

const TWO_POLICIES: &str = "apiVersion: redial.dev/v1alpha1
kind: RetryPolicy
metadata: {name: patient}
spec:
  to: [{ports: [81]}]
  tcp: {maxConnectAttempts: 2}
---
apiVersion: redial.dev/v1alpha1
kind: RetryPolicy
metadata: {namespace: shop, name: checkout}
spec:
  to: [{ports: [82]}]
  tcp: {maxConnectAttempts: 1}
";

#[test]
fn status_tells_what_the_agent_does() -> Result<()> {
    let world = World::new("status")?;
    let mut agent =
        Agent::start_with(&[&world.cgroup], &Options { config: Some(TWO_POLICIES), ..Options::default() })?;
    let server = Upstream::start(&world.server, Family::V4.server(80), &[Step::ReceiveAll])?;
    assert_eq!(world.dial(&Dial::to(Family::V4.server(80)))?.errno, None);
    world.dial(&Dial::to(Family::V4.server(81)))?;
    agent.wait_record(81)?;
    world.dial(&Dial::to(Family::V4.server(82)))?;
    for port in [80, 82] {
        agent.wait_record(port)?;
    }
    let mut open = world.start_dial(&Dial::to(Family::V4.server(80)).play(&[Step::Pause]))?;
    open.wait_paused()?;

    let status = agent.status()?;
    assert_eq!((&status["ready"], &status["draining"]), (&json!(true), &json!(false)));
    let name = world.cgroup.path().file_name().context("no name")?.to_string_lossy().into_owned();
    let workload = &status["workloads"][0];
    assert_eq!(workload["name"], json!(name));
    assert_eq!(workload["cgroup"], json!(world.cgroup.path()));
    // The machine's own, which the agent is in, and the pod's.
    assert_eq!(workload["network_namespaces"].as_array().map(Vec::len), Some(2), "{workload}");
    let policies: BTreeMap<_, _> = status["policies"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|policy| (policy["name"].as_str(), policy["origin"].as_str()))
        .collect();
    assert_eq!(policies.len(), 3, "{policies:?}");
    for (name, origin) in
        [("patient", "/policy.yaml:1"), ("shop/checkout", "/policy.yaml:8"), ("default", "built in")]
    {
        let said = policies.get(&Some(name)).copied().flatten().with_context(|| format!("{policies:?}"))?;
        assert!(said.ends_with(origin), "{name}: {said}");
    }
    assert_eq!(status["connections_active"], json!(1));
    assert_eq!(nonzero(&status["connections_total"]), [("attempts-exhausted", 2), ("closed", 1)]);
    assert_eq!(nonzero(&status["attempts"]), [("connected", 2), ("refused", 3)]);
    assert_eq!(nonzero(&status["retries"]), [("refused", 1)]);
    assert_eq!(status["last_config_error"], Value::Null);
    let give_ups: Vec<_> = status["last_give_ups"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|one| {
            let words = ["workload", "original_destination", "policy", "reason", "last_outcome"];
            (words.map(|word| one[word].as_str().unwrap_or_default().to_owned()), one["attempts"].as_u64())
        })
        .collect();
    let gave_up = |port: u16, policy: &str, attempts| {
        let destination = Family::V4.server(port).to_string();
        (
            [&name, destination.as_str(), policy, "attempts-exhausted", "refused"].map(str::to_owned),
            Some(attempts),
        )
    };
    assert_eq!(give_ups, [gave_up(82, "shop/checkout", 1), gave_up(81, "patient", 2)]);

    // The same for people.
    let socket = admin_socket(&world.cgroup)?;
    let text = || -> Result<String> {
        let output = redial_status(&["--socket".as_ref(), socket.as_os_str()])?;
        ensure!(output.status.success(), "{output:?}");
        Ok(String::from_utf8(output.stdout)?)
    };
    let said = text()?;
    for words in [
        &format!("agent {}", agent.pid()),
        "ready",
        "1 active",
        "2 attempts-exhausted",
        "1 closed",
        &format!("workload {name}"),
        "policy patient (",
        "policy shop/checkout (",
        &format!("{name} -> {}: attempts-exhausted after 1 attempt", Family::V4.server(82)),
    ] {
        assert!(said.contains(words), "no `{words}` in:\n{said}");
    }
    assert!(!said.contains("not reloaded"), "{said}");

    // A reload that went wrong shows until one goes right.
    agent.write_config(&TWO_POLICIES.replace("maxConnectAttempts: 1", "maxConnectAttempts: 0"))?;
    agent.signal(Signal::SIGHUP)?;
    agent.wait_log("maxConnectAttempts")?;
    let status = agent.status()?;
    let error = status["last_config_error"].as_str().unwrap_or_default();
    assert!(error.contains("policy.yaml:13") && error.contains("maxConnectAttempts"), "{status}");
    let said = text()?;
    assert!(said.contains("not reloaded") && said.contains(error), "{said}");
    agent.write_config(TWO_POLICIES)?;
    agent.signal(Signal::SIGHUP)?;
    wait_for("the good policies", || Ok(agent.status()?["last_config_error"].is_null()))?;
    assert!(!text()?.contains("not reloaded"));

    open.finish()?;
    server.wait_played(2)?;
    agent.terminate()?;
    assert_no_status(&redial_status(&["--socket".as_ref(), socket.as_os_str()])?);
    Ok(())
}

/// On a machine without an agent, which an empty /run stands for: others may be running on this one.
#[test]
fn status_without_an_agent_is_an_error() -> Result<()> {
    let script = r#"mount -t tmpfs none /run && exec "$0" status --output "$1""#;
    for output in ["text", "json"] {
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", script]).arg(binary()?).arg(output);
        assert_no_status(&command.output()?);
    }
    Ok(())
}

#[track_caller]
fn assert_no_status(output: &Output) {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(output.stdout.is_empty(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("no agent"), "{output:?}");
}

fn redial_status(arguments: &[&OsStr]) -> Result<Output> {
    Ok(Command::new(binary()?).arg("status").args(arguments).output()?)
}

fn nonzero(counts: &Value) -> Vec<(&str, u64)> {
    let all = counts.as_object().into_iter().flatten();
    all.map(|(word, count)| (word.as_str(), count.as_u64().unwrap_or_default()))
        .filter(|(_, count)| *count > 0)
        .collect()
}

fn wait_for(what: &str, is_so: impl FnMut() -> Result<bool>) -> Result<()> {
    wait_at_most(Duration::from_secs(30), what, is_so)
}

fn wait_at_most(patience: Duration, what: &str, mut is_so: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + patience;
    while !is_so()? {
        ensure!(Instant::now() < deadline, "{what} did not come");
        sleep(Duration::from_millis(10));
    }
    Ok(())
}

fn count<'a>(words: impl Iterator<Item = &'a str>) -> BTreeMap<String, u32> {
    let mut counts = BTreeMap::new();
    for word in words {
        *counts.entry(word.to_owned()).or_insert(0) += 1;
    }
    counts
}

/// The samples of a name that are not zero, by one of their labels.
fn by_label(metrics: &Metrics, name: &str, label: &str) -> BTreeMap<String, u32> {
    let mut counts = BTreeMap::new();
    for sample in metrics.samples().iter().filter(|sample| sample.name == name && sample.value > 0.0) {
        let word = sample.labels.get(label).cloned().unwrap_or_default();
        // A count is written as a whole number, and so it reads as one.
        *counts.entry(word).or_insert(0) += sample.value.to_string().parse::<u32>().unwrap_or(u32::MAX);
    }
    counts
}
