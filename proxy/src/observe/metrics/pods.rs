//! How pods of a cluster are enrolled.

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use super::add;
use super::durations::Durations;

pub(super) struct Pods {
    enrolment: Durations,
    enrolled: Counter,
    late: Counter,
    watches_failing: Gauge,
    watch_failures: Counter,
    objects_refused: Gauge,
    objects_held: Gauge,
}

impl Pods {
    pub(super) fn register(redial: &mut Registry) -> Self {
        let enrolment = Durations::default();
        redial.register_with_unit(
            "pod_enrolment_duration",
            "Time from a pod's cgroup to its enrolment, of pods that came after the agent",
            Unit::Seconds,
            enrolment.clone(),
        );
        let enrolled = add(redial, "pods_enrolled", "Pods that were enrolled", Counter::default());
        let late = add(
            redial,
            "pods_enrolled_late",
            "Pods of these that had processes already: connections made before went direct",
            Counter::default(),
        );
        let watches_failing = add(
            redial,
            "kubernetes_watches_failing",
            "Kinds of Kubernetes objects that cannot be watched now; what was known of them holds",
            Gauge::default(),
        );
        let watch_failures = add(
            redial,
            "kubernetes_watch_failures",
            "How often a watch of Kubernetes objects failed",
            Counter::default(),
        );
        let objects_refused = add(
            redial,
            "kubernetes_objects_refused",
            "Policy objects of the API that are not in force as they are because something is wrong with them",
            Gauge::default(),
        );
        let objects_held = add(
            redial,
            "kubernetes_objects_held",
            "Those of the refused objects of which what they said before is in force",
            Gauge::default(),
        );
        Self { enrolment, enrolled, late, watches_failing, watch_failures, objects_refused, objects_held }
    }

    pub(super) fn objects_refused(&self, count: usize, held: usize) {
        self.objects_refused.set(i64::try_from(count).unwrap_or(i64::MAX));
        self.objects_held.set(i64::try_from(held).unwrap_or(i64::MAX));
    }

    pub(super) fn watches_failing(&self, now: usize, failures: u64) {
        self.watches_failing.set(i64::try_from(now).unwrap_or(i64::MAX));
        self.watch_failures.inc_by(failures.saturating_sub(self.watch_failures.get()));
    }

    pub(super) fn enrolled(&self, after: Option<Duration>, had_processes: bool) {
        self.enrolled.inc();
        if had_processes {
            self.late.inc();
        }
        if let Some(after) = after {
            self.enrolment.observe(after);
        }
    }
}
