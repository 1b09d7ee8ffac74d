//! Transactions with an unknown outcome: the response states the true outcome, or repeating the
//! request with its key is safe.

use std::time::{Duration, Instant};

use test_support::{Fault, eventually};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::support::{GET, TRANSACT, World, an_order};

const KEY: [(&str, &str); 1] = [("idempotency-key", "k-1")];

/// Short, so that a hanging attempt times out soon: an attempt gets a third of it.
const SHORT: [(&str, &str); 1] = [("ORDER_API_REQUEST_TIMEOUT", "1500ms")];

#[tokio::test]
async fn a_post_takes_one_round_trip() {
    let world = World::start().await;
    world.post(&an_order()).await.assert_created();
    assert_eq!(world.proxy.take_operations(), [TRANSACT]);
    world.post_with(&KEY, &an_order()).await.assert_created();
    assert_eq!(world.proxy.take_operations(), [TRANSACT]);
    world.post_with(&KEY, &an_order()).await.assert_created();
    assert_eq!(world.proxy.take_operations(), [TRANSACT, GET], "a replay");
}

#[tokio::test]
async fn a_lost_outcome_is_determined_by_reading_the_order() {
    let world = World::with(&SHORT).await;
    let took_effect = [TRANSACT, GET].as_slice();
    let was_sent_again = [TRANSACT, GET, TRANSACT].as_slice();
    for (fault, requests) in [
        (Fault::LoseAnswer, took_effect),
        (Fault::fail_after(), took_effect),
        (Fault::HoldAnswer, took_effect),
        (Fault::Cut, was_sent_again),
        (Fault::fail(), was_sent_again),
        (Fault::Hold, was_sent_again),
        (
            Fault::refuse("TransactionInProgressException"),
            was_sent_again,
        ),
    ] {
        let before = world.counts().await[0];
        let about = format!("{fault:?}");
        world.proxy.take_operations();
        world.proxy.once(TRANSACT, fault);
        let created = world.post(&an_order()).await;
        created.assert_created();
        assert_eq!(world.proxy.take_operations(), requests, "{about}");
        assert_eq!(world.counts().await, [before + 1, before + 1, 0], "{about}");
        let read = world.get(created.header("location")).await;
        assert_eq!(read.body, created.body, "{about}");
    }
}

#[tokio::test]
async fn retrying_after_a_failed_read_still_creates_one_order() {
    let world = World::start().await;
    for key in [&[][..], &KEY] {
        let before = world.counts().await[0];
        world.proxy.once(TRANSACT, Fault::LoseAnswer);
        world.proxy.once(GET, Fault::Cut);
        let answer = world.post_with(key, &an_order()).await;
        answer.assert_created();
        assert!(!answer.replayed(), "the order is of this request");
        assert_eq!(world.counts().await[0], before + 1);
    }
}

#[tokio::test]
async fn an_outcome_that_stays_unknown_is_503_and_safe_to_repeat() {
    let world = World::start().await;
    world.always([(TRANSACT, Fault::LoseAnswer), (GET, Fault::Cut)]);
    let answer = world.post_with(&KEY, &an_order()).await;
    let problem = answer.assert_problem(503, "unavailable");
    world.proxy.heal();
    let named = world.get(problem["instance"].as_str().unwrap()).await;
    assert_eq!(named.json()["order_id"], problem["order_id"]);
    let answer = world.post_with(&KEY, &an_order()).await;
    let order = answer.assert_created();
    assert!(answer.replayed());
    assert_eq!(order["order_id"], problem["order_id"]);
    assert_eq!(world.counts().await, [1, 1, 1]);
}

#[tokio::test]
async fn a_hanging_database_is_504_in_time_and_safe_to_repeat() {
    let world = World::with(&SHORT).await;
    for fault in [Fault::Hold, Fault::HoldAnswer] {
        world.always([(TRANSACT, fault.clone()), (GET, Fault::Hold)]);
        let started = Instant::now();
        let answer = world.post_with(&KEY, &an_order()).await;
        let problem = answer.assert_problem(504, "deadline-exceeded");
        let named = problem["instance"].as_str().unwrap().to_owned();
        let took = started.elapsed();
        assert!(
            (Duration::from_millis(1_400)..Duration::from_secs(4)).contains(&took),
            "{took:?}"
        );
        if matches!(fault, Fault::Hold) {
            assert_eq!(world.counts().await, [0, 0, 0]);
        }
        world.proxy.heal();
        let status = if matches!(fault, Fault::Hold) {
            404
        } else {
            200
        };
        assert_eq!(world.get(&named).await.status, status);
    }
    let answer = world.post_with(&KEY, &an_order()).await;
    answer.assert_created();
    assert!(answer.replayed());
    assert_eq!(world.counts().await, [1, 1, 1]);
}

