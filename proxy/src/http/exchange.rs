//! The attempt loop: one request of a client, from its head to the end of its answer.
//!
//! This is the one place where the decision core meets I/O, for every HTTP version: the version's own part is behind
//! [`Request`] and [`Attempt`]. What holds here:
//! - the request is sent as it comes; what was sent is kept for as long as it may have to be sent again;
//! - nothing of a response reaches the client before it is decided that the response is the client's, and after that
//!   nothing is tried again;
//! - whatever ends the request, all its attempts end with it.

mod delivery;
mod parts;
mod timer;

use std::future::poll_fn;
use std::net::SocketAddr;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;

pub use self::parts::{
    Added, AddedToResponse, Attempt, Delivered, Ended, Event, Gone, Plan, Prior, Request, Said,
};
pub use self::timer::Timer;
use self::timer::{earliest, is_over};
use super::answer::Answer;
use super::replay::Replay;
use crate::observe::RequestAttempt;
use crate::policy::AddedHeaders;
use crate::reason::{Reason, RequestOutcome};
use crate::retry::budgets::RetryUnderWay;
use crate::retry::request::{self, Cause, Condition, Outcome, Progress, ResponseFacts, Verdict};
use crate::retry::{Attempts, Jitter, Scope};

/// How often a client is looked at that nothing is read from.
const LOOK: Duration = Duration::from_secs(1);

struct Running<A> {
    attempt: A,
    endpoint: SocketAddr,
    begun: Instant,
    backoff: Duration,
    per_try: Option<Instant>,
    /// The per-try timeout has run out, and another attempt was made beside this one.
    is_hedged: bool,
    moved: u64,
    last_moved: Instant,
}

struct Exchange<'a, R: Request> {
    request: &'a mut R,
    plan: Plan<'a>,
    timer: &'a mut Timer,
    tried: &'a mut Vec<RequestAttempt>,
    body: Replay,
    running: Vec<Running<R::Attempt>>,
    retry_at: Option<(Instant, Duration)>,
    under_way: Option<RetryUnderWay>,
    made: u32,
    begun: Instant,
    /// When the whole request has to be over.
    deadline: Option<Instant>,
    last_active: Instant,
    /// Nothing is tried again from here on.
    is_final: Option<Reason>,
    was_timeout: bool,
    /// When the client was last looked at.
    looked: Instant,
    has_begun: bool,
    was_continued: bool,
    refused: Option<Scope>,
    source: Option<SocketAddr>,
    /// The request's id, where redial makes one.
    id: Option<u128>,
}

enum Next {
    Final(Reason),
    Retry {
        after: Duration,
        condition: Condition,
    },
    /// Another attempt is still to answer.
    Wait,
}

enum Step<I> {
    Event(usize, Event<I>),
    Gone(Gone),
    PerTryTimeout(usize),
    PerTryIdleTimeout(usize),
    RetryNow,
    Timeout,
    IdleTimeout,
}

/// Tries a request until it has an answer, and delivers that.
pub async fn run<R: Request>(
    request: &mut R,
    plan: Plan<'_>,
    timer: &mut Timer,
    tried: &mut Vec<RequestAttempt>,
) -> Ended {
    let now = Instant::now();
    plan.budget.deposit(now - plan.epoch);
    let keeps = if plan.policy.retry.num_retries == 0 { 0 } else { plan.policy.max_buffered_body };
    let body = Replay::new(keeps, plan.buffers);
    tried.clear();
    let mut exchange = Exchange {
        request,
        plan,
        timer,
        tried,
        body,
        running: Vec::with_capacity(1),
        retry_at: None,
        under_way: None,
        made: 0,
        begun: now,
        deadline: None,
        last_active: now,
        is_final: None,
        was_timeout: false,
        looked: now,
        has_begun: false,
        was_continued: false,
        refused: None,
        source: None,
        id: None,
    };
    exchange.run().await
}

