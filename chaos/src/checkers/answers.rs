//! What clients were answered.
//!
//! What a client may conclude: after a **201** the order exists. After
//! **503**, **504** or **no answer** it exists wholly or not at all, and only a
//! repetition with the same key finds out which. Any other answer to a valid
//! request is wrong in itself.

use super::super::analysis::fault_windows::{Span, Spans, disturbances, processes};
use super::super::history::{CloudService, History, Program};
use super::{Findings, Invariant};

/// An answer may come this much later than the fault that it is due to ended:
/// connections are opened again, and refused requests wait for their retry.
const AFTERMATH_MS: u64 = 3_000;

/// In which time the API refuses what is more than it works on.
const REFUSED_WITHIN_MS: u64 = 1_000;

pub(super) fn answers(history: &History, found: &mut Findings) {
    let apis = processes(history, Program::OrderApi);
    let troubled: Spans = disturbances(history)
        .iter()
        .filter(|one| one.process.is_none_or(|process| apis.contains(&process)))
        // The API knows one service only.
        .filter(|one| one.service.is_none_or(|it| it == CloudService::Dynamodb))
        .map(|one| one.span.and_after(AFTERMATH_MS))
        .collect();
    let crowded = crowded(history);
    for post in &history.posts {
        let span = Span::new(post.at, post.at + post.took_ms);
        let wrong = match post.status {
            Some(201) => None,
            Some(503 | 504) | None if troubled.touch(span) => None,
            // What is too much is refused at once.
            Some(503) if post.took_ms < REFUSED_WITHIN_MS && crowded.touch(span) => None,
            Some(503 | 504) | None => Some("while nothing was wrong"),
            Some(_) => Some("which is no answer to a valid request"),
        };
        if let Some(wrong) = wrong {
            let answer = match post.status {
                Some(status) => format!("answered {status}"),
                None => "not answered".to_owned(),
            };
            found.add(
                Invariant::Answers,
                post.at,
                format!(
                    "POST for {} was {answer} after {} ms, {wrong}",
                    post.customer_id, post.took_ms
                ),
            );
        }
    }
}

/// When more requests were waiting for an answer than the API works on.
fn crowded(history: &History) -> Spans {
    let posts = history.posts.iter();
    // At the same instant those that begin come first.
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
    use super::super::fixture::{allowed, caught};
    use super::*;
    use crate::history::{EndSignal, Ending, FaultKind};

    #[test]
    fn an_unexpected_answer_is_caught() {
        for status in [200, 400, 422, 500] {
            caught(Invariant::Answers, 1, |history| {
                history.posts[5].status = Some(status);
            });
        }
    }

    #[test]
    fn an_error_or_silence_without_a_fault_is_caught() {
        for status in [Some(503), Some(504), None] {
            caught(Invariant::Answers, 1, |history| {
                history.posts[5].status = status;
                history.posts[5].at = 60_000;
            });
        }
    }

    #[test]
    fn a_fault_of_the_queue_explains_no_error_of_the_api() {
        caught(Invariant::Answers, 1, |history| {
            let post = &mut history.posts[5];
            post.at = 60_000;
            let mut outage = history.faults[0].clone();
            outage.kind = FaultKind::Outage;
            outage.service = Some(CloudService::Sqs);
            outage.process = None;
            outage.at = 59_000;
            outage.until = Some(62_000);
            history.faults.push(outage);
        });
    }

    #[test]
    fn no_answer_while_the_api_is_away_is_allowed() {
        allowed(|history| {
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
    fn more_requests_than_the_api_works_on_explain_that_some_are_refused() {
        let crowd = |history: &mut History, status: Option<u16>| {
            // The other requests are over by then.
            history.posts[5].at = 60_000;
            history.posts[5].status = status;
            for nth in 0..4 {
                let mut post = history.posts[5].clone();
                post.customer_id = format!("c-crowd-{nth}");
                post.key = None;
                history.posts.push(post);
            }
        };
        caught(Invariant::Answers, 5, |history| crowd(history, Some(503)));
        allowed(|history| {
            history.settings.api_concurrency = 4;
            crowd(history, Some(503));
        });
        // A crowd is refused at once, and not left without an answer.
        caught(Invariant::Answers, 5, |history| {
            history.settings.api_concurrency = 4;
            crowd(history, None);
        });
        // Those that got through the crowd have no excuse for anything else.
        caught(Invariant::Answers, 5, |history| {
            history.settings.api_concurrency = 4;
            crowd(history, Some(500));
        });
    }
}