#[tokio::test]
async fn throttling_is_retried_twice_and_then_503() {
    let world = World::start().await;
    for fault in [
        Fault::refuse("ThrottlingException"),
        Fault::refuse("ProvisionedThroughputExceededException"),
        Fault::cancel(&["None", "ThrottlingError"]),
        Fault::cancel(&["ProvisionedThroughputExceeded", "None"]),
    ] {
        world.always([(TRANSACT, fault.clone())]);
        let answer = world.post(&an_order()).await;
        let problem = answer.assert_problem(503, "throttled");
        assert!(problem["order_id"].is_null(), "it had no effect");
        assert_eq!(world.proxy.take_operations(), [TRANSACT; 3]);
        world.proxy.heal();
        assert_eq!(world.counts().await, [0, 0, 0]);
    }
    world
        .proxy
        .once(TRANSACT, Fault::refuse("ThrottlingException"));
    world.post(&an_order()).await.assert_created();
}

#[tokio::test]
async fn conflicts_that_do_not_end_are_503() {
    let world = World::start().await;
    let conflict = &["None", "None", "TransactionConflict"];
    world.always([(TRANSACT, Fault::cancel(conflict))]);
    let answer = world.post_with(&KEY, &an_order()).await;
    answer.assert_problem(503, "unavailable");
    world.proxy.heal();
    world.post_with(&KEY, &an_order()).await.assert_created();
    assert_eq!(world.counts().await, [1, 1, 1]);
}

#[tokio::test]
async fn a_failed_read_has_the_status_of_its_cause() {
    let world = World::with(&SHORT).await;
    let location = world.post(&an_order()).await.header("location").to_owned();
    for (fault, status, kind) in [
        (Fault::refuse("ThrottlingException"), 503, "throttled"),
        (Fault::fail(), 503, "unavailable"),
        (Fault::Cut, 503, "unavailable"),
        (Fault::refuse("AccessDeniedException"), 503, "unavailable"),
        (Fault::refuse("SerializationException"), 500, "internal"),
    ] {
        world.always([(GET, fault)]);
        world.get(&location).await.assert_problem(status, kind);
        world.proxy.heal();
    }
    // A single failure is retried.
    world.proxy.once(GET, Fault::Cut);
    assert_eq!(world.get(&location).await.status, 200);
}

#[tokio::test]
async fn credentials_that_aws_rejects_are_503_and_logged_as_such() {
    let world = World::start().await;
    let location = world.post(&an_order()).await.header("location").to_owned();
    for code in [
        "ExpiredTokenException",
        "UnrecognizedClientException",
        "InvalidSignatureException",
        "AccessDeniedException",
    ] {
        let fault = Fault::refuse(code);
        world.always([(TRANSACT, fault.clone()), (GET, fault)]);
        let problem = world.post(&an_order()).await;
        let problem = problem.assert_problem(503, "unavailable");
        assert!(problem["order_id"].is_null(), "it had no effect");
        world
            .get(&location)
            .await
            .assert_problem(503, "unavailable");
        let logged = async || {
            let log = world.api.log();
            let logged = log.lines().filter(|line| line.contains(code));
            let logged = logged.filter(|line| line.contains("AWS rejects the credentials"));
            if logged.count() >= 2 {
                Ok(())
            } else {
                Err(log)
            }
        };
        eventually(Duration::from_secs(10), logged).await.unwrap();
    }
    world.proxy.heal();
    assert_eq!(world.counts().await, [1, 1, 0]);
}

#[tokio::test]
async fn a_client_that_disconnects_leaves_no_incomplete_order() {
    let world = World::start().await;
    world.proxy.once(TRANSACT, Fault::Hold);
    let body = an_order().to_string();
    let mut client = TcpStream::connect(world.api.address()).await.unwrap();
    let request = format!(
        "POST /orders HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
         idempotency-key: k-1\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    client.write_all(request.as_bytes()).await.unwrap();
    world.proxy.holds().await.unwrap();
    drop(client);
    world.proxy.heal();

    let answer = world.post_with(&KEY, &an_order()).await;
    answer.assert_created();
    assert_eq!(world.counts().await, [1, 1, 1]);
}
