//! The end of a request: a response that goes to the client while the request may still be coming, or an answer of
//! redial's own.

use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;

use super::timer::{earliest, is_over};
use super::{AddedToResponse, Attempt as _, Delivered, Ended, Exchange, Gone, Request, Running};
use crate::http::answer::Answer;
use crate::policy::AddedHeaders;
use crate::reason::{Reason, RequestOutcome};
use crate::retry::request::{Outcome, Progress};

/// How delivering a response ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Delivery {
    Delivered(Delivered),
    Timeout,
    PerTryIdleTimeout,
    IdleTimeout,
}

impl<R: Request> Exchange<'_, R> {
    /// Delivers an attempt's response, and goes on sending the request meanwhile.
    pub(super) async fn deliver(&mut self, index: usize, why: Reason) -> Ended {
        let first_byte = Some(self.begun.elapsed());
        let mut chosen = self.running.swap_remove(index);
        self.leave_all(RequestOutcome::Cancelled);
        self.forget_retry();
        self.body.give_up(chosen.attempt.sent());
        let added = self.added_to_response();
        let mut delivered = false;
        let end = poll_fn(|cx| self.poll_delivery(cx, &mut chosen, added, &mut delivered)).await;
        let status = chosen.attempt.response().map(|response| response.status);
        let (reason, outcome) = match end {
            Delivery::Delivered(Delivered::Whole) => (why, RequestOutcome::Response),
            Delivery::Delivered(Delivered::ClientGone) => (Reason::ClientGone, RequestOutcome::Response),
            Delivery::Delivered(Delivered::UpstreamLost(cause)) => (
                Reason::UpstreamReset,
                RequestOutcome::from(&Outcome::Failed { progress: Progress::HeadReceived, cause }),
            ),
            Delivery::Timeout => (Reason::TimedOut, RequestOutcome::Timeout),
            Delivery::PerTryIdleTimeout => (Reason::IdleTimeout, RequestOutcome::PerTryIdleTimeout),
            Delivery::IdleTimeout => (Reason::IdleTimeout, RequestOutcome::Timeout),
        };
        self.record(&chosen, outcome, None);
        let is_delivered = end == Delivery::Delivered(Delivered::Whole);
        let is_whole = is_delivered && self.body.is_complete();
        if is_whole {
            chosen.attempt.retire();
        } else if !is_delivered {
            self.request.break_off();
        }
        self.ended(status, reason, is_whole, first_byte)
    }

    fn poll_delivery(
        &mut self,
        cx: &mut Context<'_>,
        chosen: &mut Running<R::Attempt>,
        added: AddedToResponse,
        delivered: &mut bool,
    ) -> Poll<Delivery> {
        loop {
            let sent = chosen.attempt.sent();
            match self.poll_client(cx, sent) {
                Poll::Ready(Gone::HalfClosed) => {
                    self.is_final = Some(Reason::ClientGone);
                    chosen.attempt.half_close();
                }
                // One that has its response may leave the rest of its request unsaid.
                Poll::Ready(Gone::Gone | Gone::Invalid(_)) if *delivered => {
                    return Poll::Ready(Delivery::Delivered(Delivered::Whole));
                }
                Poll::Ready(Gone::Gone | Gone::Invalid(_)) => {
                    return Poll::Ready(Delivery::Delivered(Delivered::ClientGone));
                }
                Poll::Pending => {}
            }
            chosen.attempt.poll_send(cx, &self.body);
            let now_sent = chosen.attempt.sent();
            if now_sent == sent {
                break;
            }
            self.body.give_up(now_sent);
        }
        if !*delivered {
            match self.request.poll_deliver(cx, &mut chosen.attempt, added) {
                Poll::Ready(Delivered::Whole) => {
                    *delivered = true;
                    // From here on it is only through this that the upstream's close is seen.
                    chosen.attempt.poll_send(cx, &self.body);
                }
                Poll::Ready(end) => return Poll::Ready(Delivery::Delivered(end)),
                Poll::Pending => {}
            }
        }
        if *delivered {
            let is_sent = self.body.is_complete() && chosen.attempt.sent() == self.body.received();
            if is_sent || !chosen.attempt.can_send() {
                return Poll::Ready(Delivery::Delivered(Delivered::Whole));
            }
        }
        self.poll_delivery_time(cx, chosen)
    }

    fn poll_delivery_time(
        &mut self,
        cx: &mut Context<'_>,
        chosen: &mut Running<R::Attempt>,
    ) -> Poll<Delivery> {
        let idle = self.plan.policy.idle_timeout;
        let per_try_idle = self.plan.policy.retry.per_try_idle_timeout;
        let mut next = self.deadline;
        if idle.is_some() || per_try_idle.is_some() {
            let moved = chosen.attempt.moved();
            if moved != chosen.moved {
                chosen.moved = moved;
                chosen.last_moved = Instant::now();
                self.last_active = chosen.last_moved;
            }
            next = earliest(next, idle.map(|idle| self.last_active + idle));
            next = earliest(next, per_try_idle.map(|idle| chosen.last_moved + idle));
        }
        let look_at = self.look_at(chosen.attempt.sent());
        let Some(next) = earliest(next, look_at) else { return Poll::Pending };
        let Poll::Ready(now) = self.timer.poll_until(cx, next) else { return Poll::Pending };
        if is_over(look_at, now) {
            return if self.looks_gone(now) {
                Poll::Ready(Delivery::Delivered(Delivered::ClientGone))
            } else {
                self.poll_delivery_time(cx, chosen)
            };
        }
        if is_over(self.deadline, now) {
            return Poll::Ready(Delivery::Timeout);
        }
        let is_idle = is_over(idle.map(|idle| self.last_active + idle), now);
        Poll::Ready(if is_idle { Delivery::IdleTimeout } else { Delivery::PerTryIdleTimeout })
    }

    /// Answers in the upstream's place.
    pub(super) async fn answer(&mut self, answer: &Answer, why: Reason) -> Ended {
        self.forget_retry();
        let added = self.added_to_response();
        let delivered = poll_fn(|cx| self.request.poll_answer(cx, answer, added)).await;
        let is_whole = delivered == Delivered::Whole && self.body.is_complete();
        let ended = self.ended(Some(answer.status()), why, is_whole, None);
        Ended { is_own: true, grpc_status: Some(answer.grpc_status()), ..ended }
    }

    fn added_to_response(&self) -> AddedToResponse {
        let is_on = self.plan.policy.added_headers == AddedHeaders::Envoy;
        AddedToResponse { attempt_count: (is_on && self.made > 0).then_some(self.made) }
    }

    pub(super) fn ended(
        &mut self,
        status: Option<u16>,
        reason: Reason,
        is_whole: bool,
        first_byte: Option<Duration>,
    ) -> Ended {
        Ended {
            status,
            reason,
            source: self.source,
            is_own: false,
            refused: self.refused,
            is_whole,
            grpc_status: self.tried.last().and_then(|last| last.grpc_status),
            duration: self.begun.elapsed(),
            first_byte,
        }
    }
}
