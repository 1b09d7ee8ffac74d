//! Checks the responses to clients.
//!
//! A client may conclude from a **201** that the order exists. After **503**, **504** or **no
//! response** the order exists with its event or not at all, and only another request with the same
//! key can determine which. Any other response to a valid request is a violation.

use super::super::analysis::fault_windows::{Span, Spans, disturbances, processes};
use super::super::history::{CloudService, History, Program};
use super::{Findings, Invariant};

/// Time after the end of a fault within which it still explains an error: connections are opened
/// again, and rejected requests wait for their retry.
const AFTERMATH_MS: u64 = 3_000;

/// Time within which the API rejects a request that exceeds its concurrency.
const REJECTED_WITHIN_MS: u64 = 1_000;

/// Checks that every response is a 201 or explained by a fault.
pub(super) fn answers(history: &History, found: &mut Findings) {
    let apis = processes(history, Program::OrderApi);
    let disturbed: Spans = disturbances(history)
        .iter()
        .filter(|one| one.process.is_none_or(|process| apis.contains(&process)))
        .filter(|one| !one.kind.fails_no_request())
        // The API uses DynamoDB only.
        .filter(|one| one.service.is_none_or(|it| it == CloudService::Dynamodb))
        .map(|one| one.span.and_after(AFTERMATH_MS))
        .collect();
    let overloaded = overloaded(history);
    for post in &history.posts {
        let span = Span::new(post.at, post.at + post.took_ms);
        let wrong = match post.status {
            Some(201) => None,
            Some(503 | 504) | None if disturbed.touch(span) => None,
            // Excess requests are rejected at once.
            Some(503) if post.took_ms < REJECTED_WITHIN_MS && overloaded.touch(span) => None,
            Some(503 | 504) | None => Some("while no fault was active"),
            Some(_) => Some("which is not a response to a valid request"),
        };
        if let Some(wrong) = wrong {
            let response = match post.status {
                Some(status) => format!("answered {status}"),
                None => "not answered".to_owned(),
            };
            found.add(
                Invariant::Answers,
                post.at,
                format!(
                    "expected 201 for the POST of customer {}, but it was {response} after {} ms, {wrong}",
                    post.customer_id, post.took_ms
                ),
            );
        }
    }
}

/// Returns the times in which more requests awaited a response than the API handles concurrently.
fn overloaded(history: &History) -> Spans {
    let posts = history.posts.iter();
    // At the same instant, requests that begin come first.
    let mut changes: Vec<(u64, bool)> = posts
        .flat_map(|post| [(post.at, false), (post.at + post.took_ms, true)])
        .collect();
    changes.sort_unstable();
    let mut waiting = 0;
    let mut full_since = None;
    let mut spans = Vec::new();
    for (at, answered) in changes {
        if answered {
            waiting -= 1;
        } else {
            waiting += 1;
        }
        if waiting > history.settings.api_concurrency {
            full_since.get_or_insert(at);
        } else if let Some(since) = full_since.take() {
            spans.push(Span::new(since, at));
        }
    }
    spans.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{assert_valid, assert_violations};
    use super::*;
    use crate::history::{EndSignal, Ending, FaultKind};

    #[test]
    fn an_unexpected_response_is_detected() {
        for status in [200, 400, 422, 500] {
            assert_violations(Invariant::Answers, 1, |history| {
                history.posts[5].status = Some(status);
            });
        }
    }

    #[test]
    fn an_error_or_missing_response_without_a_fault_is_detected() {
        for status in [Some(503), Some(504), None] {
            assert_violations(Invariant::Answers, 1, |history| {
                history.posts[5].status = status;
                history.posts[5].at = 60_000;
            });
        }
    }

    #[test]
    fn only_a_fault_that_fails_writes_explains_an_error_of_the_api() {
        let with = |kind, service| {
            move |history: &mut History| {
                let post = &mut history.posts[5];
                post.at = 60_000;
                post.status = Some(503);
                let mut fault = history.faults[0].clone();
                fault.kind = kind;
                fault.service = Some(service);
                fault.process = None;
                fault.at = 59_000;
                fault.until = Some(62_000);
                history.faults.push(fault);
            }
        };
        let (dynamodb, sqs) = (CloudService::Dynamodb, CloudService::Sqs);
        assert_valid(with(FaultKind::Outage, dynamodb));
        assert_valid(with(FaultKind::HotPartitions, dynamodb));
        for (kind, service) in [
            (FaultKind::Outage, sqs),
            (FaultKind::IndexDelay, dynamodb),
            (FaultKind::StreamDelay, CloudService::Streams),
        ] {
            assert_violations(Invariant::Answers, 1, with(kind, service));
        }
    }

    #[test]
    fn a_missing_response_while_the_api_is_down_is_valid() {
        assert_valid(|history| {
            let first = &mut history.lives[0];
            first.ended = Some(50_000);
            first.told_to_end = Some(50_000);
            first.told_by = Some(EndSignal::Kill);
            first.how = Some(Ending::Signalled(9));
            let mut second = first.clone();
            second.incarnation = 2;
            second.started = 69_000;
            second.ready = Some(70_000);
            second.ended = None;
            second.told_to_end = None;
            second.told_by = None;
            history.lives.push(second);
            history.posts[5].at = 65_000;
            history.posts[5].status = None;
        });
    }

    #[test]
    fn requests_beyond_the_concurrency_of_the_api_may_be_rejected() {
        let overload = |history: &mut History, status: Option<u16>| {
            // The other requests have completed by then.
            history.posts[5].at = 60_000;
            history.posts[5].status = status;
            for nth in 0..4 {
                let mut post = history.posts[5].clone();
                post.customer_id = format!("c-overload-{nth}");
                post.key = None;
                history.posts.push(post);
            }
        };
        assert_violations(Invariant::Answers, 5, |history| {
            overload(history, Some(503))
        });
        assert_valid(|history| {
            history.settings.api_concurrency = 4;
            overload(history, Some(503));
        });
        // Excess requests are rejected at once; a missing response is not explained.
        assert_violations(Invariant::Answers, 5, |history| {
            history.settings.api_concurrency = 4;
            overload(history, None);
        });
        // Overload explains no other status.
        assert_violations(Invariant::Answers, 5, |history| {
            history.settings.api_concurrency = 4;
            overload(history, Some(500));
        });
    }
}
