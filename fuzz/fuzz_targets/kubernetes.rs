//! Whatever an API server sends: who is told to be enrolled is told to leave, what is known of Services and policies is of
//! what was sent, and nothing is left when all has gone. The input is a watch's: one event a line.
#![no_main]

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::SocketAddr;

use k8s_openapi::api::core::v1::{Namespace, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DynamicObject, PartialObjectMeta};
use kube::core::WatchEvent;
use libfuzzer_sys::fuzz_target;
use redial::dialect::Kind;
use redial::kubernetes::roster::Roster;
use redial::kubernetes::{
    Change, Object, Objects, PodObject, PodUid, Services, Told, of_namespaces, of_pods,
};
use redial::policy::Host;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

const NEEDED: [&str; 3] = ["web.shop.svc.cluster.local", "db.shop.svc.cluster.local", "web.other.svc"];
const NAMESPACES: [&str; 2] = ["shop", "other"];

fuzz_target!(|bytes: &[u8]| {
    let mut cluster = Cluster::default();
    cluster.services.need(&needed());
    for line in bytes.split(|byte| *byte == b'\n') {
        cluster.hear(line);
    }
    cluster.ends();
});

fn needed() -> BTreeSet<Host> {
    NEEDED.iter().filter_map(|name| name.parse().ok()).collect()
}

/// What the agent keeps, and what it has told.
#[derive(Default)]
struct Cluster {
    roster: Roster,
    services: Services,
    objects: Objects,
    enrolled: HashSet<PodUid>,
    /// By kind, what has come since all of it was told: a bookmark says here that this is all that there is.
    there: HashMap<String, HashSet<String>>,
}

#[derive(Deserialize)]
struct Line {
    object: Typed,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Typed {
    api_version: String,
    kind: String,
}

impl Cluster {
    fn hear(&mut self, line: &[u8]) {
        let Ok(Line { object: Typed { api_version, kind } }) = serde_json::from_slice(line) else { return };
        match &*kind {
            "Pod" => {
                let told = self.told(line, &kind, |pod: &PodObject| pod.metadata.uid.clone());
                let changes = told.map(|told| of_pods(&mut self.roster, told));
                self.enrols(changes);
            }
            "Namespace" => {
                let name = |one: &PartialObjectMeta<Namespace>| one.metadata.name.clone();
                let told = self.told(line, &kind, name);
                let changes = told.map(|told| of_namespaces(&mut self.roster, told));
                self.enrols(changes);
            }
            "Service" => match self.told(line, &kind, |one: &Service| one.metadata.name.clone()) {
                Some(Told::Is(object)) => self.services.is(&object),
                Some(Told::Gone(object)) => self.services.gone(&object),
                Some(Told::All(there)) => {
                    for name in NAMESPACES {
                        self.services.only(name, &there);
                    }
                }
                Some(Told::Failed) | None => {}
            },
            "EndpointSlice" => {
                match self.told(line, &kind, |one: &EndpointSlice| one.metadata.name.clone()) {
                    Some(Told::Is(object)) => self.services.is_slice(&object),
                    Some(Told::Gone(object)) => self.services.slice_gone(&object),
                    Some(Told::All(there)) => {
                        for name in NAMESPACES {
                            self.services.only_slices(name, &there);
                        }
                    }
                    Some(Told::Failed) | None => {}
                }
            }
            "Node" => self.services.is_in_zone(api_version),
            _ => {
                let group = api_version.split_once('/').map_or("", |(group, _)| group);
                let Some(known) = Kind::watched().find(|known| known.kind == kind && known.group == group)
                else {
                    return;
                };
                let place = |one: &DynamicObject| {
                    Some(Object::new(known, one.clone())?.place.to_string_lossy().into_owned())
                };
                match self.told(line, &known.full_name(), place) {
                    Some(Told::Is(object)) => {
                        if let Some(object) = Object::new(known, object) {
                            self.objects.is(object);
                        }
                    }
                    Some(Told::Gone(object)) => {
                        if let Some(object) = Object::new(known, object) {
                            self.objects.gone(&object.place);
                        }
                    }
                    Some(Told::All(there)) => {
                        self.objects.only(known, &there);
                    }
                    Some(Told::Failed) | None => {}
                }
            }
        }
        self.tells();
    }

    /// As a watch's events are understood, where a list is begun anew by what comes after the last one's end.
    fn told<K: DeserializeOwned>(
        &mut self,
        line: &[u8],
        kind: &str,
        key: impl Fn(&K) -> Option<String>,
    ) -> Option<Told<K>> {
        let there = self.there.entry(kind.to_owned()).or_default();
        Some(match serde_json::from_slice::<WatchEvent<K>>(line).ok()? {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                there.extend(key(&object));
                Told::Is(object)
            }
            WatchEvent::Deleted(object) => Told::Gone(object),
            WatchEvent::Bookmark(_) => Told::All(std::mem::take(there)),
            WatchEvent::Error(_) => Told::Failed,
        })
    }

    fn enrols(&mut self, changes: Option<Vec<Change>>) {
        for change in changes.into_iter().flatten() {
            match change {
                Change::Enrol(pod) => drop(self.enrolled.insert(pod.uid)),
                Change::Leave(uid) => {
                    assert!(self.enrolled.remove(&uid), "{uid} leaves, and was not enrolled");
                }
            }
        }
    }

    /// What a connection would be told.
    fn tells(&mut self) {
        for (host, service) in self.services.take_changes() {
            assert!(NEEDED.contains(&host.as_str()), "{host}");
            let Some(service) = service else { continue };
            for port in &service.ports {
                let (v4, v6) = (&port.v4, &port.v6);
                let endpoints =
                    || [&v4.near, &v4.far, &v6.near, &v6.far].into_iter().flat_map(|list| &**list);
                assert!(port.number != 0 && endpoints().all(|endpoint| endpoint.port() != 0), "{service:?}");
                assert!(endpoints().all(|endpoint| service.endpoint_addresses.contains(&endpoint.ip())));
                assert!(v4.near.iter().chain(&*v4.far).all(SocketAddr::is_ipv4), "{service:?}");
                assert!(!v4.near.is_empty() || v4.far.is_empty(), "{service:?}");
                assert!(!v6.near.is_empty() || v6.far.is_empty(), "{service:?}");
            }
        }
        assert!(self.services.take_changes().is_empty(), "all has been told");
        for object in &*self.objects.all() {
            assert!(serde_json::from_str::<Value>(&object.text).is_ok_and(|text| text.is_object()));
        }
    }

    /// Nothing is there any more.
    fn ends(&mut self) {
        let nothing = HashSet::new();
        let changes = of_namespaces(&mut self.roster, Told::All(HashSet::new()));
        self.enrols(Some(changes));
        let changes = of_pods(&mut self.roster, Told::All(HashSet::new()));
        self.enrols(Some(changes));
        assert!(self.enrolled.is_empty() && self.roster.pods() == 0, "{:?}", self.enrolled);
        for namespace in NAMESPACES {
            self.services.only(namespace, &nothing);
            self.services.only_slices(namespace, &nothing);
        }
        let told = self.services.take_changes();
        assert!(told.len() == NEEDED.len() && told.iter().all(|(_, service)| service.is_none()), "{told:?}");
        for kind in Kind::watched() {
            self.objects.only(kind, &nothing);
        }
        assert!(self.objects.all().is_empty());
    }
}
