use std::collections::{BTreeSet, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service as ServiceObject;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};

use super::{MAX_ENDPOINTS, MAX_SERVICES, Service, ServiceName, Services, split};
use crate::endpoint::{Endpoints, Stickiness};
use crate::policy::Host;

const WEB: &str = "web.shop.svc.cluster.local";

fn hosts(names: &[&str]) -> BTreeSet<Host> {
    names.iter().map(|name| name.parse().unwrap()).collect()
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn object(name: &str, spec: &Value) -> ServiceObject {
    serde_json::from_value(json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": spec,
    }))
    .unwrap()
}

fn web() -> ServiceObject {
    object(
        "web",
        &json!({
            "type": "ClusterIP", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1", "fd00::1"],
            "ports": [
                {"name": "http", "port": 80, "targetPort": "web", "protocol": "TCP"},
                {"name": "dns", "port": 53, "protocol": "UDP"},
                {"name": "none", "port": 0},
                {"name": "admin", "port": 81, "protocol": "TCP"},
            ],
        }),
    )
}

fn slice(name: &str, service: &str, family: &str, ports: &Value, endpoints: &Value) -> EndpointSlice {
    serde_json::from_value(json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": name, "namespace": "shop", "labels": {"kubernetes.io/service-name": service}},
        "addressType": family, "ports": ports, "endpoints": endpoints,
    }))
    .unwrap()
}

fn ports() -> Value {
    json!([
        {"name": "http", "port": 8080, "protocol": "TCP"},
        {"name": "admin", "port": 0, "protocol": "TCP"},
        {"name": "dns", "port": 5353, "protocol": "UDP"},
        {"name": "all", "protocol": "TCP"},
    ])
}

/// A slice of the Service `web`, in IPv4.
fn of_web(name: &str, endpoints: &Value) -> EndpointSlice {
    slice(name, "web", "IPv4", &ports(), endpoints)
}

fn needing(names: &[&str]) -> Services {
    let mut services = Services::new("node-1".to_owned());
    services.need(&hosts(names));
    services.is_in_zone("z1".to_owned());
    services
}

/// These objects are all that there are.
fn listed(services: &mut Services, objects: &[ServiceObject], slices: &[EndpointSlice]) {
    for object in objects {
        services.is(object);
    }
    for slice in slices {
        services.is_slice(slice);
    }
    services.only("shop", &objects.iter().filter_map(|one| one.metadata.name.clone()).collect());
    services.only_slices("shop", &slices.iter().filter_map(|one| one.metadata.name.clone()).collect());
}

fn told(services: &mut Services, host: &str) -> Option<Arc<Service>> {
    let host: Host = host.parse().unwrap();
    let changes = services.take_changes();
    changes.into_iter().find(|(one, _)| *one == host).expect("a change").1
}

/// What becomes of the Service `web` with these slices.
fn with(slices: &[EndpointSlice]) -> Arc<Service> {
    let mut services = needing(&[WEB]);
    listed(&mut services, &[web()], slices);
    told(&mut services, WEB).unwrap()
}

fn words(endpoints: &Endpoints) -> (Vec<String>, Vec<String>) {
    let words = |list: &[std::net::SocketAddr]| list.iter().map(ToString::to_string).collect();
    (words(&endpoints.near), words(&endpoints.far))
}

fn near(service: &Service) -> Vec<String> {
    words(&service.ports[1].v4).0
}

#[test]
fn names_of_services_are_told_from_others() {
    let all = hosts(&[
        "web",
        "web.shop",
        "web.shop.svc",
        WEB,
        "db.shop.svc",
        "db.shop",
        "pod-0.db.shop.svc.cluster.local",
        "example.com",
        "api.svc",
    ]);
    let (services, others) = split(&all);
    assert_eq!(services, hosts(&["db.shop.svc", WEB]));
    let others: BTreeSet<_> = others.into_iter().collect();
    assert_eq!(others, hosts(&["web", "pod-0.db.shop.svc.cluster.local", "example.com", "api.svc"]));
    let name = ServiceName::of(&WEB.parse().unwrap()).unwrap();
    assert_eq!((&*name.namespace, &*name.name), ("shop", "web"));
}

