//! Where every end is told: it is counted, remembered where it is a failure, and written to the access log.

use std::net::SocketAddr;
use std::sync::Arc;

use super::{AccessLog, Connection, GiveUp, Metrics, RecentGiveUps, Request, RequestEnd, RequestOrigin};
use crate::reason::Reason;

/// A clone tells the same ones. A request that succeeds costs a few atomics here where there is no access log.
#[derive(Clone, Debug)]
pub struct Observer(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    metrics: Metrics,
    give_ups: RecentGiveUps,
    access_log: Option<AccessLog>,
}

impl Observer {
    #[must_use]
    pub fn new(metrics: Metrics, access_log: Option<AccessLog>) -> Self {
        Self(Arc::new(Inner { metrics, give_ups: RecentGiveUps::default(), access_log }))
    }

    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    pub fn connection_ended(&self, connection: Connection) {
        let Inner { metrics, give_ups, access_log } = &*self.0;
        metrics.connection_ended(&connection);
        give_ups.connection_ended(&connection);
        if let Some(access_log) = access_log {
            access_log.record(connection);
        }
    }

    /// What the requests of a connection under a policy have in common. For once a connection: this takes a lock.
    #[must_use]
    pub fn requests_of(
        &self,
        workload: Arc<str>,
        original_destination: SocketAddr,
        policy: Arc<str>,
    ) -> RequestOrigin {
        let metrics = self.metrics().requests_of(&policy, original_destination);
        RequestOrigin { workload, original_destination, policy, metrics }
    }

    /// Whether what a request asked for is recorded, where it ends so.
    #[must_use]
    pub fn keeps(&self, reason: Reason) -> bool {
        self.0.access_log.is_some() || reason.is_give_up()
    }

    pub fn request_ended(&self, end: &RequestEnd<'_>) {
        let Inner { metrics, give_ups, access_log } = &*self.0;
        end.origin.metrics.ended(end);
        if let Some(scope) = end.refused {
            metrics.budget_refused(scope);
        }
        if !self.keeps(end.reason) {
            return;
        }
        let request = Request::from(end);
        give_ups.request_ended(&request);
        if let Some(access_log) = access_log {
            access_log.record(request);
        }
    }

    /// The latest failures, latest first.
    #[must_use]
    pub fn give_ups(&self) -> Vec<GiveUp> {
        self.0.give_ups.list()
    }

    /// Opens the access log again, after its file was moved away.
    pub fn reopen_access_log(&self) {
        if let Some(access_log) = &self.0.access_log {
            access_log.reopen();
        }
    }

    /// Waits until the access log has what was recorded so far.
    pub fn flush_access_log(&self) {
        if let Some(access_log) = &self.0.access_log {
            access_log.flush();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::Observer;
    use crate::observe::access_log::Target;
    use crate::observe::metrics::tests::metrics;
    use crate::observe::record::request_tests::{attempt, end, origin};
    use crate::observe::record::tests::connection;
    use crate::observe::{AccessLog, RequestEnd};
    use crate::reason::{AttemptOutcome, Reason, RequestOutcome};
    use crate::retry::Scope;

    /// Tells of a good and a failed connection, and of a good and a failed request.
    fn tell_all(observer: &Observer) {
        observer.connection_ended(connection(Reason::Closed, &[AttemptOutcome::Connected]));
        observer.connection_ended(connection(Reason::TimedOut, &[AttemptOutcome::Timeout]));
        let origin = origin(observer.metrics());
        let attempts = [attempt(RequestOutcome::Response, Some(503))];
        observer.request_ended(&end(&origin, &attempts, Reason::Responded));
        let refused = Some(Scope::Destination);
        let failed = end(&origin, &attempts, Reason::BudgetExhausted);
        observer.request_ended(&RequestEnd { refused, ..failed });
    }

    #[test]
    fn every_end_is_counted_and_every_failure_is_remembered() {
        let observer = Observer::new(metrics(), None);
        tell_all(&observer);
        let give_ups = observer.give_ups();
        let reasons: Vec<_> = give_ups.iter().map(|give_up| &*give_up.reason).collect();
        assert_eq!(reasons, ["budget-exhausted", "timed-out"]);
        let request = give_ups[0].request.as_ref().unwrap();
        assert_eq!((request.method.as_deref(), request.status), (Some("POST"), Some(503)));
        assert_eq!(give_ups[1].request, None);
        let totals = observer.metrics().totals();
        assert_eq!(totals.connections_total.values().sum::<u64>(), 2);
        assert_eq!(totals.requests_total.values().sum::<u64>(), 2);
        assert_eq!(totals.budget_refusals["destination"], 1);
    }

    #[test]
    fn every_end_is_a_line_where_there_is_an_access_log() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let log = AccessLog::open(Target::File(path.clone()), metrics()).unwrap();
        let observer = Observer::new(metrics(), Some(log));
        tell_all(&observer);
        observer.flush_access_log();
        let lines = fs::read_to_string(path).unwrap();
        let kinds: Vec<_> = lines
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["kind"].clone())
            .collect();
        assert_eq!(kinds, ["tcp", "tcp", "http", "http"]);
        assert_eq!(observer.give_ups().len(), 2);
    }
}
