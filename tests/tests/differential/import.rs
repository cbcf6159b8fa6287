//! Another system's documents, which redial reads as they are, and what that system has Envoy do of them.
//!
//! Both are written with placeholders, because every run has its own destination: `{host}` is its name, which DNS has;
//! `{name}` that name's first label, under which DNS has the run's own address below every domain; `{port}` its port. An
//! upstream `b` besides is at `b.{host}`, and Envoy's cluster `{name}-b`. No document may be for hosts that have no address,
//! such as `*.{host}`: then it has a say in how the connections of all other runs are made.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::{Context, Result, ensure};
use redial_tests::exchange::{Client, Protocol};
use redial_tests::http_upstream::Reaction;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::envoy;

/// Where the addresses of the runs are: the second byte has the upstream in it, the others the run.
pub(crate) const NETWORK: &str = "10.8.0.0/13";

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct Import {
    pub documents: String,
    /// Envoy's routes, in their order. One that names no cluster leads to the scenario's own upstream.
    pub routes: Vec<Value>,
    /// What else the virtual host says.
    #[serde(default)]
    pub virtual_host: Map<String, Value>,
    /// Whether Envoy may add the headers that it adds of its own accord.
    #[serde(default)]
    pub adds_headers: bool,
    /// Upstreams besides the scenario's own, each named by a letter.
    #[serde(default)]
    pub upstreams: BTreeMap<String, Vec<Reaction>>,
}

/// One run's own names and places.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub index: u16,
    pub port: u16,
}

impl Place {
    pub(crate) fn name(self) -> String {
        format!("run-{}", self.index)
    }

    pub(crate) fn host(self) -> String {
        format!("{}.test", self.name())
    }

    /// Of the scenario's own upstream, or of the n-th besides.
    pub(crate) fn address(self, upstream: usize) -> SocketAddr {
        let [high, low] = self.index.to_be_bytes();
        let upstream = u8::try_from(upstream).unwrap_or(u8::MAX);
        (Ipv4Addr::new(10, 8 + upstream, high, low), self.port).into()
    }

    fn filled(self, text: &str) -> String {
        let text = text.replace("{host}", &self.host()).replace("{name}", &self.name());
        text.replace("{port}", &self.port.to_string())
    }
}

impl Import {
    pub(crate) fn check(&self) -> Result<()> {
        let is_letter = |name: &String| matches!(name.as_bytes(), [b'b'..=b'h']);
        ensure!(self.upstreams.keys().all(is_letter), "upstreams besides are named b, c and so on");
        ensure!(self.documents.contains("{name}") || self.documents.contains("{host}"), "it is for all runs");
        Ok(())
    }

    pub(crate) fn document(&self, place: Place) -> String {
        place.filled(&self.documents)
    }

    /// The requests, to the run's own host where they don't say another.
    pub(crate) fn client(client: &Client, place: Place) -> Client {
        let mut client = client.clone();
        for request in &mut client.requests {
            let has_host = |line: &String| line.to_ascii_lowercase().starts_with("host:");
            if !request.headers.iter().any(has_host) {
                request.headers.insert(0, "Host: {host}".to_owned());
            }
            for line in &mut request.headers {
                *line = place.filled(line);
            }
        }
        client
    }

    /// The listener and the clusters.
    pub(crate) fn envoy(
        &self,
        protocol: Protocol,
        place: Place,
        from: SocketAddr,
    ) -> Result<(Value, Vec<Value>)> {
        let name = place.name();
        let mut host = self.virtual_host.clone();
        host.insert("routes".to_owned(), json!(self.routes));
        let mut host: Value = serde_json::from_str(&place.filled(&serde_json::to_string(&host)?))?;
        for route in host["routes"].as_array_mut().context("routes are a list")? {
            let action = route.get_mut("route").and_then(Value::as_object_mut).context("a route leads on")?;
            if !action.contains_key("weighted_clusters") {
                action.entry("cluster").or_insert_with(|| json!(name));
            }
        }
        let others = (1..).zip(self.upstreams.keys());
        let others = others.map(|(index, letter)| (index, format!("{name}-{letter}")));
        let all = [(0, name.clone())].into_iter().chain(others);
        let clusters = all.map(|(index, name)| envoy::cluster(protocol, &name, place.address(index)));
        Ok((envoy::listener(protocol, &name, from, host, self.adds_headers), clusters.collect()))
    }
}

/// What DNS says of a name: the address of the run that it has in it, whatever the domain. Of each run it is given the
/// upstreams besides its own.
pub(crate) fn resolve(name: &str, runs: &BTreeMap<u16, Vec<String>>) -> Option<IpAddr> {
    let (before, rest) = name.split_once("run-")?;
    let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let index = rest.get(..digits)?.parse().ok()?;
    let upstreams = runs.get(&index)?;
    let upstream = match before.strip_suffix('.') {
        Some(letter) => 1 + upstreams.iter().position(|known| known == letter)?,
        None if before.is_empty() => 0,
        None => return None,
    };
    Some(Place { index, port: 0 }.address(upstream).ip())
}