#[test]
fn a_service_has_its_addresses_and_its_endpoints_by_port_and_family() {
    let v6 = slice(
        "web-6",
        "web",
        "IPv6",
        &json!([{"name": "http", "port": 8081}]),
        &json!([{"addresses": ["fd01::1"]}]),
    );
    let names = slice("web-n", "web", "FQDN", &ports(), &json!([{"addresses": ["a.example"]}]));
    let service = with(&[
        of_web("web-1", &json!([{"addresses": ["10.1.0.1", "10.1.0.9"]}, {"addresses": []}])),
        // While one slice takes another's place both have an endpoint.
        of_web(
            "web-2",
            &json!([{"addresses": ["10.1.0.2"]}, {"addresses": ["10.1.0.1"]}, {"addresses": ["x"]}]),
        ),
        v6,
        names,
    ]);
    assert_eq!(service.cluster_addresses, ["10.0.0.1", "fd00::1"].map(address));
    let addresses = ["10.1.0.1", "10.1.0.2", "fd01::1"];
    assert_eq!(service.endpoint_addresses, addresses.map(address));
    assert_eq!(service.ports.iter().map(|port| port.number).collect::<Vec<_>>(), [81, 80]);
    assert_eq!(near(&service), ["10.1.0.1:8080", "10.1.0.2:8080"]);
    assert_eq!(words(&service.ports[1].v6).0, ["[fd01::1]:8081"]);
    assert!(service.ports[0].v4.is_empty(), "a port of 0 is none");
    assert_eq!(service.stickiness, Stickiness::Endpoints);
}

#[test]
fn what_leaves_is_used_where_nothing_else_is_left() {
    let conditions = |ready: Value, serving: Value, terminating: bool| json!({"ready": ready, "serving": serving, "terminating": terminating});
    let ready = json!({"addresses": ["10.1.0.1"], "conditions": conditions(json!(true), json!(true), false)});
    let leaving =
        json!({"addresses": ["10.1.0.2"], "conditions": conditions(json!(false), json!(true), true)});
    let left = json!({"addresses": ["10.1.0.3"], "conditions": conditions(json!(false), json!(false), true)});
    let starting =
        json!({"addresses": ["10.1.0.4"], "conditions": conditions(json!(false), json!(true), false)});
    let unsaid = json!({"addresses": ["10.1.0.5"], "conditions": {}});
    for (endpoints, expected) in [
        (json!([leaving, left, starting, ready]), vec!["10.1.0.1:8080"]),
        (json!([leaving, left, starting]), vec!["10.1.0.2:8080"]),
        (json!([left, starting]), vec![]),
        (json!([leaving, unsaid]), vec!["10.1.0.5:8080"]),
        (Value::Null, vec![]),
    ] {
        let service = with(&[of_web("web-1", &endpoints)]);
        assert_eq!(near(&service), expected, "{endpoints}");
        assert_eq!(service.lacks_endpoints("10.0.0.1:80".parse().unwrap()), expected.is_empty());
        // Also what is not ready is the Service's.
        let count = endpoints.as_array().map_or(0, Vec::len);
        assert_eq!(service.endpoint_addresses.len(), count);
    }
}

#[test]
fn endpoints_that_are_meant_for_this_place_come_first() {
    let endpoint = |address: &str, zone: &str, node: &str| {
        json!({
            "addresses": [address],
            "hints": {"forZones": [{"name": zone}], "forNodes": [{"name": node}]},
        })
    };
    let (here, zone) = (endpoint("10.1.0.3", "z2", "node-1"), endpoint("10.1.0.2", "z1", "node-2"));
    let (other, unsaid) = (endpoint("10.1.0.1", "z2", "node-2"), json!({"addresses": ["10.1.0.4"]}));
    for (endpoints, first, then) in [
        (json!([other, zone, unsaid]), vec!["10.1.0.2:8080"], vec!["10.1.0.1:8080", "10.1.0.4:8080"]),
        (json!([other, zone, here]), vec!["10.1.0.3:8080"], vec!["10.1.0.2:8080", "10.1.0.1:8080"]),
        (json!([other, unsaid]), vec!["10.1.0.1:8080", "10.1.0.4:8080"], vec![]),
    ] {
        let service = with(&[of_web("web-1", &endpoints)]);
        let (near, far) = words(&service.ports[1].v4);
        assert_eq!(
            (near, far),
            (first.into_iter().map(str::to_owned).collect(), then.into_iter().map(str::to_owned).collect())
        );
    }
}

