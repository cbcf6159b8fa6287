//! What an object of the Gateway API says in its status of the things that it refers to: of a route's Services in
//! `status.parents`, of a policy's targets in `status.ancestors`. Pure.
//!
//! Every system that reads such an object has entries of its own there: for redial's, one for each.

use serde_json::{Map, Value, json};

use super::{Object, accepted, are_said, said};

/// Whose entries are redial's.
const CONTROLLER: &str = "redial.dev/agent";

/// The list that is to be written and its name, with what others have in it; none where redial's entries are right.
/// `refused`: what is wrong with the object.
pub(super) fn wanted(object: &Object, refused: Option<&String>) -> Option<(&'static str, Value)> {
    let entries = object.kind.entries()?;
    let wanted = [accepted(refused, entries.refused)];
    let there = object.status.as_array().map(Vec::as_slice).unwrap_or_default();
    let (own, others): (Vec<_>, Vec<_>) =
        there.iter().partition(|entry| entry["controllerName"] == CONTROLLER);
    let subjects = object.subjects.iter().take(entries.own.min(entries.room.saturating_sub(others.len())));
    let known = |subject: &Value| {
        own.iter()
            .find(|entry| entry[entries.about] == *subject)
            .map_or(&Value::Null, |entry| &entry["conditions"])
    };
    let is_said = |subject: &Value| are_said(known(subject), &wanted, object.generation);
    if own.len() == subjects.len() && subjects.clone().all(is_said) {
        return None;
    }
    let own = subjects.map(|subject| {
        let conditions = said(known(subject), &wanted, object.generation);
        let mut entry = Map::new();
        entry.insert(entries.about.to_owned(), subject.clone());
        entry.insert("controllerName".to_owned(), json!(CONTROLLER));
        entry.insert("conditions".to_owned(), conditions);
        Value::Object(entry)
    });
    Some((entries.list, others.into_iter().cloned().chain(own).collect()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::wanted;
    use crate::dialect::KINDS;
    use crate::kubernetes::Object;

    fn list_of(object: &Object, refused: Option<&String>) -> Value {
        wanted(object, refused).unwrap().1
    }

    fn route(parents: &Value) -> Object {
        let object = json!({
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "HTTPRoute",
            "metadata": {"name": "a", "namespace": "shop", "generation": 2},
            "spec": {"parentRefs": parents},
        });
        Object::new(&KINDS[1], serde_json::from_value(object).unwrap()).unwrap()
    }

    #[test]
    fn each_service_has_an_entry_beside_those_of_others() {
        let gateway = json!({"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "edge"});
        let service = |name: &str| json!({"group": "", "kind": "Service", "name": name});
        let mut route = route(&json!([gateway, service("a"), service("b")]));
        let foreign = json!({"parentRef": gateway, "controllerName": "example.com/gateway", "conditions": [{"type": "Accepted"}]});
        route.status = Arc::new(json!([foreign]));
        let list = list_of(&route, None);
        assert_eq!((list.as_array().unwrap().len(), &list[0]), (3, &foreign));
        assert_eq!(
            (&list[2]["parentRef"], &list[2]["controllerName"]),
            (&service("b"), &json!("redial.dev/agent"))
        );
        let condition = &list[1]["conditions"][0];
        assert_eq!((&condition["type"], &condition["status"]), (&json!("Accepted"), &json!("True")));
        assert_eq!(condition["observedGeneration"], 2);

        // Once it is written there is nothing to do, until something changes.
        route.status = Arc::new(list);
        assert_eq!(wanted(&route, None), None);
        let list = list_of(&route, Some(&"spec.rules: too many".to_owned()));
        let condition = &list[1]["conditions"][0];
        assert_eq!(
            (&condition["status"], &condition["reason"]),
            (&json!("False"), &json!("UnsupportedValue"))
        );
        assert_eq!(condition["message"], "spec.rules: too many");
        route.generation = 3;
        assert_eq!(list_of(&route, None)[1]["conditions"][0]["observedGeneration"], 3);

        // What it does not hang on any more goes, and what is others' stays.
        route.subjects = Arc::default();
        assert_eq!(list_of(&route, None), json!([foreign]));
    }

    #[test]
    fn a_route_without_services_is_left_alone() {
        let mut route = route(&json!([{"name": "edge"}]));
        assert_eq!(wanted(&route, None), None);
        for odd in [json!("odd"), json!([1, null, {"controllerName": 1}]), json!([])] {
            route.status = Arc::new(odd);
            assert_eq!(wanted(&route, None), None);
        }
    }

    #[test]
    fn a_policy_says_it_of_its_targets() {
        let target =
            |name: &str| json!({"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "name": name});
        let kind = KINDS.iter().find(|kind| kind.kind == "TrafficPolicy").unwrap();
        let targets: Vec<_> = (0..16).map(|number| target(&number.to_string())).collect();
        let object = json!({
            "apiVersion": "gateway.kgateway.dev/v1alpha1",
            "kind": "TrafficPolicy",
            "metadata": {"name": "a", "namespace": "shop", "generation": 2},
            "spec": {"targetRefs": targets},
        });
        let mut policy = Object::new(kind, serde_json::from_value(object).unwrap()).unwrap();
        let (field, list) = wanted(&policy, Some(&"spec.retry: no".to_owned())).unwrap();
        assert_eq!((field, list.as_array().unwrap().len()), ("ancestors", 8));
        assert_eq!(list[1]["ancestorRef"], target("1"));
        assert_eq!(list[1]["conditions"][0]["reason"], "Invalid");

        // Others' stay, and there is room for no more than the API server takes.
        let foreign =
            json!({"ancestorRef": target("x"), "controllerName": "example.com/gateway", "conditions": []});
        policy.status = Arc::new(json!(vec![foreign.clone(); 10]));
        let (_, list) = wanted(&policy, None).unwrap();
        assert_eq!((list.as_array().unwrap().len(), &list[9]), (16, &foreign));
        policy.status = Arc::new(list);
        assert_eq!(wanted(&policy, None), None);
    }
}
