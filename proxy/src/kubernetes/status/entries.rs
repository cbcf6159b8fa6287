//! What a route of the Gateway API says, in `status.parents`, of the Services that it hangs on. Pure.
//!
//! Every system that reads a route has entries of its own there: for redial's, one for each Service.

use serde_json::{Value, json};

use super::{Object, accepted, are_said, said};

/// Whose entries are redial's.
const CONTROLLER: &str = "redial.dev/agent";

/// The list that is to be written, with what others have in it; none where redial's entries are right. `refused`: what is
/// wrong with the route.
pub(super) fn parents(object: &Object, refused: Option<&String>) -> Option<Value> {
    let wanted = [accepted(refused, "UnsupportedValue")];
    let there = object.status.as_array().map(Vec::as_slice).unwrap_or_default();
    let (own, others): (Vec<_>, Vec<_>) =
        there.iter().partition(|entry| entry["controllerName"] == CONTROLLER);
    let known = |parent: &Value| {
        own.iter()
            .find(|entry| entry["parentRef"] == *parent)
            .map_or(&Value::Null, |entry| &entry["conditions"])
    };
    let is_said = |parent: &Value| are_said(known(parent), &wanted, object.generation);
    if own.len() == object.parents.len() && object.parents.iter().all(is_said) {
        return None;
    }
    let own = object.parents.iter().map(|parent| {
        let conditions = said(known(parent), &wanted, object.generation);
        json!({"parentRef": parent, "controllerName": CONTROLLER, "conditions": conditions})
    });
    Some(others.into_iter().cloned().chain(own).collect())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::parents;
    use crate::dialect::KINDS;
    use crate::kubernetes::Object;

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
        let list = parents(&route, None).unwrap();
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
        assert_eq!(parents(&route, None), None);
        let list = parents(&route, Some(&"spec.rules: too many".to_owned())).unwrap();
        let condition = &list[1]["conditions"][0];
        assert_eq!(
            (&condition["status"], &condition["reason"]),
            (&json!("False"), &json!("UnsupportedValue"))
        );
        assert_eq!(condition["message"], "spec.rules: too many");
        route.generation = 3;
        assert_eq!(parents(&route, None).unwrap()[1]["conditions"][0]["observedGeneration"], 3);

        // What it does not hang on any more goes, and what is others' stays.
        route.parents = Arc::default();
        assert_eq!(parents(&route, None), Some(json!([foreign])));
    }

    #[test]
    fn a_route_without_services_is_left_alone() {
        let mut route = route(&json!([{"name": "edge"}]));
        assert_eq!(parents(&route, None), None);
        for odd in [json!("odd"), json!([1, null, {"controllerName": 1}]), json!([])] {
            route.status = Arc::new(odd);
            assert_eq!(parents(&route, None), None);
        }
    }
}