#[test]
fn what_a_service_says_of_its_clients_and_of_the_node_holds() {
    let mut services = needing(&[WEB]);
    let endpoints = json!([
        {"addresses": ["10.1.0.1"], "nodeName": "node-1"}, {"addresses": ["10.1.0.2"], "nodeName": "node-2"},
    ]);
    let ports = json!([{"name": "http", "port": 80}]);
    let spec = json!({
        "clusterIPs": ["10.0.0.1"], "ports": ports, "sessionAffinity": "ClientIP", "internalTrafficPolicy": "Local",
    });
    listed(&mut services, &[object("web", &spec)], &[of_web("web-1", &endpoints)]);
    let service = told(&mut services, WEB).unwrap();
    assert_eq!(words(&service.ports[0].v4).0, ["10.1.0.1:8080"]);
    assert_eq!(service.stickiness, Stickiness::Clients);
    assert_eq!(service.endpoint_addresses.len(), 2);

    let spec = json!({"clusterIP": "None", "clusterIPs": ["None"], "ports": ports});
    services.is(&object("web", &spec));
    let service = told(&mut services, WEB).unwrap();
    assert_eq!((service.stickiness, &service.cluster_addresses[..]), (Stickiness::None, &[][..]));
    let named = json!([{"addresses": ["10.1.0.1"], "hostname": "web-0"}, {"addresses": ["10.1.0.2"]}]);
    services.is_slice(&of_web("web-1", &named));
    assert_eq!(told(&mut services, WEB).unwrap().stickiness, Stickiness::Endpoints);

    services.is(&object("web", &json!({"type": "ExternalName", "externalName": "a.example"})));
    assert_eq!(told(&mut services, WEB), None);
}

#[test]
fn a_slice_may_move_to_another_service() {
    let other = "other.shop.svc.cluster.local";
    let mut services = needing(&[WEB, other]);
    let one = json!([{"addresses": ["10.1.0.1"]}]);
    let spec = json!({"clusterIPs": ["10.0.0.2"], "ports": [{"name": "http", "port": 80}]});
    listed(&mut services, &[web(), object("other", &spec)], &[of_web("s", &one)]);
    assert_eq!(services.take_changes().len(), 2);
    services.is_slice(&slice("s", "other", "IPv4", &ports(), &one));
    let changes = services.take_changes();
    let count = |host: &str| {
        let of = changes.iter().find(|(known, _)| known.as_str() == host);
        of.unwrap().1.as_ref().unwrap().endpoint_addresses.len()
    };
    assert_eq!((count(WEB), count(other)), (0, 1));
    // To one that nobody needs.
    services.is_slice(&slice("s", "unknown", "IPv4", &ports(), &one));
    assert_eq!(told(&mut services, other).unwrap().endpoint_addresses.len(), 0);
    assert_eq!((services.slices.len(), services.weight), (0, 0));
}

#[test]
fn nothing_is_told_before_all_is_known_and_only_what_changes_after() {
    let mut services = needing(&[WEB, "web.shop.svc", "gone.shop.svc"]);
    services.is(&web());
    services.only("shop", &HashSet::from(["web".to_owned()]));
    assert!(services.take_changes().is_empty(), "the endpoints are not known yet");
    services.only_slices("shop", &HashSet::new());
    let changes = services.take_changes();
    let all: Vec<_> = changes.iter().map(|(host, service)| (host.as_str(), service.is_some())).collect();
    assert_eq!(all, [("gone.shop.svc", false), ("web.shop.svc", true), (WEB, true)]);
    services.is(&web());
    assert!(services.take_changes().is_empty(), "it has not changed");
    services.gone(&web());
    assert_eq!(
        services.take_changes(),
        [("web.shop.svc", None), (WEB, None)].map(|(host, none)| (host.parse().unwrap(), none))
    );
    services.is(&web());
    assert_eq!(services.take_changes().len(), 2);
    // Who asks again has to be told again.
    let names = services.need(&hosts(&[WEB]));
    assert_eq!(names, [("shop".to_owned(), ["web".to_owned()].into())].into());
    assert!(told(&mut services, WEB).is_some());
}

#[test]
fn only_what_is_needed_is_kept_and_no_more_than_there_is_room_for() {
    let mut services = needing(&[WEB]);
    let many: Vec<_> =
        (0..1000).map(|last| json!({"addresses": [format!("10.1.{}.{}", last / 250, last % 250)]})).collect();
    let many = json!(many);
    services.is_slice(&slice("other", "other", "IPv4", &ports(), &many));
    assert_eq!(services.weight, 0);
    let slices: Vec<_> =
        (0..MAX_ENDPOINTS / 1000 + 5).map(|index| of_web(&format!("web-{index}"), &many)).collect();
    listed(&mut services, &[web()], &slices);
    assert!(services.weight <= MAX_ENDPOINTS && services.slices.len() < slices.len());
    assert_eq!(told(&mut services, WEB).unwrap().endpoint_addresses.len(), 1000);
    services.only_slices("shop", &HashSet::new());
    assert_eq!((services.slices.len(), services.weight), (0, 0));
    listed(&mut services, &[web()], &slices[..1]);
    services.need(&BTreeSet::new());
    assert_eq!((services.slices.len(), services.weight, services.needed.len()), (0, 0, 0));
    let all: BTreeSet<Host> =
        (0..MAX_SERVICES + 3).map(|index| format!("s{index}.shop.svc").parse().unwrap()).collect();
    assert_eq!(services.need(&all)["shop"].len(), MAX_SERVICES);
}
