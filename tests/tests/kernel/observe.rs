//! The access log and the metrics tell the same story in the same words.

use std::collections::BTreeMap;
use std::thread::sleep;
use std::time::Duration;

use anyhow::Result;
use redial_tests::agent::{Agent, Metrics, Options};
use redial_tests::dial::{Dial, Wait};
use redial_tests::firewall::{Fate, Firewall};
use redial_tests::script::Step;
use redial_tests::upstream::Upstream;
use redial_tests::world::{Family, World};

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

    let total = |of: fn(&redial_tests::agent::Record) -> u64| records.iter().map(of).sum::<u64>().to_string();
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