impl<R: Request> Exchange<'_, R> {
    async fn run(&mut self) -> Ended {
        self.made = self.plan.prior.failed;
        if self.plan.endpoints.is_empty() {
            return self.answer(&Answer::no_endpoint(), Reason::NoEndpoint).await;
        }
        if let Some(outcome) = self.plan.prior.gave_up {
            // What has come of the request is not the next one's.
            let _ = poll_fn(|cx| Poll::Ready(self.poll_client(cx, 0))).await;
            let failed = Outcome::Failed { progress: Progress::NotSent, cause: Cause::Connect(outcome) };
            if let Some(why) = self.concluded(None, &failed) {
                let answer = Answer::failed(Cause::Connect(outcome), self.made > 1);
                return self.answer(&answer, why).await;
            }
        } else {
            self.begin_attempt(self.begun, Duration::ZERO);
        }
        loop {
            match poll_fn(|cx| self.poll(cx)).await {
                Step::Event(_, Event::Interim { interim, is_continue }) => {
                    if is_continue && std::mem::replace(&mut self.was_continued, true) {
                        // Of an attempt before this one, which the client has had.
                        continue;
                    }
                    if !is_continue {
                        self.is_final = Some(Reason::NotRetriable);
                        self.forget_retry();
                    }
                    self.request.inform(interim);
                }
                Step::Event(index, Event::Head) => {
                    let outcome = Outcome::Response(self.response_facts(index));
                    if let Some(why) = self.concluded(Some(index), &outcome) {
                        return self.deliver(index, why).await;
                    }
                }
                Step::Event(index, Event::Failed { progress, cause }) => {
                    if let Some(ended) = self.failed(index, progress, cause).await {
                        return ended;
                    }
                }
                Step::PerTryTimeout(index) => {
                    if self.hedges(index) {
                        continue;
                    }
                    let progress = self.progress(index);
                    if let Some(ended) = self.failed(index, progress, Cause::PerTryTimeout).await {
                        return ended;
                    }
                }
                Step::PerTryIdleTimeout(index) => {
                    let progress = self.progress(index);
                    if let Some(ended) = self.failed(index, progress, Cause::PerTryIdleTimeout).await {
                        return ended;
                    }
                }
                // A hedge whose body was let go meanwhile is none.
                Step::RetryNow if self.body.is_lost() => self.forget_retry(),
                Step::RetryNow => {
                    let backoff = self.retry_at.take().map_or(Duration::ZERO, |(_, backoff)| backoff);
                    self.begin_attempt(Instant::now(), backoff);
                }
                Step::Timeout => {
                    self.leave_all(RequestOutcome::Timeout);
                    let answer = self.timeout_answer();
                    return self.answer(&answer, Reason::TimedOut).await;
                }
                Step::IdleTimeout => {
                    self.leave_all(RequestOutcome::Timeout);
                    let answer = Answer::idle_timeout(self.body.is_complete());
                    return self.answer(&answer, Reason::IdleTimeout).await;
                }
                Step::Gone(Gone::HalfClosed) => {
                    self.is_final = Some(Reason::ClientGone);
                    self.forget_retry();
                    for running in &mut self.running {
                        running.attempt.half_close();
                    }
                    if self.running.is_empty() {
                        // In a pause: nothing is tried any more, and it may still read.
                        return self.answer(&Answer::refused(503), Reason::ClientGone).await;
                    }
                }
                Step::Gone(Gone::Gone) => {
                    self.leave_all(RequestOutcome::Cancelled);
                    return self.ended(None, Reason::ClientGone, false, None);
                }
                Step::Gone(Gone::Invalid(status)) => {
                    self.leave_all(RequestOutcome::Cancelled);
                    return self.answer(&Answer::refused(status), Reason::BadRequest).await;
                }
            }
        }
    }

    /// Nothing is tried again, whatever was meant to be.
    fn forget_retry(&mut self) {
        self.retry_at = None;
        self.under_way = None;
    }

    // What happens next.

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Step<<R::Attempt as Attempt>::Interim>> {
        loop {
            let sent = self.sent();
            if let Poll::Ready(gone) = self.poll_client(cx, sent) {
                return Poll::Ready(Step::Gone(gone));
            }
            for (index, running) in self.running.iter_mut().enumerate() {
                if let Poll::Ready(event) = running.attempt.poll(cx, &self.body) {
                    return Poll::Ready(Step::Event(index, event));
                }
            }
            let now_sent = self.sent();
            // A hedge that is about to begin needs all of it.
            if self.running.len() == 1
                && self.retry_at.is_none()
                && let Some(bound) = self.body.sent(now_sent)
                && self.plan.policy.retry.num_retries > 0
            {
                self.plan.metrics.body_not_kept(bound);
            }
            if now_sent == sent || self.body.is_complete() {
                break;
            }
        }
        self.poll_time(cx)
    }

    fn poll_client(&mut self, cx: &mut Context<'_>, sent: u64) -> Poll<Gone> {
        while self.body.wants_more(sent) {
            match self.request.poll_body(cx) {
                Poll::Ready(Ok(piece)) => {
                    self.body.push(piece);
                    if self.plan.policy.idle_timeout.is_some() {
                        self.last_active = Instant::now();
                    }
                    if self.body.is_complete() {
                        self.whole_request();
                    }
                }
                Poll::Ready(Err(gone)) => return Poll::Ready(gone),
                Poll::Pending => return Poll::Pending,
            }
        }
        if self.is_final == Some(Reason::ClientGone) {
            return Poll::Pending;
        }
        self.request.poll_gone(cx)
    }

    /// All of the request has come: from here on its time counts.
    fn whole_request(&mut self) {
        self.deadline = self.plan.policy.timeout.map(|timeout| Instant::now() + timeout);
    }

    fn poll_time(&mut self, cx: &mut Context<'_>) -> Poll<Step<<R::Attempt as Attempt>::Interim>> {
        let retry = &self.plan.policy.retry;
        let (per_try, per_try_idle) = (self.plan.policy.per_try_timeout(), retry.per_try_idle_timeout);
        let idle = self.plan.policy.idle_timeout;
        let mut next = earliest(self.deadline, self.retry_at.map(|(at, _)| at));
        // The clock is read for those who ask when something moved last, and for nobody else.
        let is_watched = per_try_idle.is_some() || idle.is_some();
        if per_try.is_some() || is_watched {
            let is_complete = self.body.is_complete();
            for running in &mut self.running {
                let moved = running.attempt.moved();
                if is_watched && moved != running.moved {
                    running.moved = moved;
                    running.last_moved = Instant::now();
                    self.last_active = running.last_moved;
                }
                if running.attempt.response().is_some() {
                    // The head has come, and waits for what comes with it.
                    running.per_try = None;
                    continue;
                }
                if !is_complete || !running.attempt.is_connected() {
                    continue;
                }
                if let (Some(per_try), None, false) = (per_try, running.per_try, running.is_hedged) {
                    running.per_try = Some(Instant::now() + per_try);
                }
                let idle = per_try_idle.map(|idle| running.last_moved + idle);
                next = earliest(next, earliest(running.per_try, idle));
            }
            next = earliest(next, idle.map(|idle| self.last_active + idle));
        }
        let look_at = self.look_at(self.sent());
        let Some(next) = earliest(next, look_at) else { return Poll::Pending };
        let Poll::Ready(now) = self.timer.poll_until(cx, next) else { return Poll::Pending };
        if is_over(look_at, now) {
            return if self.looks_gone(now) {
                Poll::Ready(Step::Gone(Gone::Gone))
            } else {
                self.poll_time(cx)
            };
        }
        if is_over(self.deadline, now) {
            return Poll::Ready(Step::Timeout);
        }
        for (index, running) in self.running.iter().enumerate() {
            if is_over(running.per_try, now) {
                return Poll::Ready(Step::PerTryTimeout(index));
            }
            let has_head = running.attempt.response().is_some();
            let counts = self.body.is_complete() && running.attempt.is_connected() && !has_head;
            if counts && is_over(per_try_idle.map(|idle| running.last_moved + idle), now) {
                return Poll::Ready(Step::PerTryIdleTimeout(index));
            }
        }
        if is_over(self.retry_at.map(|(at, _)| at), now) {
            return Poll::Ready(Step::RetryNow);
        }
        Poll::Ready(Step::IdleTimeout)
    }

    /// When to look whether a client is still there that nothing is read from, which else would be how its leaving is
    /// seen.
    fn look_at(&self, sent: u64) -> Option<Instant> {
        let is_held = !self.body.is_complete() && !self.body.wants_more(sent);
        let is_unheard = is_held || self.is_final == Some(Reason::ClientGone);
        is_unheard.then(|| self.looked + LOOK)
    }

    fn looks_gone(&mut self, now: Instant) -> bool {
        self.looked = now;
        self.request.is_gone()
    }

    // Attempts.

    fn begin_attempt(&mut self, now: Instant, backoff: Duration) {
        self.made += 1;
        let stays = self.has_begun && !self.plan.policy.retry.hosts.avoid_previous;
        let endpoints = &mut self.plan.endpoints;
        let endpoint = if stays { endpoints.same_endpoint() } else { endpoints.next_endpoint() };
        self.has_begun = true;
        let added = if self.plan.policy.added_headers == AddedHeaders::Envoy {
            Added {
                is_on: true,
                attempt_count: self.made,
                expected_timeout: self.expected_timeout(now),
                is_timeout_retry: (self.made > 1).then_some(self.was_timeout),
                request_id: Some(*self.id.get_or_insert_with(|| fastrand::u128(..))),
            }
        } else {
            Added::default()
        };
        let attempt = self.request.begin(endpoint, &added);
        self.running.push(Running {
            attempt,
            endpoint,
            begun: now,
            backoff,
            per_try: None,
            is_hedged: false,
            moved: 0,
            last_moved: now,
        });
    }

    /// What an upstream may count on: the attempt's own time, or what is left of the request's.
    fn expected_timeout(&self, now: Instant) -> Option<Duration> {
        let left = match (self.deadline, self.plan.policy.timeout) {
            (Some(deadline), _) => Some(deadline.saturating_duration_since(now)),
            (None, timeout) => timeout,
        };
        [self.plan.policy.per_try_timeout(), left].into_iter().flatten().min()
    }

    /// An attempt has come to something. Returns why it is the last one; else it is left, for another or for a retry.
    fn concluded(&mut self, index: Option<usize>, outcome: &Outcome) -> Option<Reason> {
        let retried = match self.next(index, outcome) {
            Next::Final(why) => return Some(why),
            Next::Retry { after, condition } => {
                self.retry_at = Some((Instant::now() + after, after));
                self.was_timeout = matches!(
                    outcome,
                    Outcome::Failed { cause: Cause::PerTryTimeout | Cause::PerTryIdleTimeout, .. }
                );
                Some(condition)
            }
            Next::Wait => None,
        };
        if let Some(index) = index {
            self.leave(index, RequestOutcome::from(outcome), retried);
        }
        None
    }

    fn next(&mut self, index: Option<usize>, outcome: &Outcome) -> Next {
        let was_hedged = index.and_then(|index| self.running.get(index)).is_some_and(|one| one.is_hedged);
        // A hedge that is in flight, or about to be.
        let others = self.running.len() > 1 || self.retry_at.is_some();
        let attempts = Attempts { made: self.made, elapsed: self.begun.elapsed() };
        let replay = if self.body.is_lost() { request::Replay::Lost } else { request::Replay::Ready };
        let jitter = Jitter::from_bits(fastrand::u64(..));
        let retry = &self.plan.policy.retry;
        let verdict = request::decide(retry, self.plan.facts, &attempts, outcome, replay, jitter);
        let (after, condition) = match verdict {
            Verdict::Retry { after, why } => (after, why),
            Verdict::Deliver { why } => {
                let is_good = why == Reason::Responded;
                return if others && !is_good { Next::Wait } else { Next::Final(why) };
            }
        };
        if others {
            // The other attempt is this one's retry.
            return Next::Wait;
        }
        if was_hedged {
            return Next::Final(Reason::AttemptsExhausted);
        }
        if let Some(why) = self.is_final.or_else(|| self.may_not_retry()) {
            return Next::Final(why);
        }
        Next::Retry { after, condition }
    }

    /// Asks for a retry where everything but its price is settled.
    fn may_not_retry(&mut self) -> Option<Reason> {
        // The retry before this one, if there was one, has ended.
        self.under_way = None;
        let permit = self.plan.budget.begin_retry(self.plan.policy.retry.max_concurrent_retries);
        let Some(permit) = permit else { return Some(Reason::TooManyRetries) };
        if let Err(scope) = self.plan.budget.withdraw(self.plan.epoch.elapsed()) {
            self.refused = Some(scope);
            return Some(Reason::BudgetExhausted);
        }
        self.under_way = Some(permit);
        None
    }

    /// Begins another attempt beside one whose per-try timeout has run out. Says whether the attempt goes on.
    fn hedges(&mut self, index: usize) -> bool {
        let retry = &self.plan.policy.retry;
        if !retry.hedge_on_per_try_timeout {
            return false;
        }
        let may = self.is_final.is_none()
            && self.plan.facts.retriable
            && self.plan.facts.repeatable
            && !self.body.is_lost()
            && self.retry_at.is_none()
            && self.made <= retry.num_retries;
        let after = retry.backoff.delay(self.made, Jitter::from_bits(fastrand::u64(..)));
        let may = may && self.may_not_retry().is_none();
        if let Some(running) = self.running.get_mut(index) {
            running.per_try = None;
            // Not asked again, whether there is another now or not.
            running.is_hedged = true;
        }
        if may {
            self.was_timeout = true;
            self.retry_at = Some((Instant::now() + after, after));
        }
        true
    }

    async fn failed(&mut self, index: usize, progress: Progress, cause: Cause) -> Option<Ended> {
        let outcome = Outcome::Failed { progress, cause };
        let why = self.concluded(Some(index), &outcome)?;
        self.leave(index, RequestOutcome::from(&outcome), None);
        let answer = match cause {
            Cause::PerTryTimeout | Cause::PerTryIdleTimeout => self.timeout_answer(),
            Cause::Connect(_)
            | Cause::ConnectionLost
            | Cause::RefusedStream
            | Cause::StreamReset
            | Cause::Protocol => Answer::failed(cause, self.made > 1),
        };
        Some(self.answer(&answer, why).await)
    }

    fn timeout_answer(&self) -> Answer {
        Answer::timeout(self.plan.policy.timeout_alt_response)
    }

    /// How far an attempt is that is given up.
    fn progress(&self, index: usize) -> Progress {
        let moved = self.running.get(index).is_some_and(|running| running.attempt.moved() > 0);
        if moved { Progress::Sent } else { Progress::NotSent }
    }

    fn response_facts(&self, index: usize) -> ResponseFacts {
        let retry = &self.plan.policy.retry;
        let attempt = self.running.get(index).map(|running| &running.attempt);
        attempt.map(|attempt| attempt.facts(retry)).unwrap_or_default()
    }

    /// Takes an attempt out that is not delivered.
    fn leave(&mut self, index: usize, outcome: RequestOutcome, retried: Option<Condition>) {
        if index >= self.running.len() {
            return;
        }
        let running = self.running.remove(index);
        self.record(&running, outcome, retried);
        running.attempt.retire();
    }

    fn leave_all(&mut self, outcome: RequestOutcome) {
        for running in std::mem::take(&mut self.running) {
            // What it was hedged for says more than that it was left.
            let outcome = if running.is_hedged { RequestOutcome::PerTryTimeout } else { outcome };
            self.record(&running, outcome, None);
        }
    }

    fn record(&mut self, running: &Running<R::Attempt>, outcome: RequestOutcome, retried: Option<Condition>) {
        self.source = running.attempt.source();
        let response = running.attempt.response();
        self.tried.push(RequestAttempt {
            endpoint: running.endpoint,
            outcome,
            status: response.map(|response| response.status),
            grpc_status: response.and_then(|response| response.grpc_status),
            retried,
            duration: running.begun.elapsed(),
            backoff: running.backoff,
        });
    }

    fn sent(&self) -> u64 {
        // With more than one attempt all of the body is there.
        self.running.first().map_or(0, |running| running.attempt.sent())
    }
}

impl From<&Outcome> for RequestOutcome {
    fn from(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Response(_) => Self::Response,
            Outcome::Failed { cause, .. } => match cause {
                Cause::Connect(outcome) => Self::Connect(*outcome),
                Cause::ConnectionLost => Self::ConnectionLost,
                Cause::RefusedStream => Self::RefusedStream,
                Cause::StreamReset => Self::StreamReset,
                Cause::Protocol => Self::ProtocolError,
                Cause::PerTryTimeout => Self::PerTryTimeout,
                Cause::PerTryIdleTimeout => Self::PerTryIdleTimeout,
            },
        }
    }
}
